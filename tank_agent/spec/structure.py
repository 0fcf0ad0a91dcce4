"""The slow path of checking a table's structure: every unknown key, wrong type and missing key at once.

msgspec stops at the first error, so its own JSON Schema is run over the table by jsonschema, whose errors
are said in our words. The table is repaired on the way (a wrong part gets a stand-in), so that the values
beside a wrong key are checked as well; `Structure.is_covered` tells what would only be about a stand-in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.synonyms import KeyGuesser

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

Table = TypeVar("Table", bound=Struct)
Json = dict[str, Any]

# Each round repairs one level of a table, and ours are not deeper than this.
_ROUNDS = 8
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}=[^\x00-\x1f]{0,80}")
_HUGE = 10**40
# With more faults than anybody reads, the values beside them are not looked at.
_FAULTS_MAX = 1_001
_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a table",
}


class Structure(Struct, frozen=True):
    """What `read_table` found: the findings, and the keys whose values are stand-ins since."""

    findings: tuple[Finding, ...] = ()
    covered: frozenset[KeyPath] = frozenset()

    def is_covered(self, path: KeyPath) -> bool:
        """Return whether a finding at this key could be about a stand-in, and not about the user's value."""
        return any(path[:length] in self.covered for length in range(1, len(path) + 1))


class _Fault(Struct, frozen=True):
    """One finding and its repair: put `value` there, move what is there to the key `value`, or delete it."""

    path: KeyPath
    message: str
    repair: Literal["put", "move", "delete"]
    value: Any = None


def read_table(table: object, kind: type[Table]) -> tuple[Table | None, Structure]:
    """Convert a mapping to a struct; None when it is too broken even to look at the rest of it.

    Raises:
        RecursionError: the mapping is nested very deep.
    """
    try:
        return msgspec.convert(table, kind), Structure()
    except msgspec.ValidationError as error:
        return _explain(table, kind, str(error))


def type_message(value: object, schema: Json, expected: list[str] | None = None) -> str:
    """Return the sentence for a value of the wrong type, with what would be right."""
    kinds = expected or [str(schema.get("type"))]
    # Every whole number is a number; saying both would only confuse.
    words = [_KINDS.get(kind, kind) for kind in kinds if kind != "integer" or "number" not in kinds]
    allowed = [show(item) for branch in schema.get("anyOf", ()) for item in branch.get("enum", ())]
    if allowed:
        words = allowed + [word for word in words if word != _KINDS["string"]]
    right = None if allowed else _rewrite(value, kinds, schema)
    return f"must be {_either(words)}, not {kind_of(value)}" + (f"; write {right}" if right else "")


def _either(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}" if len(words) > 1 else words[0]


def kind_of(value: object) -> str:
    """Return what a value of a file is, in words."""
    for python, words in (
        (bool, "true or false"),
        (str, "text"),
        (int, "a whole number"),
        (float, "a number"),
    ):
        if isinstance(value, python):
            return words
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return "nothing" if value is None else "a date or time"


def _explain(table: object, kind: type[Table], message: str) -> tuple[Table | None, Structure]:
    repaired = _copy(table)
    if not isinstance(repaired, dict):
        return None, Structure((Finding((), f"must be a table, not {kind_of(table)}"),))
    findings: list[Finding] = []
    covered: set[KeyPath] = set()
    for _ in range(_ROUNDS):
        faults = _find(repaired, kind)
        if not faults:
            break
        for fault in faults:
            # Later rounds complete the stand-ins of earlier ones, which is nothing to tell the user.
            if not any(fault.path[:length] in covered for length in range(1, len(fault.path) + 1)):
                findings.append(Finding(fault.path, fault.message))
        for fault in faults:
            covered.add(fault.path)
            covered.update(_repair(repaired, fault))
        if len(faults) >= _FAULTS_MAX:
            break
        try:
            return msgspec.convert(repaired, kind), Structure(tuple(findings), frozenset(covered))
        except msgspec.ValidationError as error:
            message = str(error)
    # Not reached as far as we know; the user then sees msgspec's own words, and no key.
    return None, Structure(tuple(findings) or (Finding((), message),), frozenset(covered))


def _copy(value: object) -> Any:
    """Copy what a file can hold; numbers too long to be printed become a merely large one."""
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _HUGE:
        return _HUGE
    return value


