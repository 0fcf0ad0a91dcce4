"""Confinement of containers: seccomp, AppArmor, and user namespaces."""
