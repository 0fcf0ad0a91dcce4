"""Devices of the host that a container is given: found anew at each of its starts.

Only what ends at a device node below /dev counts, whatever links lead there: /dev holds links into /proc, and
a name by id is a link that changes with what is plugged in.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts, paths
from tank_agent.linux.namespaces import IdRange
from tank_agent.runtime.container.oci import BindMount, Device, Hook
from tank_agent.spec.devices import DeviceRequest, is_cdi_name, is_own, parse_device

# Where the nodes of a container are made that cannot make its own.
NODES = "devices"
# Each is one rule of the container's cgroup, which the kernel looks through at every open.
DEVICES_MOST = 256
_LOOKED_AT_MOST, _DEPTH_MOST = 4096, 8
_PLUGGED = re.compile(
    r"/dev/(?:tty(?:USB|ACM)|serial/|video|v4l|input|bus/usb|hidraw|usb|sd|sr|st|nst|sg|disk/|snd|dvb|lp|mmcblk)"
)
_KINDS = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


class Granted(Struct, frozen=True, kw_only=True):
    """What the entries of `security.devices` give a container; only CDI files give more than devices.

    `env` goes over all other variables. `groups` are ids in the container. `mounts` have paths of the host
    as source that nobody checked but the file's author, who is root.
    """

    devices: tuple[Device, ...] = ()
    env: dict[str, str] = {}
    groups: tuple[int, ...] = ()
    mounts: tuple[BindMount, ...] = ()
    hooks: tuple[Hook, ...] = ()


def find(entries: Sequence[str]) -> Granted:
    """Find the devices that entries name by their paths; `cdi.add` finds the others.

    Raises:
        Stalled: one is not there, or is no device.
    """
    try:
        requests = [parse_device(entry) for entry in entries if not is_cdi_name(entry)]
    except ValueError as error:
        # An older agent took it.
        raise Stalled(str(error)) from error
    found: dict[str, Device] = {}
    # What is named by itself has its own permissions, also where a directory has it.
    for is_directory in (True, False):
        for request in requests:
            for device in _find(request, is_directory=is_directory):
                found[device.path] = device
    return Granted(devices=bounded(found.values()))


def bounded(found: Collection[Device]) -> tuple[Device, ...]:
    """Return devices unless they are too many."""
    if len(found) > DEVICES_MOST:
        raise Stalled(f"more than {DEVICES_MOST} devices", hint="name only those that it needs")
    return tuple(found)


def make_nodes(devices: Sequence[Device], bundle: Path, ids: IdRange | None) -> tuple[BindMount, ...]:
    """Make the devices of a container with a user namespace, `ids`, which can make none; return their mounts.

    crun would bind the host's node of the same path, which is another device where it is mapped, and which
    nobody in the container owns.
    """
    if ids is None or not devices:
        return ()
    directory, made = bundle / NODES, []
    directory.mkdir(mode=0o711, exist_ok=True)
    try:
        mounts.mount("devices", directory, "tmpfs", mounts.MS_NOSUID | mounts.MS_NOEXEC, "mode=0711,size=64k")
        for number, device in enumerate(devices):
            node = directory / str(number)
            kind = stat.S_IFBLK if device.kind == "b" else stat.S_IFCHR
            os.mknod(node, kind | 0o600, os.makedev(device.major, device.minor))
            node.chmod(device.mode)
            # An id that the container has not is nobody's there.
            os.chown(node, *(ids.base + (one if one < ids.size else 0) for one in (device.uid, device.gid)))
            made.append(BindMount(source=node, target=device.path, options=("nosuid", "noexec")))
    except OSError as error:
        raise Retry(f"cannot make the devices in {directory}: {error.strerror}") from error
    return tuple(made)


def look_at(path: str, what: str) -> os.stat_result:
    """Return the status of a device node, or of a directory, of the host's /dev; else Stalled."""
    try:
        descriptor = paths.open_on_host(path, os.O_PATH)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Stalled(
                f"{what} leads through /proc or in circles", hint="name the device itself"
            ) from error
        raise Stalled(f"{what}: {error.strerror}", hint=_hint(path)) from error
    with paths.Closing(descriptor):
        real = _place(descriptor)
        if not _may_be_given(real):
            raise Stalled(f"{what} leads to {real}", hint="name a device below /dev that is the host's own")
        return os.fstat(descriptor)


