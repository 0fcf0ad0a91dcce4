"""Paths in a container: their one form, and those that belong to the kernel."""

from __future__ import annotations

import posixpath

_KERNEL_TREES = ("/proc", "/sys", "/dev")
# Bind-mounted by the agent; a volume there would hide the pod's name and its name servers.
OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


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


def is_kernel_path_of_host(path: str) -> bool:
    """Return whether an absolute path of the machine, rather than of a container, is in one of the kernel.

    /dev/shm is there, but holds plain files in memory (shm_overview(7)).
    """
    return is_kernel_path(path) and not normal_path(path).startswith("/dev/shm/")  # noqa: S108 - it is only named


def is_reserved(path: str) -> bool:
    """Return whether nothing of a pod may be mounted at a path."""
    return path == "/" or path in OWN_FILES or is_kernel_path(path)
