"""Print the version of this program, and of the agent if it answers."""

from __future__ import annotations

import argparse

from tank_agent import __version__
from tank_agent.cli.arguments import add_output, client_of

HELP = "versions of this program and of the agent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    from tank_agent.cli.output import print_json, span
    from tank_agent.errors import AgentUnreachable
    from tank_agent.spec.printable import escape

    try:
        agent = client_of(arguments).info()
        problem = None
    except AgentUnreachable as error:
        agent, problem = None, error.message
    if arguments.output == "json":
        print_json({"client": __version__, "agent": agent, "error": problem})
        return 0
    print(f"tank   {__version__}")
    if agent is None:
        print(escape(f"agent  - ({problem})"))
    else:
        up = f"pid {agent.pid}, up {span(agent.uptime)}"
        print(escape(f"agent  {agent.version} ({up})"))
        for tool, version in (("crun", agent.crun), ("conmon", agent.conmon)):
            print(escape(f"{tool:<6} {version or '-'}"))
    return 0
