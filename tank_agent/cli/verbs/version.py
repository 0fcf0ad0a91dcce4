"""Print the version of this program, and of the agent if it answers."""

from __future__ import annotations

import argparse

from tank_agent import __version__
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import say, show, span
from tank_agent.errors import AgentUnreachable

HELP = "versions of this program and of the agent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        agent = client_of(arguments).info()
        problem = None
    except AgentUnreachable as error:
        agent, problem = None, error.message

    def text() -> None:
        print(f"tank   {__version__}")
        if agent is None:
            say(f"agent  - ({problem})")
            return
        agent_line = f"agent  {agent.version} (pid {agent.pid}, up {span(agent.uptime)})"
        say(agent_line, f"crun   {agent.crun or '-'}", f"conmon {agent.conmon or '-'}")

    return show(arguments, {"client": __version__, "agent": agent, "error": problem}, text)
