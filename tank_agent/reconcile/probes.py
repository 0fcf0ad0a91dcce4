"""The health of containers: what the loop asks of it, and what it is told.

One thread (`prober`) probes them all. It begins with the first container that has a health check, so that
pods without one cost nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import structlog
from msgspec.structs import replace

from tank_agent.journal.records import DesiredPod, Health, NewEvent
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.observed import Probed, Run
from tank_agent.reconcile.counters import Counters, ProbeKind, ProbeOutcome
from tank_agent.reconcile.prober import Prober, Watch
from tank_agent.reconcile.storm import StormGuard
from tank_agent.retry import spread
from tank_agent.runtime.health import track as rules
from tank_agent.runtime.health.probe import Probe, probe_of
from tank_agent.runtime.health.result import ProbeResult, ours
from tank_agent.runtime.run import LiveRun
from tank_agent.runtime.session.exec import Executor
from tank_agent.spec.model import Container

HEALTH_CHANGED = "health changed"
_log = structlog.get_logger()
# First probes are apart by this part of their time; later ones by this part of the interval.
_JITTER, _APART = 0.1, 0.5
# Longer pauses end at a multiple of this, in seconds.
_COMMON, _COMMON_FROM = 0.5, 5.0
# The loop restarts an unhealthy container within moments, in seconds; if it does not, probes go on.
_LOOP_ACTS = 5.0


class Probes:
    """Keeps the health of the runs that the loop wants to have probed.

    Args:
        executor: runs the commands of exec probes (`probe_executor`).
        wake: called with a pod and a cause when the loop must look at it again.
        report: stores an event.
        namespace: returns the path of a pod's network namespace; None: it uses the host's.
        counters: counts the probes that ended.
    """

    def __init__(
        self,
        executor: Executor,
        clock: Clock,
        wake: Callable[[str, str], None],
        report: Callable[[NewEvent], None],
        namespace: Callable[[str], Path | None],
        *,
        counters: Counters | None = None,
    ) -> None:
        self._executor, self._clock = executor, clock
        self._wake, self._report, self._namespace = wake, report, namespace
        self._counters = counters or Counters()
        # Held for moments only: no system call that could block is made with it.
        self._lock = threading.Lock()
        self._watches: dict[str, Watch] = {}
        self._storm = StormGuard()
        self._prober: Prober | None = None
        self._closed = False

    def want(self, run: LiveRun, container: Container, *, hurry: bool, known: Health | None) -> None:
        """Have a run probed as its container says now; nothing happens if nothing has changed.

        Args:
            hurry: an update waits for it, so that probes are as close as while it starts.
            known: the health that the journal has of this very run, shown until a probe says otherwise.
        """
        check, identifier = container.health, run.record.id
        watch = self._watches.get(identifier)
        if watch is None:
            if (check is None and run.record.healthcheck is None) or self._closed:
                return
        elif watch.hurry == hurry and (watch.check is check or watch.check == check):
            return
        probe = probe_of(container, run.record.healthcheck)
        if probe is None:
            self.drop([identifier])
        elif watch is None:
            made = Watch(run, check, probe, self._namespace(run.record.pod))
            made.hurry = hurry
            self._begin(made, known)
        else:
            watch.check = check
            self._change(watch, probe, hurry=hurry)

    def observe(self, run_id: str) -> Probed | None:
        """Return the health of a run; None if it has no probe."""
        watch = self._watches.get(run_id)
        if watch is None:
            return None
        probed = watch.probed
        return replace(probed, hold=self.hold(run_id)) if probed.restart else probed

    def drop(self, run_ids: Collection[str]) -> None:
        """Probe these runs no more; nothing of a probe keeps their network namespace when this returns."""
        if not self._watches:
            return
        with self._lock:
            for identifier in run_ids:
                watch = self._watches.pop(identifier, None)
                if watch is None or self._prober is None:
                    continue
                self._prober.abort(watch)
                self._storm.left(watch.pod, self._clock.monotonic())
                self._storm_without(identifier)

    def drop_pod(self, pod: str) -> None:
        """Probe the runs of a pod no more, as `drop` does."""
        if not self._watches:
            return
        with self._lock:
            runs = [watch.id for watch in self._watches.values() if watch.pod == pod]
        self.drop(runs)

    def hold(self, run_id: str) -> float | None:
        """Return the monotonic time before which an unhealthy run may not be restarted; None: it may be."""
        with self._lock:
            return self._storm.hold(run_id, self._clock.monotonic())

    def restarted(self, run_id: str) -> None:
        """Note that the loop is about to restart a run because it is unhealthy."""
        with self._lock:
            self._storm.restarted(run_id, self._clock.monotonic())

    def alive(self) -> bool:
        """Return whether the thread runs, if it is needed."""
        return self._closed or self._prober is None or self._prober.alive()

    def close(self) -> None:
        """Probe nothing any more. Containers go on."""
        with self._lock:
            self._closed, prober = True, self._prober
            self._prober = None
        if prober is not None:
            prober.close()
        self._watches.clear()

    def _begin(self, watch: Watch, known: Health | None) -> None:
        now, chance = self._clock.monotonic(), spread(watch.id)
        watch.track = rules.begin(known, self._clock.wall())
        watch.show()
        first = min(watch.probe.start_interval, watch.probe.interval)
        first *= 1 + _JITTER * (2 * chance - 1)
        if watch.run.adopted and watch.track.succeeded and not watch.hurry:
            # All runs of an agent that was started anew are adopted at one moment.
            first = watch.probe.interval * chance
        with self._lock:
            if self._closed:
                return
            if self._prober is None:
                self._prober = Prober(self._watches, self._lock, self._executor, self._clock, self._settle)
                self._prober.start()
            self._watches[watch.id] = watch
            self._prober.schedule(watch, now + first)

    def _change(self, watch: Watch, probe: Probe, *, hurry: bool) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if self._prober is None or self._watches.get(watch.id) is not watch:
                return
            watch.hurry = hurry
            if watch.probe != probe:
                self._prober.abort(watch)
                watch.use(probe)
                watch.track = rules.with_another_probe(watch.track)
                watch.show()
            if watch.attempt is None and not watch.queued:
                pause = self._delay(watch, now)
                self._prober.schedule(watch, min(watch.at, now + pause))

    def _delay(self, watch: Watch, now: float) -> float:
        return rules.delay(
            watch.track, watch.probe, alive_since=watch.alive_since, now=now, hurry=watch.hurry
        )

    def _settle(self, watch: Watch, probe: Probe, result: ProbeResult, late: float) -> None:
        """Take a result in; called by the thread, without the lock."""
        result = self._judged(watch, probe, result, late)
        now, wall = self._clock.monotonic(), self._clock.wall()
        with self._lock:
            if self._watches.get(watch.id) is not watch or watch.probe is not probe or self._prober is None:
                return
            former = watch.track
            if result.good:
                watch.track = rules.after_success(former, now, wall)
            elif result.ours:
                watch.track = rules.after_trouble(former)
            else:
                watch.track = rules.after_failure(
                    former, probe, result.message, alive_since=watch.alive_since, now=now, wall=wall
                )
            if watch.track is not former:
                watch.show()
            events = self._events(watch, former, result, now)
            self._prober.schedule(watch, self._next(watch, now))
        self._count(watch, probe, result, now)
        for event in events:
            self._tell(event)
        if watch.track.differs(former):
            self._wake(watch.pod, HEALTH_CHANGED)

    def _count(self, watch: Watch, probe: Probe, result: ProbeResult, now: float) -> None:
        kind: ProbeKind = "exec" if probe.exec is not None else "http" if probe.http is not None else "tcp"
        outcome: ProbeOutcome = "successful" if result.good else "unknown" if result.ours else "failed"
        record = watch.run.record
        # One that came to nothing by an error of ours may never have begun.
        took = 0.0 if result.ours else now - watch.begun
        self._counters.probe(record.pod, record.container, kind, outcome, took)

    def _judged(self, watch: Watch, probe: Probe, result: ProbeResult, late: float) -> ProbeResult:
        """Return a result as ours if it says more about the machine than about the container."""
        if result.good or result.ours:
            return result
        if watch.run.exit is not None:
            return ours("the container has ended")
        if late > probe.timeout / 2:
            return ours(f"the agent was late by {late:.1f} s")
        if self._executor.cgroups.frozen(watch.run.record.cgroup):
            return ours("the container is frozen")
        return result

    def _next(self, watch: Watch, now: float) -> float:
        """Return the time of the next probe."""
        track, pause = watch.track, self._delay(watch, now)
        if watch.probed.restart:
            pause = max(pause, _LOOP_ACTS)
        # A probe that took long leaves the container some time without one.
        at = max(watch.begun + pause, now + pause / 2)
        if track.steady_since is not None and watch.pause < pause:
            # From now on it is probed at an even pace; those that started together do not stay together.
            at = now + pause * (1 - _APART * spread(watch.id))
        watch.pause = pause
        # Those that are due at about the same time share a wake-up, which costs more than a probe.
        return at if pause < _COMMON_FROM else round(at / _COMMON) * _COMMON

    def _events(self, watch: Watch, former: rules.Track, result: ProbeResult, now: float) -> list[NewEvent]:
        track, record = watch.track, watch.run.record
        state, events = track.health.state, []

        def event(kind: str, message: str, pod: str = record.pod, container: str = record.container) -> None:
            about = {"pod": pod, "container": container, "revision": record.revision, "cause": "probe"}
            events.append(NewEvent(type=kind, message=message, **about))

        if track.troubles == rules.TROUBLES and former.troubles < rules.TROUBLES:
            event("probe-trouble", f"its health can't be found out: {result.message}")
        if state == former.health.state:
            return events
        if state == "unhealthy":
            times = "a probe" if track.health.failing == 1 else f"{track.health.failing} probes in a row"
            event("unhealthy", f"{times} failed: {track.health.message}")
            window = max(other.probe.interval for other in self._watches.values())
            pods = {other.pod for other in self._watches.values()}
            if sentence := self._storm.turned(record.pod, pods, now, window):
                event("health-storm", sentence, "", "")
        else:
            event("healthy", "its probe succeeded")
            self._storm_without(watch.id)
        return events

    def _storm_without(self, run_id: str) -> None:
        if self._storm.active:
            left = sum(1 for watch in self._watches.values() if watch.probed.restart)
            self._storm.gone(run_id, left)

    def _tell(self, event: NewEvent) -> None:
        try:
            self._report(event)
        except Exception as error:
            # A journal that is full for now must not end the probes.
            _log.warning("cannot store an event", type=event.type, pod=event.pod, error=str(error))


def has_probes(desired: DesiredPod, observed: Sequence[Run], runs: Sequence[LiveRun]) -> bool:
    """Return whether a pod has probes, or had some."""
    # Loops, since this is asked for each pod at each resync; the first is for a health check just taken out.
    for run in observed:
        if run.probed is not None:
            return True
    for spec in desired.pod.containers:
        if spec.health is not None:
            return True
    return any(live.record.healthcheck for live in runs)
