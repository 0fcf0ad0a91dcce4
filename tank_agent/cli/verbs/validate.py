"""Check pod files without an agent: every problem as `file:line: key: what is wrong`, exit code 2 if any."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from tank_agent.cli.arguments import add_output
from tank_agent.cli.files import pod_files, what_is_odd
from tank_agent.cli.output import say, show
from tank_agent.errors import InvalidSpec, Problem, TankError
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.spec.parse import ParsedPod

HELP = "check pod files, without an agent"

_UNREADABLE = 1
_INVALID = 2


class CheckedFile(Struct, frozen=True, kw_only=True):
    """The answer about one file; `pods` are the names of its valid pods."""

    file: str
    valid: bool
    pods: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


class _Found(Struct, frozen=True, kw_only=True):
    """A file that was read; `everywhere` are the lines of its pods without selectors, by their names."""

    path: Path
    checked: CheckedFile
    everywhere: Mapping[str, int]
    readable: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="pod files, or directories with them; - is standard input"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    found: list[_Found] = []
    for path in map(Path, arguments.paths):
        files = [_look(file, given=file == path) for file in pod_files(path, below=True)]
        if not files:
            print(escape(f"tank: {path}: no pod files here (*.toml)"), file=sys.stderr)
        found += files
    found = _same_names(found)
    checked = [file.checked for file in found]
    show(arguments, checked, lambda: _print(checked))
    if any(file.readable and not file.checked.valid for file in found):
        return _INVALID
    return 0 if all(file.readable for file in found) else _UNREADABLE


def _look(path: Path, *, given: bool) -> _Found:
    """Check one file; `given` means that the user named it, and not its directory."""
    from tank_agent.api.wire import decode_text
    from tank_agent.client.client import pod_file_name, read_pod_file
    from tank_agent.spec.model import EVERYWHERE
    from tank_agent.spec.parse import parse_pod_file

    name, readable = pod_file_name(path), True
    pods: Sequence[ParsedPod] = ()
    try:
        odd = None if given else what_is_odd(path)
        if odd is not None:
            raise InvalidSpec((Problem(name, 0, "", odd),))
        # A text from a pipe will have a file's name where it is put.
        parsed = parse_pod_file(decode_text(read_pod_file(path), name), name, nameless="stdin")
        pods, problems = parsed.pods, tuple(parsed.problems)
    except InvalidSpec as error:
        problems = error.problems
    except TankError as error:
        problems, readable = (Problem(name, 0, "", error.message),), False
    names = tuple(one.pod.name for one in pods)
    return _Found(
        path=path,
        checked=CheckedFile(file=name, valid=not problems, pods=names, problems=problems),
        everywhere={one.pod.name: one.line for one in pods if one.selector == EVERYWHERE},
        readable=readable,
    )


def _same_names(files: Iterable[_Found]) -> list[_Found]:
    """Add a problem to every file that declares a pod of an earlier file in its directory.

    Each directory of a tree may be for another machine, as pods with selectors are.
    """
    first: dict[tuple[Path, str], str] = {}
    result = []
    for found in files:
        file = found.checked
        twice = [
            Problem(file.file, line, "name", f'pod "{name}" is declared in {other} already', name)
            for name, line in found.everywhere.items()
            if (other := first.setdefault((found.path.parent, name), file.file)) != file.file
        ]
        wrong = {"valid": False, "problems": (*file.problems, *twice)} if twice else {}
        result.append(msgspec.structs.replace(found, checked=msgspec.structs.replace(file, **wrong)))
    return result


def _print(files: Sequence[CheckedFile]) -> None:
    say(*(f"{file.file}: ok, {', '.join(file.pods) or 'no pods'}" for file in files if file.valid))
    sys.stdout.flush()
    for problem in (problem for file in files for problem in file.problems):
        print(escape(str(problem)), file=sys.stderr)
