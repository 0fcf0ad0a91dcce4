"""Counts of what the agent did since its start, made where it happens, for the metrics (docs/metrics.md).

They leave out what the journal or the kernel knows.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

from msgspec import Struct, field

ProbeKind = Literal["http", "tcp", "exec"]
# kubelet's words: "unknown" is an attempt that came to nothing by an error of ours.
ProbeOutcome = Literal["successful", "failed", "unknown"]
PROBE_OUTCOMES: tuple[ProbeOutcome, ...] = get_args(ProbeOutcome)
# How the rollout of a revision ended; the last two are of a way back.
UpdateOutcome = Literal["good", "failed", "superseded", "rolled-back", "rollback-failed"]
UPDATE_OUTCOMES: tuple[UpdateOutcome, ...] = get_args(UpdateOutcome)
# Upper bounds in seconds: a look at a pod that has nothing to do takes a tenth of a millisecond.
_TURNS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
_ROLLOUTS = (5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)


class Histogram:
    """Counts values by upper bounds, as Prometheus does; the counts are not cumulative here."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def copy(self) -> Histogram:
        """Return one that changes no more."""
        other = Histogram(self.bounds)
        other.counts, other.sum = [*self.counts], self.sum
        return other


class ProbeCount(Struct, kw_only=True):
    """The probes of one kind of a container: how many ended how, and how long they took in seconds."""

    ended: dict[ProbeOutcome, int] = field(default_factory=lambda: dict.fromkeys(PROBE_OUTCOMES, 0))
    seconds: float = 0.0


class PodCount(Struct, kw_only=True):
    """The counts of a pod; those of probes are by container and kind."""

    probes: dict[tuple[str, ProbeKind], ProbeCount] = field(default_factory=dict)
    updates: dict[UpdateOutcome, int] = field(default_factory=lambda: dict.fromkeys(UPDATE_OUTCOMES, 0))


class Counters:
    """The counts. Any thread may use it; its lock is held for moments only."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, PodCount] = {}
        self._turns = Histogram(_TURNS)
        self._rollouts = Histogram(_ROLLOUTS)
        self._pulls = {"successful": 0, "failed": 0}
        self._failed_steps = 0

    def probe(self, pod: str, container: str, kind: ProbeKind, outcome: ProbeOutcome, took: float) -> None:
        """Count a probe that ended, after so many seconds."""
        with self._lock:
            probes = self._of(pod).probes
            count = probes.get((container, kind))
            if count is None:
                count = probes[container, kind] = ProbeCount()
            count.ended[outcome] += 1
            count.seconds += took

    def update(self, pod: str, outcome: UpdateOutcome, took: float | None) -> None:
        """Count a rollout that ended, so many seconds after its first start; None: it never began."""
        with self._lock:
            self._of(pod).updates[outcome] += 1
            if took is not None:
                self._rollouts.add(took)

    def turn(self, took: float) -> None:
        """Count a turn of the loop's work on a pod, in seconds."""
        with self._lock:
            self._turns.add(took)

    def failed_step(self) -> None:
        """Count a step, or a look at a pod, that failed."""
        with self._lock:
            self._failed_steps += 1

    def pull(self, *, good: bool) -> None:
        """Count a pull that ended."""
        with self._lock:
            self._pulls["successful" if good else "failed"] += 1

    def forget(self, pod: str) -> None:
        """Forget a pod that is gone."""
        with self._lock:
            self._pods.pop(pod, None)

    def keep_containers(self, pod: str, containers: Collection[str]) -> None:
        """Forget the containers of a pod that are none of these."""
        with self._lock:
            known = self._pods.get(pod)
            if known is not None:
                known.probes = {key: count for key, count in known.probes.items() if key[0] in containers}

    def of(self, pod: str) -> PodCount | None:
        """Return the counts of a pod as they are now; None if nothing was counted of it."""
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return None
            probes = {
                key: ProbeCount(ended={**count.ended}, seconds=count.seconds)
                for key, count in known.probes.items()
            }
            return PodCount(probes=probes, updates={**known.updates})

    def turns(self) -> Histogram:
        """Return how long the loop's turns took."""
        with self._lock:
            return self._turns.copy()

    def rollouts(self) -> Histogram:
        """Return how long rollouts took, from the first start to the verdict."""
        with self._lock:
            return self._rollouts.copy()

    def pulls(self) -> Mapping[str, int]:
        """Return how many pulls ended how."""
        with self._lock:
            return {**self._pulls}

    def failed_steps(self) -> int:
        """Return how many steps failed."""
        with self._lock:
            return self._failed_steps

    def _of(self, pod: str) -> PodCount:
        known = self._pods.get(pod)
        if known is None:
            known = self._pods[pod] = PodCount()
        return known
