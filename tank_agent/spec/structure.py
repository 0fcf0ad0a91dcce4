"""Find every unknown key, wrong type and missing key of a table in one walk, and how to mend each.

msgspec stops at the first error; this runs only when there is one. A wrong part gets a stand-in, so that the
values beside it are checked as well; `Structure.is_covered` names the findings that only concern a stand-in.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct, inspect

from tank_agent.spec.file import MountTable, VolumeTable
from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.other_tools import advice as other_tools
from tank_agent.spec.other_tools.form import Vocabulary, folded
from tank_agent.spec.other_tools.vocabularies import POD_FILE
from tank_agent.spec.pages import manual
from tank_agent.spec.run_values import mount_advice

Table = TypeVar("Table", bound=Struct)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}=[^\x00-\x1f]{0,80}")
# With more faults than anybody reads, the values beside them are not checked.
_FAULTS_MAX = 1_001
# A guess takes time, and nobody reads more of them.
_GUESSES_MAX = 50
# Of the known keys, and of those that look like one that is not.
_KNOWN_SHOWN, _NEAR = 20, 5
_HUGE = 10**40
# The types of a declaration, each with the Python type of a file's value, and the word for it.
_TYPES: dict[type[inspect.Type], tuple[type, str]] = {
    inspect.StrType: (str, "text"),
    inspect.LiteralType: (str, "text"),
    inspect.IntType: (int, "a whole number"),
    inspect.FloatType: (float, "a number"),
    inspect.BoolType: (bool, "true or false"),
    inspect.VarTupleType: (list, "a list"),
    inspect.DictType: (dict, "a table"),
    inspect.StructType: (dict, "a table"),
    inspect.NoneType: (type(None), "nothing"),
}
_LEFT_OUT = object()


class Structure(Struct, frozen=True):
    """The findings of `read_table`, and the keys that now have stand-ins as values."""

    findings: tuple[Finding, ...] = ()
    covered: frozenset[KeyPath] = frozenset()

    def is_covered(self, path: KeyPath) -> bool:
        """Return whether a finding at this key could be about a stand-in, and not about the user's value."""
        return any(path[:length] in self.covered for length in range(1, len(path) + 1))


def read_table(
    table: object, kind: type[Table], vocabulary: Vocabulary = POD_FILE
) -> tuple[Table | None, Structure]:
    """Convert a mapping to a struct; None if it is too broken. A very deep one raises RecursionError.

    `vocabulary` has the words of other tools that may stand in it.
    """
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(table, kind), Structure()
    if not isinstance(table, dict):
        return None, Structure((Finding((), type_message(table, ["a table"])),))
    walk, found = _Walk(kind, vocabulary), None
    with contextlib.suppress(_TooManyFaultsError):
        found = walk.table(_type_of(kind), table, ())
    findings = tuple(Finding(path, message) for path, message in walk.faults.items())
    return found, Structure(findings, frozenset(walk.covered))


def type_message(
    value: object,
    words: list[str],
    *,
    allowed: tuple[str, ...] = (),
    of_text: bool = False,
    example: str | None = None,
    advice: str | None = None,
) -> str:
    """Return the sentence for a value of the wrong type.

    `words` name the right types, `allowed` has the right texts if not every text is right, `of_text` is set
    if a right list holds texts, `example` is a right value in TOML, `advice` what to say in place of these.
    """
    # Every whole number is a number; saying both would only confuse.
    either = [word for word in words if word != "a whole number" or "a number" not in words]
    right = None if allowed else _rewrite(value, words, of_text=of_text)
    if allowed:
        either = [show(text) for text in allowed] + [word for word in either if word != "text"]
    elif right is None and example is not None:
        right = f"{example}, for example"
    listed = ", ".join(either[:-1]) + f" or {either[-1]}" if len(either) > 1 else either[0]
    advice = advice or (f"write {right}" if right else None)
    return f"must be {listed}, not {kind_of(value)}" + (f"; {advice}" if advice else "")


def kind_of(value: object) -> str:
    """Return the word for the type of a file's value."""
    for python, words in ((bool, "true or false"), *_TYPES.values(), (tuple, "a list")):
        if isinstance(value, python):
            return words
    return "a date or time"


