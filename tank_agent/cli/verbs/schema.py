"""Print the JSON Schema of a pod file, or of agent.toml; editors complete and check from it.

The package has both in /usr/share/tank-agent.
"""

from __future__ import annotations

import argparse

from tank_agent.cli.output import print_json

HELP = "the JSON Schema of a pod file or of agent.toml, for editors"
EXAMPLES = (
    ("tank schema > pod.schema.json", "for an editor that checks TOML"),
    ("tank schema --agent > agent.schema.json", "the same for agent.toml"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agent", action="store_true", help="of agent.toml, not of a pod file")
    parser.add_argument("-o", "--output", choices=("json",), default="json", help="it is always JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.agent:
        from tank_agent.settings.schema import json_schema as agent_schema

        print_json(agent_schema())
        return 0
    from tank_agent.spec.schema import json_schema

    print_json(json_schema())
    return 0
