"""Read a pod file: text in, pods and problems out; no text raises an exception.

A file without a problem takes tomllib, one msgspec conversion and our checks. The search for *all* problems
and their lines is slower, and only runs when there is one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import InvalidSpec, Problem
from tank_agent.spec.beside import Beside, nothing_beside
from tank_agent.spec.checks import check_pod
from tank_agent.spec.document import TOO_DEEP, read_toml, without_mark
from tank_agent.spec.file import PodTable
from tank_agent.spec.findings import Finding, KeyPath, show, to_problems
from tank_agent.spec.lines import find_lines
from tank_agent.spec.model import EVERYWHERE, Pod, Selector
from tank_agent.spec.structure import read_table, type_message
from tank_agent.spec.values import name_problem

_NO_FILE = "<pod>"

# A file of a megabyte can have more problems than anybody wants to store or read.
_PROBLEMS_MAX = 1000


class ParsedPod(Struct, frozen=True):
    """A valid pod, the lines on which its table and its `after` start, and the selector of its machines."""

    pod: Pod
    line: int
    selector: Selector = EVERYWHERE
    after_line: int = 0


class ParsedFile(Struct, frozen=True):
    """All valid pods of a file, in its order, and all problems, by line."""

    pods: tuple[ParsedPod, ...] = ()
    problems: tuple[Problem, ...] = ()


def parse_pod_file(
    text: str, file: str, *, nameless: str | None = None, beside: Beside = nothing_beside
) -> ParsedFile:
    """Read the text of a pod file; `file` names it in messages, and its stem names a single pod.

    `nameless` is the name of a single pod where `file` is no file's name, as for standard input. `beside`
    reads the files that it names. A pod with a problem is not among `pods`; the problem's `pod` is its name
    where that is known.
    """
    document, problem = read_toml(text, file)
    if document is None:
        return ParsedFile(problems=(problem,) if problem else ())
    try:
        return _FileReader(text, file, beside).read(document, _stem(file) or nameless)
    except RecursionError:
        return ParsedFile(problems=(Problem(file, 0, "", TOO_DEEP),))


def parse_inline_pods(tables: object, text: str, file: str, *, beside: Beside = nothing_beside) -> ParsedFile:
    """Read the `[[pods]]` of a document that has other keys too, as agent.toml has."""
    try:
        return _FileReader(text, file, beside).read_list(tables)
    except RecursionError:
        return ParsedFile(problems=(Problem(file, 0, "pods", TOO_DEEP),))


def pod_from_mapping(fields: Mapping[str, object], *, beside: Beside = nothing_beside) -> Pod:
    """Check a mapping of the pod file's own keys and make a pod of it; `beside` reads files that it names.

    Raises:
        InvalidSpec: with every problem found; their file is `<pod>`.
    """
    try:
        found, findings, name = _read_pod(_plain(fields), None, beside)
    except (RecursionError, ValueError) as error:
        raise _invalid(TOO_DEEP if isinstance(error, RecursionError) else str(error)) from None
    if found is None:
        raise InvalidSpec(tuple(to_problems(findings, file=_NO_FILE, lines={}, pod=name)))
    return found.pod


Pod.new = staticmethod(pod_from_mapping)


def checked_pod(pod: Pod) -> Pod:
    """Return a pod that was built from structs, once the type of each of its values is right.

    Raises:
        InvalidSpec: a value has another type. The reader of the pod's text checks the values themselves.
    """
    try:
        given = msgspec.to_builtins(pod, builtin_types=(bytes, bytearray, memoryview))
        checked = msgspec.convert(given, Pod)
    except (TypeError, ValueError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `$.")
        raise _invalid(message, place.rstrip("`")) from None
    # A mapping in the place of a struct may have keys that the struct has not.
    known = set(_places(msgspec.to_builtins(checked)))
    for place in _places(given):
        if place not in known:
            raise _invalid("there is no such key", place)
    return checked


def _invalid(message: str, key: str = "") -> InvalidSpec:
    return InvalidSpec((Problem(_NO_FILE, 0, key, message),))


def _places(value: Any, path: str = "") -> Iterator[str]:
    """Yield the place of everything in nested mappings and lists, such as `containers[0].name`."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{path}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{at}]", item) for at, item in enumerate(value)]
    for place, item in items:
        yield place
        yield from _places(item, place)


def _plain(value: Any) -> Any:
    """Copy a mapping with the types of a TOML text; ValueError if no TOML text could hold it."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("every key must be text")
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{show(value)} is not valid Unicode") from None
        return str(value)
    return value


def _stem(file: str) -> str | None:
    """Return the name that a file gives its only pod; None for standard input and a shell's `<(…)`."""
    if file.startswith(("/dev/fd/", "/dev/std", "/proc/")):
        return None
    name = PurePath(file).name.removesuffix(".toml")
    return None if name in ("", "-") or name.startswith("<") else name


