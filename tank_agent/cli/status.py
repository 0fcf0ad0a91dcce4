"""Print how the pods are: phase, containers that run, restarts, last error, next try."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, colored_phase, escape, print_json, print_table, until

Status = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod, with all details")
    add_output(parser, "json")


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    found = client_of(arguments).status(arguments.name)
    if arguments.output == "json":
        print_json(found)
    elif arguments.name is None:
        print_all(found)
    else:
        print_one(found)
    return 0


def print_all(pods: Sequence[Status]) -> None:
    """Print a table of pods, and below it what is wrong with which."""
    rows = [
        (
            pod["name"],
            pod["phase"],
            f"{_running(pod)}/{len(pod['containers'])}",
            sum(container["restarts"] for container in pod["containers"]),
            pod["owner"] or "-",
            (pod["revision"] or "-")[:12],
        )
        for pod in pods
    ]
    print_table(("NAME", "PHASE", "CONTAINERS", "RESTARTS", "OWNER", "REVISION"), rows)
    troubled = [pod for pod in pods if pod["error"] or pod["next_retry"]]
    if troubled:
        print()
    for pod in troubled:
        said = list(map(escape, (pod["error"] or "").splitlines()))
        said += [f"next try {until(pod['next_retry'])}"] if pod["next_retry"] else []
        print(f"{escape(pod['name'])}: " + "\n  ".join(said))


def print_one(pod: Status) -> None:
    """Print everything that is known of one pod."""
    lines = [
        ("pod", escape(pod["name"])),
        ("phase", colored_phase(pod["phase"])),
        ("owner", escape(pod["owner"] or "-")),
        ("revision", escape(pod["revision"] or "-")),
        ("generation", str(pod["generation"])),
        ("addresses", escape(", ".join(pod["addresses"])) or "-"),
    ]
    for number, line in enumerate((pod["error"] or "").splitlines()):
        lines.append(("" if number else "error", escape(line)))
    if pod["next_retry"]:
        lines.append(("next try", until(pod["next_retry"])))
    for label, value in lines:
        print(f"{label:<12}{value}")
    print()
    rows = [
        (
            container["name"],
            container["phase"],
            container["pid"] or "-",
            container["restarts"],
            container["image"] or "-",
            ending(container["exit"]),
        )
        for container in pod["containers"]
    ]
    print_table(("CONTAINER", "PHASE", "PID", "RESTARTS", "IMAGE", "LAST EXIT"), rows)


def ending(end: Status | None) -> str:
    """Say how a container's last run ended."""
    if end is None:
        return "-"
    if end["oom"]:
        how = "out of memory"
    elif end["signal"]:
        how = f"killed by {_signal_name(end['signal'])}"
    elif end["code"] is None:
        how = "unknown"
    else:
        how = f"code {end['code']}"
    return f"{how}, {ago(end['at'])}"


def _running(pod: Status) -> int:
    return sum(container["phase"] == "running" for container in pod["containers"])


def _signal_name(number: Any) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
