"""Metrics: the agent's CPU for a scrape of 100 real pods, its first one, its memory, and what counting costs.

The CPU is that of all of the agent's threads, by /proc/PID/task/*/schedstat, over one connection that stays
open. Scrapes are apart, so that the processor's caches are as they are in earnest.
"""

from __future__ import annotations

import http.client
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench._measure import Table
from tank_agent.reconcile.counters import Counters
from tests.support.agent import Agent, ended, wait_for

PODS = int(os.environ.get("TANK_BENCH_PODS", "100"))
ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "100"))
_APART = 0.2
_COUNTS = 200_000
_POD = """
[[containers]]
name = "app"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
[containers.limits]
memory = "64M"
[containers.health]
exec = ["/bin/true"]
interval = "1h"
"""


class Scraper:
    """A connection to the agent's socket that stays open."""

    def __init__(self, path: Path) -> None:
        self._connection = http.client.HTTPConnection("tank")
        self._connection.sock = socket.socket(socket.AF_UNIX)
        self._connection.sock.connect(str(path))

    def get(self, path: str = "/metrics") -> bytes:
        """Return an answer."""
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        body = answer.read()
        assert answer.status == 200, body
        return body


def cpu(pid: int) -> float:
    """Return the milliseconds of CPU that the threads of a process have used by the scheduler's count."""
    used = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        used += int((task / "schedstat").read_text().split()[0])
    return used / 1e6


def memory(pid: int) -> float:
    """Return a process's own memory in MB (Pss_Anon)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(text.partition("Pss_Anon:")[2].split()[0]) / 1024


def scraped(agent: Agent) -> None:
    """Measure scrapes."""
    assert agent.process is not None
    pid, table = agent.process.pid, Table(f"CPU of the agent, {PODS} pods", "ms")
    scraper = Scraper(agent.run / "tank.sock")
    scraper.get("/v1/info")
    before, began = memory(pid), cpu(pid)
    scraper.get()
    first = cpu(pid) - began
    last = b""
    for _ in range(ROUNDS):
        for row, path in (
            ("a scrape", "/metrics"),
            ("nothing asked", ""),
            ("tank status -o json", "/v1/status"),
        ):
            time.sleep(_APART)
            began = cpu(pid)
            if path:
                answer = scraper.get(path)
                last = answer if path == "/metrics" else last
            else:
                time.sleep(0.02)
            table.add(row, cpu(pid) - began, peer="" if row == "a scrape" else "a scrape")
    table.print()
    print(
        f"\nfirst scrape, with its import: {first:.1f} ms; {len(last.splitlines())} lines, {len(last)} bytes"
    )
    print(
        f"memory of the agent: {before:.1f} MB before the first scrape, {memory(pid):.1f} MB after the last"
    )


def counting() -> None:
    """Measure what a count costs where it is made."""
    counters = Counters()
    counts: dict[str, Callable[[], None]] = {
        "a probe": lambda: counters.probe("web", "app", "http", "successful", 0.001),
        "a turn of the loop": lambda: counters.turn(0.001),
    }
    for what, count in counts.items():
        began = time.process_time()
        for _ in range(_COUNTS):
            count()
        print(f"counting {what}: {(time.process_time() - began) / _COUNTS * 1e6:.2f} µs (n = {_COUNTS})")


def main() -> None:
    """Print the tables."""
    with tempfile.TemporaryDirectory(prefix="tank-bench-") as home:
        agent = Agent(Path(home), resync="10s")
        with ended(agent):
            for number in range(PODS):
                agent.write(f"pod-{number}", _POD.format(rootfs=agent.rootfs))
            agent.start()
            wait_for(lambda: all(pod.ready for pod in agent.client.status()), "all are ready", 300)
            scraped(agent)
    counting()


if __name__ == "__main__":
    main()
