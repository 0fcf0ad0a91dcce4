"""Print how the pods are: phase, containers that run, restarts, last error, next try."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_interval, add_output, client_of, for_each
from tank_agent.cli.last_words import last_words
from tank_agent.cli.output import (
    RED,
    YELLOW,
    ago,
    colored,
    colored_phase,
    memory,
    ports_text,
    print_table,
    say,
    seconds_of,
    share,
    shortened,
    show,
    span,
    until,
    uptime,
)
from tank_agent.cli.output import columns as terminal_columns
from tank_agent.cli.source_notes import source_notes
from tank_agent.cli.verbs.git import commit_line, git_line
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.reports import (
        ContainerReport,
        ExitReport,
        JobReport,
        JobRunReport,
        PodReport,
        SourcesReport,
        UsageReport,
    )

HELP = "how the pods are: phase, health, update, restarts, last error, next try"
EXAMPLES = (
    ("tank status", "all pods, one line each"),
    ("tank status -w", "live; q or Ctrl-C ends"),
    ("tank status web db", "all that is known of two pods"),
)
# The states of an update that need no column: nothing to compare, or all is well.
_CALM = ("none", "first", "good")
# What a narrow terminal does without, and what it shortens; the status of one pod has all of it.
SPARE = (
    *(
        "REVISION",
        "PIDS",
        "OWNER",
        "CONTAINERS",
        "RESTARTS",
        "NEXT RUN",
        "LAST RUN",
        "MEMORY",
        "PORTS",
        "UPTIME",
    ),
    *("GIT", "UPDATE", "HEALTH"),
)
CUT = ("OWNER", "PORTS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these pods, with all details")
    parser.add_argument(
        "-a", "--all", action="store_true", help="also pods that files declare for other machines"
    )
    text = "show it live; q or Ctrl-C ends"
    parser.add_argument("-w", "--watch", action="store_true", help=text)
    add_interval(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.watch:
        return _watch(arguments)
    client, names = client_of(arguments), list(dict.fromkeys(arguments.names))
    if not names:
        pods = client.status(everywhere=arguments.all)
        return show(arguments, pods, lambda: print_all(pods, client.sources()))
    if len(names) == 1:
        pod = client.status(names[0])
        return show(arguments, pod, lambda: print_details([pod]))
    look: Callable[[str], PodReport] = client.status
    found, code = for_each(arguments, names, look)
    show(arguments, found, lambda: print_details(found))
    return code


def _watch(arguments: argparse.Namespace) -> int:
    """Show the status live."""
    from tank_agent.cli.live import show_live

    client, names = client_of(arguments), list(dict.fromkeys(arguments.names))
    if arguments.output == "json":
        text = "-w is for people; `tank events -f -o json` tells what changes, one JSON object a line"
        print(f"tank status: {text}", file=sys.stderr)
        return 2
    if not names:
        return show_live(
            lambda: (client.status(everywhere=arguments.all), client.sources()),
            lambda seen: print_all(*seen),
            arguments.interval,
        )
    return show_live(lambda: [client.status(name) for name in names], print_details, arguments.interval)


def print_details(pods: Sequence[PodReport]) -> None:
    """Print everything that is known of some pods, one below the other."""
    for number, pod in enumerate(pods):
        if number:
            print()
        _print_one(pod)


def print_all(pods: Sequence[PodReport], sources: SourcesReport) -> None:
    """Print a table of pods, and below it their troubles and those of sources."""
    columns = columns_of(pods)
    rows = [[cell(pod) for _, cell in columns] for pod in pods]
    print_table([header for header, _ in columns], rows, spare=SPARE, cut=CUT)
    troubles = troubles_of(pods, sources)
    if troubles:
        print()
    for name, lines in troubles.items():
        print("\n  ".join(map(escape, (f"{name}: {lines[0]}", *lines[1:]))))
    _print_warnings(pods)
    lines = lines_of_sources(sources, [pod for pod in pods if pod.elsewhere])
    if lines:
        print("", *lines, sep="\n")


def columns_of(pods: Sequence[PodReport]) -> list[tuple[str, Callable[[PodReport], object]]]:
    """Return the headers of a table of pods, each with what makes its cells.

    Columns are left out where no pod has anything to say there, such as without a repository or ports.
    """
    columns: list[tuple[str, Callable[[PodReport], object]]] = [
        ("NAME", lambda pod: pod.name),
        ("PHASE", lambda pod: pod.phase),
    ]
    if any(pod.health != "none" for pod in pods):
        columns.append(("HEALTH", lambda pod: pod.health.replace("none", "-")))
    if any(pod.rollout and pod.rollout.state not in _CALM for pod in pods):
        columns.append(("UPDATE", lambda pod: pod.rollout.state.replace("none", "-") if pod.rollout else "-"))
    if any(pod.git or pod.hold for pod in pods):
        columns.append(("GIT", lambda pod: pod.hold.kind if pod.hold else pod.git.state if pod.git else "-"))
    if any(pod.job for pod in pods):
        columns.append(("LAST RUN", lambda pod: _last_outcome(pod.job)))
        columns.append(
            ("NEXT RUN", lambda pod: until(pod.job.next_run) if pod.job and pod.job.next_run else "-")
        )
    columns += [
        ("CONTAINERS", lambda pod: f"{_running(pod)}/{len(pod.containers)}"),
        ("PIDS", lambda pod: ",".join(str(one.pid) for one in pod.containers if one.pid) or "-"),
        ("RESTARTS", lambda pod: sum(one.restarts for one in pod.containers)),
    ]
    if any(_started(pod) for pod in pods):
        columns.append(("UPTIME", lambda pod: uptime(_started(pod))))
    if any(pod.usage for pod in pods):
        columns.append(("MEMORY", lambda pod: memory(pod.usage.memory) if pod.usage else "-"))
    columns += [
        ("OWNER", lambda pod: pod.owner or "-"),
        ("REVISION", lambda pod: (pod.revision or "-")[:12]),
    ]
    if any(pod.ports for pod in pods):
        columns.append(("PORTS", lambda pod: ports_text(pod.ports)))
    return columns


def troubles_of(pods: Sequence[PodReport], sources: SourcesReport) -> dict[str, list[str]]:
    """Return the lines on pods that have troubles, by name."""
    of_directories = [directory.error for directory in sources.directories]
    return {pod.name: lines for pod in pods if (lines := _troubles(pod, of_directories))}


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


def lines_of_sources(sources: SourcesReport, elsewhere: Sequence[PodReport]) -> list[str]:
    """Return lines on the errors of directories, the state of git, files without pods, and a suspension.

    `elsewhere` are pods for other machines that have rows.
    """
    errors = [directory.error for directory in sources.directories if directory.error]
    lines = [f"files: {colored('error', RED)} - {escape(error)}" for error in errors]
    git = sources.git
    if git is not None:
        lines.append(f"git: {git_line(git)}")
        lines += [escape(f"git: {trouble}") for trouble in git.troubles]
    lines += map(escape, source_notes(sources, elsewhere))
    if sources.suspended:
        text = "sources are suspended: files and git don't count; `tank resume` follows them again"
        lines.append(colored(text, YELLOW))
    return lines


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
    lines.insert(0, ("health", pod.health))
    lines += [("update", pod.rollout.state)] if pod.rollout and pod.rollout.state != "none" else []
    lines += [("", line) for line in _of_update(pod)]
    lines += [("stopped", line) for line in _stopped(pod)]
    lines += [("held", line) for line in _held(pod)]
    lines += _of_job(pod.job) if pod.job else []
    lines += [("" if number else "waiting", line) for number, line in enumerate(pod.waits)]
    lines += [("pulling", line) for line in _pulling(pod)]
    lines += [("unhealthy", line) for line in _unhealthy(pod)]
    lines += [("" if number else "error", line) for number, line in enumerate((pod.error or "").splitlines())]
    lines += [("", line) for line in last_words(pod)]
    lines += [("" if number else "elsewhere", line) for number, line in enumerate(pod.elsewhere)]
    lines += [("warning", warning) for warning in pod.warnings]
    if pod.next_retry:
        lines.append(("next try", until(pod.next_retry)))
    if started := _started(pod):
        lines.append(("started", f"{ago(started)}, {started}"))
    if pod.usage:
        cpu = f"{span(pod.usage.cpu)} of CPU time since its start"
        lines.append(("uses", f"{_memory(pod.usage, _limit(pod))} of memory, {pod.usage.pids} pids, {cpu}"))
    say(*(f"{label:<12}{value}" for label, value in lines))
    print()
    _print_containers(pod)
    if pod.job and pod.job.runs:
        print()
        print_table(
            ("RUN", "BEGAN", "CAUSE", "TOOK", "OUTCOME", "EXIT"), map(_run_row, reversed(pod.job.runs))
        )
    notes = [*_newer(pod), *_not_looked(pod)]
    if notes:
        print()
        say(*notes)


def _print_containers(pod: PodReport) -> None:
    """Print the table of a pod's containers; what a narrow terminal has no column for follows in lines."""
    columns: list[tuple[str, Callable[[ContainerReport], object]]] = [
        ("CONTAINER", lambda one: one.name),
        ("PHASE", lambda one: one.phase),
    ]
    if any(one.health.state != "none" for one in pod.containers):
        columns.append(("HEALTH", lambda one: one.health.state.replace("none", "-")))
    columns += [("PID", lambda one: one.pid or "-"), ("RESTARTS", lambda one: one.restarts)]
    if any(one.started_at for one in pod.containers):
        columns.append(("UPTIME", lambda one: uptime(one.started_at)))
    if any(one.usage for one in pod.containers):
        columns.append(("MEMORY", lambda one: _memory(one.usage, one.memory_limit) if one.usage else "-"))
    columns += [("IMAGE", lambda one: one.image or "-"), ("LAST EXIT", lambda one: ending(one.exit))]
    rows = [[cell(one) for _, cell in columns] for one in pod.containers]
    left_out = print_table(
        [header for header, _ in columns],
        rows,
        spare=("IMAGE", "LAST EXIT", "PID", "MEMORY", "RESTARTS"),
        cut=("IMAGE",),
    )
    lines = [
        f"{one.name}: {header.lower()} {cell(one)}"
        for one in pod.containers
        for header, cell in columns
        if header in left_out and cell(one) != "-"
    ]
    room = terminal_columns()
    say(*(line if room is None else shortened(line, room) for line in lines))


