"""Say what would be done, and do nothing: for PATH in place of pods_dir, else for what is pending now.

Exit codes: 0 nothing would be done, 2 something would, 1 error.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tank_agent.api.service import PlannedPod, PlanReport
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import colored, escape, print_json
from tank_agent.errors import InvalidSpec, TankError

_CHANGES = 2
_SIGNS = {"create": ("+", "32"), "update": ("~", "33"), "remove": ("-", "31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="a pod file, or a directory of them")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    try:
        files = None if arguments.path is None else _read(Path(arguments.path))
        report = client_of(arguments).plan(files)
    except InvalidSpec as error:
        # 2 means "changes" here.
        raise TankError(str(error)) from error
    if arguments.path is not None and not Path(arguments.path).is_dir():
        # One file says nothing about the pods of other files.
        kept = tuple(pod for pod in report.pods if pod.change != "remove")
        report = PlanReport(pods=kept, problems=report.problems)
    if arguments.output == "json":
        print_json(report)
    else:
        _print(report)
    if report.problems:
        return 1
    return _CHANGES if any(pod.change != "none" for pod in report.pods) else 0


def _read(path: Path) -> dict[str, str]:
    """Return the pod files at a path: absolute path → text.

    Raises:
        TankError: one can't be read.
        InvalidSpec: one is not UTF-8.
    """
    from tank_agent.api.wire import decode_text
    from tank_agent.cli.files import pod_files
    from tank_agent.client.client import read_pod_file

    return {
        os.fspath(file.absolute()): decode_text(read_pod_file(file), os.fspath(file))
        for file in pod_files(path)
    }


def _print(report: PlanReport) -> None:
    import sys

    changed = [pod for pod in report.pods if pod.change != "none"]
    for pod in changed:
        _print_pod(pod)
    counts = [f"{sum(pod.change == change for pod in changed)} to {change}" for change in _SIGNS]
    print(", ".join(counts) if changed else "nothing to do")
    sys.stdout.flush()
    for problem in report.problems:
        print(escape(problem), file=sys.stderr)


def _print_pod(pod: PlannedPod) -> None:
    sign, color = _SIGNS.get(pod.change, ("?", "0"))
    print(colored(f"{sign} {escape(pod.name)}: {pod.change}", color))
    for line in pod.diff:
        print(f"    {escape(line)}")
    for number, action in enumerate(pod.actions, 1):
        print(f"  {number}. {escape(action)}")
