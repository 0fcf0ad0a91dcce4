"""A whole machine: installation, boots, and how long a new agent takes to find what the former one left.

On the emulated machine of the system tests, and adoption also on this one. There is no peer: none adopts.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench._measure import Table
from tests.support.agent import Agent, wait_for
from tests.support.deb import build
from tests.support.installed import Installed
from tests.support.machine import running_machine

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
AT_BOOT = 20
MANY = 100
_PATIENCE = 900.0
_SLEEP = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"


def adoption_here(home: Path) -> None:
    """Measure from the start of a process, after kill -9, until its API knows all pods by their pids."""
    table = Table(f"An agent started again, until all of {MANY} pods are adopted; on this machine", "s")
    agent = Agent(home, resync="10s")
    for number in range(MANY):
        agent.write(f"pod-{number}", agent.pod_text(command=["/bin/sh", "-c", _SLEEP]))
    try:
        agent.start()
        before = wait_for(lambda: _running_here(agent), "all pods run", deadline=120.0)
        for _ in range(ROUNDS):
            agent.kill()
            began = time.perf_counter()
            agent.start()
            wait_for(lambda: _running_here(agent) == before, "all adopted", deadline=60.0)
            table.add("kill -9, then a new agent", time.perf_counter() - began)
    finally:
        agent.end()
    table.print()


def emulated_machine() -> None:
    """Measure installation, boots with 20 pods, and adoption of 100."""
    package = build()
    table = Table("A machine of two emulated cores", "s")
    with running_machine() as vm:
        machine = Installed(vm)
        for number in range(max(1, ROUNDS // 2)):
            if number:
                machine.apt("purge", "tank-agent")
            machine.upload(package)
            table.add(
                "apt install of the package",
                _seconds(lambda: machine.apt("install", f"/root/{package.name}")),
            )
        _declare(machine, AT_BOOT)
        for _ in range(ROUNDS):
            vm.reboot()
            _wait_all(machine, AT_BOOT)
            table.add(f"multi-user.target → all of {AT_BOOT} pods run", _after_multi_user(machine))
            print(machine.sh("systemd-analyze time"), flush=True)
        _declare(machine, MANY)
        before = _wait_all(machine, MANY)
        for how in ("systemctl restart tank-agent", "systemctl kill -s KILL tank-agent"):
            for _ in range(ROUNDS):
                table.add(f"{how} → all of {MANY} pods adopted", _adoption(machine, how, before))
        memory = int(machine.sh("systemctl show -P MemoryCurrent tank-agent"))
        print(f"Memory of the agent's unit with {MANY} pods: {memory / (1 << 20):.0f} MiB", flush=True)
    table.print()


def _adoption(machine: Installed, how: str, before: dict[str, int | None]) -> float:
    """Return how many seconds it takes until another agent knows all pods by their processes."""
    former = machine.answering()
    began = time.perf_counter()
    machine.sh(how)

    def adopted() -> bool:
        # Asked first, so that the pids are surely the answer of the new agent.
        return machine.answering() not in (former, None) and machine.pids() == before

    machine.wait("all adopted", adopted, _PATIENCE)
    return time.perf_counter() - began


def _declare(machine: Installed, count: int) -> None:
    for number in range(count):
        machine.pod(f"pod{number}", _SLEEP)


def _wait_all(machine: Installed, count: int) -> dict[str, int | None]:
    def running() -> int:
        return sum(pod["phase"] == "running" for pod in machine.statuses().values())

    machine.wait(f"{count} pods run", lambda: running() == count, _PATIENCE)
    return machine.pids()


def _running_here(agent: Agent) -> dict[str, int]:
    """Return the process of every pod that runs; nothing before all of them do."""
    running = {
        pod["name"]: pod["containers"][0]["pid"] for pod in agent.statuses() if pod["phase"] == "running"
    }
    return running if len(running) == MANY else {}


def _after_multi_user(machine: Installed) -> float:
    """Return how many seconds after multi-user.target the last container began, by the kernel's clock."""
    reached = int(machine.sh("systemctl show -P ActiveEnterTimestampMonotonic multi-user.target"))
    files = " ".join(f"/proc/{pid}/stat" for pid in machine.pids().values())
    # The 22nd field is when it began, in ticks since boot; the second one is a name in brackets.
    begun = max(int(line.rpartition(")")[2].split()[19]) for line in machine.sh(f"cat {files}").splitlines())
    return begun / int(machine.sh("getconf CLK_TCK")) - reached / 1_000_000


def _seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def main() -> None:
    """Run every benchmark of this module; some minutes."""
    assert os.geteuid() == 0, "run it as root: it makes containers and machines"
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tank-bench-") as name:
        home = Path(name) / "adoption"
        home.mkdir()
        adoption_here(home)
    emulated_machine()


if __name__ == "__main__":
    main()
