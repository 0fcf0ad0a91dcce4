"""Sessions of users with running containers: exec, attach and logs."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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

# Seconds between two looks at a log that is followed, and at whether its pod has ended.
_LOOK = 0.1
_LOOK_AT_POD = 0.5
_PIECE = 64 << 10

# Seconds to wait for a container that is about to start: fewer than a client waits for an answer.
STARTS_WITHIN = 20.0
_ABOUT_TO_START = (Phase.PENDING, Phase.PULLING, Phase.STARTING)


class LogQuery(Struct, frozen=True, kw_only=True):
    """The lines that a user asks for: the last `tail` of each container (None: all), printed since `since`.

    `since` is RFC 3339 in UTC, as in `LogEntry.time`; empty for all. With `follow`, later ones, too.
    """

    tail: int | None = None
    since: str = ""
    follow: bool = False


@dataclass(eq=False)
class Sessions:
    """The sessions, as the API sees them. All methods may be called from many threads."""

    journal: Journal
    containers: Containers
    reconciler: Reconciler
    executor: Executor

    def target(self, pod: str, container: str | None, ended: Callable[[], bool]) -> LiveRun:
        """Return the run to enter; without a container's name, that of the pod's first.

        Waits for one that is about to start, until `ended()` says that the user has left.

        Raises:
            PodNotFound: there is no such pod, or no such container in it.
            NotRunning: it has no live process.
        """
        names = self._names(pod, self._declared(pod))
        return self._live(pod, _chosen(pod, container, names), ended)

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
        name = _chosen(pod, container, self._names(pod, declared))
        run = None if declared and name not in with_terminal else self._live(pod, name, ended)
        if run is None or not run.record.terminal:
            hint = "write tty = true in its spec, or use `tank exec`"
            raise NotATty(f"{pod}/{name} is not a tty", hint=hint)
        return run

    def start(self, run: LiveRun, request: ExecRequest) -> Execution:
        """Start a command in a run; raises as `Executor.start`."""
        return self.executor.start(run, request)

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
        """
        declared = self._declared(pod)
        names = self._names(pod, declared)
        if container is not None:
            names = [_chosen(pod, container, names)]
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
            name: LogReader(self.containers.log(pod, name), tail=query.tail, since=query.since.encode())
            for name in names
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
                    over, until = self._is_over(pod), time.monotonic() + _LOOK_AT_POD
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

    def _is_over(self, pod: str) -> bool:
        """Return whether nothing of a pod runs, nor will by itself."""
        if self.containers.runs(pod):
            return False
        ended = (Phase.COMPLETED, Phase.FAILED)
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

    def _live(self, pod: str, container: str, ended: Callable[[], bool]) -> LiveRun:
        deadline = time.monotonic() + STARTS_WITHIN
        while True:
            runs = [
                run
                for run in self.containers.runs(pod)
                if run.record.container == container and run.state in (RunState.RUNNING, RunState.ORPHANED)
            ]
            if runs:
                return max(runs, key=lambda run: run.record.created_at)
            phases = {view.name: view.phase for view in self.reconciler.view(pod).containers}
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
