"""Print what happened to the pods, oldest first; with -f, go on with what happens."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of, whole_number
from tank_agent.cli.output import asked_by, json_line
from tank_agent.cli.verbs.logs import since
from tank_agent.spec.printable import escape

HELP = "what happened, and with -f what happens"
EXAMPLES = (
    ("tank events", "what happened, oldest first"),
    ("tank events -f --pod web", "go on with what happens to web"),
    ("tank events --since 1h --type exited", "what ended in the last hour"),
    ("tank events --by anna --since 24h", "what anna asked for since yesterday"),
    ("tank events -o json", "one JSON object a line"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--pod", metavar="NAME", help="only of this pod")
    parser.add_argument("--by", metavar="USER", help="only what this user of the agent's machine asked for")
    parser.add_argument(
        "--since-seq", type=whole_number, default=0, metavar="N", help="only events with a number above N"
    )
    parser.add_argument(
        "--since", type=since, metavar="T", help="10m (ago), 2026-11-22T06:00:00Z, a date, or Unix seconds"
    )
    parser.add_argument(
        "-n", "--tail", type=whole_number, metavar="N", help="only the last N of those, then go on with -f"
    )
    parser.add_argument(
        "--type", action="append", default=[], metavar="TYPE", help="only of this type; may be repeated"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.errors import one_line

    found = client_of(arguments).events(
        follow=arguments.follow,
        after=arguments.since_seq,
        pod=arguments.pod,
        by=arguments.by,
        kinds=arguments.type,
        since=arguments.since,
        tail=arguments.tail,
    )
    for event in found:
        subject = f"{event.pod}/{event.container}" if event.container else event.pod
        line = f"{event.at}  {subject:<20}  {event.type:<16}  {one_line(event.message)}{asked_by(event.by)}"
        print(json_line(event) if arguments.output == "json" else escape(line.rstrip()), flush=True)
    return 0
