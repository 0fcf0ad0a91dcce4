"""Killed at every point while pods come, change and go in bridges: nothing is left, no address is twice."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import IPV6_POOL, bridge_agent, reaches, web
from tests.support.lan import LanAgent

COMES = [
    "network:reserved",
    "network:bridge-made",
    "network:bridge-up",
    "network:bridge-addressed",
    "network:loopback-routed",
    "network:link-created",
    "network:link-attached",
    "network:link-named",
    "network:address-added",
    "network:route-added",
    "network:rules-written",
]
NONE, HOST = 'network = "none"\n', 'network = "host"\n'
PORTS, OTHER_PORTS = 'ports = ["8080:80"]\n', 'ports = ["9090:80", "53:53/udp"]\n'
NICS = '[network]\n[[network.nics]]\nname = "eth0"\nip = "10.0.0.50/24"\n'


def bridges(*names: str) -> str:
    return f"[network]\nbridges = {json.dumps(names)}\n"


EDITS = [
    (bridges("a"), bridges("a", "b"), ["reserved", "bridge-made", "link-created", "address-added"]),
    (bridges("a", "b"), bridges("b"), ["reserved", "link-removed", "rules-written", "bridge-removed"]),
    (bridges("a"), bridges("b"), ["reserved", "bridge-made", "link-attached", "rules-written"]),
    (PORTS, OTHER_PORTS, ["reserved", "rules-written"]),
    (PORTS, NICS, ["link-created", "link-removed", "reserved", "rules-written", "bridge-removed"]),
    (NICS, PORTS, ["reserved", "bridge-made", "link-removed", "rules-written"]),
    (PORTS, NONE, ["link-removed", "reserved", "rules-written", "bridge-removed"]),
    (PORTS, HOST, ["link-removed", "reserved", "rules-written", "bridge-removed"]),
    (HOST, PORTS, ["reserved", "link-named", "rules-written"]),
]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path, ipv6=IPV6_POOL) as made:
        yield made


def addresses(agent: LanAgent) -> list[str]:
    """Return the addresses of all pods in bridges, as their namespaces have them."""
    found: list[str] = []
    for pin in (agent.run / "netns").iterdir():
        try:
            shown = agent.pod(pin.name).ip("-j addr show", check=False)
        except OSError as error:
            # The agent has just removed it, or was killed before there was a namespace at the file.
            assert error.errno in (errno.ENOENT, errno.EINVAL), error
            continue
        for link in json.loads(shown or "[]"):
            found += [one["local"] for one in link.get("addr_info", []) if one["scope"] == "global"]
    return found


def assert_no_address_twice(agent: LanAgent) -> None:
    counted = Counter(addresses(agent))
    assert all(number == 1 for number in counted.values()), counted


def bridges_of(text: str) -> set[str]:
    if "ports" in text:
        return {"tank-default"}
    return {f"tank-{name}" for name in ("a", "b") if f'"{name}"' in text}


@pytest.mark.parametrize("point", COMES)
def test_killed_while_a_pod_comes(agent: LanAgent, point: str) -> None:
    agent.write("web", web(agent, PORTS))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    wait_for(lambda: reaches(agent.host, "::1", 8080), "it answers by IPv6")


@pytest.mark.parametrize("point", ["network:rules-written", "network:link-removed", "network:bridge-removed"])
def test_killed_while_a_pod_goes(agent: LanAgent, point: str) -> None:
    agent.start()
    file = agent.write("web", web(agent, PORTS))
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    agent.kill()
    file.unlink()
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_gone("web")
    wait_for(lambda: agent.host.links() <= {"lo", "eth0", "eth1"}, "its bridge is gone")


def test_without_the_journal_pods_go_on_with_their_addresses_and_ports(agent: LanAgent) -> None:
    agent.start()
    file = agent.write("web", web(agent, f"{PORTS}{bridges('a', 'b')}"))
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    before = agent.statuses("web")[0]["addresses"], agent.pid("web"), agent.host.links()
    agent.kill()
    text = file.read_text()
    file.unlink()
    shutil.rmtree(agent.data / "journal")
    agent.start()
    agent.write("late", web(agent, bridges("a")))
    agent.wait_phase("late", "running")
    assert_no_address_twice(agent)
    assert reaches(agent.lan, "10.0.0.2", 8080)
    agent.write("web", text)
    agent.wait_phase("web", "running")
    assert reaches(agent.lan, "10.0.0.2", 8080)
    (agent.pods / "late.toml").unlink()
    agent.wait_gone("late")
    assert (agent.statuses("web")[0]["addresses"], agent.pid("web"), agent.host.links()) == before


@pytest.mark.parametrize(
    ("before", "after", "point"),
    [
        pytest.param(old, new, point, id=f"{number}-{point}")
        for number, (old, new, points) in enumerate(EDITS)
        for point in points
    ],
)
def test_killed_while_a_pod_changes(agent: LanAgent, before: str, after: str, point: str) -> None:
    agent.start()
    agent.write("web", web(agent, before))
    # Unless the bridge is to come or go with the pod, others are in it.
    others = ["stays", "late"] if point not in ("bridge-made", "bridge-removed") else []
    for name in others[:1]:
        agent.write(name, web(agent, bridges("a", "default")))
    for name in ("web", *others[:1]):
        agent.wait_phase(name, "running")
    agent.kill()
    agent.write("web", web(agent, after))
    # It would get an address that is free too early.
    for name in others[1:]:
        agent.write(name, web(agent, bridges("a", "default")))
    agent.launch(fault=f"network:{point}")
    assert agent.died() == -signal.SIGKILL
    assert_no_address_twice(agent)
    agent.start()
    wanted = bridges_of(after)

    def right() -> bool:
        assert_no_address_twice(agent)
        links = {link for link in agent.host.links() if link.startswith("tank-")}
        ports = [link for link in agent.host.links() if link.startswith("tkv")]
        shared = {"tank-a", "tank-default"} if others else set()
        return links == wanted | shared and len(ports) == len(wanted) + 2 * len(others)

    wait_for(right, "bridges and interfaces are as the files say")
    for name in ("web", *others):
        agent.wait_phase(name, "running")
    if after == PORTS:
        wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    elif after == OTHER_PORTS:
        wait_for(lambda: reaches(agent.lan, "10.0.0.2", 9090), "it answers")
        assert not reaches(agent.lan, "10.0.0.2", 8080)