def _started(pod: PodReport) -> str | None:
    """Return when a pod's last container started that runs: since then, all of it runs."""
    return max((one.started_at for one in pod.containers if one.started_at), default=None)


def _limit(pod: PodReport) -> int | None:
    """Return the memory that a pod's containers may have together; None if one of them has no limit."""
    limits = [one.memory_limit for one in pod.containers if one.usage]
    return sum(limit for limit in limits if limit) if limits and all(limits) else None


def _memory(usage: UsageReport, limit: int | None) -> str:
    return memory(usage.memory) if limit is None else f"{memory(usage.memory)}/{memory(limit)}"


def _last_outcome(job: JobReport | None) -> str:
    """Return the outcome of a job's last run that ended; "-" if there is none."""
    last = next((run for run in reversed(job.runs) if run.ended), None) if job else None
    return (last.outcome or "-") if last else "-"


def _of_job(job: JobReport) -> list[tuple[str, str]]:
    """Return lines on a job: its times, and the run under way or the last one."""
    # Imported here, for those who have a job.
    from tank_agent.spec.schedule import on_the_wall

    zone = job.time_zone or "the machine's time zone"
    limits = [f"at most {span(job.timeout)}"] if job.timeout is not None else []
    limits += ["catches up on missed runs"] if job.catch_up else []
    lines = [("schedule", ", ".join((f"{job.schedule} ({zone})", *limits)))]
    at = seconds_of(job.next_run)
    if at is None:
        lines.append(("next run", "its time never comes" if job.runs else "not known yet"))
    else:
        lines.append(("next run", f"{on_the_wall(job.time_zone, at)}, {until(job.next_run)}"))
    if job.asked:
        lines.append(("", f"asked for {ago(job.asked)}, and begins as soon as it can"))
    if job.run is not None:
        lines.append(("run", f"{job.run.number} goes on, began {ago(job.run.begun)} ({_causes(job.run)})"))
    last = next((run for run in reversed(job.runs) if run.ended), None)
    if last is not None:
        lines.append(("last run", f"{last.number} {ended_text(last)}, {ago(last.ended)} ({_causes(last)})"))
    return lines


