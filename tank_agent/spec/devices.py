"""Devices as a pod file names them: by path, mapped to another path, with permissions, or by a CDI name.

Each function raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from tank_agent.spec.findings import show

# A colon at the end of a part would be one between two paths.
_PART = r"[A-Za-z0-9_.:@+,#%=~\\-]*[A-Za-z0-9_.@+,#%=~\\-]"
_PATH = re.compile(rf"/dev/{_PART}(?:/{_PART})*")
# Of the container's own: a device of the host there would be hidden by them, or hide them.
_OWN_TREES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd")  # noqa: S108
# Every container has these already; only the host's own of that name may be there.
_OWN_NODES = frozenset(
    f"/dev/{name}"
    for name in ("null", "zero", "full", "random", "urandom", "tty", "stdin", "stdout", "stderr", "core")
)
_EVERY_ACCESS = "rwm"
# container-device-interface, SPEC.md: "Kind" and "CDI Devices", and what its parser takes.
_CDI_PART = r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?"
_CDI_NAME = re.compile(rf"({_CDI_PART}/{_CDI_PART})=([A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?)")
_CDI_LONGEST = 512


class DeviceRequest(Struct, frozen=True):
    """A device, or a directory of devices, of the host, and the path at which the container has it.

    `access` is of the letters r (read), w (write) and m (make nodes of it).
    """

    source: str
    target: str
    access: str = _EVERY_ACCESS

    def __str__(self) -> str:
        """Return it as the pod file has it, in its shortest form."""
        if self.access != _EVERY_ACCESS:
            return f"{self.source}:{self.target}:{self.access}"
        return self.source if self.target == self.source else f"{self.source}:{self.target}"


def parse_device(text: str) -> DeviceRequest:
    """Return what "/dev/x", "/dev/x:/dev/y" or "/dev/x:/dev/y:rw" asks for."""
    # Names by path have colons of their own, such as pci-0000:00:14.0.
    source, mapped, rest = text.partition(":/dev/")
    access = _EVERY_ACCESS
    target = f"/dev/{rest}" if mapped else source
    body, colon, last = target.rpartition(":")
    if colon and last.isalpha() and last.islower():
        if not mapped:
            raise ValueError(f'{show(text)} has no path for the container; write "{body}:{body}:rw"')
        if not set(last) <= set(_EVERY_ACCESS):
            raise ValueError(f'{show(last)} are no permissions; they are of r, w and m, such as "rw"')
        target, access = body, "".join(letter for letter in _EVERY_ACCESS if letter in last)
    for path in (source, target):
        _check(path)
    if target in _OWN_NODES and target != source:
        raise ValueError(f"{show(target)} is the container's own already; choose another path in it")
    return DeviceRequest(source, target, access)


def parse_cdi_name(text: str) -> tuple[str, str]:
    """Return kind and name of "vendor.com/class=name"."""
    found = _CDI_NAME.fullmatch(text) if len(text) <= _CDI_LONGEST else None
    if found is None:
        right = 'write vendor/class=name, such as "nvidia.com/gpu=all"'
        raise ValueError(f"{show(text)} is no name of a CDI device; {right}")
    return found[1], found[2]


def is_cdi_name(text: str) -> bool:
    """Return whether a checked entry names a device of a CDI file, and no path."""
    return not text.startswith("/")


def is_own(path: str) -> bool:
    """Return whether a path of /dev is of what every container has for itself."""
    return any(path == own or path.startswith(f"{own}/") for own in _OWN_TREES)


def device(text: str) -> str:
    """Return an entry of `security.devices` in its shortest form."""
    if text.startswith("dev/"):
        raise ValueError(f"{show(text)} is not a device; write {show('/' + text)}")
    if not text.startswith("/") and ("=" in text or "/" in text):
        parse_cdi_name(text)
        return text
    return str(parse_device(text))


def distinct(entries: Sequence[str]) -> tuple[str, ...]:
    """Return checked entries in their order, each once; two for one path of the container are an error."""
    taken: dict[str, str] = {}
    found = sorted(set(entries))
    for entry in found:
        # Others are of CDI, or wrong, which is said already.
        with suppress(ValueError):
            target = parse_device(entry).target
            other = taken.setdefault(target, entry)
            if other != entry:
                break
    else:
        return tuple(found)
    raise ValueError(f"{show(other)} and {show(entry)} are both {target} in the container; leave one out")


def _check(path: str) -> None:
    if not _PATH.fullmatch(path) or {"..", "."} & set(path.split("/")):
        raise ValueError(
            f'{show(path)} is not a device; write its path below /dev, such as "/dev/fuse", or a CDI name '
            'such as "nvidia.com/gpu=all"'
        )
    if is_own(path):
        raise ValueError(f"{show(path)} is the container's own already; remove it")
