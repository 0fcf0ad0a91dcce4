"""Check the mounts of a container, each with what it mounts, and all together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tank_agent.spec import file, model
from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.keys import checked
from tank_agent.spec.other_tools.advice import of_volume

_GUESSES_MAX = 100
# The runtime opens all of them at once, with no more than the 1024 descriptors that a container begins with.
_MOUNTS_MAX = 500
_KINDS = ("volume", "file", "secret", "tmpfs")
_OF_FILES = ("on_change", "mode", "owner")
SECRETS = "/run/secrets"


class Mountable:
    """The names of what a pod's containers can mount: its volumes, files and secrets."""

    def __init__(self, table: file.PodTable) -> None:
        self.by_kind: Mapping[str, Sequence[str]] = {
            "volume": list(dict.fromkeys(one.name for one in table.volumes)),
            "file": list(dict.fromkeys(one.name for one in table.files)),
            "secret": list(dict.fromkeys(one.name for one in table.secrets)),
        }
        self.known = {kind: frozenset(names) for kind, names in self.by_kind.items()}
        self.of_host = frozenset(one.name for one in table.volumes if one.host is not None)


def mounts_of(
    tables: tuple[file.MountTable, ...], path: KeyPath, known: Mountable, findings: list[Finding]
) -> tuple[model.Mount, ...]:
    """Return the mounts of one container."""
    if len(tables) > _MOUNTS_MAX:
        message = f"there are {len(tables)}; a container has at most {_MOUNTS_MAX}, so mount a directory"
        findings.append(Finding(path, message))
    first: dict[str, int] = {}
    mounts = []
    for index, table in enumerate(tables):
        before = len(findings)
        mount = _mount(table, (*path, index), known, findings)
        mounts.append(mount)
        if len(findings) == before and first.setdefault(mount.path, index) != index:
            other = f"the first is mounts[{first[mount.path]}]"
            message = f"two mounts are at {show(mount.path)} ({other}); move one"
            findings.append(Finding((*path, index, "path"), message))
    return tuple(mounts)


def _mount(table: file.MountTable, path: KeyPath, known: Mountable, findings: list[Finding]) -> model.Mount:
    kinds = [kind for kind in _KINDS if getattr(table, kind) is not None]
    if not kinds:
        findings.append(Finding(path, 'mounts nothing; write volume = "data", file, secret or tmpfs = "64M"'))
    for kind in kinds[1:]:
        findings.append(Finding((*path, kind), f"{kinds[0]} is given, too; a mount is of one of them"))
    kind = kinds[0] if kinds else ""
    if kind in known.known:
        _check_known(kind, getattr(table, kind), path, known, findings)
    given = checked(table, path, findings)
    if table.path is None:
        given["path"] = f"{SECRETS}/{table.secret}" if table.secret is not None else ""
        if table.secret is None:
            example = {"file": "/etc/app.conf", "tmpfs": "/run"}.get(kind, "/srv/data")
            findings.append(Finding((*path, "path"), f"is missing; write path = {show(example)}"))
    if kind:
        _check_fitting(table, kind, path, findings)
        if table.from_image and (why := _why_not_filled(table, kind, known)):
            findings.append(Finding((*path, "from_image"), why))
    # Nobody can write them in any case.
    given["read_only"] = table.read_only and kind == "volume"
    return model.Mount(**given)


def _check_known(kind: str, name: str, path: KeyPath, known: Mountable, findings: list[Finding]) -> None:
    # One without a name has its own finding, and may be the one that is meant here.
    if name in known.known[kind] or "" in known.known[kind]:
        return
    # A guess takes time, and nobody reads more than the first.
    names = [] if len(findings) > _GUESSES_MAX else known.by_kind[kind][:_GUESSES_MAX]
    guess, shown = closest(name, names), show(name)
    other = next((other for other, there in known.known.items() if name in there), None)
    right = f"define it with [[{kind}s]] and name = {shown}"
    if kind == "volume" and name.startswith(("/", ".", "~")):
        right = f"{of_volume(name)}, and its name here"
    elif guess:
        right = f"did you mean {show(guess)}?"
    elif other:
        right = f"there is a {other} of this name; write {other} = {shown}"
    findings.append(Finding((*path, kind), f"no {kind} has the name {shown}; {right}"))


def _why_not_filled(table: file.MountTable, kind: str, known: Mountable) -> str:
    """Return why nothing can begin with what the image has there; "" if it can."""
    if kind == "tmpfs":
        return "is what a tmpfs does anyway, at each start; remove it"
    if kind != "volume":
        return f"is for a volume, and this is a {kind}; remove it"
    if table.volume in known.of_host:
        return f"is for a managed volume, and {table.volume} is a path of the machine; remove it"
    if table.subpath:
        return "is for a whole volume; remove it, or subpath"
    return ""


def _check_fitting(table: file.MountTable, kind: str, path: KeyPath, findings: list[Finding]) -> None:
    """Check that each key is one of what is mounted."""
    of_file = kind in ("file", "secret")
    if table.subpath and kind != "volume":
        findings.append(
            Finding((*path, "subpath"), f"is a directory in a volume, and this is a {kind}; remove it")
        )
    for key in _OF_FILES:
        default = "restart" if key == "on_change" else None
        if not of_file and getattr(table, key) != default:
            reason = (
                {
                    "on_change": "nobody watches what is in it",
                    "mode": "its own permissions count",
                    "owner": "its own owner counts",
                }[key]
                if kind == "volume"
                else "it is anew at each start"
            )
            message = f"is for a file or a secret, and this is a {kind}: {reason}; remove it"
            findings.append(Finding((*path, key), message))
    if table.read_only and kind == "tmpfs":
        findings.append(
            Finding((*path, "read_only"), "would let nobody write to it, which is what it is for; remove it")
        )