def _repair(document: Json, fault: _Fault) -> list[KeyPath]:
    """Repair a document in place, and return the keys that were given a stand-in beside the fault's own."""
    parent: Any = document
    for part in fault.path[:-1]:
        parent = parent[part]
    last = fault.path[-1]
    if fault.repair == "put":
        parent[last] = fault.value
        return []
    value = parent.pop(last, None)
    if fault.repair == "move":
        parent.setdefault(fault.value, value)
        return [(*fault.path[:-1], fault.value)]
    return []


@functools.cache
def _schema(kind: type[Struct]) -> Json:
    return msgspec.json.schema(kind)


@functools.cache
def _validator(kind: type[Struct]) -> Validator:
    # Imported here: it costs 100 ms, and only files with mistakes need it.
    from jsonschema import Draft202012Validator, validators

    def is_integer(_: object, value: object) -> bool:
        # JSON Schema also counts 1.0 as an integer; TOML and msgspec tell them apart.
        return isinstance(value, int) and not isinstance(value, bool)

    def is_array(_: object, value: object) -> bool:
        return isinstance(value, list)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer).redefine("array", is_array)
    extended: type[Validator] = validators.extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]
    return extended(_schema(kind))


@functools.cache
def _guesser(kind: type[Struct]) -> KeyGuesser:
    return KeyGuesser(_schema(kind))


def _find(document: Json, kind: type[Struct]) -> list[_Fault]:
    faults: dict[KeyPath, _Fault] = {}
    moved: set[KeyPath] = set()
    explainer = _Explainer(kind)
    for error in _validator(kind).iter_errors(document):
        if len(faults) >= _FAULTS_MAX:
            break
        for fault in explainer.explain(error):
            faults.setdefault(fault.path, fault)
            if fault.repair == "move":
                moved.add((*fault.path[:-1], fault.value))
    # A key that is only spelled wrong is not missing as well.
    return [fault for path, fault in faults.items() if path not in moved]


class _Explainer:
    """Says in our words what jsonschema found, for one look at one table."""

    def __init__(self, kind: type[Struct]) -> None:
        self.definitions: Json = _schema(kind).get("$defs", {})
        self.guesser = _guesser(kind)
        self.guesses_left = 50  # A guess takes time, and nobody reads more of them.

    def explain(self, error: ValidationError) -> Iterator[_Fault]:
        path = tuple(error.absolute_path)
        schema: Json = error.schema if isinstance(error.schema, dict) else {}
        value: Any = error.instance
        if error.validator == "additionalProperties":
            yield from self._unknown(path, value, schema)
        elif error.validator == "required":
            yield from self._missing(path, value, schema)
        elif error.validator == "type":
            yield self._wrong_type(path, value, schema, _types(schema))
        elif error.validator == "enum":
            yield self._not_one_of(path, value, schema["enum"])
        elif error.validator == "anyOf":
            yield from self._no_alternative(path, error, schema)
        # Patterns and ranges are checked in `checks`, which has better words for them.

    def _unknown(self, path: KeyPath, table: Json, schema: Json) -> Iterator[_Fault]:
        known = schema.get("properties", {})
        for key in table:
            if key in known:
                continue
            self.guesses_left -= 1
            guess = self.guesser.guess(key, known) if self.guesses_left >= 0 else None
            message = self.guesser.message(key, guess, schema)
            if guess and guess not in table:
                yield _Fault((*path, key), message, "move", guess)
            else:
                yield _Fault((*path, key), message, "delete")

    def _missing(self, path: KeyPath, table: Json, schema: Json) -> Iterator[_Fault]:
        for key in schema.get("required", ()):
            if key not in table:
                node = schema["properties"][key]
                yield _Fault(
                    (*path, key), f"is missing; {_how_to_add(path, key, node)}", "put", self._standin(node)
                )

    def _wrong_type(self, path: KeyPath, value: object, schema: Json, types: list[str]) -> _Fault:
        message = type_message(value, schema, types)
        if types == ["array"] and isinstance(value, dict) and "$ref" in schema.get("items", {}):
            message = f"must be a list of tables; write [[{_dotted(path)}]] with two brackets"
        if types == ["object"] and isinstance(value, list) and value:
            message = f"must be one table, not a list; write {_as_table(path, value)}"
        standin = self._standin({**schema, "type": types[0]})
        # Only a stand-in of the list's own type keeps the places of its other elements.
        if standin is None and not isinstance(path[-1], int):
            return _Fault(path, message, "delete")
        return _Fault(path, message, "put", standin)

    def _not_one_of(self, path: KeyPath, value: object, allowed: list[Any]) -> _Fault:
        listed = ", ".join(show(item) for item in allowed)
        guess = closest(value, allowed) if isinstance(value, str) else None
        wanted = f"must be {listed}" if len(allowed) == 1 else f"must be one of {listed}"
        message = (
            f"{wanted}, not {show(value)}" if isinstance(value, str) else f"{wanted}, not {kind_of(value)}"
        )
        return _Fault(path, message + (f"; did you mean {show(guess)}?" if guess else ""), "delete")

    def _no_alternative(self, path: KeyPath, error: ValidationError, schema: Json) -> Iterator[_Fault]:
        """Explain the one alternative of a union that has the value's type, or the lack of one."""
        branches: list[Json] = [
            self.definitions[node["$ref"].rpartition("/")[2]] if "$ref" in node else node
            for node in schema["anyOf"]
        ]
        types = list(dict.fromkeys(kind for node in branches for kind in _types(node) if kind != "null"))
        for index, node in enumerate(branches):
            if not _has_type(error.instance, _types(node)):
                continue
            for inner in error.context or ():
                if inner.schema_path[0] == index:
                    yield from self.explain(inner)
            return
        items: Json = next((node["items"] for node in branches if "items" in node), {})
        yield self._wrong_type(path, error.instance, {**schema, "items": items}, types)

    def _standin(self, node: Json) -> Any:
        """Return a value of the node's first type, or None where leaving the key out does as well."""
        if "$ref" in node or node.get("type") == "object":
            return {}
        if node.get("type") == "array":
            return ["x"] if node.get("items", {}).get("type") == "string" else []
        kinds = [node["type"]] if "type" in node else _types(node)
        if "string" in kinds:
            return ""
        return 100_000 if kinds[:1] == ["integer"] else None


