"""Check pod files without an agent: every problem as `file:line: key: what is wrong`, exit code 2 if any."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tank_agent.cli.arguments import add_output
from tank_agent.errors import InvalidSpec, Problem

_INVALID = 2


class CheckedFile(Struct, frozen=True, kw_only=True):
    """What was found in one file; `pods` are the names of its valid pods."""

    file: str
    valid: bool
    pods: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="pod files, or directories of them")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.files import pod_files
    from tank_agent.cli.output import print_json

    files = [file for path in arguments.paths for file in pod_files(Path(path))]
    checked = _same_names([check(file) for file in files])
    if arguments.output == "json":
        print_json(checked)
    else:
        _print(checked)
    return 0 if all(file.valid for file in checked) else _INVALID


def check(path: Path) -> CheckedFile:
    """Check one file.

    Raises:
        TankError: it can't be read.
    """
    from tank_agent.api.wire import decode_text
    from tank_agent.client.client import read_pod_file
    from tank_agent.spec.parse import parse_pod_file

    name = os.fspath(path)
    try:
        parsed = parse_pod_file(decode_text(read_pod_file(path), name), name)
    except InvalidSpec as error:
        return CheckedFile(file=name, valid=False, problems=error.problems)
    return CheckedFile(
        file=name,
        valid=not parsed.problems,
        pods=tuple(parsed_pod.pod.name for parsed_pod in parsed.pods),
        problems=tuple(parsed.problems),
    )


def _same_names(files: Sequence[CheckedFile]) -> Sequence[CheckedFile]:
    """Add a problem to every file that declares a pod that an earlier one declares."""
    first: dict[str, str] = {}
    result = []
    for file in files:
        twice = [
            Problem(file.file, 0, "name", f'pod "{name}" is declared in {first[name]} already', name)
            for name in file.pods
            if first.setdefault(name, file.file) != file.file
        ]
        result.append(
            CheckedFile(
                file=file.file,
                valid=file.valid and not twice,
                pods=file.pods,
                problems=(*file.problems, *twice),
            )
        )
    return result


def _print(files: Sequence[CheckedFile]) -> None:
    from tank_agent.cli.output import escape

    for file in files:
        if file.valid:
            print(escape(f"{file.file}: ok, {', '.join(file.pods) or 'no pods'}"))
    sys.stdout.flush()
    for problem in (problem for file in files for problem in file.problems):
        print(escape(str(problem)), file=sys.stderr)
