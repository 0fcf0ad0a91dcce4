"""Say why a pod is as it is: what is wanted and where, what runs, what happened, and what would change it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import BOLD, ago, asked_by, colored, print_table, say, short_digest, show, until
from tank_agent.cli.verbs.status import ending
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import ChangeReport, ContainerReport, WantedReport, WhyReport

HELP = "why a pod is as it is, and what would change it"
EXAMPLES = (
    ("tank why web", "one screen on web"),
    ("tank why web -o json", "for a script"),
)
# On one screen.
_FIELDS = 8
_REASON = 120


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    found = client_of(arguments).why(arguments.name)
    return show(arguments, found, lambda: _print(found))


def _print(found: WhyReport) -> None:
    print(colored(escape(found.summary), BOLD))
    say(*found.elsewhere)
    if found.file:
        place = f"{found.file}:{found.line}" if found.line else found.file
        commit = f" ({found.commit[:12]})" if found.commit else ""
        say(f"declared in {place}{commit}")
    status = found.status
    say(*(f"  {line}" for line in _errors(found)))
    if found.wanted:
        _head("wanted otherwise than it runs")
        say(*(f"  {_where(one)}{one.key}: {one.old} → {one.new}" for one in found.wanted[:_FIELDS]))
        more = len(found.wanted) - _FIELDS
        say(*([f"  and {more} more; see `tank why {found.name} -o json`"] if more > 0 else []))
    if status is not None and status.containers:
        _head("runs")
        rows = ((f"  {one.name}", *_runs(one)) for one in status.containers)
        headers = ("  CONTAINER", "PHASE", "PID", "SINCE", "RESTARTS", "IMAGE", "LAST EXIT")
        print_table(headers, rows, spare=("RESTARTS", "PID", "IMAGE", "LAST EXIT"), cut=("IMAGE",))
        say(*(f"  {line}" for one in status.containers for line in _health(one)))
    if found.changes:
        _head("changes")
        rows_of_changes = (
            (f"  {one.generation}", ago(one.at), one.outcome or "unverified", _cause(one), _short(one.reason))
            for one in found.changes
        )
        print_table(
            ("  GENERATION", "WHEN", "OUTCOME", "CAUSE", "REASON"), rows_of_changes, cut=("REASON", "CAUSE")
        )
    if status is None and found.events:
        _head("what happened last")
        say(*(f"  {one.at}  {one.type}  {one.message}{asked_by(one.by)}" for one in found.events))
    if found.log:
        _head(f"last lines of {found.name}/{found.log_of}")
        say(*(f"  {line}" for line in found.log))
    unblock = [*found.unblock]
    if status is not None and status.next_retry:
        unblock.insert(0, f"the next try is {until(status.next_retry)}")
    if unblock:
        _head("what would change it")
        say(*(f"  {line}" for line in unblock))


def _errors(found: WhyReport) -> list[str]:
    """Return the lines of the pod's error that say more than the summary, and do not lead here."""
    status = found.status
    if status is None:
        return []
    known = status.rollout.reason if status.rollout is not None else None
    lines = [line for line in (status.error or "").splitlines() if line not in found.summary]
    here = f"`tank why {found.name}`"
    return [line for line in lines if here not in line and not (known and known in line)]


def _head(text: str) -> None:
    print()
    print(colored(escape(text), BOLD))


def _where(field: WantedReport) -> str:
    return f"{field.file}:{field.line}: " if field.line else ""


def _runs(one: ContainerReport) -> tuple[object, ...]:
    since = "-" if one.started_at is None else ago(one.started_at)
    image = f"{one.image or '-'}{short_digest(one.image, one.digest)}"
    return one.phase, one.pid or "-", since, one.restarts, image, ending(one.exit)


def _cause(change: ChangeReport) -> str:
    return f"{change.cause}{asked_by(change.by)}"


def _short(reason: str | None) -> str:
    text = (reason or "-").partition("\n")[0]
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"


def _health(container: ContainerReport) -> Iterator[str]:
    """Yield a line on the health of a container that has a probe."""
    health = container.health
    if health.state == "none":
        return
    told = f": {health.message}" if health.message else ""
    failing = f", {health.failing} failures in a row" if health.failing else ""
    yield f"{container.name} is {health.state}, {ago(health.since)}{failing}{told}"
