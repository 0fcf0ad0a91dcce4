"""Questions about the agent's directories, and about the default route."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tank_agent.doctor import Check, fail, ok, warn
from tank_agent.linux.mounts import unescaped
from tank_agent.linux.trees import REASON
from tank_agent.network.host_facts import default_interfaces

_LITTLE_SPACE = 2 << 30
_NO_SPACE = 100 << 20
_SHOWN, _REASON_MAX = 3, 500
# An overlay's upper directory can't lie on these (kernel Documentation/filesystems/overlayfs.rst).
_NO_UPPER = ("overlay", "nfs", "nfs4", "cifs", "vfat", "exfat", "9p", "ecryptfs", "squashfs")


def data_dir(path: Path, mount_info: str) -> Check:
    """Say whether the file system of data_dir carries overlays, and how much room it has."""
    there = existing(path)
    kind = file_system(mount_info, there)
    if mount_info and not file_system(mount_info, Path("/")):
        # A chroot. No process can have mounts of its own there, as the one that unpacks images needs.
        found = f"{path}, but / is not a mount point, so no image can be unpacked"
        return fail("data_dir", found, "before the chroot: mount --bind DIRECTORY DIRECTORY")
    free = _free(there)
    found = f"{path} on {kind or 'an unknown file system'}, {free / (1 << 30):.1f} GiB free"
    if kind in _NO_UPPER or kind.startswith("fuse"):
        found += "; containers can't write there"
        return fail("data_dir", found, "use a local ext4, xfs or btrfs: --data-dir")
    if os.statvfs(there).f_flag & os.ST_RDONLY:
        return fail("data_dir", f"{found}; read-only", "mount it writable, or choose another: --data-dir")
    if free < _NO_SPACE:
        return fail("data_dir", found, "free some space, or choose another: --data-dir")
    if free < _LITTLE_SPACE:
        return warn("data_dir", f"{found}; few images fit", "free some space, or choose another: --data-dir")
    return ok("data_dir", found)


def deleted_files(data_dir: Path) -> Check:
    """Say which files of removed containers and volumes the agent could not delete, and why."""
    name, left = "deleted files", []
    try:
        for reason in sorted((data_dir / "trash").glob(f"*{REASON}")):
            if reason.with_suffix("").exists():
                with reason.open(errors="replace") as file:
                    left.append(file.read(_REASON_MAX))
        for path in sorted((data_dir / "volumes").glob("*/.*.gone")):
            left.append(f"{path} is left of a volume")
    except OSError as error:
        return warn(name, f"can't look below {data_dir}: {error.strerror}", "run it as root")
    if not left:
        return ok(name, "nothing is left of what is gone")
    more = f", and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
    fix = "look with lsattr -R and findmnt (chattr -i, umount); an agent that is restarted tries again"
    return warn(name, f"still there: {'; '.join(left[:_SHOWN])}{more}", fix)


def run_dir(path: Path, mount_info: str) -> Check:
    """Say whether run_dir is lost at a reboot, as it should be."""
    kind = file_system(mount_info, existing(path))
    found = f"{path} on {kind or 'an unknown file system'}"
    if kind in ("tmpfs", "ramfs"):
        return ok("run_dir", found)
    fix = "mount a tmpfs there, or choose a directory on one: --run-dir"
    return warn("run_dir", f"{found}, which outlives a reboot", fix)


def pods_dir(path: Path) -> Check:
    """Say whether the directory of the pod files can be read."""
    try:
        count = sum(entry.suffix == ".toml" for entry in path.iterdir())
    except FileNotFoundError:
        return warn("pods_dir", f"{path} is not there", f"mkdir -p {path}")
    except OSError as error:
        found = f"{path} can't be read: {error.strerror}"
        return fail("pods_dir", found, "make it a directory that root can read")
    return ok("pods_dir", f"{path} with {count} pod file{'' if count == 1 else 's'}")


def uplink(ipv4_routes: str, ipv6_routes: str) -> Check:
    """Say which interfaces have a default route: `parent = "auto"` puts pods on the first."""
    names = dict.fromkeys(default_interfaces(ipv4_routes.splitlines(), ipv6_routes.splitlines()))
    if not names:
        return warn("uplink", "no default route", 'name the interface in pod files: parent = "eth0"')
    return ok("uplink", ", ".join(names))


def first_uplink(ipv4_routes: str, ipv6_routes: str) -> str | None:
    """Return the best interface that has a default route; None without one."""
    return next(default_interfaces(ipv4_routes.splitlines(), ipv6_routes.splitlines()), None)


def existing(path: Path) -> Path:
    """Return the nearest directory that exists, from the path itself upwards."""
    return next((parent for parent in (path, *path.parents) if parent.exists()), Path("/"))


def file_system(mount_info: str, path: Path) -> str:
    """Return the type of the file system that holds a path (proc_pid_mountinfo(5)); empty if unknown."""
    wanted = path.resolve()
    best, kind = -1, ""
    for line in filter(None, mount_info.split("\n")):
        left, _, right = line.partition(" - ")
        point = Path(unescaped(os.fsencode(left.split(" ")[4])))
        # Of two mounts on one directory, the later line is the visible one.
        if wanted.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split(" ")[0]
    return kind


def _free(path: Path) -> int:
    return shutil.disk_usage(path).free