def _causes(run: JobRunReport) -> str:
    return {"schedule": "by its schedule", "catch-up": "caught up", "manual": "by hand"}.get(
        run.cause, run.cause
    )


def _run_row(run: JobRunReport) -> tuple[object, ...]:
    begun, ended = seconds_of(run.begun), seconds_of(run.ended)
    took = "-" if begun is None or ended is None else span(ended - begun)
    exits = [f"{name}: {ending(end).rpartition(', ')[0]}" for name, end in run.exits.items()]
    return run.number, ago(run.begun), run.cause, took, run.outcome or "goes on", ", ".join(exits) or "-"


def ended_text(run: JobRunReport) -> str:
    """Return how a run ended, in words: "failed after 2m 3s: container app ended with exit code 3"."""
    words = {"succeeded": "succeeded", "failed": "failed", "timed-out": "timed out"}
    begun, ended = seconds_of(run.begun), seconds_of(run.ended)
    took = f" after {span(ended - begun)}" if begun is not None and ended is not None else ""
    how = words.get(run.outcome or "", "goes on")
    return f"{how}{took}: {run.reason}" if run.reason else f"{how}{took}"


def _addresses(pod: PodReport) -> list[str]:
    """Return a pod's addresses, each with the name of its bridge if it is in one."""
    bridges = {address: bridge for bridge, addresses in pod.bridges.items() for address in addresses}
    return [f"{address} ({bridges[address]})" if address in bridges else address for address in pod.addresses]


