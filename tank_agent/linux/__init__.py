"""Every call of the kernel: mounts, namespaces, descriptors, processes. Imports no other room but errors."""
