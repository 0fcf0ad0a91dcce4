"""Many pods: from cold to all running, adopted after kill -9, and removed, by their number.

No part of the agent may grow faster than the number of pods. Beside the wall time stand the CPU of
the agent alone, and the same number of containers by bare conmon and crun: what those and the kernel take.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench._measure import Table
from bench.pods import Bare, Fifo
from tests.support.agent import Agent

SIZES = tuple(int(size) for size in os.environ.get("TANK_BENCH_SIZES", "100,300,500,1000").split(","))
ADOPTIONS = 3
_PATIENCE = 300.0
_PAUSE = 0.2
_SLEEP = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"


def cpu(agent: Agent) -> float:
    """Return the seconds of CPU that the agent itself has used."""
    assert agent.process is not None
    fields = Path(f"/proc/{agent.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def running(agent: Agent) -> dict[str, int]:
    """Return the process of each pod that runs."""
    return {
        pod["name"]: pod["containers"][0]["pid"]
        for pod in agent.statuses()
        if pod["phase"] == "running" and pod["containers"][0]["pid"]
    }


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask seldom: the status of a thousand pods costs the agent a third of a second of CPU."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(_PAUSE)


def measure(table: Table, count: int) -> None:
    """Measure one number of pods."""
    with tempfile.TemporaryDirectory(prefix="tank-scale-") as home:
        agent = Agent(Path(home), resync="10s")
        try:
            agent.start()
            for number in range(count):
                text = agent.pod_text(command=["/bin/sh", "-c", _SLEEP])
                (agent.pods / f"pod-{number}.toml").write_text(text)
            began, used = time.perf_counter(), cpu(agent)
            wait_until(lambda: len(agent.conmons()) == count)
            wait_until(lambda: len(running(agent)) == count)
            table.add(f"{count}: all run", time.perf_counter() - began)
            table.add(f"{count}: CPU of the agent for it", cpu(agent) - used)
            before = running(agent)
            for _ in range(ADOPTIONS):
                agent.kill()
                began = time.perf_counter()
                agent.start()
                wait_until(lambda: running(agent) == before)
                table.add(f"{count}: kill -9, then all adopted", time.perf_counter() - began)
                table.add(f"{count}: CPU of the new agent by then", cpu(agent))
            began = time.perf_counter()
            for file in agent.pods.iterdir():
                file.unlink()
            wait_until(lambda: not agent.conmons())
            wait_until(lambda: not agent.statuses())
            table.add(f"{count}: all removed", time.perf_counter() - began)
            bare = Bare(agent, Fifo(Path(home) / "fifo"), Path(home) / "bare")
            table.add(f"{count}: as many by bare conmon and crun", bare.many(count))
            bare.close()
        finally:
            agent.end()


def main() -> None:
    """Measure every number of pods."""
    table = Table("Pods from cold, adopted, and removed", "s")
    for count in SIZES:
        measure(table, count)
    table.print()


if __name__ == "__main__":
    main()
