"""The outer form of a compose file: its sections, and what is in them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from tank_agent.convert.model import InvalidSource, Remark, SourcePlace, Value
from tank_agent.spec.findings import show

SECTIONS = ("services", "volumes", "networks", "configs", "secrets")
_OTHERS = ("version", "name", "include")
_NAME = re.compile(r"[a-zA-Z0-9._-]+")


def sections_of(value: Value, remarks: list[Remark]) -> dict[str, Value]:
    """Return the sections of one document of a compose file.

    A file of compose's first form has its services at the top.

    Raises:
        InvalidSource: it is no compose file.
    """
    if not isinstance(value.plain, dict):
        raise InvalidSource(value.place, "is no compose file; write services: and the services below it")
    entries = value.plain
    unknown = _unknown(value)
    if is_first_form(value):
        message = "services stand at the top, as in compose's first form; they are read as if below services:"
        remarks.append(Remark(kind="note", place=value.place, key=unknown[0], message=message))
        services = Value({key: entries[key] for key in unknown}, value.place)
        entries = {key: item for key, item in entries.items() if key not in unknown} | {"services": services}
    elif unknown:
        near = difflib.get_close_matches(unknown[0], (*SECTIONS, *_OTHERS), n=1)
        right = f"write {near[0]}" if near else f"the sections are {', '.join(SECTIONS)}"
        raise InvalidSource(
            entries[unknown[0]].place, f"{show(unknown[0])} is no section of a compose file; {right}"
        )
    for section in SECTIONS:
        _check(section, entries.get(section))
    _note_version(entries, remarks)
    return {key: item for key, item in entries.items() if key != "version"}


def is_first_form(value: Value) -> bool:
    """Say whether a file has its services at the top, as before compose's version 2."""
    entries = value.plain if isinstance(value.plain, dict) else {}
    unknown = _unknown(value)
    return (
        bool(unknown)
        and "services" not in entries
        and all(isinstance(entries[key].plain, dict) for key in unknown)
    )


def _unknown(value: Value) -> list[str]:
    entries = value.plain if isinstance(value.plain, dict) else {}
    return [key for key in entries if key not in (*SECTIONS, *_OTHERS) and not key.startswith("x-")]


def _check(section: str, value: Value | None) -> None:
    if value is None or value.plain is None:
        return
    if not isinstance(value.plain, dict):
        raise InvalidSource(value.place, f"{section} must be a mapping; write NAME: below it for each")
    for name, entry in value.plain.items():
        if not _NAME.fullmatch(name):
            message = f"{section}: {show(name)} is no name; write letters, digits, _, . and -"
            raise InvalidSource(entry.place, message)
        if not isinstance(entry.plain, dict) and entry.plain is not None:
            raise InvalidSource(entry.place, f"{section}.{name} must be a mapping; write its keys below it")


def _note_version(entries: Mapping[str, Value], remarks: list[Remark]) -> None:
    version = entries.get("version")
    if version is not None:
        message = "means nothing to compose since its version 2; it may be left away"
        remarks.append(Remark(kind="note", place=version.place, key="version", message=message))


def same(one: Value, other: Value) -> bool:
    """Say whether two values are the same, wherever they stand."""
    if isinstance(one.plain, dict) and isinstance(other.plain, dict):
        both = zip(one.plain.values(), other.plain.values(), strict=False)
        return list(one.plain) == list(other.plain) and all(same(a, b) for a, b in both)
    if isinstance(one.plain, tuple) and isinstance(other.plain, tuple):
        pairs = zip(one.plain, other.plain, strict=False)
        return len(one.plain) == len(other.plain) and all(same(a, b) for a, b in pairs)
    return type(one.plain) is type(other.plain) and one.plain == other.plain


def joined(base: Mapping[str, Value], other: Mapping[str, Value]) -> dict[str, Value]:
    """Return the sections of a file and of one that it includes.

    Raises:
        InvalidSource: both have something of one name, and not the same.
    """
    result = dict(base)
    for section in SECTIONS:
        mine, theirs = base.get(section), other.get(section)
        if theirs is None or not isinstance(theirs.plain, dict):
            continue
        own = mine.plain if mine is not None and isinstance(mine.plain, dict) else {}
        for name, entry in theirs.plain.items():
            if name in own and not same(own[name], entry):
                message = f"{section}.{name} is at {entry.place}, too, which this file includes; rename one"
                raise InvalidSource(own[name].place, message)
        result[section] = Value({**own, **theirs.plain}, mine.place if mine is not None else theirs.place)
    return result


def entries_of(sections: Mapping[str, Value], section: str) -> dict[str, Value]:
    """Return what is in a section, which may be missing or null."""
    value = sections.get(section)
    return value.plain if value is not None and isinstance(value.plain, dict) else {}


def nothing_at(file: str) -> Value:
    """Return an empty mapping at the head of a file."""
    return Value({}, SourcePlace(file))
