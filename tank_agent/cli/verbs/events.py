"""Print what happened to the pods, oldest first; with -f, go on with what happens."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of, whole_number
from tank_agent.cli.output import json_line
from tank_agent.spec.printable import escape

HELP = "what happened, and with -f what happens"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--pod", metavar="NAME", help="only of this pod")
    parser.add_argument(
        "--since-seq", type=whole_number, default=0, metavar="N", help="only events with a number above N"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    for event in client.events(follow=arguments.follow, after=arguments.since_seq, pod=arguments.pod):
        subject = f"{event.pod}/{event.container}" if event.container else event.pod
        line = f"{event.at}  {subject:<20}  {event.type:<16}  {event.message}"
        print(json_line(event) if arguments.output == "json" else escape(line.rstrip()), flush=True)
    return 0
