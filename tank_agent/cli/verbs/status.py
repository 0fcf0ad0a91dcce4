"""Print how the pods are: phase, containers that run, restarts, last error, next try."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import (
    RED,
    YELLOW,
    ago,
    colored,
    colored_phase,
    ports_text,
    print_table,
    say,
    share,
    show,
    until,
)
from tank_agent.cli.verbs.git import commit_line, git_line
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import ExitReport, PodReport, SourcesReport

HELP = "how the pods are: phase, containers, restarts, last error, next try"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod, with all details")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    if arguments.name is not None:
        pod = client.status(arguments.name)
        return show(arguments, pod, lambda: _print_one(pod))
    pods = client.status()
    return show(arguments, pods, lambda: print_all(pods, client.sources()))


def print_all(pods: Sequence[PodReport], sources: SourcesReport) -> None:
    """Print a table of pods, and below it their troubles and those of sources."""
    # Columns are left out where there is neither a repository nor a hold, and where no pod has ports.
    followed = any(pod.git or pod.hold for pod in pods)
    published = any(pod.ports for pod in pods)
    rows = [
        (
            pod.name,
            pod.phase,
            *((pod.hold.kind if pod.hold else pod.git.state if pod.git else "-",) if followed else ()),
            f"{sum(container.phase == 'running' for container in pod.containers)}/{len(pod.containers)}",
            ",".join(str(container.pid) for container in pod.containers if container.pid) or "-",
            sum(container.restarts for container in pod.containers),
            pod.owner or "-",
            (pod.revision or "-")[:12],
            *((ports_text(pod.ports),) if published else ()),
        )
        for pod in pods
    ]
    git = ("GIT",) if followed else ()
    ports = ("PORTS",) if published else ()
    print_table(("NAME", "PHASE", *git, "CONTAINERS", "PIDS", "RESTARTS", "OWNER", "REVISION", *ports), rows)
    of_directories = [directory.error for directory in sources.directories]
    troubles = {pod.name: lines for pod in pods if (lines := _troubles(pod, of_directories))}
    if troubles:
        print()
    for name, lines in troubles.items():
        print("\n  ".join(map(escape, (f"{name}: {lines[0]}", *lines[1:]))))
    _print_warnings(pods)
    _print_sources(sources)


def _print_warnings(pods: Sequence[PodReport]) -> None:
    """Print each warning once, with the pods that it is about: most are about the machine."""
    concerned: dict[str, list[str]] = {}
    for pod in pods:
        for warning in pod.warnings:
            concerned.setdefault(warning, []).append(pod.name)
    if concerned:
        print()
    for warning, names in concerned.items():
        print(colored("warning", YELLOW) + escape(f" for {', '.join(names)}: {warning}"))


def _print_sources(sources: SourcesReport) -> None:
    """Print the errors of directories, the state of git, and whether sources are suspended."""
    errors = [directory.error for directory in sources.directories if directory.error]
    lines = [f"files: {colored('error', RED)} - {escape(error)}" for error in errors]
    git = sources.git
    if git is not None:
        lines.append(f"git: {git_line(git)}")
        lines += [escape(f"git: {trouble}") for trouble in git.troubles]
    if sources.suspended:
        text = "sources are suspended: files and git don't count; `tank resume` follows them again"
        lines.append(colored(text, YELLOW))
    if lines:
        print("", *lines, sep="\n")


def _print_one(pod: PodReport) -> None:
    """Print everything that is known of one pod."""
    say(f"{'pod':<12}{pod.name}")
    print(f"{'phase':<12}{colored_phase(pod.phase)}")
    lines = [
        ("owner", pod.owner or "-"),
        ("revision", pod.revision or "-"),
        ("generation", str(pod.generation)),
        ("addresses", ", ".join(_addresses(pod)) or "-"),
        *(("" if number else "ports", str(port)) for number, port in enumerate(pod.ports)),
    ]
    git = pod.git
    if git:
        error = f" - {git.error}" if git.error and git.error != pod.error else ""
        lines.append(("git", f"{git.state}{error}"))
        lines.append(("commit", commit_line(git.commit, git)))
        lines.append(("file", git.file))
    lines += [("held", line) for line in _held(pod)]
    lines += [("pulling", line) for line in _pulling(pod)]
    lines += [("" if number else "error", line) for number, line in enumerate((pod.error or "").splitlines())]
    lines += [("warning", warning) for warning in pod.warnings]
    if pod.next_retry:
        lines.append(("next try", until(pod.next_retry)))
    say(*(f"{label:<12}{value}" for label, value in lines))
    print()
    rows = (
        (one.name, one.phase, one.pid or "-", one.restarts, one.image or "-", ending(one.exit))
        for one in pod.containers
    )
    print_table(("CONTAINER", "PHASE", "PID", "RESTARTS", "IMAGE", "LAST EXIT"), rows)


def _addresses(pod: PodReport) -> list[str]:
    """Return a pod's addresses, each with the name of its bridge if it is in one."""
    bridges = {address: bridge for bridge, addresses in pod.bridges.items() for address in addresses}
    return [f"{address} ({bridges[address]})" if address in bridges else address for address in pod.addresses]


def _troubles(pod: PodReport, of_directories: Container[str | None]) -> list[str]:
    """Return the lines about a pod's troubles, without the errors of whole directories."""
    lines = [line for line in (pod.error or "").splitlines() if line not in of_directories]
    lines += [f"next try {until(pod.next_retry)}"] if pod.next_retry else []
    return [*lines, *(f"pulling {line}" for line in _pulling(pod)), *_held(pod)]


def _held(pod: PodReport) -> list[str]:
    """Return a line on why a pod does not follow its file, and how it would again; none if it does."""
    hold = pod.hold
    # That all sources are suspended is printed once, for all pods.
    if not hold or not hold.since:
        return []
    place = f" to generation {hold.generation}" if hold.generation else ""
    return [f"{hold.kind}{place}, {ago(hold.since)}; `tank resume {pod.name}` follows its file again"]


def _pulling(pod: PodReport) -> list[str]:
    """Return a line about each image that a pod waits for."""
    return [
        f"{container.name}: {share(container.progress.done, container.progress.total)}"
        for container in pod.containers
        if container.progress
    ]


def ending(end: ExitReport | None) -> str:
    """Describe how a container's last run ended."""
    if end is None:
        return "-"
    if end.oom:
        how = "out of memory"
    elif end.signal:
        try:
            how = f"killed by {signal.Signals(end.signal).name}"
        except ValueError:
            how = f"killed by signal {end.signal}"
    else:
        how = "unknown" if end.code is None else f"code {end.code}"
    return f"{how}, {ago(end.at)}"