def _rewrite(value: object, words: list[str], *, of_text: bool) -> str | None:
    """Return the value, or one like it, in right TOML."""
    if words == ["text"] and isinstance(value, bool | int | float):
        # A number with thousands of digits can't be printed.
        return show(toml_value(_HUGE if isinstance(value, int) and abs(value) > _HUGE else value))
    if isinstance(value, str):
        if {"a whole number", "a number"} & set(words) and re.fullmatch(r"[0-9]{1,18}", value):
            return value + " without quotes"
        if words == ["true or false"] and value.lower() in ("true", "false", "yes", "no"):
            return "true" if value.lower() in ("true", "yes") else "false"
        if of_text:
            return other_tools.list_of(value)
    if "text" in words and isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return show(value[0])
    return None


def toml_value(value: object) -> str:
    """Return a value of an example as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        bare = re.compile(r"[A-Za-z0-9_-]+")
        names = ((key if bare.fullmatch(key) else show(key), item) for key, item in value.items())
        pairs = ", ".join(f"{name} = {toml_value(item)}" for name, item in names)
        return f"{{ {pairs} }}"
    return show(value) if isinstance(value, str) else str(value)


class _TooManyFaultsError(Exception):
    pass


class _Walk:
    """Builds the struct of one table, and collects in `faults` what is wrong."""

    def __init__(self, kind: type[Struct], vocabulary: Vocabulary) -> None:
        self.kind = kind
        self.vocabulary = vocabulary
        self.faults: dict[KeyPath, str] = {}
        self.covered: set[KeyPath] = set()
        self._guesses = _GUESSES_MAX

    def table(self, node: inspect.StructType, table: dict[str, Any], path: KeyPath) -> Any:
        known = {field.encode_name: field for field in node.fields}
        unknown = [(key, *self._guess(key, known, path)) for key in table if key not in known]
        values = {
            key: self._value(field.type, table[key], (*path, key))
            for key, field in known.items()
            if key in table
        }
        moved = {guess: table[key] for key, _, guess in reversed(unknown) if guess and guess not in table}
        for key, field in known.items():
            if field.required and values.get(key, _LEFT_OUT) is _LEFT_OUT:
                if key not in moved and key not in table:
                    self._fault((*path, key), f"is missing; {_how_to_add(field.type, (*path, key))}")
                values[key] = _needed(_plain(field.type))
        for key, message, _ in unknown:
            self._fault((*path, key), message)
        for key, value in moved.items():
            # Its own problems don't matter before its key is right.
            self.covered.add((*path, key))
            values[key] = _Walk(self.kind, self.vocabulary)._value(known[key].type, value, (*path, key))
        return node.cls(**{key: value for key, value in values.items() if value is not _LEFT_OUT})

    def _value(self, declared: inspect.Type, value: Any, path: KeyPath) -> Any:
        node = _plain(declared)
        if isinstance(node, inspect.UnionType):
            fitting = next((branch for branch in node.types if _fits(value, _plain(branch))), None)
            if fitting is None:
                return self._wrong_type([_plain(branch) for branch in node.types], value, path, declared)
            node = _plain(fitting)
        if isinstance(node, inspect.LiteralType):
            found = value if value in node.values else self._not_one_of(path, value, node.values, declared)
        elif not _fits(value, node):
            found = self._wrong_type([node], value, path, declared)
        elif isinstance(node, inspect.StructType):
            found = self.table(node, value, path)
        elif isinstance(node, inspect.VarTupleType):
            found = tuple(self._value(node.item_type, one, (*path, at)) for at, one in enumerate(value))
        elif isinstance(node, inspect.DictType):
            values = {key: self._value(node.value_type, one, (*path, key)) for key, one in value.items()}
            found = {key: one for key, one in values.items() if one is not _LEFT_OUT}
        else:
            found = value
        return found

    def _fault(self, path: KeyPath, message: str) -> None:
        self.faults.setdefault(path, message)
        self.covered.add(path)
        if len(self.faults) >= _FAULTS_MAX:
            raise _TooManyFaultsError

    def _wrong_type(
        self, nodes: list[inspect.Type], value: Any, path: KeyPath, declared: inspect.Type
    ) -> Any:
        nodes = [node for node in nodes if not isinstance(node, inspect.NoneType)]
        words = list(dict.fromkeys(_TYPES[type(node)][1] for node in nodes))
        items = next((node.item_type for node in nodes if isinstance(node, inspect.VarTupleType)), None)
        advice = _advice(declared, value) or self._reason(folded(str(path[-1])), path[:-1], known=True)
        if advice is not None:
            message = type_message(value, words, allowed=_allowed(nodes), advice=advice)
        elif words == ["a list"] and isinstance(value, dict) and isinstance(items, inspect.StructType):
            message = f"must be a list of tables; {_as_tables(path, value)}"
        elif words == ["a table"] and isinstance(value, list) and value:
            message = f"must be one table, not a list; write {_as_table(path, value)}"
        else:
            of_text = isinstance(_plain(items), inspect.StrType) if items is not None else False
            example = _example(declared)
            message = type_message(value, words, allowed=_allowed(nodes), of_text=of_text, example=example)
        self._fault(path, message)
        return _stand_in(nodes[0])

    def _not_one_of(
        self, path: KeyPath, value: object, allowed: tuple[Any, ...], declared: inspect.Type
    ) -> Any:
        listed = ", ".join(map(show, allowed))
        guess = closest(value, allowed) if isinstance(value, str) else None
        wanted = f"must be {listed}" if len(allowed) == 1 else f"must be one of {listed}"
        given = show(value) if isinstance(value, str) else kind_of(value)
        advice = _advice(declared, value) or (f"did you mean {show(guess)}?" if guess else None)
        self._fault(path, f"{wanted}, not {given}" + (f"; {advice}" if advice else ""))
        return _LEFT_OUT

    def _guess(self, key: str, known: dict[str, Any], path: KeyPath) -> tuple[str, str | None]:
        """Return the sentence about an unknown key, and which of the known ones was probably meant."""
        headers, word = _headers(self.kind, self.vocabulary.top), folded(key)
        # Their words are ours in another spelling, or others.
        same = tuple(other for other in headers if other != key and folded(other) == word)
        ours = (*same, *self.vocabulary.ours.get(word, ()))
        self._guesses -= 1
        guess = next((other for other in ours if other in known), None)
        reason = self._reason(word, path, known=guess is not None)
        if reason:
            return f"unknown key; {reason}", None
        # A key of another table is not misspelled.
        if guess is None and self._guesses >= 0 and key not in headers and not ours:
            guess = closest(key, known)
        if guess and self._guesses >= 0:
            return f"unknown key; did you mean {guess}?", guess
        name = next((other for other in ours if other in headers), key)
        places = " or ".join(headers.get(name, [])[:3])
        if places and name != key:
            return f"unknown key; it is called {name}, and belongs {places}", None
        if places:
            return f"unknown key here; {show(key)[1:-1]} belongs {places}", None
        return f"unknown key; known here: {self._listed(key, known)}", None

    def _reason(self, word: str, path: KeyPath, *, known: bool) -> str | None:
        """Return why there is no key for a word of another tool in this table, which may know it by ours."""
        table = folded(next((part for part in reversed(path) if isinstance(part, str)), ""))
        reasons = self.vocabulary.reasons
        return reasons.get(f"{table}.{word}") or (None if known else reasons.get(word))

    def _listed(self, key: str, known: dict[str, Any]) -> str:
        """Return the known keys, those first that look like this one; of many only some."""
        names = sorted(known)
        if len(names) <= _KNOWN_SHOWN:
            return ", ".join(names)
        near = (
            difflib.get_close_matches(key.lower()[:60], names, n=_NEAR, cutoff=0.4)
            if self._guesses >= 0
            else []
        )
        first = [*near, *(name for name in names if name not in near)][:_KNOWN_SHOWN]
        return f"{', '.join(first)} and {len(names) - len(first)} more, see {manual(self.vocabulary.manual)}"


@functools.cache
def _type_of(kind: type[Struct]) -> inspect.StructType:
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found


def _plain(node: inspect.Type) -> inspect.Type:
    while isinstance(node, inspect.Metadata):
        node = node.type
    return node


def _fits(value: object, node: inspect.Type) -> bool:
    wanted = _TYPES[type(node)][0]
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (float, int) if wanted is float else wanted)


def _needed(node: inspect.Type) -> Any:
    """Return a value of the type of a key that has no default."""
    return node.values[0] if isinstance(node, inspect.LiteralType) else _stand_in(node)


def _stand_in(node: inspect.Type) -> Any:
    """Return a value of the type, or _LEFT_OUT if the key's default will do."""
    if isinstance(node, inspect.StructType):
        needed = {field.name: _needed(_plain(field.type)) for field in node.fields if field.required}
        return node.cls(**needed)
    if isinstance(node, inspect.UnionType):
        parts = (_stand_in(_plain(branch)) for branch in node.types)
        return next((part for part in parts if part is not _LEFT_OUT), _LEFT_OUT)
    if isinstance(node, inspect.VarTupleType):
        return ("x",) if isinstance(node.item_type, inspect.StrType) else ()
    if isinstance(node, inspect.DictType):
        return {}
    if isinstance(node, inspect.StrType):
        return ""
    return 100_000 if isinstance(node, inspect.IntType) else _LEFT_OUT


