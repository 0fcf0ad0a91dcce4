"""The page: what an open one costs the agent with 100 pods, and what the listener takes when it is on.

Each figure is the difference of two agents that run the same pods at the same time, with and without it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from pathlib import Path

from bench._measure import Table
from bench.scale import cpu, wait_until
from tests.support.agent import SERVE, Agent
from tests.support.fake_web import OpenStream

PODS = int(os.environ.get("TANK_BENCH_PODS", "100"))
ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
# Two looks at everything, and two samples.
_SECONDS = 60.0
_PORT = 19_471


def memory(agent: Agent) -> float:
    """Return the agent's PSS in MiB."""
    assert agent.process is not None
    text = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:"))) / 1024


def started(home: str, *, web: bool) -> Agent:
    """Return an agent whose pods all run."""
    agent = Agent(Path(home), resync="10s")
    if web:
        with agent.config.open("a") as config:
            config.write(f'[web]\nlisten = "127.0.0.1:{_PORT}"\n')
    agent.start()
    for number in range(PODS):
        (agent.pods / f"pod-{number}.toml").write_text(agent.pod_text(command=SERVE))
    wait_until(lambda: len(agent.conmons()) == PODS)
    wait_until(lambda: all(pod["ready"] for pod in agent.statuses()))
    return agent


def spent(agent: Agent) -> float:
    """Return the percent of a core that an agent uses."""
    before, began = cpu(agent), time.monotonic()
    time.sleep(_SECONDS)
    return 100 * (cpu(agent) - before) / (time.monotonic() - began)


def read(page: OpenStream) -> None:
    """Read a page's stream to its end."""
    try:
        while page.next()[0] != "end":
            pass
    except (OSError, ValueError):
        return


def main() -> None:
    """Print the table."""
    table = Table(f"The page with {PODS} pods", "% of a core; MiB of PSS")
    with tempfile.TemporaryDirectory(prefix="web-bench-") as home, tempfile.TemporaryDirectory() as other:
        agent, plain = started(home, web=True), started(other, web=False)
        try:
            for _ in range(ROUNDS):
                table.add("without [web]: CPU", spent(plain))
                table.add("[web], no page open: CPU", spent(agent), peer="without [web]: CPU")
                page = OpenStream("127.0.0.1", _PORT)
                reader = threading.Thread(target=read, args=(page,), daemon=True)
                reader.start()
                table.add("one page open: CPU", spent(agent), peer="without [web]: CPU")
                table.add("one page open: memory", memory(agent), peer="without [web]: memory")
                page.socket.shutdown(2)
                reader.join()
                page.close()
                table.add("without [web]: memory", memory(plain))
                table.add("[web], no page open: memory", memory(agent), peer="without [web]: memory")
        finally:
            agent.end()
            plain.end()
    table.print()


if __name__ == "__main__":
    main()
