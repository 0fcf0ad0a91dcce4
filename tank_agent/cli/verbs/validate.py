"""Check pod files, or agent.toml, without an agent: every problem as `file:line: key: what is wrong`.

Exit code 2 if there is any. A warning is no problem: it changes no exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from tank_agent.cli.agent_file import is_agent_file, problems_of, this_machine
from tank_agent.cli.arguments import add_output
from tank_agent.cli.files import pod_files, what_is_odd
from tank_agent.cli.output import say, show
from tank_agent.errors import InvalidSpec, Problem, TankError
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.spec.model import Host
    from tank_agent.spec.parse import ParsedPod

HELP = "check pod files or agent.toml, without an agent"
EXAMPLES = (
    ("tank validate pods", "all files there and below"),
    ("tank validate web.toml", "one file, and for which machines it is"),
    ("tank get web | tank validate -", "standard input"),
    ("tank validate /etc/tank/agent.toml", "before a reload or a restart"),
)

_UNREADABLE = 1
_INVALID = 2


class CheckedFile(Struct, frozen=True, kw_only=True):
    """The answer about one file; `pods` are the names of its valid pods.

    `kind` is "pods" or "agent" (agent.toml). `notes` say for which machines pods are, and whether this is
    one; `warnings` are likely mistakes in a file that is valid.
    """

    file: str
    valid: bool
    pods: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    kind: Literal["pods", "agent"] = "pods"
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()


class _Found(Struct, frozen=True, kw_only=True):
    """A file that was read; `everywhere` are its pods without selectors, by their names.

    `beside` are the files that it names; `given` means that the user named it, and not its directory.
    """

    path: Path
    checked: CheckedFile
    everywhere: Mapping[str, ParsedPod]
    readable: bool
    beside: tuple[Path, ...] = ()
    given: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="pod files, or directories with them; - is standard input"
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="F",
        help="whose [labels] are this machine's (default /etc/tank/agent.toml)",
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    found: list[_Found] = []
    host = cache(lambda: this_machine(arguments.config))
    for path in map(Path, arguments.paths):
        files = [_look(file, host, given=file == path) for file in pod_files(path, below=True)]
        if not files:
            print(escape(f"tank: {path}: no pod files here (*.toml)"), file=sys.stderr)
        found += files
    found = _circles(_same_names(_pod_files(found)))
    checked = [file.checked for file in found]
    show(arguments, checked, lambda: _print(checked, _in_several(found)))
    if any(file.readable and not file.checked.valid for file in found):
        return _INVALID
    return 0 if all(file.readable for file in found) else _UNREADABLE


def _look(path: Path, host: Callable[[], Host | None], *, given: bool) -> _Found:
    """Check one file; `given` means that the user named it, and not its directory. `host` is this machine."""
    from tank_agent.api.wire import decode_text
    from tank_agent.client.pod_files import beside, pod_file_name, read_pod_file
    from tank_agent.spec.beside import Reading
    from tank_agent.spec.contents import named_in
    from tank_agent.spec.model import EVERYWHERE
    from tank_agent.spec.parse import parse_pod_file
    from tank_agent.spec.selection import warning

    name, readable = pod_file_name(path), True
    pods: Sequence[ParsedPod] = ()
    named: Iterable[str] = ()
    try:
        odd = None if given else what_is_odd(path)
        if odd is not None:
            raise InvalidSpec((Problem(name, 0, "", odd),))
        # A text from a pipe will have a file's name where it is put.
        text = decode_text(read_pod_file(path), name)
        if is_agent_file(path, text, given=given):
            return _agent_file(path, name)
        named = named_in(text)
        parsed = parse_pod_file(text, name, nameless="stdin", beside=Reading(beside(path)))
        pods, problems = parsed.pods, tuple(parsed.problems)
    except InvalidSpec as error:
        problems = error.problems
    except TankError as error:
        problems, readable = (Problem(name, 0, "", error.message),), False
    names = tuple(one.pod.name for one in pods)
    return _Found(
        path=path,
        checked=CheckedFile(
            file=name,
            valid=not problems,
            pods=names,
            problems=problems,
            notes=tuple(_machines(one, host) for one in pods if one.selector != EVERYWHERE),
            warnings=tuple(
                Problem(name, one.line, "labels", advice, one.pod.name)
                for one in pods
                if (advice := warning(one.selector))
            ),
        ),
        everywhere={one.pod.name: one for one in pods if one.selector == EVERYWHERE},
        readable=readable,
        beside=tuple(path.parent / one for one in named),
        given=given,
    )


def _agent_file(path: Path, name: str) -> _Found:
    seeds, problems = problems_of(path)
    checked = CheckedFile(file=name, valid=not problems, pods=seeds, problems=problems, kind="agent")
    return _Found(path=path, checked=checked, everywhere={}, readable=True, given=True)


def _machines(found: ParsedPod, host: Callable[[], Host | None]) -> str:
    """Return for which machines a pod is, and whether this is one of them."""
    from tank_agent.spec.selection import machines, mismatch

    text, here = f"{found.pod.name}: only machines with {machines(found.selector)}", host()
    if here is None:
        return text
    other = mismatch(found.selector, here)
    return f"{text}; this one, {here.name}, is {'one of them' if other is None else f'none: {other.why}'}"


def _pod_files(files: Sequence[_Found]) -> list[_Found]:
    """Leave out the files of directories that are no pod files, but only beside one, as the agent does."""
    named = {path for found in files for path in found.beside if path != found.path}
    return [
        found
        for found in files
        if found.given or found.checked.valid or found.checked.pods or found.path not in named
    ]


def _same_names(files: Iterable[_Found]) -> list[_Found]:
    """Add a problem to every file that declares a pod of an earlier file in its directory, or in one above.

    Whoever reads a directory reads all below it, too. Two beside each other may be for two machines, as pods
    with selectors are.
    """
    first: dict[tuple[Path, str], str] = {}
    result = list(files)
    # Those above come first, whatever the names.
    for at in sorted(range(len(result)), key=lambda at: len(result[at].path.parts)):
        found, file, twice = result[at], result[at].checked, []
        for name, one in found.everywhere.items():
            places = ((place, name) for place in (found.path.parent, *found.path.parent.parents))
            other = next((first[place] for place in places if place in first), None)
            if other is not None and other != file.file:
                message = f'pod "{name}" is declared in {other} already'
                twice.append(Problem(file.file, one.line, "name", message, name))
            first.setdefault((found.path.parent, name), file.file)
        result[at] = _with_problems(found, twice)
    return result


def _circles(files: Sequence[_Found]) -> list[_Found]:
    """Add a problem to every file that declares a pod which waits for itself, by way of others there."""
    after: dict[Path, dict[str, Sequence[str]]] = {}
    for found in files:
        rows = {name: one.pod.after for name, one in found.everywhere.items()}
        after.setdefault(found.path.parent, {}).update(rows)
    if not any(any(rows.values()) for rows in after.values()):
        return list(files)
    from tank_agent.spec.order import closed_by, in_a_circle

    closed = {directory: closed_by({}, rows) for directory, rows in after.items()}
    return [
        _with_problems(
            found,
            [
                Problem(found.checked.file, one.after_line, "after", in_a_circle(circle), name)
                for name, one in found.everywhere.items()
                if (circle := closed[found.path.parent].get(name)) is not None
            ],
        )
        for found in files
    ]


def _with_problems(found: _Found, more: Sequence[Problem]) -> _Found:
    if not more:
        return found
    problems = (*found.checked.problems, *more)
    checked = msgspec.structs.replace(found.checked, valid=False, problems=problems)
    return msgspec.structs.replace(found, checked=checked)


def _in_several(files: Sequence[_Found]) -> str | None:
    """Return a note on pods that directories beside each other declare, which is right for two machines."""
    where: dict[str, list[str]] = {}
    for found in files:
        for name in found.everywhere if found.checked.valid else ():
            where.setdefault(name, []).append(found.checked.file)
    several = {name: places for name, places in where.items() if len(places) > 1}
    if not several:
        return None
    name, places = next(iter(several.items()))
    more = f", and {len(several) - 1} more pods" if len(several) > 1 else ""
    return (
        f"note: pod {name} is declared in {' and '.join(places[:2])}{more}: right if each directory is for"
        " another machine; one that follows all of them refuses the second"
    )


def _print(files: Sequence[CheckedFile], note: str | None) -> None:
    for file in (file for file in files if file.valid):
        of_agent = ["the agent's configuration"] if file.kind == "agent" else []
        say(f"{file.file}: ok, {', '.join([*of_agent, *file.pods]) or 'no pods'}")
        say(*(f"  {line}" for line in file.notes))
    sys.stdout.flush()
    for warned in (warned for file in files for warned in file.warnings):
        print(escape(f"warning: {warned}"), file=sys.stderr)
    for problem in (problem for file in files for problem in file.problems):
        print(escape(str(problem)), file=sys.stderr)
    if note is not None:
        print(escape(note), file=sys.stderr)
