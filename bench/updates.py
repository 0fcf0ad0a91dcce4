"""The time from a bad push until the last good revision runs again, beside the bound that its file names.

Each round is an update that failed, by its deadline or by ends of its containers, with a volume that is put
back and without one.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from bench._measure import Table
from tests.support.agent import Agent, running_agent
from tests.support.updates import generation, keeping_pod, push, update_table, wait_state, word_pod

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "10"))
_DEADLINE = 3.0
# A container that ends at once fails with its third end: back-off doubles its pauses, from half a second on.
_PAUSES = 0.5 + 1.0
_UPDATE = update_table(min_healthy="500ms", deadline=f"{_DEADLINE:g}s")


def _text(agent: Agent, word: str, *, bad: str = "", volume: bool = False) -> str:
    made = keeping_pod if volume else word_pod
    before = "exit 3; " if bad == "ends" else ""
    return made(agent, word, before=before, well=bad != "sick", update=_UPDATE)


def _back(agent: Agent, name: str, number: int, *, bad: str, volume: bool) -> tuple[float, float]:
    """Push a bad revision; return the seconds from its start, and from the push, to the good one's start."""
    before, last = generation(agent, name), max(event.seq for event in agent.client.events())
    begun = time.time()
    agent.write(name, _text(agent, f"bad-{number}", bad=bad, volume=volume))
    wait_state(agent, name, "rolled-back", after=before)
    events = [event for event in agent.client.events(after=last, pod=name) if event.type == "started"]
    first, good = (datetime.fromisoformat(event.at).timestamp() for event in (events[0], events[-1]))
    return good - first, good - begun


@contextmanager
def _agent() -> Iterator[Agent]:
    place = tempfile.TemporaryDirectory(prefix="tank-bench-", dir="/dev/shm")
    with place as home, running_agent(Path(home), backoff_base="0.5s") as started:
        yield started


def main() -> None:
    """Print the table."""
    cases = {
        f"never healthy, deadline {_DEADLINE:g} s": ("sick", False, _DEADLINE),
        "the same, with a volume that is put back": ("sick", True, _DEADLINE),
        f"ends at once, three times ({_PAUSES:g} s of pauses)": ("ends", False, _PAUSES),
        "the same, with a volume that is put back ": ("ends", True, _PAUSES),
    }
    whole = Table("from the bad push until the last good revision starts", "s")
    over = Table("from the bad one's first start, beyond the deadline or the pauses between its ends", "ms")
    with _agent() as agent:
        for place, (row, (bad, volume, bound)) in enumerate(cases.items()):
            name = f"pod-{place}"
            push(agent, name, _text(agent, "good", volume=volume), "good")
            for number in range(ROUNDS):
                since_start, since_push = _back(agent, name, number, bad=bad, volume=volume)
                whole.add(row, since_push)
                over.add(row, (since_start - bound) * 1000)
    whole.print()
    over.print()


if __name__ == "__main__":
    main()
