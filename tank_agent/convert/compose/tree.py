"""YAML as compose reads it: values at their places, with the words of YAML 1.2 and the octals of 1.1.

Only what a text says becomes a value: no tag makes an object. What an alias repeats counts as often as it
is repeated, so that a small file can't become a large one.
"""

from __future__ import annotations

import importlib
from typing import Any

from msgspec import Struct, field

from tank_agent.convert.compose.scalars import KNOWN_TAGS, resolved, tagged
from tank_agent.convert.model import InvalidSource, Plain, SourcePlace, Value
from tank_agent.errors import TankError
from tank_agent.spec.findings import show

DEPTH_MAX = 60
NODES_MAX = 200_000
RESET, OVERRIDE = "!reset", "!override"
# What most often is wrong behind the parser's words.
_HINTS = (
    (
        "mapping values are not allowed",
        "indent the line as those beside it, or put a text that has a colon in quotes",
    ),
    (
        "did not find expected key",
        "indent the line as those beside it, and close what a quote or bracket opens above",
    ),
    ("did not find expected '-'", "indent the line as those beside it"),
    ("did not find expected ','", "close what a bracket opens above, or put a text that has one in quotes"),
    ("end of stream", "close what a quote or bracket opens above"),
    ("cannot start any token", "put a text that begins with such a character in quotes"),
    ("could not find expected ':'", "write a colon and a space behind the key"),
)
KeyPath = tuple[str, ...]


class YamlDocument(Struct, frozen=True):
    """One document of a file. `replaced` are the paths of its keys with !reset or !override.

    What is !reset is not in `value`.
    """

    value: Value
    replaced: tuple[KeyPath, ...] = ()


class _Open(Struct):
    """A mapping or list whose end has not come yet."""

    place: SourcePlace
    anchor: str | None
    path: KeyPath
    is_mapping: bool
    items: list[Value] = field(default_factory=list)
    entries: dict[str, Value] = field(default_factory=dict)
    merged: list[Value] = field(default_factory=list)
    key: str | None = None
    key_place: SourcePlace | None = None
    nodes: int = 1
    depth: int = 1
    tag: str | None = None


def read_documents(content: bytes, file: str) -> list[YamlDocument]:
    """Return the documents of a YAML file.

    Raises:
        InvalidSource: it is no YAML, or too much of it.
        TankError: the library that reads YAML is missing.
    """
    yaml = _library()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    reader = _Reader(file)
    try:
        for event in yaml.parse(content, Loader=loader):
            reader.take(event, type(event).__name__)
    except yaml.reader.ReaderError as error:
        line = content[: error.position].count(b"\n") + 1 if isinstance(error.position, int) else 0
        reason = f"is not text that YAML allows ({error.reason}); save the file as UTF-8"
        raise InvalidSource(SourcePlace(file, line), reason) from None
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(error, file, content) from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidSource(SourcePlace(file), f"is no YAML: {' '.join(str(error).split())}") from None
    return reader.documents


def _library() -> Any:
    try:
        return importlib.import_module("yaml")
    except ImportError:
        hint = "run `apt install python3-yaml`, or `pip install PyYAML`"
        raise TankError(
            "reading compose files needs python3-yaml, which is not installed", hint=hint
        ) from None


def _no_yaml(error: Any, file: str, content: bytes) -> InvalidSource:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark is not None else 0
    said = " ".join(str(part) for part in (error.context, error.problem) if part)
    lines = content.splitlines()
    before = lines[line - 1] if 0 < line <= len(lines) else b""
    if b"\t" in before[: len(before) - len(before.lstrip())]:
        hint: str | None = "indent with spaces: YAML takes no tabs there"
    else:
        hint = next((right for words, right in _HINTS if words in said), None)
    return InvalidSource(SourcePlace(file, line), f"is no YAML: {said}", hint=hint)


