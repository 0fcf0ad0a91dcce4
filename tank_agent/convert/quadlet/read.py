"""Find the units of a set: files, directories, drop-ins, and links to templates."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from tank_agent.convert.model import Remark, SourcePlace
from tank_agent.convert.quadlet.specifiers import User, expand, unknown_in, user_of
from tank_agent.convert.quadlet.unit import Entry, Unit, parse_unit
from tank_agent.errors import TankError

KINDS = ("container", "pod", "volume", "network", "image", "build", "kube")
# Read beside them, for what they add to a container.
_ALSO = ("timer",)
_FILE_MAX = 1 << 20
_SECTIONS = {kind: kind.capitalize() for kind in KINDS}
_PER_USER = re.compile(r"(?P<home>/.+)/\.config/containers/systemd(/|$)|/containers/systemd/users(/|$)")


class Units(Struct, frozen=True, kw_only=True):
    """The units of a set, in the order they were found, and remarks on what could not be read.

    `user` is whose home and directories the specifiers mean; `real` returns what a path of the host is behind
    symbolic links.
    """

    found: tuple[Unit, ...]
    remarks: tuple[Remark, ...]
    user: User
    real: Callable[[str], str] = str

    def of(self, kind: str) -> list[Unit]:
        """Return all of a kind."""
        return [unit for unit in self.found if unit.kind == kind]

    def named(self, file: str) -> Unit | None:
        """Return a unit by the name of its file, such as "web.container"."""
        return next((unit for unit in self.found if f"{unit.name}.{unit.kind}" == file), None)


def read_units(paths: Sequence[Path], home: str) -> Units:
    """Return the units of files and directories; `home` is the home directory that %h means.

    Raises:
        TankError: a path can't be read, or there is no unit in any.
    """
    files = [file for path in paths for file in _files(path)]
    remarks: list[Remark] = []
    units: dict[str, Unit] = {}
    user = user_of(home)
    for given in files:
        file = given.absolute()
        per_user = _PER_USER.search(os.fspath(file))
        if per_user:
            user = user_of(per_user["home"] or home, is_root=False)
        unit = _unit(given, user)
        first = units.setdefault(file.name, unit)
        if first is not unit:
            message = f"is left out, {first.file} has the same name and came first"
            remarks.append(_lost(unit.place, unit.kind, message))
    for unit in units.values():
        remarks += [_lost(place, "line", message) for place, message in unit.unread]
    if not any(unit.kind in KINDS for unit in units.values()):
        known = ", ".join(f".{kind}" for kind in KINDS)
        where = " ".join(map(os.fspath, paths))
        raise TankError("there is no unit of Quadlet here", where=where, hint=f"such a file ends in {known}")
    return Units(found=tuple(units.values()), remarks=tuple(remarks), user=user)


def _lost(place: SourcePlace, key: str, message: str) -> Remark:
    return Remark(kind="lost", place=place, key=key, message=message)


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if path.suffix.removeprefix(".") not in (*KINDS, *_ALSO):
            kinds = ", ".join(f".{kind}" for kind in KINDS)
            message = "is no unit of Quadlet" if path.exists() else "there is no such file"
            raise TankError(message, where=os.fspath(path), hint=f"units end in {kinds}")
        yield path
        beside = path.with_suffix(".timer")
        if path.suffix == ".container" and beside.is_file():
            yield beside
        return
    for directory, directories, names in os.walk(path):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            file = Path(directory, name)
            if file.suffix.removeprefix(".") in (*KINDS, *_ALSO) and not name.startswith("."):
                yield file


def _unit(file: Path, user: User) -> Unit:
    kind = file.suffix[1:]
    name = file.name.removesuffix(file.suffix)
    template, at, instance = name.partition("@")
    entries: list[Entry] = []
    wrong: list[tuple[SourcePlace, str]] = []
    for part in [file, *_drop_ins(file, template + at, kind)]:
        found, bad = parse_unit(_text(part), os.fspath(part))
        entries += found
        wrong += bad
    if at and not instance:
        default = [entry for entry in entries if (entry.section, entry.key) == ("Install", "DefaultInstance")]
        instance = default[-1].text if default else ""
    for entry in entries:
        unknown = unknown_in(entry.text, user) if entry.section.lower() in KINDS else None
        if unknown:
            wrong.append((entry.place, f"{unknown} is only known where systemd runs it; write its value"))
    expanded = [_expanded(entry, name, instance, user) for entry in entries]
    return Unit(
        name=name if not at or not instance else f"{template}@{instance}",
        kind=kind,
        file=os.fspath(file),
        directory=os.fspath(file.absolute().parent),
        entries=tuple(expanded),
        instance=instance,
        unread=tuple(wrong),
    )


def _expanded(entry: Entry, name: str, instance: str, user: User) -> Entry:
    text = expand(entry.text, name=name, instance=instance, user=user)
    return Entry(section=entry.section, key=entry.key, text=text, place=entry.place)


def _drop_ins(file: Path, template: str, kind: str) -> list[Path]:
    """Return the drop-ins of a unit, each name once, from the most particular directory that has it."""
    stem = file.name.removesuffix(f".{kind}")
    names = [f"{kind}.d"]
    parts = stem.split("-")
    names += [f"{'-'.join(parts[:count])}-.{kind}.d" for count in range(1, len(parts))]
    names += [f"{template}.{kind}.d"] if template.endswith("@") else []
    names.append(f"{file.name}.d")
    found: dict[str, Path] = {}
    for name in names:
        directory = file.parent / name
        if directory.is_dir():
            found |= {one.name: one for one in directory.iterdir() if one.suffix == ".conf"}
    return [found[name] for name in sorted(found)]


def _text(file: Path) -> str:
    # A pipe or a device would never end.
    if file.exists() and not file.is_file():
        raise TankError("is not a regular file", where=os.fspath(file))
    try:
        with file.open("rb") as opened:
            content = opened.read(_FILE_MAX + 1)
        if len(content) > _FILE_MAX:
            raise TankError(f"is larger than {_FILE_MAX >> 20} MiB, which no unit is", where=os.fspath(file))
        return content.decode()
    except UnicodeDecodeError:
        hint = "save the file as that"
        raise TankError("is not UTF-8", where=os.fspath(file), hint=hint) from None
    except OSError as error:
        raise TankError(f"cannot read: {error.strerror}", where=os.fspath(file)) from error
