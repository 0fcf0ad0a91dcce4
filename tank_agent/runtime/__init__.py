"""Runs containers. `tank_agent.reconcile` decides; every step can be done again after a crash.

container/   one container: OCI configuration, crun under conmon, exit, adoption
mounts/      root file systems and volumes
limits/      cgroups
security/    seccomp, AppArmor, user namespaces
session/     exec, attach, logs
"""
