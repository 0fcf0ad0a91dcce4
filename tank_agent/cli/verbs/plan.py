"""Say what would be done, and do nothing: for files in place of pods_dir, for a commit, or what is pending.

Without an agent on this machine, PATH is compared with the tree of --against, or with nothing.
Exit codes: 0 nothing would be done, 2 something would, 1 error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.api.types import PlanReport
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import GREEN, RED, YELLOW, colored, say, show
from tank_agent.errors import AgentUnreachable, InvalidSpec, TankError
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.client.client import Client

HELP = "dry run: what would be done"
USAGE_CODE = 1

_CHANGES = 2
_SIGNS = {"create": ("+", GREEN), "update": ("~", YELLOW), "remove": ("-", RED)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", metavar="PATH", help="a pod file, or a directory of them")
    parser.add_argument("--git", metavar="REF", help="a branch, tag or commit of the agent's repository")
    parser.add_argument(
        "--against", metavar="DIR", type=Path, help="compare PATH with this tree, and ask no agent"
    )
    parser.add_argument(
        "--host", metavar="H", help="the machine to plan for, by name, without asking an agent (default any)"
    )
    parser.add_argument(
        "--label", metavar="K=V", action="append", default=[], type=_label, help="a label of --host's machine"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        report = _ask(arguments)
    except InvalidSpec as error:
        # 2 means "changes" here.
        raise TankError(str(error)) from error
    show(arguments, report, lambda: _print(report))
    if report.problems:
        return 1
    return _CHANGES if any(pod.change != "none" for pod in report.pods) else 0


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not a label, such as site=fra")
    return key, value


def _ask(arguments: argparse.Namespace) -> PlanReport:
    alone = arguments.against is not None or arguments.host is not None or arguments.label
    if arguments.path is None:
        if alone:
            raise TankError("--against, --host and --label need a PATH")
        return client_of(arguments).plan(git=arguments.git)
    if arguments.git is not None:
        raise TankError("give PATH or --git, not both")
    if alone:
        return _plan_alone(arguments)
    client = client_of(arguments)
    try:
        return _plan_of(client, Path(arguments.path))
    except AgentUnreachable as error:
        # An agent that is there but does not answer is an error.
        if client.socket.exists():
            raise
        note = "compared with nothing; --against DIR compares with another tree"
        print(escape(f"tank: {error}\n  {note}", keep="\n"), file=sys.stderr)
        return _plan_alone(arguments)


def _plan_alone(arguments: argparse.Namespace) -> PlanReport:
    from tank_agent.cli.files import read_tree
    from tank_agent.control.offline import plan_trees
    from tank_agent.spec.model import Host

    host = None
    if arguments.host is not None or arguments.label:
        host = Host(name=arguments.host or "", labels=dict(arguments.label))
    path, against = Path(arguments.path), arguments.against
    return plan_trees(path, read_tree(path), None if against is None else read_tree(against), host)


def _plan_of(client: Client, path: Path) -> PlanReport:
    """Ask what would be done if the files at a path replaced those in the agent's pods_dir.

    Raises:
        TankError: one can't be read.
        InvalidSpec: one is not UTF-8.
    """
    from tank_agent.api.wire import decode_text
    from tank_agent.cli.files import pod_files, what_is_odd
    from tank_agent.client.client import read_pod_file

    pods_dir = Path(client.info().pods_dir)
    # A pod's owner is its file, so the files of a checkout are sent under their names in pods_dir.
    named = {os.fspath(pods_dir / file.name): file for file in pod_files(path, below=False)}
    for file in named.values():
        if file != path and what_is_odd(file) is not None:
            raise TankError("is not a regular file, so it can't be a pod file", where=os.fspath(file))
    texts = {name: decode_text(read_pod_file(file), os.fspath(file)) for name, file in named.items()}
    report = client.plan(texts)
    # One file says nothing about the pods of other files.
    pods = report.pods if path.is_dir() else tuple(pod for pod in report.pods if pod.change != "remove")

    def own_name(problem: str) -> str:
        """Name the file of a finding as the user did."""
        name = next((name for name in named if problem.startswith(f"{name}:")), "")
        return f"{named[name]}{problem[len(name) :]}" if name else problem

    return PlanReport(pods=pods, problems=tuple(map(own_name, report.problems)))


def _print(report: PlanReport) -> None:
    changed = [pod for pod in report.pods if pod.change != "none"]
    for pod in changed:
        sign, color = _SIGNS.get(pod.change, ("?", "0"))
        print(colored(escape(f"{sign} {pod.name}: {pod.change}"), color))
        say(*(f"    {line}" for line in (*pod.diff, *pod.notes)))
        say(*(f"  {number}. {action}" for number, action in enumerate(pod.actions, 1)))
    counts = [f"{sum(pod.change == change for pod in changed)} to {change}" for change in _SIGNS]
    print(", ".join(counts) if changed else "nothing to do")
    sys.stdout.flush()
    for problem in report.problems:
        print(escape(problem), file=sys.stderr)
