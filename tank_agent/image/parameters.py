"""The parameters of a container's process: the image's configuration, with the pod file's keys over it.

User names are looked up in the image's own passwd and group files, never by the host's name service. Those
may be a fifo, a link, endless, or hold numbers that overflow (CVE-2024-9676, CVE-2026-46680).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageConfig
from tank_agent.linux.paths import NotReadableError, read_in_root
from tank_agent.spec.model import Container
from tank_agent.spec.paths import is_kernel_path, normal_path
from tank_agent.spec.values import parse_signal

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIMIT = 1 << 20
# 2³²-1 means "do not change" to the kernel (chown(2), setresuid(2)).
_HIGHEST = 2**32 - 2
_NUMBER = re.compile(r"[0-9]+")
_MOST_GROUPS = 1024


class RunParameters(Struct, frozen=True, kw_only=True):
    """The parameters of a container's process.

    `cwd` is absolute and normal. `user` is as written ("postgres:postgres", "1000"), for `resolve_user`.
    `stop_signal` is a name such as "SIGTERM" or "SIGRTMIN+3" (`spec.values.signal_number`).
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    user: str
    stop_signal: str


def merge(container: Container, config: ImageConfig) -> RunParameters:
    """Return a container's process parameters; Stalled if there is no command or a value is invalid."""
    # An entry without "=" would make some runtimes pass on the host's variable of that name (CVE-2026-57231).
    given = (entry.partition("=") for entry in config.env if "\0" not in entry)
    env = {name: value for name, equals, value in given if name and equals} | container.env
    env.setdefault("PATH", DEFAULT_PATH)
    argv = _argv(container, config)
    cwd = _working_directory(container.working_dir or config.working_dir or "/", container.name)
    user = container.user or config.user or "0:0"
    try:
        stop_signal = parse_signal((container.stop_signal or config.stop_signal or "SIGTERM").strip())
    except ValueError as error:
        raise _unusable(f"stop signal: {error}", container.name, 'stop_signal = "SIGTERM"') from error
    return RunParameters(argv=argv, env=env, cwd=cwd, user=user, stop_signal=stop_signal)


def _argv(container: Container, config: ImageConfig) -> tuple[str, ...]:
    if container.command is not None:
        argv = (*container.command, *(container.args or ()))
    else:
        argv = (*config.entrypoint, *(config.cmd if container.args is None else container.args))
    if not argv or not argv[0]:
        source = f"{container.image} names none" if container.image else "its root file system has none"
        wrong, setting = f"there is no command to run: {source}", 'command = ["/path/to/program"]'
        raise _unusable(wrong, container.name, setting)
    if any("\0" in word for word in argv):
        raise Stalled("the command contains a NUL byte", where=f"container {container.name}")
    return argv


def _working_directory(path: str, container: str) -> str:
    normal = normal_path(path)
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        problem = "is not an absolute path without '..'"
    elif is_kernel_path(normal):
        problem = "is in a file system of the kernel"
    else:
        return normal
    raise _unusable(f"working directory {path!r} {problem}", container, 'working_dir = "/some/directory"')


def _unusable(wrong: str, container: str, setting: str) -> Stalled:
    return Stalled(wrong, where=f"container {container}", hint=f"set {setting} in the pod file")


