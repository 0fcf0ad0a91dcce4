"""Root file systems and volumes, mounted when a container starts and again where a mount was lost."""
