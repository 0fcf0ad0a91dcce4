"""The thread that carries out probes: it waits for their times, their sockets and their commands at once."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import structlog

from tank_agent.journal.records import Health
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import SocketMaker, StrandedThread
from tank_agent.reconcile.core.observed import Probed
from tank_agent.runtime.health.command import PROBES_AT_ONCE, ProbeCommand
from tank_agent.runtime.health.connection import Connection, ProbeTarget, target_of
from tank_agent.runtime.health.probe import Probe
from tank_agent.runtime.health.result import ProbeResult, ours
from tank_agent.runtime.health.track import Track
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.exec import Executor
from tank_agent.spec.model import HealthCheck

_log = structlog.get_logger()
_JOIN_DEADLINE = 10.0
# How often a command is killed that does not end, and when it gives its place to others, in seconds.
_KILL_AGAIN = 2.0
_STUCK_AFTER = 10.0
# How long the commands of probes may take to end with the agent, in seconds.
_END_DEADLINE = 2.0


class Watch:
    """A run that is probed. All but its commands is used with the lock of `Probes` held.

    Attributes:
        netns: the pod's network namespace; None for the host's.
        check: the container's own as it was when `probe` was made of it.
        at: the time of the next probe, or the deadline of the one in flight (monotonic).
        begun: the time at which the last probe began; `late` is how much later that was than due.
        attempt: the probe in flight, or its command that was killed and has not ended.
        queued: its command waits for a slot.
        pause: the last time between two probes.
    """

    def __init__(self, run: LiveRun, check: HealthCheck | None, probe: Probe, netns: Path | None) -> None:
        self.run, self.check, self.netns = run, check, netns
        self.hurry = False
        self.track = Track(health=Health(state="starting", since=0.0))
        self.probed = Probed(health=self.track.health)
        self.at = self.begun = self.late = self.pause = 0.0
        self.attempt: Connection | ProbeCommand | None = None
        self.queued = False
        self.use(probe)

    def use(self, probe: Probe) -> None:
        """Set the probe."""
        self.probe = probe
        self.target: ProbeTarget | None = target_of(probe)

    @property
    def id(self) -> str:
        """Return the id of the run."""
        return self.run.record.id

    @property
    def pod(self) -> str:
        """Return the name of the pod."""
        return self.run.record.pod

    @property
    def alive_since(self) -> float:
        """Return since when the run is known to run."""
        return self.run.alive_since or 0.0

    def show(self) -> None:
        """Let others see the state of `track`."""
        track = self.track
        restart = track.confirmed and self.probe.on_failure == "restart"
        self.probed = Probed(health=track.health, steady_since=track.steady_since, restart=restart)


Settle = Callable[[Watch, Probe, ProbeResult, float], None]


class Prober:
    """The thread. Its methods are called with the lock held, unless they say otherwise.

    Args:
        watches: the runs to probe, by id, guarded by `lock`.
        settle: called without the lock for each result, with the time by which the thread was late; it
            schedules the next probe.
    """

    def __init__(
        self,
        watches: Mapping[str, Watch],
        lock: threading.Lock,
        executor: Executor,
        clock: Clock,
        settle: Settle,
    ) -> None:
        self._watches, self._lock = watches, lock
        self._executor, self._clock, self._settle = executor, clock, settle
        self._timers: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._in_flight: dict[int, tuple[Watch, Connection | ProbeCommand]] = {}
        # Ours alone: those that run, and when they were killed.
        self._commands: dict[ProbeCommand, float | None] = {}
        self._waiting: deque[str] = deque()
        self._doomed: deque[ProbeCommand] = deque()
        self._results: list[tuple[Watch, Probe, ProbeResult, float]] = []
        self._closing = False
        self._epoll = select.epoll()
        self._poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._poke, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def alive(self) -> bool:
        """Return whether the thread runs; needs no lock."""
        return self._thread.is_alive()

    def schedule(self, watch: Watch, at: float) -> None:
        """Set the time of the next probe of a run."""
        watch.at = at
        heapq.heappush(self._timers, (at, next(self._numbers), watch.id))
        if threading.current_thread() is not self._thread:
            self._wake()

    def abort(self, watch: Watch) -> None:
        """End the probe in flight: close its socket now, and have its command killed at once."""
        attempt, watch.attempt, watch.queued = watch.attempt, None, False
        if isinstance(attempt, Connection):
            attempt.abort()
            self._forget_connection(attempt)
        elif attempt is not None:
            self._doomed.append(attempt)
            self._wake()

    def close(self) -> None:
        """End the thread and all probes in flight; to be called without the lock."""
        self._closing = True
        self._wake()
        self._thread.join(_JOIN_DEADLINE)
        self._epoll.close()
        os.close(self._poke)

    def _wake(self) -> None:
        os.eventfd_write(self._poke, 1)

    def _run(self) -> None:
        maker = SocketMaker()
        try:
            while not self._closing:
                self._turn(maker)
        except StrandedThread:
            _log.critical("the probes end: their thread could not leave a pod's network")
        except Exception:
            _log.exception("the probes ended by a bug")
        finally:
            with self._lock:
                for watch in self._watches.values():
                    self.abort(watch)
            self._end_commands()
            maker.close()

    def _turn(self, maker: SocketMaker) -> None:
        with self._lock:
            timeout = self._pause()
        events = self._epoll.poll(timeout)
        now = self._clock.monotonic()
        commands = []
        with self._lock:
            for descriptor, _ in events:
                if descriptor == self._poke:
                    os.eventfd_read(self._poke)
                elif (found := self._in_flight.get(descriptor)) is not None:
                    watch, attempt = found
                    if isinstance(attempt, ProbeCommand):
                        commands.append((watch, attempt, descriptor))
                    elif watch.attempt is attempt:
                        self._advance(watch, attempt, attempt.go_on)
            # Afterwards, so that an answer that is there counts, however late we come.
            due = [watch for watch in self._due(now) if not self._is_connecting(watch, maker, now)]
        for watch, command, descriptor in commands:
            self._advance_command(watch, command, descriptor)
        for watch in due:
            self._command_due(watch, now)
        self._kill_commands(now)
        self._settle_all()
        # Afterwards: their deadlines must not be taken for the time of a next probe.
        self._start_waiting()
        self._settle_all()

    def _settle_all(self) -> None:
        results, self._results = self._results, []
        for result in results:
            self._settle(*result)

    def _pause(self) -> float | None:
        """Return how long nothing is due."""
        while self._timers and not self._is_valid(self._timers[0]):
            heapq.heappop(self._timers)
        now, times = self._clock.monotonic(), [killed for killed in self._commands.values() if killed]
        left = [_KILL_AGAIN] if times else []
        if self._timers:
            left.append(max(0.0, self._timers[0][0] - now))
        return min(left, default=None)

    def _is_valid(self, timer: tuple[float, int, str]) -> bool:
        watch = self._watches.get(timer[2])
        return watch is not None and watch.at == timer[0]

    def _due(self, now: float) -> Iterator[Watch]:
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)
            if self._is_valid(timer):
                yield self._watches[timer[2]]

    def _is_connecting(self, watch: Watch, maker: SocketMaker, now: float) -> bool:
        """Begin or end the tcp or http probe of a run that is due; False if its probe is a command."""
        if watch.target is None:
            return False
        attempt = watch.attempt
        if isinstance(attempt, Connection):
            watch.attempt = None
            self._forget_connection(attempt)
            self._result(watch, attempt.expire(watch.probe.timeout), max(watch.late, now - watch.at))
            return True
        watch.begun, watch.late = now, now - watch.at
        attempt = Connection(watch.target, partial(maker.make, path=watch.netns))
        watch.attempt = attempt
        self.schedule(watch, now + watch.probe.timeout)
        self._advance(watch, attempt, attempt.begin)
        return True

    def _advance(self, watch: Watch, attempt: Connection, step: Callable[[], ProbeResult | None]) -> None:
        result = self._guarded(step)
        if result is not None:
            watch.attempt = None
            attempt.abort()
            self._forget_connection(attempt)
            self._result(watch, result, watch.late)
            return
        if attempt.awaited != attempt.descriptor:
            self._forget_connection(attempt)
        attempt.awaited = attempt.descriptor
        self._await(attempt.descriptor, attempt.events, watch, attempt)

    def _forget_connection(self, attempt: Connection) -> None:
        """Forget a descriptor that is closed by now, and may be another's next."""
        self._in_flight.pop(attempt.awaited, None)

    def _await(self, descriptor: int, events: int, watch: Watch, attempt: Connection | ProbeCommand) -> None:
        """Wait for events of a descriptor; once it is closed, the kernel does so no more by itself."""
        self._in_flight[descriptor] = (watch, attempt)
        try:
            self._epoll.register(descriptor, events)
        except FileExistsError:
            self._epoll.modify(descriptor, events)

    def _result(self, watch: Watch, result: ProbeResult, late: float) -> None:
        self._results.append((watch, watch.probe, result, late))

    def _guarded(self, step: Callable[[], ProbeResult | None]) -> ProbeResult | None:
        try:
            return step()
        except StrandedThread:
            raise
        except Exception as error:
            _log.exception("a probe failed by a bug")
            return ours(f"a bug: {error!r}")

    # What follows is the thread's alone, and without the lock, since starting and killing take a while.

    def _advance_command(self, watch: Watch, command: ProbeCommand, descriptor: int) -> None:
        result = None if command.over else self._guarded(partial(command.go_on, descriptor))
        with self._lock:
            current = watch.attempt is command
            if current and result is not None:
                self._result(watch, result, watch.late)
            if command.over:
                self._forget(command)
                if current:
                    watch.attempt = None
            elif result is not None:
                self._commands[command] = self._clock.monotonic()

    def _command_due(self, watch: Watch, now: float) -> None:
        """Kill a command whose time is over, or have the next one started."""
        attempt = watch.attempt
        if isinstance(attempt, ProbeCommand) and self._commands.get(attempt, now) is None:
            late = max(watch.late, now - watch.at)
            result = self._guarded(partial(attempt.expire, watch.probe.timeout))
            self._commands[attempt] = now
            if result is not None:
                self._result(watch, result, late)
        elif attempt is not None:
            self._result(watch, ours("its last command was killed and has not ended"), 0.0)
        elif watch.queued:
            self._result(watch, ours("other probes kept all slots for commands"), 0.0)
        else:
            watch.late = now - watch.at
            watch.queued = True
            self._waiting.append(watch.id)
            with self._lock:
                self.schedule(watch, now + watch.probe.interval)

    def _start_waiting(self) -> None:
        while self._waiting and self._busy() < PROBES_AT_ONCE:
            with self._lock:
                watch = self._watches.get(self._waiting.popleft())
            if watch is not None and watch.queued:
                self._start_command(watch)

    def _busy(self) -> int:
        now = self._clock.monotonic()
        return sum(1 for killed in self._commands.values() if killed is None or now - killed < _STUCK_AFTER)

    def _start_command(self, watch: Watch) -> None:
        run, probe = watch.run, watch.probe
        frozen = self._executor.cgroups.frozen(run.record.cgroup)
        started: ProbeCommand | ProbeResult = ours("the container is frozen")
        if not frozen:
            started = ProbeCommand.begin(self._executor, run, probe.exec or ())
        now = self._clock.monotonic()
        with self._lock:
            current = self._watches.get(watch.id) is watch and watch.probe is probe and watch.queued
            if current:
                watch.queued, watch.begun = False, now
            if isinstance(started, ProbeResult):
                if current:
                    self._result(watch, started, 0.0)
                return
            self._commands[started] = None
            for descriptor in started.descriptors:
                self._await(descriptor, select.EPOLLIN, watch, started)
            if current:
                watch.attempt = started
                self.schedule(watch, now + probe.timeout)
            else:
                self._doomed.append(started)
                self._wake()

    def _kill_commands(self, now: float) -> None:
        """Kill the commands of runs that are probed no more, and again those that do not end."""
        while self._doomed:
            command = self._doomed.popleft()
            if not command.over:
                self._commands[command] = now
                command.kill()
        for command, killed in self._commands.items():
            if killed is not None and now - killed >= _KILL_AGAIN:
                command.kill()

    def _forget(self, command: ProbeCommand) -> None:
        self._commands.pop(command, None)
        for descriptor in command.descriptors:
            if self._in_flight.get(descriptor, (None, None))[1] is command:
                del self._in_flight[descriptor]

    def _end_commands(self) -> None:
        until = self._clock.monotonic() + _END_DEADLINE
        for command in self._commands:
            command.kill()
        for command in self._commands:
            command.wait(max(0.0, until - self._clock.monotonic()))
            command.close()
        self._commands.clear()
