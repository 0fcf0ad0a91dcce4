"""Every call of the kernel: mounts, namespaces, descriptors, processes. Imports no other room but errors,
and `spec.beside`, the form of the readers of files beside a pod file."""
