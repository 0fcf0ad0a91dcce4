"""Chaos in bridges: ports, bridges and pods change at random, with SIGKILL for the agent in between.

Meanwhile people and other programs remove what is ours on the machine. At the end everything is as it was
asked for last: each port leads to its pod and no other, no address is there twice, and nothing is left over.

TANK_CHAOS_SECONDS sets how long (15), TANK_CHAOS_SEED what happens; no clock draws anything.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_converged
from tests.support.bridges import bridge_agent, get, nft, web
from tests.support.lan import LanAgent

SECONDS = float(os.environ.get("TANK_CHAOS_SECONDS", "15"))
SEED = int(os.environ.get("TANK_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
OWN = "10.0.0.2"
NAMES = [f"pod-{number}" for number in range(6)]
PORTS = list(range(8000, 8008))
BRIDGES = [("default",), ("back",), ("front", "back"), ("back", "front"), ("default", "front", "back")]
WEIGHTS = {
    "swap": 6,
    "move": 6,
    "bridges": 5,
    "here": 5,
    "rename": 2,
    "burst": 3,
    "agent": 4,
    "agent-soon": 4,
    "workload": 2,
    "machine": 3,
    "interface": 2,
}
DAMAGES = (
    "nft flush ruleset",
    "ip link del tank-default",
    "ip link del tank-back",
    "ip link set tank-front down",
    "ip link set tank-back name other",
    "ip addr flush dev tank-default",
    "nft flush map inet tank any4",
)


class Wanted:
    """What should be of one pod: ports of the machine, and bridges; or no pod."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.ports, self.bridges, self.here = name, [port], BRIDGES[0], True

    def text(self, agent: LanAgent) -> str:
        listed = ", ".join(f'"{port}:80"' for port in self.ports)
        names = ", ".join(f'"{name}"' for name in self.bridges)
        return web(agent, f"ports = [{listed}]\n[network]\nbridges = [{names}]\n")


