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

from tank_agent.api.reports import PlanReport
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import GREEN, RED, YELLOW, colored, say, show
from tank_agent.cli.source_notes import overlooked
from tank_agent.errors import AgentUnreachable, InvalidSpec, TankError
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.client.client import Client

HELP = "dry run: what would be done"
EXAMPLES = (
    ("tank plan", "what is still to be done"),
    ("tank plan web.toml", "what this file would change"),
    ("tank plan --git feature", "what a branch would change"),
    ("tank plan pods --against main/pods", "two trees, without an agent"),
)
USAGE_CODE = 1

_CHANGES = 2
_SIGNS = {"create": ("+", GREEN), "update": ("~", YELLOW), "remove": ("-", RED)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", metavar="PATH", help="a pod file, or a directory of them")
    parser.add_argument("--git", metavar="REF", help="a branch, tag or commit of the agent's repository")
    parser.add_argument(
        "--against", metavar="DIR", type=Path, help="compare PATH with this tree, and ask no agent"
    )
    # Here, `--host` was a name before it was an address.
    text = "a name: the machine to plan for, without asking an agent; ssh://[USER@]HOST[:PORT]: ask that one"
    for action in parser._actions:
        if "--host" in action.option_strings:
            action.help = text
            break
    else:
        # For its page of the manual, which has the verb's own options only.
        parser.add_argument("--host", metavar="H", help=text)
    parser.set_defaults(machine=None)
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
    alone = arguments.against is not None or arguments.machine is not None or arguments.label
    if arguments.path is None:
        if alone:
            raise TankError("--against, --host and --label need a PATH")
        return client_of(arguments).plan(git=arguments.git)
    if arguments.git is not None:
        raise TankError("give PATH or --git, not both")
    if alone:
        if arguments.host:
            raise TankError("--against and --label ask no agent, so leave --host ssh://… away")
        return _plan_alone(arguments)
    client = client_of(arguments)
    try:
        return _plan_of(client, Path(arguments.path))
    except AgentUnreachable as error:
        # An agent that is there but does not answer is an error.
        if client.address.startswith("ssh://") or client.socket.exists():
            raise
        note = "compared with nothing; --against DIR compares with another tree"
        print(escape(f"tank: {error}\n  {note}", keep="\n"), file=sys.stderr)
        return _plan_alone(arguments)


def _plan_alone(arguments: argparse.Namespace) -> PlanReport:
    from tank_agent.cli.files import beside_tree, read_tree
    from tank_agent.control.offline import plan_trees
    from tank_agent.spec.model import Host

    host = None
    if arguments.machine is not None or arguments.label:
        host = Host(name=arguments.machine or "", labels=dict(arguments.label), is_other=True)
    path, against = Path(arguments.path), arguments.against
    if against is None:
        return plan_trees(path, read_tree(path), None, host, beside=beside_tree(path))
    trees = read_tree(path), read_tree(against)
    return plan_trees(path, *trees, host, beside=beside_tree(path), beside_before=beside_tree(against))


def _plan_of(client: Client, path: Path) -> PlanReport:
    """Ask what would be done if the files at a path replaced those in the agent's pods_dir.

    Raises:
        TankError: one can't be read.
        InvalidSpec: one is not UTF-8.
    """
    from msgspec.structs import replace

    from tank_agent.api.wire import decode_text
    from tank_agent.cli.files import pod_files, what_is_odd
    from tank_agent.client.pod_files import beside, files_beside, read_pod_file
    from tank_agent.control.offline import without_removals
    from tank_agent.spec.beside import Sent

    pods_dir = Path(client.info().pods_dir)
    # A pod's owner is its file, so the files of a checkout are sent under their names in pods_dir.
    named = {os.fspath(pods_dir / file.name): file for file in pod_files(path, below=False)}
    for file in named.values():
        if file != path and what_is_odd(file) is not None:
            raise TankError("is not a regular file, so it can't be a pod file", where=os.fspath(file))
    texts, found = {}, Sent()
    for name, file in named.items():
        content = read_pod_file(file)
        texts[name] = decode_text(content, os.fspath(file))
        more = files_beside(content, beside(file)) or Sent()
        found = Sent(found.contents | more.contents, found.missing | more.missing)
    asked = client.plan(texts, beside=found)
    report = asked if path.is_dir() else without_removals(asked)

    def own_name(line: str) -> str:
        """Name the file of a finding, or of a pod for other machines, as the user did."""
        name = next((name for name in named if line.startswith(f"{name}:")), "")
        return f"{named[name]}{line[len(name) :]}" if name else line

    return replace(
        report,
        problems=tuple(map(own_name, report.problems)),
        elsewhere=tuple(map(own_name, report.elsewhere)),
    )


def _print(report: PlanReport) -> None:
    changed = [pod for pod in report.pods if pod.change != "none"]
    for pod in changed:
        sign, color = _SIGNS.get(pod.change, ("?", "0"))
        print(colored(escape(f"{sign} {pod.name}: {pod.change}"), color))
        say(*(f"    {line}" for line in (*pod.diff, *pod.notes)))
        say(*(f"  {number}. {action}" for number, action in enumerate(pod.actions, 1)))
        say(*([f"  plan {pod.proof}"] if pod.proof else []))
    say(*([f"plan {report.proof}"] if report.proof else []))
    say(*report.elsewhere)
    say(*([overlooked(report.overlooked[:5], len(report.overlooked))] if report.overlooked else []))
    counts = [f"{sum(pod.change == change for pod in changed)} to {change}" for change in _SIGNS]
    print(", ".join(counts) if changed else "nothing to do")
    sys.stdout.flush()
    for problem in report.problems:
        print(escape(problem), file=sys.stderr)