class Identity(Struct, frozen=True, kw_only=True):
    """The numbers of a user; the supplementary `groups` start with `gid` (CVE-2022-2989).

    `home` and `name` are from the user's line in passwd: "/" and "" if there is none.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str = "/"
    name: str = ""


class _User(NamedTuple):
    name: str
    uid: str
    gid: str
    home: str


def resolve_user(rootfs: int, user: str) -> Identity:
    """Resolve "user", "user:group", "uid" or "uid:gid" in a root file system, an open directory (O_PATH).

    A given group replaces the user's own group and the supplementary groups, as in Docker. Digits are always
    a number, and "" is root. Stalled if a name is unknown, a number invalid, or passwd or group unreadable.
    """
    wanted, _, group = user.partition(":")
    if ":" in group:
        raise Stalled(f"user {user!r} is not of the form user:group")
    wanted = wanted or "0"
    entry = _find_user(rootfs, wanted)
    uid = _number(entry.uid, f"the uid of {wanted}")
    gid = _find_gid(rootfs, group) if group else _number(entry.gid, f"the gid of {wanted}")
    others = _memberships(rootfs, entry.name, gid) if entry.name and not group else ()
    has_home = entry.home.startswith("/") and posixpath.normpath(entry.home) == entry.home
    home = entry.home if has_home else "/"
    return Identity(uid=uid, gid=gid, groups=(gid, *others), home=home, name=entry.name)


def with_groups(rootfs: int, identity: Identity, groups: Sequence[str]) -> Identity:
    """Return a user that is in further groups, too: names of the root file system's /etc/group, or numbers.

    Stalled as in `resolve_user`.
    """
    further = (_find_gid(rootfs, group) for group in groups)
    # Each once, in their order.
    return replace(identity, groups=tuple(dict.fromkeys((*identity.groups, *further))))


def _find_user(rootfs: int, wanted: str) -> _User:
    """Return the line of passwd for a name or a number; a number may have none."""
    numeric = bool(_NUMBER.fullmatch(wanted))
    uid = _number(wanted, "user") if numeric else -1
    for name, _, number, gid, _, home, *_ in _lines(rootfs, "/etc/passwd", 6):
        if _same_number(number, uid) if numeric else name == wanted:
            return _User(name, number, gid, home)
    if not numeric:
        raise _unknown("user", wanted, "/etc/passwd")
    return _User("", wanted, "0", "/")


def _find_gid(rootfs: int, wanted: str) -> int:
    if _NUMBER.fullmatch(wanted):
        return _number(wanted, "group")
    for name, _, gid, *_ in _lines(rootfs, "/etc/group", 4):
        if name == wanted:
            return _number(gid, f"the gid of group {wanted}")
    raise _unknown("group", wanted, "/etc/group")


def _unknown(kind: str, wanted: str, file: str) -> Stalled:
    return Stalled(f"no {kind} {wanted!r} in the image's {file}", hint="use a name of the image, or a number")


def _memberships(rootfs: int, user: str, own: int) -> Iterator[int]:
    seen = {own}
    for name, _, gid, members, *_ in _lines(rootfs, "/etc/group", 4):
        if user in (member.strip() for member in members.split(",")):
            number = _number(gid, f"the gid of group {name}")
            if number not in seen:
                seen.add(number)
                yield number
        if len(seen) > _MOST_GROUPS:
            raise Stalled(f"user {user!r} is in more than {_MOST_GROUPS} groups of the image's /etc/group")


def _lines(rootfs: int, path: str, least: int) -> Iterator[list[str]]:
    """Yield the fields of each line with at least so many of them; a missing file has no lines."""
    try:
        content = read_in_root(rootfs, path, limit=_LIMIT)
    except FileNotFoundError:
        return
    except (NotReadableError, OSError) as error:
        raise Stalled(f"cannot read the image's {path}: {error}", hint="the image is broken") from error
    for line in content.decode(errors="surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) >= least and not line.startswith("#") and "\0" not in line:
            yield fields


def _same_number(text: str, number: int) -> bool:
    return bool(_NUMBER.fullmatch(text)) and len(text) <= 64 and int(text) == number


def _number(text: str, what: str) -> int:
    # A huge number must not wrap around to 0, which is root; and int() of many digits is slow.
    if not _NUMBER.fullmatch(text) or len(text.lstrip("0")) > 10 or int(text[-64:]) > _HIGHEST:
        raise Stalled(f"{what} is {text[:40]!r}, which is not a number from 0 to {_HIGHEST}")
    return int(text[-64:])
