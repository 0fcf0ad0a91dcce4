"""Forty pods that come and go at once, on bridges that come and go with them."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import IPV6_POOL, bridge_agent, nft
from tests.support.lan import LanAgent

PODS, BRIDGES = 40, ["a", "b", "c", "d", "e"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path, ipv6=IPV6_POOL) as made:
        made.start()
        yield made


def text(agent: LanAgent, bridges: list[str], port: int) -> str:
    head = f'ports = ["{port}:80", "{port}:53/udp"]\n[network]\nbridges = {json.dumps(bridges)}\n'
    return agent.pod_text(head=head, command=["/bin/sleep", "100000"], extra='stop_grace = "10ms"')


def addresses(agent: LanAgent) -> Counter[str]:
    statuses = agent.statuses()
    return Counter(address for pod in statuses for address in pod.get("addresses", []))


def test_forty_pods_come_and_go(agent: LanAgent) -> None:
    chance = random.Random(7)
    wanted: dict[str, tuple[list[str], int]] = {}
    for _ in range(4):
        for number in range(PODS):
            name = f"pod-{number:02}"
            if chance.random() < 0.5:
                bridges = chance.sample(BRIDGES, chance.randrange(1, 3))
                # Fewer ports than pods: who comes later waits.
                wanted[name] = (bridges, 8000 + chance.randrange(PODS))
                agent.write(name, text(agent, *wanted[name]))
            elif chance.random() < 0.5:
                wanted.pop(name, None)
                (agent.pods / f"{name}.toml").unlink(missing_ok=True)
        # In the midst of it.
        wait_for(agent.statuses, "some are there")
        assert max(addresses(agent).values(), default=0) <= 1
    ports = {port for _, port in wanted.values()}

    def settled() -> bool:
        statuses = {pod["name"]: pod for pod in agent.statuses()}
        if statuses.keys() != wanted.keys():
            return False
        running = {name for name, pod in statuses.items() if pod["phase"] == "running"}
        # Of those that want one port, exactly one has it.
        return len(running) == len(ports) == len({wanted[name][1] for name in running})

    wait_for(settled, "all is as the files say", 90)
    statuses = agent.statuses()
    running = {pod["name"] for pod in statuses if pod["phase"] == "running"}
    assert all("publishes it" in pod["error"] for pod in statuses if pod["name"] not in running)
    assert max(addresses(agent).values()) == 1
    used = {bridge for name in wanted for bridge in wanted[name][0]}

    def right() -> bool:
        links = agent.host.links()
        ends = {link for link in links if link.startswith("tkv")}
        bridges = {link for link in links if link.startswith("tank-")}
        return bridges == {f"tank-{name}" for name in used} and len(ends) == sum(
            len(wanted[name][0]) for name in running
        )

    wait_for(right, "no interface is left, and none is missing")
    table = nft(agent, "list", "table", "inet", "tank")
    for name in running:
        bridges, port = wanted[name]
        own = next(pod for pod in statuses if pod["name"] == name)["addresses"][0].partition("/")[0]
        assert f"tcp . {port} : {own} . 80" in table
    pids = {name: agent.pid(name) for name in running}
    agent.kill()
    agent.start()
    wait_for(settled, "the next agent finds all as it was")
    assert {name: agent.pid(name) for name in running} == pids
    for file in agent.pods.iterdir():
        file.unlink()
    wait_for(lambda: not agent.statuses(), "all are gone", 60)
    wait_for(lambda: agent.host.links() <= {"lo", "eth0", "eth1"}, "their bridges, too")
    assert "tank" not in nft(agent, "list", "tables")
