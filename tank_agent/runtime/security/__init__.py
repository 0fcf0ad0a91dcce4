"""What confines a container: seccomp, AppArmor, and user namespaces."""
