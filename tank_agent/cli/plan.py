"""Say what would be done, and do nothing: for PATH in place of pods_dir, else for what is pending now.

Exit codes: 0 nothing would be done, 2 something would, 1 error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.api.service import PlannedPod, PlanReport
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import colored, escape, print_json
from tank_agent.errors import InvalidSpec, TankError

if TYPE_CHECKING:
    from tank_agent.client.client import Client

_CHANGES = 2
_SIGNS = {"create": ("+", "32"), "update": ("~", "33"), "remove": ("-", "31")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="a pod file, or a directory of them")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    client = client_of(arguments)
    try:
        report = client.plan() if arguments.path is None else _plan_of(client, Path(arguments.path))
    except InvalidSpec as error:
        # 2 means "changes" here.
        raise TankError(str(error)) from error
    if arguments.output == "json":
        print_json(report)
    else:
        _print(report)
    if report.problems:
        return 1
    return _CHANGES if any(pod.change != "none" for pod in report.pods) else 0


def _plan_of(client: Client, path: Path) -> PlanReport:
    """Ask what would be done if the files at a path took the place of those in the agent's pods_dir.

    Raises:
        TankError: one can't be read.
        InvalidSpec: one is not UTF-8.
    """
    from tank_agent.api.wire import decode_text
    from tank_agent.cli.files import pod_files
    from tank_agent.client.client import read_pod_file

    pods_dir = Path(client.info()["pods_dir"])
    # A pod's owner is its file, so a checkout elsewhere has to be asked about under the names in pods_dir.
    named = {os.fspath(pods_dir / file.name): file for file in pod_files(path)}
    report = client.plan(
        {name: decode_text(read_pod_file(file), os.fspath(file)) for name, file in named.items()}
    )
    # One file says nothing about the pods of other files.
    pods = report.pods if path.is_dir() else tuple(pod for pod in report.pods if pod.change != "remove")
    return PlanReport(pods=pods, problems=tuple(_own_name(line, named) for line in report.problems))


def _own_name(problem: str, named: Mapping[str, Path]) -> str:
    """Call a file in a finding as the user called it."""
    for name, file in named.items():
        if problem.startswith(f"{name}:"):
            return f"{file}{problem[len(name) :]}"
    return problem


def _print(report: PlanReport) -> None:
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
