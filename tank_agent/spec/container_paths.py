"""Paths in a container: their one form, and those that belong to the kernel."""

from __future__ import annotations

import posixpath

_KERNEL_TREES = ("/proc", "/sys", "/dev")


def normal_path(path: str) -> str:
    """Return an absolute path in its shortest form; POSIX lets two leading slashes mean something else."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def is_kernel_path(path: str) -> bool:
    """Return whether an absolute path is in a file system of the kernel.

    Nothing may start there or be mounted there: a working directory of /proc/self/fd/N is a descriptor that
    leads out of the container (CVE-2024-21626), and a volume there would hide what holds it (CVE-2019-19921).
    """
    normal = normal_path(path)
    return any(normal == tree or normal.startswith(f"{tree}/") for tree in _KERNEL_TREES)
