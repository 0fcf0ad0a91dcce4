"""Samples, and the table that they are printed as."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence


class Table:
    """Collects samples by row and prints n, min, median, p99, and how many times the peer's median that is.

    Args:
        unit: what the samples are in, such as "ms".
    """

    def __init__(self, title: str, unit: str) -> None:
        self._title = title
        self._unit = unit
        self._rows: dict[str, list[float]] = {}
        self._peers: dict[str, str] = {}

    def add(self, row: str, sample: float, *, peer: str = "") -> None:
        """Add a sample; `peer` names the row that this one is compared with."""
        self._rows.setdefault(row, []).append(sample)
        if peer:
            self._peers[row] = peer

    def median(self, row: str) -> float:
        """Return a row's median."""
        return statistics.median(self._rows[row])

    def print(self) -> None:
        """Print the table as Markdown."""
        print(f"\n### {self._title} ({self._unit})\n")
        print("| what | n | min | median | p99 | ratio of medians |")
        print("|---|---|---|---|---|---|")
        for row, samples in self._rows.items():
            ordered = sorted(samples)
            p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
            cells = [f"{number:.3g}" for number in (ordered[0], statistics.median(ordered), p99)]
            peer = self._peers.get(row)
            ratio = f"{self.median(row) / self.median(peer):.2f} of {peer}" if peer in self._rows else ""
            print(f"| {row} | {len(ordered)} | {' | '.join(cells)} | {ratio} |", flush=True)


def alternate(
    rounds: int, measured: Mapping[str, Callable[[], float]], warm_up: int = 1
) -> dict[str, list[float]]:
    """Call each function once a round, in turns, and return their answers but for the first rounds."""
    samples: dict[str, list[float]] = {name: [] for name in measured}
    for number in range(warm_up + rounds):
        for name, function in measured.items():
            answer = function()
            if number >= warm_up:
                samples[name].append(answer)
    return samples


def milliseconds(function: Callable[[], object]) -> float:
    """Return how long a call took."""
    began = time.perf_counter()
    function()
    return (time.perf_counter() - began) * 1000


def add_all(table: Table, samples: Mapping[str, Sequence[float]], peers: Mapping[str, str]) -> None:
    """Add the samples of `alternate` to a table."""
    for name, values in samples.items():
        for value in values:
            table.add(name, value, peer=peers.get(name, ""))
