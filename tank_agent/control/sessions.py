"""Sessions of users with running containers: exec, attach and logs."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path

from msgspec import Struct

from tank_agent.control.visits import Visits
from tank_agent.errors import NotATty, NotRunning, PodNotFound, Stalled
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import JobStatus, NewEvent
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.runtime.session.attach import Viewer
from tank_agent.runtime.session.copy import Copier, Copying, FilesRequest
from tank_agent.runtime.session.exec import ExecRequest, Execution, Executor
from tank_agent.runtime.session.log_reader import LogEntry, LogReader
from tank_agent.runtime.session.run_logs import logged_containers
from tank_agent.spec.model import Container

# Seconds between two looks at a log that is followed, and at whether its pod has ended.
_LOOK = 0.1
_LOOK_AT_POD = 0.5
_PIECE = 64 << 10

# Seconds to wait for a container that is about to start, unless the user says otherwise.
STARTS_WITHIN = 30.0
# One that is being stopped, too, where another run of it follows.
_ABOUT_TO_START = (Phase.PENDING, Phase.PULLING, Phase.STARTING, Phase.STOPPING)


class LogQuery(Struct, frozen=True, kw_only=True):
    """The lines that a user asks for: the last `tail` of each container (None: all), printed since `since`.

    `since` is RFC 3339 in UTC, as in `LogEntry.time`; empty for all. With `follow`, later ones, too. `run` is
    the number of a job's run, or -1 for the last, -2 for the one before; None is the last one, and with
    `follow` the one under way, or the next.
    """

    tail: int | None = None
    since: str = ""
    follow: bool = False
    run: int | None = None


@dataclass(eq=False)
class Sessions:
    """The sessions, as the API sees them. All methods may be called from many threads."""

    journal: Journal
    containers: Containers
    reconciler: Reconciler
    executor: Executor
    copier: Copier = field(default_factory=Copier)

    def __post_init__(self) -> None:
        self.visits = Visits(self._record)

    def target(
        self, pod: str, container: str | None, ended: Callable[[], bool], within: float | None = None
    ) -> LiveRun:
        """Return the run to enter; without a container's name, that of the pod's first.

        Waits for one that is about to start, at most `within` seconds (default STARTS_WITHIN), and until
        `ended()` says that the user has left.

        Raises:
            PodNotFound: there is no such pod, or no such container in it.
            NotRunning: it has no live process.
        """
        declared = self._declared(pod)
        serving = [found.name for found in declared if not found.init]
        names = self._names(pod, declared)
        return self._live(pod, _chosen(pod, container or next(iter(serving), None), names), ended, within)

    def terminal(
        self, pod: str, container: str | None, ended: Callable[[], bool], within: float | None = None
    ) -> LiveRun:
        """Return the run to attach to, as `target` does; without a name, that of the first with a terminal.

        Raises:
            PodNotFound: there is no such pod, or no such container in it.
            NotATty: its main process has no terminal.
            NotRunning: it has no live process.
        """
        declared = self._declared(pod)
        # Of those that serve, if one of them has a terminal.
        with_terminal = [found.name for found in sorted(declared, key=lambda one: one.init) if found.tty]
        if container is None and with_terminal:
            container = with_terminal[0]
        name = _chosen(pod, container, self._names(pod, declared))
        run = None if declared and name not in with_terminal else self._live(pod, name, ended, within)
        if run is None or not run.record.terminal:
            hint = "write tty = true in its spec, or use `tank exec`"
            raise NotATty(f"{pod}/{name} is not a tty", hint=hint)
        return run

    def start(self, run: LiveRun, request: ExecRequest) -> Execution:
        """Start a command in a run; raises as `Executor.start`."""
        return self.executor.start(run, request)

    def copy(self, run: LiveRun, request: FilesRequest) -> Copying:
        """Start a copy of files from or to a run; raises as `Copier.start`."""
        return self.copier.start(run, request)

    def _record(self, events: Sequence[NewEvent]) -> None:
        self.journal.try_to_record(events)

    def note(self, kind: str, run: LiveRun, uid: int, program: str = "") -> None:
        """Let the events say that a user was let into a run; takes no time."""
        self.visits.note(kind, uid, run.record.pod, run.record.container, program)

    def view(self, run: LiveRun) -> Viewer:
        """Return a viewer of a run's terminal.

        Raises:
            NotRunning: the terminal is gone.
        """
        consoles = self.containers.consoles
        consoles.open(run.directory)
        viewer = consoles.view(run.directory)
        if viewer is None:
            raise NotRunning(
                f"{run.record.pod}/{run.record.container} is not running, or its monitor (conmon) was killed"
            )
        return viewer

    def logs(
        self, pod: str, container: str | None, query: LogQuery, ended: Callable[[], bool]
    ) -> tuple[bool, Iterator[bytes]]:
        """Return whether there are several containers, and their output as lines in the order of time.

        A line is `TIME STREAM TAG CONTAINER CONTENT`, where the tag is P if it goes on in the next one.

        Raises:
            PodNotFound: there is no such pod, or no such container in it; at once, not on the first line.
            Stalled: there is no such run of a job, or the pod is no job.
        """
        declared = self._declared(pod)
        names, job_run = self._names(pod, declared), self._job_run(pod, query)
        if job_run:
            # Those of an older spec are found by their logs.
            logged = logged_containers(self.containers.logs / pod, job_run)
            names += [name for name in logged if name not in names]
        if container is not None:
            names = [_chosen(pod, container, names)]
        terminals = frozenset(found.name for found in declared if found.tty)
        files = {
            name: self.containers.log(pod, name, job_run) if job_run else self.containers.log(pod, name)
            for name in names
        }
        over = partial(self._is_over, pod, job_run)
        return len(names) > 1, self._lines(files, terminals, query, over, ended)

    def _job_run(self, pod: str, query: LogQuery) -> int:
        """Return the number of the run that a user means; 0 for a pod that is no job."""
        desired = self.journal.get(pod)
        if desired is None and query.run is None:
            # One that is being stopped is shown as it was.
            return max((run.record.job_run for run in self.containers.runs(pod)), default=0)
        if desired is None or desired.pod.schedule is None:
            if query.run is not None:
                hint = f"`tank logs {pod}` shows what it printed"
                raise Stalled(f"pod {pod} is no job, so it has no runs", hint=hint)
            return 0
        return chosen_run(pod, self.journal.status(pod).job or JobStatus(), query)

    def _lines(
        self,
        files: Mapping[str, Path],
        terminals: frozenset[str],
        query: LogQuery,
        is_over: Callable[[], bool],
        ended: Callable[[], bool],
    ) -> Iterator[bytes]:
        names = list(files)
        readers = {
            name: LogReader(file, tail=query.tail, since=query.since.encode()) for name, file in files.items()
        }

        def encoded(name: str, entries: Sequence[LogEntry]) -> Iterator[tuple[bytes, bytes]]:
            """Yield each line's time, and the line as it travels, without a terminal's carriage return."""
            label, terminal = name.encode(), name in terminals
            for entry in entries:
                content = entry.content.removesuffix(b"\r") if terminal else entry.content
                fields = (entry.time, entry.stream, b"F" if entry.whole else b"P", label, content)
                yield entry.time, b"%b %b %b %b %b\n" % fields

        def history(name: str) -> Iterator[tuple[bytes, bytes]]:
            for entries in readers[name].history():
                if ended():
                    return
                yield from encoded(name, entries)

        try:
            yield from _pieces(heapq.merge(*(history(name) for name in names), key=itemgetter(0)), ended)
            over, until = False, 0.0
            while query.follow and not ended():
                if time.monotonic() > until:
                    over, until = is_over(), time.monotonic() + _LOOK_AT_POD
                found = (encoded(name, reader.read()) for name, reader in readers.items())
                new = list(heapq.merge(*found, key=itemgetter(0)))
                yield from _pieces(iter(new), ended)
                if not new:
                    if over:
                        break
                    time.sleep(_LOOK)
            for name, reader in readers.items():
                yield from _pieces(encoded(name, reader.rest()), ended)
        finally:
            for reader in readers.values():
                reader.close()

    def _is_over(self, pod: str, job_run: int) -> bool:
        """Return whether nothing of a pod, or of a run of it, goes on, nor will by itself."""
        if job_run:
            job = self.journal.status(pod).job
            runs = job.runs if job is not None else ()
            found = next((run for run in reversed(runs) if run.number <= job_run), None)
            if found is not None and found.number == job_run:
                return found.ended is not None
            # The next one is still to come, unless that was asked of an older one, or of a pod that is gone.
            desired = self.journal.get(pod)
            is_job = desired is not None and desired.pod.schedule is not None
            return not is_job or bool(runs and job_run < runs[-1].number)
        if self.containers.runs(pod):
            return False
        ended = (Phase.COMPLETED, Phase.FAILED, Phase.STOPPED)
        return self.journal.get(pod) is None or self.reconciler.view(pod).phase in ended

    def _declared(self, pod: str) -> tuple[Container, ...]:
        desired = self.journal.get(pod)
        if desired is not None:
            return desired.pod.containers
        if self.containers.runs(pod):
            return ()
        raise PodNotFound(f"there is no pod {pod}", hint="`tank list` shows all")

    def _names(self, pod: str, declared: Sequence[Container]) -> list[str]:
        """Return the names of a pod's containers: those declared, else those that run."""
        names = [container.name for container in declared]
        return names or sorted({run.record.container for run in self.containers.runs(pod)})

    def _live(self, pod: str, container: str, ended: Callable[[], bool], within: float | None) -> LiveRun:
        seconds = STARTS_WITHIN if within is None else within
        deadline = time.monotonic() + seconds
        while True:
            run, stays = self._last_run(pod, container)
            if run is not None and stays:
                return run
            view = self.reconciler.view(pod)
            found = next((one for one in view.containers if one.name == container), None)
            phase = found.phase if found is not None else Phase.STOPPING
            follows = self.journal.get(pod) is not None and view.stopped is None
            is_over = not (follows and phase in _ABOUT_TO_START) or time.monotonic() > deadline or ended()
            if is_over and run is not None:
                # It has not ended yet, and nothing comes after it, or not soon.
                return run
            if is_over and not (follows and phase in _ABOUT_TO_START):
                raise not_running(pod, container, phase, found.error if found is not None else None)
            if is_over:
                raise NotRunning(
                    f"{pod}/{container} does not run yet: after {seconds:g} s it is {phase}",
                    hint=f"`tank wait {pod}` waits longer; `tank status {pod}` says how far it is",
                )
            time.sleep(_LOOK)

    def _last_run(self, pod: str, container: str) -> tuple[LiveRun | None, bool]:
        """Return the newest run of a container that is alive, and whether it stays so as far as is known."""
        runs = [
            run
            for run in self.containers.runs(pod)
            if run.record.container == container and run.state in (RunState.RUNNING, RunState.ORPHANED)
        ]
        if not runs:
            return None, False
        newest = max(runs, key=lambda run: run.record.created_at)
        replacing = self.journal.status(pod).replacing
        return newest, newest.stopping is None and newest.record.id not in replacing