def _troubles(pod: PodReport, of_directories: Container[str | None]) -> list[str]:
    """Return the lines about a pod's troubles, without the errors of whole directories."""
    lines = [*(f"stopped {line}" for line in _stopped(pod))]
    lines += [line for line in (pod.error or "").splitlines() if line not in of_directories]
    lines += [f"next try {until(pod.next_retry)}"] if pod.next_retry else []
    more = (*last_words(pod), *_of_update(pod), *pod.waits, *_unhealthy(pod))
    lines += [line for line in more if line not in lines]
    return [*lines, *(f"pulling {line}" for line in _pulling(pod)), *_held(pod), *_newer(pod)]


def _running(pod: PodReport) -> int:
    """Return the number of a pod's containers that run."""
    return sum(one.phase == "running" for one in pod.containers)


def _of_update(pod: PodReport) -> list[str]:
    """Return a line on an update that needs a look, and what to do about it."""
    update, name = pod.rollout, pod.name
    if update is None or update.state in (*_CALM, "updating"):
        return []
    if update.reason and update.reason in (pod.error or ""):
        # The error says it, and what to do.
        return []
    wanted, running, reason = update.wanted[:12] or "-", update.running[:12] or "-", update.reason or ""
    again = f"`tank why {name}` says more, `tank resume {name}` tries it again"
    going = "is on its way back" if update.state == "rolling-back" else "runs"
    text = {
        "failed": f"the update failed: {reason}; see `tank why {name}` and `tank logs {name}`",
        "blocked": f"the update to {wanted} cannot begin: {reason}; {running} goes on; see `tank why {name}`",
    }
    back = f"the update to {wanted} failed, and {running} {going}: {reason}; {again}"
    return [text.get(update.state, back)]


def _unhealthy(pod: PodReport) -> list[str]:
    """Return a line on each container whose probe fails."""
    return [
        f"{one.name}: unhealthy, {ago(one.health.since)}: {one.health.message or 'its probe fails'}; "
        f"see `tank logs {pod.name}/{one.name}`"
        for one in pod.containers
        if one.health.state == "unhealthy"
    ]


def _newer(pod: PodReport) -> list[str]:
    """Return a line on the containers for whose image there is a newer one."""
    names = ", ".join(one.name for one in pod.containers if one.newer)
    return [f"a newer image is there for {names}; `tank image update {pod.name}` takes it"] if names else []


def _not_looked(pod: PodReport) -> list[str]:
    """Return a line on each container for which no newer image could be looked for."""
    return [
        f"{one.name}: no newer image could be looked for: {one.newer_error}"
        for one in pod.containers
        if one.newer_error
    ]


def _held(pod: PodReport) -> list[str]:
    """Return a line on why a pod does not follow its file, and how it would again; none if it does."""
    hold = pod.hold
    # That all sources are suspended is printed once, for all pods; a failed update has a line of its own.
    if not hold or not hold.since or hold.kind == "quarantined":
        return []
    place = f" to generation {hold.generation}" if hold.generation else ""
    return [f"{hold.kind}{place}, {ago(hold.since)}; `tank resume {pod.name}` follows its file again"]


def _stopped(pod: PodReport) -> list[str]:
    """Return a line on since when a person has stopped a pod, and how it runs again; none if nobody did."""
    return [f"{ago(pod.stopped)}; `tank start {pod.name}` starts it"] if pod.stopped else []


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
