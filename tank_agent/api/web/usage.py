"""The last hour of what containers used: a point each 30 seconds, in arrays, for so many at most."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable

from tank_agent.runtime.limits.measure import Sample

# Seconds between two points, and points that are kept.
INTERVAL = 30.0
POINTS = 120
_MOST = 4000
_GAP = math.nan

# CPU in percent of a core, and memory in bytes; None: not known.
Point = tuple[float | None, int | None]


class _Series:
    """The points of a container, each at the place of its sample's number, modulo POINTS."""

    __slots__ = ("cpu", "last", "memory", "newest")

    def __init__(self) -> None:
        self.cpu = array("f", [_GAP]) * POINTS
        self.memory = array("f", [_GAP]) * POINTS
        self.last: Sample | None = None
        self.newest = 0


class UsageHistory:
    """Keeps samples in their order; all series end with the newest sample. For one thread at a time."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._series: dict[str, _Series] = {}
        # The number of the newest sample, from 1, and its time.
        self._number = 0
        self._at = 0.0

    def add(self, samples: Iterable[Sample], at: float) -> None:
        """Add what containers use at a monotonic time; those that are missing have a gap there."""
        # An agent that was frozen has gaps for the time.
        late = round((at - self._at) / INTERVAL) if self._number else 1
        for _ in range(min(max(late, 1), POINTS)):
            self._number += 1
            self._gap()
        seconds, self._at = at - self._at, at
        for sample in samples:
            name = f"{sample.pod}/{sample.container}"
            series = self._series.get(name)
            if series is None:
                if len(self._series) >= self._most:
                    continue
                series = self._series[name] = _Series()
            place, last = self._number % POINTS, series.last
            if last is not None and last.run == sample.run and seconds > 0 and sample.cpu >= last.cpu:
                series.cpu[place] = 100.0 * (sample.cpu - last.cpu) / seconds
            series.memory[place] = sample.memory
            series.last, series.newest = sample, self._number
        self._forget()

    def _gap(self) -> None:
        place = self._number % POINTS
        for series in self._series.values():
            series.cpu[place] = series.memory[place] = _GAP

    def _forget(self) -> None:
        for name in [name for name, one in self._series.items() if self._number - one.newest >= POINTS]:
            del self._series[name]
        for series in self._series.values():
            if series.newest != self._number:
                # What it has used until its next sample can't be told.
                series.last = None

    def all(self) -> dict[str, dict[str, list[float | None] | list[int | None]]]:
        """Return the points of every container, by POD/CONTAINER: `cpu` and `memory`, oldest first."""
        return {name: self._points(series) for name, series in self._series.items()}

    def newest(self) -> dict[str, Point]:
        """Return the newest point of every container that has one."""
        place = self._number % POINTS
        return {
            name: (_cpu(series.cpu[place]), _memory(series.memory[place]))
            for name, series in self._series.items()
            if series.newest == self._number
        }

    def _points(self, series: _Series) -> dict[str, list[float | None] | list[int | None]]:
        first = self._number - min(self._number, POINTS) + 1
        places = [number % POINTS for number in range(first, self._number + 1)]
        # What was before its first point is no gap.
        while places and math.isnan(series.memory[places[0]]):
            del places[0]
        return {
            "cpu": [_cpu(series.cpu[place]) for place in places],
            "memory": [_memory(series.memory[place]) for place in places],
        }


def _cpu(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 1)


def _memory(value: float) -> int | None:
    return None if math.isnan(value) else int(value)
