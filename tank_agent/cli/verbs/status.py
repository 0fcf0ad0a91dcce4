"""Print how the pods are: phase, containers that run, restarts, last error, next try."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence

from tank_agent.api.reports import ExitReport, PodReport, SourcesReport
from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import ago, colored_phase, print_table, share, show, until
from tank_agent.cli.sources import commit_line, print_sources
from tank_agent.spec.printable import escape

HELP = "how the pods are: phase, containers, restarts, last error, next try"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="one pod, with all details")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)
    if arguments.name is not None:
        pod = client.status(arguments.name)
        return show(arguments, pod, lambda: print_one(pod))
    pods = client.status()

    def text() -> None:
        sources = client.sources()
        print_all(pods, sources)
        print_sources(sources)

    return show(arguments, pods, text)


def print_all(pods: Sequence[PodReport], sources: SourcesReport) -> None:
    """Print a table of pods, and below it what is wrong with which; what `sources` say of all is not here."""
    # Who has no repository, and holds nothing, needs no column about it.
    followed = any(pod.git or pod.hold for pod in pods)
    rows = [
        (
            pod.name,
            pod.phase,
            *((follows(pod),) if followed else ()),
            f"{_running(pod)}/{len(pod.containers)}",
            ",".join(str(container.pid) for container in pod.containers if container.pid) or "-",
            sum(container.restarts for container in pod.containers),
            pod.owner or "-",
            (pod.revision or "-")[:12],
        )
        for pod in pods
    ]
    git = ("GIT",) if followed else ()
    print_table(("NAME", "PHASE", *git, "CONTAINERS", "PIDS", "RESTARTS", "OWNER", "REVISION"), rows)
    elsewhere = {directory.error for directory in sources.directories}
    errors = {
        pod.name: [line for line in (pod.error or "").splitlines() if line not in elsewhere] for pod in pods
    }
    troubled = [pod for pod in pods if errors[pod.name] or pod.next_retry or _pulling(pod) or _held(pod)]
    if troubled:
        print()
    for pod in troubled:
        lines = list(map(escape, errors[pod.name]))
        lines += [f"next try {until(pod.next_retry)}"] if pod.next_retry else []
        lines += [f"pulling {line}" for line in _pulling(pod)]
        lines += [escape(_held(pod))] if _held(pod) else []
        print(f"{escape(pod.name)}: " + "\n  ".join(lines))


def print_one(pod: PodReport) -> None:
    """Print everything that is known of one pod."""
    lines = [
        ("pod", escape(pod.name)),
        ("phase", colored_phase(pod.phase)),
        ("owner", escape(pod.owner or "-")),
        ("revision", escape(pod.revision or "-")),
        ("generation", str(pod.generation)),
        ("addresses", escape(", ".join(pod.addresses)) or "-"),
    ]
    lines += _followed_lines(pod)
    lines += [("pulling", line) for line in _pulling(pod)]
    for number, line in enumerate((pod.error or "").splitlines()):
        lines.append(("" if number else "error", escape(line)))
    if pod.next_retry:
        lines.append(("next try", until(pod.next_retry)))
    for label, value in lines:
        print(f"{label:<12}{value}")
    print()
    rows = [
        (
            container.name,
            container.phase,
            container.pid or "-",
            container.restarts,
            container.image or "-",
            ending(container.exit),
        )
        for container in pod.containers
    ]
    print_table(("CONTAINER", "PHASE", "PID", "RESTARTS", "IMAGE", "LAST EXIT"), rows)


def follows(pod: PodReport) -> str:
    """Return how a pod stands to its repository, or that it does not follow its file; "-" says neither."""
    return pod.hold.kind if pod.hold else pod.git.state if pod.git else "-"


def _held(pod: PodReport) -> str:
    """Say that a pod does not follow its file, and how it would again; empty if it does."""
    hold = pod.hold
    # What is suspended as a whole is printed once, for all sources.
    if not hold or not hold.since:
        return ""
    place = f" to generation {hold.generation}" if hold.generation else ""
    what = f"{hold.kind}{place}, {ago(hold.since)}"
    return f"{what}; `tank resume {pod.name}` follows its file again"


def _followed_lines(pod: PodReport) -> list[tuple[str, str]]:
    lines = []
    git = pod.git
    if git:
        error = f" - {git.error}" if git.error and git.error != pod.error else ""
        lines.append(("git", escape(f"{git.state}{error}")))
        lines.append(("commit", escape(commit_line(git))))
        lines.append(("file", escape(git.file)))
    if _held(pod):
        lines.append(("held", escape(_held(pod))))
    return lines


def ending(end: ExitReport | None) -> str:
    """Say how a container's last run ended."""
    if end is None:
        return "-"
    if end.oom:
        how = "out of memory"
    elif end.signal:
        how = f"killed by {_signal_name(end.signal)}"
    elif end.code is None:
        how = "unknown"
    else:
        how = f"code {end.code}"
    return f"{how}, {ago(end.at)}"


def _pulling(pod: PodReport) -> list[str]:
    """Say how far the images are that a pod waits for, one line for each container."""
    return [
        f"{escape(container.name)}: {share(container.progress.done, container.progress.total)}"
        for container in pod.containers
        if container.progress
    ]


def _running(pod: PodReport) -> int:
    return sum(container.phase == "running" for container in pod.containers)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
