"""Check whether this machine can run pods, and say how to get what is missing. Works without an agent."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, add_places, client_of, load_places
from tank_agent.cli.output import GREEN, RED, YELLOW, colored, say, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.doctor import Check

HELP = "is this machine ready, and what is missing"

_COLORS = {"ok": GREEN, "warn": YELLOW, "fail": RED}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_places(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    checks = [*_examine(arguments), _agent(arguments)]
    show(arguments, checks, lambda: _print(checks))
    return 1 if any(check.result == "fail" for check in checks) else 0


def _examine(arguments: argparse.Namespace) -> Sequence[Check]:
    from tank_agent.doctor import fail
    from tank_agent.doctor.examine import examine
    from tank_agent.errors import InvalidSpec

    try:
        settings = load_places(arguments)
    except InvalidSpec as error:
        fix = "correct it; the default directories are examined below"
        problems = [fail("configuration", str(problem), fix) for problem in error.problems]
        return (*problems, *examine(Path("/var/lib/tank"), Path("/run/tank"), Path("/etc/tank/pods.d")))
    return examine(settings.data_dir, settings.run_dir, settings.pods_dir)


def _agent(arguments: argparse.Namespace) -> Check:
    from tank_agent.doctor import ok, warn
    from tank_agent.errors import AgentUnreachable

    try:
        if arguments.run_dir and not arguments.socket:
            arguments.socket = str(Path(arguments.run_dir) / "tank.sock")
        info = client_of(arguments).info()
    except AgentUnreachable as error:
        return warn("agent", error.message, error.hint or "")
    return ok("agent", f"version {info.version}, pid {info.pid}")


def _print(checks: Sequence[Check]) -> None:
    for check in checks:
        mark = colored(f"{check.result:<5}", _COLORS[check.result])
        print(f"{mark} {check.name:<19} {escape(check.found)}")
        if check.fix:
            say(f"{'':<25} → {check.fix}")
