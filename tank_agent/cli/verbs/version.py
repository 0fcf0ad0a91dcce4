"""Print the version of this program, and of the agent if it answers."""

from __future__ import annotations

import argparse

from tank_agent import __version__
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import say, show, span

HELP = "versions of this program and of the agent"
EXAMPLES = (
    ("tank version", "of the program and of the agent"),
    ("tank version -o json", "for a script"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.errors import AgentUnreachable

    try:
        agent = client_of(arguments).info()
        problem = None
    except AgentUnreachable as error:
        agent, problem = None, error.message

    lines = [f"tank   {__version__}"]
    if agent is None:
        lines.append(f"agent  - ({problem})")
    else:
        lines.append(f"agent  {agent.version} (pid {agent.pid}, up {span(agent.uptime)})")
        lines += [f"crun   {agent.crun or '-'}", f"conmon {agent.conmon or '-'}"]
    answer = {"client": __version__, "agent": agent, "error": problem}
    return show(arguments, answer, lambda: say(*lines))
