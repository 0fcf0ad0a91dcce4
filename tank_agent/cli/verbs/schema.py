"""Print the JSON Schema of a pod file; editors complete from it."""

from __future__ import annotations

import argparse

from tank_agent.cli.output import print_json

HELP = "the JSON Schema of a pod file, for editors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("json",), default="json", help="it is always JSON")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.spec.schema import json_schema

    print_json(json_schema())
    return 0