def _types(node: Json) -> list[str]:
    """Return the JSON types that a node of msgspec's schema allows."""
    if "anyOf" in node:
        return [kind for branch in node["anyOf"] for kind in _types(branch)]
    if "enum" in node:
        return ["string"]
    return ["object"] if "$ref" in node else [node["type"]]


def _has_type(value: object, types: list[str]) -> bool:
    if isinstance(value, bool):
        return "boolean" in types
    names: list[tuple[type, set[str]]] = [
        (str, {"string"}),
        (int, {"integer", "number"}),
        (float, {"number"}),
        (list, {"array"}),
        (dict, {"object"}),
    ]
    return any(isinstance(value, python) and kinds & set(types) for python, kinds in names)


def _as_table(path: KeyPath, items: list[object]) -> str:
    """Say how what stands as a list is written as a table; lists of NAME=value are Docker's habit."""
    first = items[0]
    if isinstance(first, str) and _VARIABLE.fullmatch(first):
        name, _, value = first.partition("=")
        return f"{path[-1]} = {{ {name} = {show(value)} }}"
    return f"[{_dotted(path)}] with one bracket"


def _dotted(path: KeyPath) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def _how_to_add(path: KeyPath, key: str, node: Json) -> str:
    if node.get("type") == "array" and "$ref" in node.get("items", {}):
        return f"add [[{_dotted((*path, key))}]]"
    examples = node.get("examples")
    return f"write {key} = {toml_value(examples[0])}" if examples else f"add {key}"


def _rewrite(value: object, kinds: list[str], schema: Json) -> str | None:
    """Return how the value, or one like it, is written rightly in TOML."""
    if kinds == ["string"] and isinstance(value, bool | int | float):
        return show(toml_value(value))
    if isinstance(value, str):
        if {"integer", "number"} & set(kinds) and re.fullmatch(r"[0-9]{1,18}", value):
            return value + " without quotes"
        if kinds == ["boolean"] and value.lower() in ("true", "false", "yes", "no"):
            return "true" if value.lower() in ("true", "yes") else "false"
        if "array" in kinds and schema.get("items", {}).get("type") == "string":
            words = value.split() if not re.search("[\"'\\\\]", value) and len(value) < 60 else []
            return toml_value(words or [value])
    if "string" in kinds and isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return show(value[0])
    examples = schema.get("examples")
    return toml_value(examples[0]) + ", for example" if examples else None


def toml_value(value: object) -> str:
    """Return a value of an example as TOML on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {pairs} }}"
    return show(value) if isinstance(value, str) else str(value)
