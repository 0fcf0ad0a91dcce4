"""Absolute paths: their one form, and the ones that belong to the kernel or to the agent."""

from __future__ import annotations

import posixpath

from tank_agent.spec.findings import show

_KERNEL_TREES = ("/proc", "/sys", "/dev")
# Bind-mounted by the agent; a volume there would hide the pod's name and its name servers.
OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def check_path(path: str) -> str | None:
    """Return what is wrong with an absolute path of a file system, or None."""
    if not path.startswith("/"):
        more = _meant(path)
        return f'{show(path)} is not an absolute path; it must start with "/"{more}'
    if any(ord(char) < 32 or ord(char) == 127 for char in path):
        return f"{show(path)} has control characters in it"
    normal = normal_path(path)
    if normal != path:
        return f"{show(path)} is not the shortest form of the path; write {show(normal)}"
    # Paths of a command line may hold bytes that are not UTF-8; Python keeps those as surrogates.
    sizes = [len(part.encode(errors="surrogatepass")) for part in path.split("/")]
    if sum(sizes) + len(sizes) > 4095 or max(sizes) > 255:
        return "the path is longer than the kernel takes"
    return None


def _meant(path: str) -> str:
    """Return what to write for a path that only a shell or another tool understands."""
    if path.startswith(("~", "$", "%h")):
        return ", and nothing in it is replaced; write the whole path"
    return "; write the whole path" if path.startswith(("./", "../")) or path == "." else ""


def normal_path(path: str) -> str:
    """Return an absolute path in its shortest form, which for POSIX may begin with two slashes."""
    normal = posixpath.normpath(path)
    return normal[1:] if normal.startswith("//") else normal


def is_kernel_path(path: str) -> bool:
    """Return whether an absolute path is in a file system of the kernel.

    No program may start there, since /proc/self/fd/N leads out of the container (CVE-2024-21626), and no
    volume may hide the files that confine the container (CVE-2019-19921).
    """
    normal = normal_path(path)
    return any(normal == tree or normal.startswith(f"{tree}/") for tree in _KERNEL_TREES)


def is_kernel_path_of_host(path: str) -> bool:
    """Return the same for a path of the host, whose /dev/shm has plain files in memory (shm_overview(7))."""
    return is_kernel_path(path) and not normal_path(path).startswith("/dev/shm/")  # noqa: S108 - it is only named


def is_reserved(path: str) -> bool:
    """Return whether a pod may mount nothing at a path."""
    return path == "/" or path in OWN_FILES or is_kernel_path(path)


def absolute(path: str) -> str:
    """Return an absolute path that is in its shortest form, or raise ValueError."""
    wrong = check_path(path)
    if wrong:
        raise ValueError(wrong)
    return path


def volume_source(path: str) -> str:
    """Return the path of the host that a volume mounts, or raise ValueError."""
    if absolute(path) == "/":
        raise ValueError("a volume can't be the host's root directory; name one below it")
    return path


def rootfs(path: str) -> str:
    """Return the directory of the host that is a container's root file system, or raise ValueError."""
    if absolute(path) == "/":
        raise ValueError("the host's own root directory can't be a container's; name a directory below it")
    if is_kernel_path_of_host(path):
        right = "name a directory outside /proc, /sys and /dev"
        raise ValueError(f"{show(path)} is in a kernel file system; {right}")
    return path


def working_directory(path: str) -> str:
    """Return the directory of the container that its program starts in, or raise ValueError."""
    if is_kernel_path(absolute(path)):
        raise ValueError(f"{show(path)} is in a kernel file system; choose one outside /proc, /sys and /dev")
    return path


def mount_point(path: str) -> str:
    """Return where a volume is mounted in the container, or raise ValueError."""
    if absolute(path) == "/" or is_kernel_path(path):
        raise ValueError(f"{show(path)} is reserved; mount outside /proc, /sys and /dev, and not at /")
    if path in OWN_FILES:
        raise ValueError(f"{show(path)} is reserved; the agent writes this file itself")
    return path
