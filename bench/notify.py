"""The cost of notifications: an agent with and without [notify], its idle thread, and an event."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench._measure import Table, alternate
from tank_agent.control.pods import Service
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Event, NewEvent
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock, rfc3339
from tank_agent.outward.notify.decide import Wants, take
from tank_agent.outward.notify.memory import Remembered
from tank_agent.outward.notify.notifier import Notifications
from tank_agent.settings.notify import KINDS, NotifySettings
from tests.support.agent import Agent, ended
from tests.support.receivers import receiver

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("TANK_BENCH_SECONDS", "60"))
EVENTS = 20_000


def at_rest() -> None:
    """Measure the memory of agents that have begun, and their threads."""
    table = Table("an agent without pods", "KiB of memory (PSS)")
    kinds: dict[str, Callable[[], float]] = {
        "without [notify]": lambda: _agent(on=False, sends=False),
        "with a webhook, nothing sent yet": lambda: _agent(on=True, sends=False),
        "with a webhook, after a notification": lambda: _agent(on=True, sends=True),
    }
    for name, samples in alternate(ROUNDS, kinds).items():
        for sample in samples:
            table.add(name, sample)
    table.print()


def _agent(*, on: bool, sends: bool) -> float:
    home = Path(tempfile.mkdtemp(prefix="tank-bench-", dir="/dev/shm"))
    with receiver() as hook:
        agent = Agent(home)
        if on:
            table = f'[notify]\nwebhook = "{hook.url}/x"\n'
            agent.config.write_text(f"{agent.config.read_text()}{table}")
        with ended(agent):
            agent.start()
            if sends:
                assert agent.tank("notify", "test").returncode == 0
            time.sleep(2)
            assert agent.process is not None
            text = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text()
            found = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    shutil.rmtree(home)
    return found


def idle() -> None:
    """Measure the thread while nothing happens, and while events come that are told to nobody."""
    table = Table("the thread of notifications", "ms of CPU a minute")
    journal, clock = Journal(MemoryStore(), clock=time.time), Clock()
    sources = SimpleNamespace(git=None)
    directories = SimpleNamespace(data_dir=Path("/tmp"))
    machine = SimpleNamespace(clock=clock)
    service = SimpleNamespace(journal=journal, machine=machine, sources=sources, settings=directories)
    found = Notifications(cast("Service", service), NotifySettings(webhook="http://127.0.0.1:1/x"), "edge-1")
    found.start()
    thread = cast("Any", found)._thread.native_id
    time.sleep(2)
    table.add("at rest", _spent(thread, SECONDS))
    begun, before = time.monotonic(), _cpu(thread)
    while time.monotonic() - begun < SECONDS / 4:
        journal.record("", None, [NewEvent(pod="web", type="started", message="m")])
        time.sleep(0.1)
    table.add("10 events a second that nobody is told of", (_cpu(thread) - before) / (SECONDS / 4) * 60)
    found.close()
    journal.close()
    table.print()


def _spent(thread: int, seconds: float) -> float:
    before = _cpu(thread)
    time.sleep(seconds)
    return (_cpu(thread) - before) / seconds * 60


def _cpu(thread: int) -> float:
    # schedstat: nanoseconds on a CPU, waiting, and time slices.
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) / 1e6


def decided() -> None:
    """Measure the decision about one event."""
    table = Table("one event", "µs")
    event = Event(seq=1, at=rfc3339(time.time()), pod="web", type="started", message="m")
    wants = Wants(kinds=frozenset(KINDS), after=300.0)
    for _ in range(ROUNDS):
        memory, begun = Remembered(), time.perf_counter()
        for _ in range(EVENTS):
            memory = take(memory, event, wants, 0.0)
        table.add("that is not told", (time.perf_counter() - begun) / EVENTS * 1e6)
    table.print()


if __name__ == "__main__":
    decided()
    idle()
    at_rest()
