"""An interface in a bridge passes packets from the moment on that it is said to be there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.network import rtnetlink
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.bridges import Bridges
from tank_agent.network.host_facts import AutoHostFacts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.spec.model import Network
from tests.support.lan import Lan

BRIDGE = Network(mode="bridge", bridges=("default",))


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[Lan]:
    made = Lan(tmp_path)
    yield made
    made.remove_networks()


def passing(name: str) -> bool:
    """Return whether a link passes packets on, of a list of all: to ask for one has the kernel catch up."""
    with rtnetlink.open_socket() as netlink:
        return next(link.running for link in rtnetlink.read_links(netlink) if link.name.startswith(name))


def test_a_client_that_comes_at_once_is_not_kept_waiting(lan: Lan, tmp_path: Path) -> None:
    leases = Leases(Pool(), {}, list)
    bridges = Bridges(leases.networks)
    networks = PodNetworks(tmp_path / "run", AutoHostFacts(), leases)
    for _ in range(10):
        leases.give("web", ("default",))
        lan.host(bridges.ensure)
        lan.host(networks.ensure, "web", BRIDGE)
        seen = lan.host(lambda: (passing("tank-default"), passing("tkv")))
        lan.host(networks.remove, "web")
        assert seen == (True, True)
        leases.keep_only("web", ())
        lan.host(bridges.remove_others)
