"""Sessions of users with running containers: exec, attach and logs."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter

from msgspec import Struct

from tank_agent.errors import NotATty, NotRunning, PodNotFound
from tank_agent.journal.journal import Journal
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.runtime.session.attach import Viewer
from tank_agent.runtime.session.exec import ExecRequest, Execution, Executor
from tank_agent.runtime.session.log_reader import LogEntry, LogReader
from tank_agent.spec.model import Container

# How often a log that is followed is looked at, and how often whether its pod is over, in seconds.
_LOOK = 0.1
_LOOK_AT_POD = 0.5
_PIECE = 64 << 10

# How long a container that is about to start is waited for, in seconds: less than a client waits for answers.
STARTS_WITHIN = 20.0
_ABOUT_TO_START = (Phase.PENDING, Phase.PULLING, Phase.STARTING)


class LogQuery(Struct, frozen=True, kw_only=True):
    """Which output: the last `tail` lines of each container (None: all), printed at or after `since`.

    `since` is RFC 3339 in UTC, as in `LogEntry.time`; empty for all. With `follow`, also what is to come.
    """

    tail: int | None = None
    since: str = ""
    follow: bool = False


class Sessions:
    """Finds the container that a user means, and opens it. All methods may be called from many threads."""

    def __init__(
        self, journal: Journal, containers: Containers, reconciler: Reconciler, executor: Executor
    ) -> None:
        self._journal = journal
        self._containers = containers
        self._reconciler = reconciler
        self._executor = executor

    def target(self, pod: str, container: str | None, ended: Callable[[], bool]) -> LiveRun:
        """Return the run to enter; without a container's name, that of the pod's first.

        One that is about to start is waited for, unless `ended` says that nobody wants it any more.

        Raises:
            PodNotFound: there is no such pod, or no such container in it.
            NotRunning: it has no live process.
        """
        return self._live(pod, self._name(pod, container, self._declared(pod)), ended)

    def terminal(self, pod: str, container: str | None, ended: Callable[[], bool]) -> LiveRun:
        """Return the run to attach to, as `target` does; without a name, that of the first with a terminal.

        Raises:
            PodNotFound: there is no such pod, or no such container in it.
            NotATty: its main process has no terminal.
            NotRunning: it has no live process.
        """
        declared = self._declared(pod)
        with_terminal = [found.name for found in declared if found.tty]
        if container is None and with_terminal:
            container = with_terminal[0]
        name = self._name(pod, container, declared)
        if declared and name not in with_terminal:
            raise _not_a_tty(pod, name)
        run = self._live(pod, name, ended)
        if not run.record.terminal:
            raise _not_a_tty(pod, name)
        return run

    def start(self, run: LiveRun, request: ExecRequest) -> Execution:
        """Start a command in a run; raises as `Executor.start`."""
        return self._executor.start(run, request)

    def view(self, run: LiveRun) -> Viewer:
        """Return a place at a run's terminal.

        Raises:
            NotRunning: the terminal is gone.
        """
        consoles = self._containers.consoles
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
        """
        declared = self._declared(pod)
        names = [found.name for found in declared] or sorted(
            {run.record.container for run in self._containers.runs(pod)}
        )
        if container is not None:
            names = [self._name(pod, container, declared)]
        terminals = frozenset(found.name for found in declared if found.tty)
        return len(names) > 1, self._lines(pod, names, terminals, query, ended)

    def _lines(
        self,
        pod: str,
        names: Sequence[str],
        terminals: frozenset[str],
        query: LogQuery,
        ended: Callable[[], bool],
    ) -> Iterator[bytes]:
        readers = {
            name: LogReader(self._containers.log(pod, name), tail=query.tail, since=query.since.encode())
            for name in names
        }

        def encoded(name: str, entries: Sequence[LogEntry]) -> Iterator[tuple[bytes, bytes]]:
            return _encoded(name.encode(), entries, terminal=name in terminals)

        def history(name: str) -> Iterator[tuple[bytes, bytes]]:
            for entries in readers[name].history():
                if ended():
                    return
                yield from encoded(name, entries)

        try:
            yield from _pieces(heapq.merge(*(history(name) for name in names), key=itemgetter(0)), ended)
            while query.follow and not ended():
                over = self._is_over(pod)
                until = time.monotonic() + _LOOK_AT_POD
                while True:
                    found = (encoded(name, reader.read()) for name, reader in readers.items())
                    new = list(heapq.merge(*found, key=itemgetter(0)))
                    yield from _pieces(iter(new), ended)
                    if ended() or (over and not new) or time.monotonic() > until:
                        break
                    if not new:
                        time.sleep(_LOOK)
                if over and not new:
                    break
            for name, reader in readers.items():
                yield from _pieces(encoded(name, reader.rest()), ended)
        finally:
            for reader in readers.values():
                reader.close()

    def _is_over(self, pod: str) -> bool:
        """Return whether nothing of a pod runs, nor will by itself."""
        if self._containers.runs(pod):
            return False
        if self._journal.get(pod) is None:
            return True
        return self._reconciler.view(pod).phase in (Phase.COMPLETED, Phase.FAILED)

    def _declared(self, pod: str) -> tuple[Container, ...]:
        desired = self._journal.get(pod)
        if desired is not None:
            return desired.pod.containers
        if self._containers.runs(pod):
            return ()
        raise PodNotFound(f"there is no pod {pod}", hint="`tank list` shows all")

    def _name(self, pod: str, container: str | None, declared: Sequence[Container]) -> str:
        names = [found.name for found in declared]
        if not names:
            names = sorted({run.record.container for run in self._containers.runs(pod)})
        if container is None:
            return names[0]
        if container not in names:
            raise PodNotFound(f"pod {pod} has no container {container}", hint=f"it has {', '.join(names)}")
        return container

    def _live(self, pod: str, container: str, ended: Callable[[], bool]) -> LiveRun:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            runs = [
                run
                for run in self._containers.runs(pod)
                if run.record.container == container and run.state in (RunState.RUNNING, RunState.ORPHANED)
            ]
            if runs:
                return max(runs, key=lambda run: run.record.created_at)
            phases = {view.name: view.phase for view in self._reconciler.view(pod).containers}
            phase = phases.get(container, Phase.STOPPING)
            if phase not in _ABOUT_TO_START:
                raise NotRunning(
                    f"{pod}/{container} is not running: it is {phase}", hint=f"see `tank status {pod}`"
                )
            if time.monotonic() > deadline or ended():
                raise NotRunning(
                    f"{pod}/{container} does not run yet: after {STARTS_WITHIN:g} s it is {phase}",
                    hint=f"`tank wait {pod}` waits longer; `tank status {pod}` says how far it is",
                )
            time.sleep(_LOOK)


def _not_a_tty(pod: str, container: str) -> NotATty:
    return NotATty(f"{pod}/{container} is not a tty", hint="write tty = true in its spec, or use `tank exec`")


def _encoded(name: bytes, entries: Sequence[LogEntry], *, terminal: bool) -> Iterator[tuple[bytes, bytes]]:
    """Yield each line's time, and the line as it travels; a terminal's lines lose their carriage return."""
    for entry in entries:
        content = entry.content.removesuffix(b"\r") if terminal else entry.content
        tag = b"F" if entry.whole else b"P"
        yield entry.time, b"%b %b %b %b %b\n" % (entry.time, entry.stream, tag, name, content)


def _pieces(lines: Iterator[tuple[bytes, bytes]], ended: Callable[[], bool]) -> Iterator[bytes]:
    """Join lines to pieces that are worth sending."""
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