def _allowed(nodes: list[inspect.Type]) -> tuple[str, ...]:
    texts = [node.values for node in nodes if isinstance(node, inspect.LiteralType)]
    return tuple(str(text) for values in texts for text in values)


def _advice(declared: inspect.Type, value: object) -> str | None:
    """Return what the key says of a value as other tools have it."""
    if isinstance(declared, inspect.StructType) and declared.cls is MountTable:
        return mount_advice(value)
    if isinstance(declared, inspect.StructType) and declared.cls is VolumeTable:
        return other_tools.of_volume(value)
    extra = declared.extra if isinstance(declared, inspect.Metadata) else None
    advice = extra["key"].advice if extra and "key" in extra else None
    return advice(value) if advice is not None else None


def _example(declared: inspect.Type) -> str | None:
    extra = declared.extra_json_schema if isinstance(declared, inspect.Metadata) else None
    examples = (extra or {}).get("examples")
    return toml_value(examples[0]) if examples else None


def _how_to_add(declared: inspect.Type, path: KeyPath) -> str:
    node, example = _plain(declared), _example(declared)
    if isinstance(node, inspect.VarTupleType) and isinstance(node.item_type, inspect.StructType):
        return f"add [[{_dotted(path)}]]"
    return f"write {path[-1]} = {example}" if example else f"add {path[-1]}"