class _FileReader:
    def __init__(self, text: str, file: str, beside: Beside) -> None:
        self.text = text
        self.file = file
        self.beside = beside
        self.problems: list[Problem] = []

    @functools.cached_property
    def lines(self) -> dict[KeyPath, int]:
        return find_lines(without_mark(self.text))

    def read(self, document: dict[str, Any], stem: str | None) -> ParsedFile:
        if not document:
            return self._done([], Finding((), "there is no pod in this file; a pod needs [[containers]]"))
        if "pods" in document:
            return self._read_many(document)
        found, findings, name = _read_pod(document, stem, self.beside)
        self._report(findings, pod=name)
        return self._done([self._placed(found, ())] if found else [])

    def _read_many(self, document: dict[str, Any]) -> ParsedFile:
        others = [key for key in document if key != "pods"]
        message = "a file with [[pods]] has no other keys at the top; move it into one of the [[pods]]"
        self._report([Finding((key,), message) for key in others[:_PROBLEMS_MAX]])
        if document["pods"] == []:
            message = "there is no pod in this list; add [[pods]], or remove the file"
            return self._done([], Finding(("pods",), message))
        return self.read_list(document["pods"])

    def read_list(self, tables: object) -> ParsedFile:
        if not isinstance(tables, list):
            message = "must be a list of tables; write [[pods]] with two brackets"
            return self._done([], Finding(("pods",), message))
        places: dict[str, list[int]] = {}
        for index, table in enumerate(tables):
            if isinstance(table, dict) and isinstance(table.get("name"), str):
                places.setdefault(table["name"], []).append(index)
        pods = []
        for index, table in enumerate(tables):
            if len(self.problems) > _PROBLEMS_MAX:
                break
            found, findings, name = _read_pod(table, None, self.beside)
            # Of two pods with one name neither is taken, so that what runs stays.
            others = [other for other in places.get(name or "", ()) if other != index]
            if others:
                message = f"pods[{others[0]}] has the name {show(name)} too; rename one"
                findings.append(Finding(("name",), message))
                found = None
            self._report(findings, prefix=("pods", index), pod=name)
            if found:
                pods.append(self._placed(found, ("pods", index)))
        return self._done(pods)

    def _placed(self, pod: ParsedPod, path: KeyPath) -> ParsedPod:
        """Return the pod with the lines that messages about several pods need; a scan finds them."""
        if not path and not pod.pod.after:
            return pod
        line = self.lines.get(path, 1)
        after = self.lines.get((*path, "after"), line) if pod.pod.after else 0
        return replace(pod, line=line, after_line=after)

    def _report(self, findings: Sequence[Finding], *, prefix: KeyPath = (), pod: str | None = None) -> None:
        if findings:
            self.problems += to_problems(findings, file=self.file, lines=self.lines, prefix=prefix, pod=pod)

    def _done(self, pods: list[ParsedPod], *findings: Finding) -> ParsedFile:
        self._report(findings)
        found = sorted(self.problems, key=lambda problem: problem.line)
        if len(found) > _PROBLEMS_MAX:
            rest = f"there are more problems; these are the first {_PROBLEMS_MAX}"
            found = [*found[:_PROBLEMS_MAX], Problem(self.file, 0, "", rest)]
        return ParsedFile(pods=tuple(pods), problems=tuple(found))


def _read_pod(
    table: object, stem: str | None, beside: Beside
) -> tuple[ParsedPod | None, list[Finding], str | None]:
    """Return the pod if nothing is wrong with it, all findings, and its name where that is known."""
    if not isinstance(table, dict):
        return None, [Finding((), type_message(table, ["a table"]))], None
    fields, structure = read_table(table, PodTable)
    findings = list(structure.findings)
    given = table.get("name")
    name = given if isinstance(given, str) else stem
    wrong = 'is missing; write name = "db"' if name is None else name_problem(name)
    if wrong and name is not None and not isinstance(given, str):
        wrong = f"the file's name gives the pod's: {wrong}; rename the file or give name"
    if wrong:
        name = None
        findings += [] if structure.is_covered(("name",)) else [Finding(("name",), wrong)]
    if fields is not None:
        pod, selector, found = check_pod(fields, name or "", beside)
        findings += [finding for finding in found if not structure.is_covered(finding.path)]
        if not findings:
            return ParsedPod(pod, 1, selector), [], name
    return None, findings, name
