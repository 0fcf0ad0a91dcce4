"""Runs of containers. `tank_agent.reconcile` decides; every step can be done again after a crash.

run          one execution of a container, on disk and in the agent
container/   OCI configuration, crun under conmon, exit, adoption, removal
mounts/      root file systems, volumes, file systems in memory, files and secrets of pods
limits/      cgroups
secrets/     plain text of secrets, and keyed hashes of it
security/    seccomp, AppArmor, user namespaces
session/     exec, attach, logs; those of each run of a job

Errors everywhere: Stalled if trying again is pointless until the pod's file, the image or the machine
changes, StartFailed if crun itself refused; Retry if the kernel, the disk or crun failed for now.
"""
