"""Root file systems, volumes, tmpfs, and files and secrets of pods: mounted when a container
starts, and again where a mount was lost."""