def _hint(path: str) -> str:
    if "/by-id/" in path:
        where = path.rpartition("/")[0]
        return f"is it plugged in? names by id change with the serial number, `ls {where}` shows them"
    if _PLUGGED.match(path):
        return "is it plugged in?"
    where = path.rpartition("/")[0]
    return f"`ls {where}` shows those that are there; is its kernel module loaded?"


def _place(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def _may_be_given(real: str) -> bool:
    return real.startswith("/dev/") and not is_own(real)


def _find(request: DeviceRequest, *, is_directory: bool) -> Iterator[Device]:
    what = f"device {request.source}"
    status = look_at(request.source, what)
    if stat.S_ISDIR(status.st_mode):
        if is_directory:
            yield from _in_directory(request)
    elif stat.S_IFMT(status.st_mode) not in _KINDS:
        raise Stalled(f"{what} is not a device", hint="`ls -l` shows c or b at the start of a line for one")
    elif not is_directory:
        yield described(status, request.target, request.access)


def described(status: os.stat_result, path: str, access: str) -> Device:
    """Return a device node of the host, to be at a path of the container."""
    return Device(
        path=path,
        kind=_KINDS[stat.S_IFMT(status.st_mode)],
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        gid=status.st_gid,
        access=access,
    )


def _in_directory(request: DeviceRequest) -> Iterator[Device]:
    what = f"device {request.source}"
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
    try:
        top = paths.open_on_host(request.source, flags)
    except OSError as error:
        raise Stalled(f"{what}: {error.strerror}", hint=_hint(request.source)) from error
    found = 0
    with paths.Closing(top):
        if not _may_be_given(_place(top)):
            raise Stalled(f"{what} was replaced while it was looked at")
        for name, status in _walk(top, os.fstat(top).st_dev, _DEPTH_MOST):
            found += 1
            if found > DEVICES_MOST:
                raise Stalled(f"{what} has more than {DEVICES_MOST} devices", hint="name those that it needs")
            yield described(status, f"{request.target}/{name}", request.access)
    if not found:
        raise Stalled(f"{what}: no device is in it", hint=_hint(f"{request.source}/"))


def _walk(directory: int, file_system: int, depth: int) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every device in a directory with its path there, those that links lead to, too."""
    with os.scandir(directory) as entries:
        names = sorted(entry.name for entry, _ in zip(entries, range(_LOOKED_AT_MOST), strict=False))
    for name in names:
        # Others would not get through config.json.
        if not name.isprintable():
            continue
        # It may be unplugged just now.
        with suppress(OSError):
            status = os.lstat(name, dir_fd=directory)
            if stat.S_ISLNK(status.st_mode):
                status = _behind_link(directory, name)
            if stat.S_IFMT(status.st_mode) in _KINDS:
                yield name, status
            elif stat.S_ISDIR(status.st_mode) and status.st_dev == file_system and depth:
                flags = os.O_RDONLY | os.O_DIRECTORY
                with paths.Closing(paths.open_without_links(directory, name, flags)) as inner:
                    for below, found in _walk(inner, file_system, depth - 1):
                        yield f"{name}/{below}", found


def _behind_link(directory: int, name: str) -> os.stat_result:
    """Return what a link leads to; OSError unless that is a device that may be given."""
    opened = paths.open_at(directory, name, os.O_PATH, resolve=paths.RESOLVE_NO_MAGICLINKS)
    with paths.Closing(opened):
        status = os.fstat(opened)
        if not _may_be_given(_place(opened)) or stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        return status