class _Reader:
    """Makes values of the events of a parser, without recursion."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Value, int, int]] = {}
        self._replaced: list[KeyPath] = []
        self._left = NODES_MAX
        self.documents: list[YamlDocument] = []

    def take(self, event: Any, kind: str) -> None:
        """Take the next event of the parser."""
        if kind == "ScalarEvent":
            self._scalar(event)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._start(event, kind == "MappingStartEvent")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._end()
        elif kind == "AliasEvent":
            self._alias(event)
        elif kind == "DocumentStartEvent":
            self._anchors, self._replaced = {}, []

    def _place(self, event: Any) -> SourcePlace:
        return SourcePlace(self._file, event.start_mark.line + 1)

    def _refused(self, event: Any, message: str, hint: str | None = None) -> InvalidSource:
        return InvalidSource(self._place(event), message, hint=hint)

    def _scalar(self, event: Any) -> None:
        opened = self._open[-1] if self._open else None
        tag = event.tag
        is_tagged = tag is not None and tag not in (RESET, OVERRIDE)
        is_plain = event.style is None or event.style == ""
        is_key = opened is not None and opened.is_mapping and opened.key is None
        if not is_key:
            self._tag(event)
        if opened is not None and is_key:
            is_text = not is_plain or isinstance(resolved(event.value), str) or event.value == "<<"
            if not is_text and not is_tagged:
                right = (
                    f'write "{event.value}": in quotes' if event.value else "write a name before the colon"
                )
                raise self._refused(event, f"{show(event.value)} is no name of a key; {right}")
            if tag in (RESET, OVERRIDE):
                raise self._refused(event, f"{tag} stands before a value; write it behind the colon")
            self._key(event, opened, event.value)
            return
        try:
            plain = (
                tagged(event.value, tag) if is_tagged else resolved(event.value) if is_plain else event.value
            )
        except ValueError as error:
            raise self._refused(event, f"{show(event.value)} {error}") from None
        self._value(event, Value(plain, self._place(event)), 1, 1, event.anchor)

    def _tag(self, event: Any) -> None:
        """Note what replaces the value of an earlier file; refuse tags that mean nothing here."""
        tag = event.tag
        if tag in (RESET, OVERRIDE):
            self._replaced.append(self._path())
        elif tag is not None and tag not in KNOWN_TAGS:
            raise self._refused(event, f"the tag {show(tag)} means nothing in a compose file; leave it away")

    def _path(self) -> KeyPath:
        if not self._open:
            return ()
        opened = self._open[-1]
        last = opened.key if opened.is_mapping else str(len(opened.items))
        # What is merged in stands where it is merged to.
        return opened.path if last in (None, "<<") else (*opened.path, str(last))

    def _key(self, event: Any, opened: _Open, key: str) -> None:
        if key in opened.entries or (key == "<<" and opened.merged):
            raise self._refused(event, f"{show(key)} is there twice; leave one of them away")
        opened.key, opened.key_place = key, self._place(event)
        self._count(event, 1)

    def _start(self, event: Any, is_mapping: bool) -> None:
        opened = self._open[-1] if self._open else None
        if opened is not None and opened.is_mapping and opened.key is None:
            raise self._refused(
                event, "a list or mapping is no name of a key; a { or [ of a text needs quotes"
            )
        self._tag(event)
        if len(self._open) >= DEPTH_MAX:
            raise self._refused(event, f"is nested deeper than {DEPTH_MAX}; no compose file needs that")
        place = self._place(event)
        if opened is not None and opened.is_mapping and opened.key_place is not None:
            place = opened.key_place
        self._open.append(
            _Open(place=place, anchor=event.anchor, path=self._path(), is_mapping=is_mapping, tag=event.tag)
        )

    def _end(self) -> None:
        closed = self._open.pop()
        plain: Plain
        if closed.is_mapping:
            plain = {**_merged(closed.merged), **closed.entries} if closed.merged else closed.entries
        else:
            plain = tuple(closed.items)
        value = Value(plain, closed.place)
        self._value(closed, value, closed.nodes, closed.depth, closed.anchor)

    def _alias(self, event: Any) -> None:
        found = self._anchors.get(event.anchor)
        if found is None:
            raise self._refused(event, f"*{event.anchor} has no &{event.anchor} that ends before it")
        value, nodes, depth = found
        opened = self._open[-1] if self._open else None
        if opened is not None and opened.is_mapping and opened.key is None:
            if not isinstance(value.plain, str):
                raise self._refused(event, f"*{event.anchor} is no name of a key; write the name")
            self._key(event, opened, value.plain)
            return
        if len(self._open) + depth > DEPTH_MAX:
            raise self._refused(event, f"is nested deeper than {DEPTH_MAX}; no compose file needs that")
        self._count(event, nodes)
        self._value(event, Value(value.plain, self._place(event)), nodes, depth, None)

    def _count(self, event: Any, nodes: int) -> None:
        self._left -= nodes
        if self._left < 0:
            message = (
                f"has more than {NODES_MAX} values, with all that aliases repeat; no compose file needs that"
            )
            raise InvalidSource(self._place(event) if event is not None else SourcePlace(self._file), message)

    def _value(self, event: Any, value: Value, nodes: int, depth: int, anchor: str | None) -> None:
        """Put a whole value where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = (value, nodes, depth)
        if not self._open:
            self.documents.append(YamlDocument(value, tuple(self._replaced)))
            return
        opened = self._open[-1]
        opened.nodes += nodes
        opened.depth = max(opened.depth, depth + 1)
        is_reset = getattr(event, "tag", None) == RESET
        if not opened.is_mapping:
            if not is_reset:
                opened.items.append(value)
            return
        key, place = opened.key, opened.key_place or value.place
        opened.key = None
        if key == "<<":
            opened.merged.extend(self._sources(value))
        elif key is not None and not is_reset:
            opened.entries[key] = Value(value.plain, place)

    def _sources(self, value: Value) -> list[Value]:
        found = list(value.plain) if isinstance(value.plain, tuple) else [value]
        if not found or not all(isinstance(source.plain, dict) for source in found):
            message = "<<: takes a mapping, or a list of mappings; write <<: *NAME with the name of an anchor"
            raise InvalidSource(value.place, message)
        return found


def _merged(sources: list[Value]) -> dict[str, Value]:
    """Return what mappings have together; the first that has a key wins."""
    entries: dict[str, Value] = {}
    for source in sources:
        if isinstance(source.plain, dict):
            entries.update((key, value) for key, value in source.plain.items() if key not in entries)
    return entries