def not_running(pod: str, container: str, phase: str, error: str | None) -> NotRunning:
    """Return the error for a container that is not about to start, with why and what would start it."""
    hints = {
        Phase.STOPPED: f"`tank start {pod}` starts it",
        Phase.SCHEDULED: f"`tank run {pod}` runs it now",
        Phase.COMPLETED: f"`tank restart {pod}/{container}` runs it again",
    }
    why = f": {error.partition(chr(10))[0]}" if error else ""
    hint = hints.get(Phase(phase), f"see `tank status {pod}` and `tank logs {pod}/{container}`")
    return NotRunning(f"{pod}/{container} is not running: it is {phase}{why}", hint=hint)


def chosen_run(pod: str, job: JobStatus, query: LogQuery) -> int:
    """Return the number of the run of a job that a user means.

    Raises:
        Stalled: there is no such run, or it is not kept any more.
    """
    numbers = [run.number for run in job.runs]
    last, wanted = numbers[-1] if numbers else 0, query.run
    if wanted is None and query.follow:
        return job.current.number if job.current is not None else last + 1
    if wanted is not None and query.follow and wanted == last + 1:
        return wanted
    if not numbers:
        raise Stalled(f"job {pod} has not run yet", hint=f"`tank run {pod}` runs it now")
    kept = f"the last one is {last}" if len(numbers) == 1 else f"there are {numbers[0]} to {last}"
    hint = f"{kept}; `tank status {pod}` shows how they ended"
    if wanted is None or wanted < 0:
        if wanted is not None and -wanted > len(numbers):
            raise Stalled(f"{-wanted} runs of {pod} are more than are kept", hint=hint)
        return numbers[-1 if wanted is None else wanted]
    if wanted not in numbers:
        why = "is not kept any more" if wanted < last else "has not begun yet"
        raise Stalled(f"run {wanted} of {pod} {why}", hint=hint)
    return wanted


def _chosen(pod: str, container: str | None, names: Sequence[str]) -> str:
    """Return the named container, by default the first."""
    if container is None:
        return names[0]
    if container not in names:
        raise PodNotFound(f"pod {pod} has no container {container}", hint=f"it has {', '.join(names)}")
    return container


def _pieces(lines: Iterator[tuple[bytes, bytes]], ended: Callable[[], bool]) -> Iterator[bytes]:
    """Join lines to pieces that are large enough to send."""
    piece: list[bytes] = []
    size = 0
    for _, line in lines:
        piece.append(line)
        size += len(line)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
            if ended():
                return
    if piece:
        yield b"".join(piece)