def _as_tables(path: KeyPath, tables: dict[str, Any]) -> str:
    """Return how to write a table of tables by name, as compose has them, or one table, as a list."""
    header = f"[[{_dotted(path)}]]"
    name = next(iter(tables), None)
    if name is None or name in ("name", "image") or not isinstance(tables[name], dict):
        return f"write {header} with two brackets"
    return f"write {header} with name = {show(name)}"


def _as_table(path: KeyPath, items: list[object]) -> str:
    """Return a list written as the table that it should be; Docker writes lists of NAME=value."""
    first = items[0]
    if isinstance(first, str) and _VARIABLE.fullmatch(first):
        name, _, value = first.partition("=")
        return f"{path[-1]} = {{ {name} = {show(value)} }}"
    return f"[{_dotted(path)}] with one bracket"


def _dotted(path: KeyPath) -> str:
    return ".".join(part for part in path if isinstance(part, str))


@functools.cache
def _headers(kind: type[Struct], top: str) -> dict[str, list[str]]:
    """Return the headers of the tables that have a key, by key; `top` is for keys without one."""
    headers: dict[str, list[str]] = {}

    def walk(node: inspect.StructType, header: str) -> None:
        where = f"in {header}" if header else top
        for field in node.fields:
            headers.setdefault(field.encode_name, []).append(where)
            path = f"{header.strip('[]')}.{field.encode_name}" if header else field.encode_name
            for inner, is_list in _tables_in(_plain(field.type)):
                walk(inner, f"[[{path}]]" if is_list else f"[{path}]")

    walk(_type_of(kind), "")
    return headers


def _tables_in(node: inspect.Type) -> Iterator[tuple[inspect.StructType, bool]]:
    for branch in node.types if isinstance(node, inspect.UnionType) else (node,):
        if isinstance(branch, inspect.StructType):
            yield branch, False
        elif isinstance(branch, inspect.VarTupleType) and isinstance(branch.item_type, inspect.StructType):
            yield branch.item_type, True
