"""The kernel's own calls: mounts, namespaces, descriptors, processes. Imports nothing of ours but errors."""
