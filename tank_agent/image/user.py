"""Whom a container runs as: names looked up in the container's own passwd and group files.

Those files belong to the image, so they may be a fifo, a link to anywhere, endless, or hold numbers that
overflow (CVE-2024-9676, CVE-2026-46680). The name service of the host is never asked.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux.paths import NotReadableError, read_in_root

_LIMIT = 1 << 20
# 2³²-1 means "do not change" to the kernel (chown(2), setresuid(2)).
_HIGHEST = 2**32 - 2
_NUMBER = re.compile(r"[0-9]+")
_MOST_GROUPS = 1024
_Entry = TypeVar("_Entry")


class Identity(Struct, frozen=True, kw_only=True):
    """Numbers to run as. `groups` are the supplementary groups and always start with `gid` (CVE-2022-2989).

    `home` and `name` are from the user's line in passwd: "/" and "" if it has none.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = "/"
    name: str = ""


class _User(Struct, frozen=True):
    name: str
    uid: str
    gid: str
    home: str


class _Group(Struct, frozen=True):
    name: str
    gid: str
    members: tuple[str, ...]


def resolve_user(rootfs: int, user: str) -> Identity:
    """Resolve "user", "user:group", "uid" or "uid:gid" in a root file system.

    A given group replaces both the user's own group and the supplementary groups, as in Docker. Digits
    are always a number, never a name.

    Args:
        rootfs: an open directory (O_PATH is enough): the merged root file system.
        user: as the pod file or the image wrote it; empty is root.

    Raises:
        Stalled: no such name, a number that cannot be, or files that nobody should read.
    """
    wanted, _, group = user.partition(":")
    if ":" in group:
        raise Stalled(f"user {user!r} is not of the form user:group")
    wanted = wanted or "0"
    entry = _find_user(rootfs, wanted)
    uid = _number(entry.uid if entry else wanted, f"the uid of {wanted}")
    if group:
        gid = _find_gid(rootfs, group)
        groups: tuple[int, ...] = (gid,)
    else:
        gid = _number(entry.gid, f"the gid of {wanted}") if entry else 0
        groups = (gid, *_memberships(rootfs, entry.name, gid)) if entry else (gid,)
    home = entry.home if entry and _is_normal(entry.home) else "/"
    return Identity(uid=uid, gid=gid, groups=groups, home=home, name=entry.name if entry else "")


def _find_user(rootfs: int, wanted: str) -> _User | None:
    numeric = bool(_NUMBER.fullmatch(wanted))
    uid = _number(wanted, "user") if numeric else -1

    def matches(entry: _User) -> bool:
        return _same_number(entry.uid, uid) if numeric else entry.name == wanted

    found = _first(_users(rootfs), matches)
    if found is None and not numeric:
        raise Stalled(
            f"no user {wanted!r} in the image's /etc/passwd", hint="use a name of the image, or a number"
        )
    return found


def _find_gid(rootfs: int, wanted: str) -> int:
    if _NUMBER.fullmatch(wanted):
        return _number(wanted, "group")
    found = _first(_groups(rootfs), lambda entry: entry.name == wanted)
    if found is None:
        raise Stalled(
            f"no group {wanted!r} in the image's /etc/group", hint="use a name of the image, or a number"
        )
    return _number(found.gid, f"the gid of group {wanted}")


def _memberships(rootfs: int, name: str, gid: int) -> Iterator[int]:
    seen = {gid}
    for entry in _groups(rootfs):
        if name in entry.members:
            number = _number(entry.gid, f"the gid of group {entry.name}")
            if number not in seen:
                seen.add(number)
                yield number
        if len(seen) > _MOST_GROUPS:
            raise Stalled(f"user {name!r} is in more than {_MOST_GROUPS} groups of the image's /etc/group")


def _users(rootfs: int) -> Iterator[_User]:
    for fields in _lines(rootfs, "/etc/passwd"):
        if len(fields) >= 6:
            yield _User(fields[0], fields[2], fields[3], fields[5])


def _groups(rootfs: int) -> Iterator[_Group]:
    for fields in _lines(rootfs, "/etc/group"):
        if len(fields) >= 4:
            members = tuple(member.strip() for member in fields[3].split(","))
            yield _Group(fields[0], fields[2], members)


def _lines(rootfs: int, path: str) -> Iterator[list[str]]:
    """Yield the fields of each line; a missing file has none."""
    try:
        content = read_in_root(rootfs, path, limit=_LIMIT)
    except FileNotFoundError:
        return
    except (NotReadableError, OSError) as error:
        raise Stalled(f"cannot read the image's {path}: {error}", hint="the image is broken") from error
    for line in content.decode(errors="surrogateescape").split("\n"):
        if line and not line.startswith("#") and "\0" not in line:
            yield line.split(":")


def _first(entries: Iterator[_Entry], matches: Callable[[_Entry], bool]) -> _Entry | None:
    return next((entry for entry in entries if matches(entry)), None)


def _same_number(text: str, number: int) -> bool:
    return bool(_NUMBER.fullmatch(text)) and len(text) <= 64 and int(text) == number


def _number(text: str, what: str) -> int:
    # A huge number must not wrap around to 0, which is root; and int() of many digits is slow.
    if not _NUMBER.fullmatch(text) or len(text.lstrip("0")) > 10 or int(text[-64:]) > _HIGHEST:
        raise Stalled(f"{what} is {text[:40]!r}, which is not a number from 0 to {_HIGHEST}")
    return int(text[-64:])


def _is_normal(path: str) -> bool:
    return path.startswith("/") and posixpath.normpath(path) == path