class Chaos:
    """Does the steps, and remembers what it did."""

    def __init__(self, agent: LanAgent) -> None:
        self.agent, self.done, self.counts = agent, list[str](), Counter[str]()
        self.pods = [Wanted(name, port) for name, port in zip(NAMES, PORTS, strict=False)]
        self.twice: list[str] = []
        for pod in self.pods:
            self.write(pod)

    def write(self, pod: Wanted) -> None:
        if pod.here:
            self.agent.write(pod.name, pod.text(self.agent))
        else:
            (self.agent.pods / f"{pod.name}.toml").unlink(missing_ok=True)

    def do(self, number: int) -> float:
        """Do the step of a number, and return how long to pause after it."""
        choose = random.Random(f"{SEED}/{number}")
        kind = choose.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        self.done.append(f"{number} {kind}")
        self.counts[kind] += 1
        one, other = choose.sample(self.pods, 2)
        match kind:
            case "agent" | "agent-soon":
                if kind == "agent-soon":
                    self.edit(choose, "swap", one, other)
                    time.sleep(choose.choice((0.0, 0.01, 0.03, 0.06, 0.1, 0.2)))
                self.agent.kill()
                self.agent.start()
            case "workload":
                for pid in running(self.agent, one.name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            case "machine":
                command = choose.choice(DAMAGES)
                self.agent.host(lambda: subprocess.run(command.split(), capture_output=True, check=False))
            case "interface":
                with contextlib.suppress(OSError):
                    self.agent.pod(one.name).ip("link del eth0", check=False)
            case "burst":
                for _ in range(4):
                    self.edit(
                        choose,
                        choose.choice(("swap", "move", "bridges", "here")),
                        *choose.sample(self.pods, 2),
                    )
            case _:
                self.edit(choose, kind, one, other)
        self.twice += same_addresses(self.agent)
        return choose.choice((0.0, 0.05, 0.2, 0.5))

    def edit(self, choose: random.Random, kind: str, one: Wanted, other: Wanted) -> None:
        match kind:
            case "swap":
                one.ports, other.ports = other.ports, one.ports
            case "move":
                free = sorted(set(PORTS) - {port for pod in self.pods for port in pod.ports})
                one.ports = choose.sample(free, choose.randrange(0, len(free) + 1))
                if other.ports:
                    one.ports.append(other.ports.pop())
            case "bridges":
                one.bridges = choose.choice(BRIDGES)
            case "here":
                one.here = not one.here
            case "rename":
                (self.agent.pods / f"{one.name}.toml").unlink(missing_ok=True)
                one.name = f"{one.name[:5]}{'x' if len(one.name) == 5 else ''}"
        for pod in (one, other):
            self.write(pod)


def running(agent: LanAgent, name: str) -> Iterator[int]:
    status = agent.status(name)
    for container in status["containers"] if status else ():
        if container["pid"]:
            yield container["pid"]


def same_addresses(agent: LanAgent) -> Iterator[str]:
    """Yield the addresses in bridges that two pods have at one moment."""
    found = Counter(
        address for status in agent.statuses() for lease in status["bridges"].values() for address in lease
    )
    yield from (address for address, count in found.items() if count > 1)


def answer(agent: LanAgent, port: int) -> str:
    try:
        return agent.lan(get, OWN, port)
    except OSError:
        return ""


def differences(chaos: Chaos) -> Iterator[str]:
    """Yield what is not as it was asked for last."""
    agent, wanted = chaos.agent, {pod.name: pod for pod in chaos.pods if pod.here}
    found = {status["name"]: status for status in agent.statuses()}
    if wanted.keys() != found.keys():
        yield f"pods {sorted(wanted.keys() ^ found.keys())}"
    for name in wanted.keys() & found.keys():
        status = found[name]
        if status["phase"] != "running" or status["error"]:
            yield f"{name} is {status['phase']}: {status['error']}"
        if tuple(status["bridges"]) != wanted[name].bridges:
            yield f"{name} is in {list(status['bridges'])}, not in {wanted[name].bridges}"
        given = sorted(address for lease in status["bridges"].values() for address in lease)
        if sorted(status["addresses"]) != given:
            yield f"{name} has {status['addresses']}, not {given}"
    leads = {port: name for name, pod in wanted.items() for port in pod.ports}
    for port in PORTS:
        if (answered := answer(agent, port)) != leads.get(port, ""):
            yield f"port {port} leads to {answered or 'nobody'}, not to {leads.get(port, 'nobody')}"
    used = {bridge for pod in wanted.values() for bridge in pod.bridges}
    ends = sum(len(pod.bridges) for pod in wanted.values())
    links = agent.host.links() - {"lo", "eth0", "eth1"}
    if {link for link in links if not link.startswith("tkv")} != {f"tank-{bridge}" for bridge in used}:
        yield f"interfaces {sorted(links)} for the bridges {sorted(used)}"
    if len([link for link in links if link.startswith("tkv")]) != ends:
        yield f"interfaces {sorted(links)} for {ends} ends"


def converged(chaos: Chaos) -> float:
    """Wait until nothing differs, and return how long it took."""
    note = f"seed {SEED}, {chaos.done[-12:]}\n"
    return wait_converged(chaos.agent, lambda: differences(chaos), 150, note)


@pytest.mark.timeout(2 * SECONDS + 600)
def test_everything_is_as_it_was_asked_for_last(tmp_path: Path) -> None:
    with bridge_agent(tmp_path) as agent:
        agent.start()
        chaos = Chaos(agent)
        converged(chaos)
        begin, number = time.monotonic(), 0
        while time.monotonic() < begin + SECONDS:
            time.sleep(chaos.do(number))
            number += 1
        took = converged(chaos)
        print(
            f"{number} steps in {SECONDS:g} s, {dict(chaos.counts)}; converged in {took:.1f} s; seed {SEED}"
        )
        assert not chaos.twice, f"seed {SEED}: {chaos.twice}"
        log = agent.log.read_text()
        assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
        assert "by a bug" not in log, log[log.index("by a bug") - 1000 :][:4000]
        for pod in chaos.pods:
            pod.here = False
            chaos.write(pod)
        converged(chaos)
        assert nft(agent, "list", "tables") == ""
