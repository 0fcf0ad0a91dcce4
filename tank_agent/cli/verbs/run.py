"""Run a job now, whatever its schedule, and print what it prints; the exit code is that of the run.

Ctrl-C leaves, and the run goes on.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import json_line, say
from tank_agent.cli.verbs.logs import print_logs
from tank_agent.cli.verbs.status import ended_text
from tank_agent.client.fast import http
from tank_agent.client.logs import open_logs
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import JobRunReport, StartedRun
    from tank_agent.client.client import Client

HELP = "run a job now, whatever its schedule"
EXAMPLES = (
    ("tank run nightly", "run the job now, and print its output"),
    ("tank run nightly -d", "leave at once; the run goes on"),
)
_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="JOB")
    text = "print the number of the run and return, while it goes on"
    parser.add_argument("-d", "--detach", action="store_true", help=text)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.errors import AgentUnreachable

    client, in_json = client_of(arguments), arguments.output == "json"
    started = client.run(arguments.name)
    if arguments.detach:
        if in_json:
            print(json_line(started))
        else:
            say(f"run {started.number} of {started.pod} begins; `tank logs {started.pod} -f` follows it")
        return 0
    path = http.socket_path(arguments.socket)
    try:
        opened = open_logs(path, started.pod, follow=True, run=started.number)
        print_logs(started.pod, opened, in_json=in_json, flush=True)
        found = _result(client, started)
    except KeyboardInterrupt:
        _tell(f"run {started.number} of {started.pod} goes on; `tank logs {started.pod} -f` follows it")
        return _INTERRUPTED
    except AgentUnreachable as error:
        raise AgentUnreachable(
            f"the agent ended, or is out of reach; run {started.number} of {started.pod} goes on without it",
            where=error.where,
            hint=f"once it is back, `tank logs {started.pod} --run {started.number} -f` follows the run",
        ) from error
    if in_json:
        print(json_line({"run": found}))
    _tell(f"run {found.number} of {started.pod} {ended_text(found)}")
    return exit_code(found)


def _result(client: Client, started: StartedRun) -> JobRunReport:
    """Return the run once it has ended.

    Raises:
        TankError: the pod is gone, or no job any more, so nobody knows how it ended.
    """
    from tank_agent.errors import PodNotFound, TankError

    try:
        job = client.status(started.pod).job
    except PodNotFound:
        job = None
    runs = job.runs if job is not None else ()
    found = next((one for one in runs if one.number == started.number), None)
    if found is None or found.outcome is None:
        what = f"run {started.number} of {started.pod} did not end by itself"
        raise TankError(f"{what}: the pod was removed, or is no job any more")
    return found


def exit_code(run: JobRunReport) -> int:
    """Return the exit code for a run: that of the container that failed first, as a shell has it.

    0 if it succeeded; 1 where no container tells: it timed out, or could not be started.
    """
    if run.outcome == "succeeded":
        return 0
    failed = sorted((end.at or "", name) for name, end in run.exits.items() if end.code or end.signal)
    if run.outcome == "timed-out" or not failed:
        return 1
    end = run.exits[failed[0][1]]
    return 128 + end.signal if end.signal else end.code or 1


def _tell(text: str) -> None:
    """Print a line to stderr, after all that was printed before."""
    sys.stdout.flush()
    print(escape(text), file=sys.stderr)
