"""The examples that are reached through ports of this machine run as they are, on a LAN of their own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.images import busybox_layout
from tests.support.lan import LanAgent, Network, stopped_lan_agent
from tests.support.web import fetched

EXAMPLES = Path(__file__).parents[2] / "examples"
LAYOUT = "/srv/images/busybox"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        # As docs/networking.md tells the owner of a machine to.
        made.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        yield made


def start(agent: LanAgent, directory: str) -> list[str]:
    """Start the agent with the files of an example, and return the names of its pods."""
    layout = busybox_layout(agent.home / "busybox")
    files = sorted((EXAMPLES / directory).glob("*.toml"))
    for file in files:
        text = file.read_text()
        assert LAYOUT in text
        # As ./dev run does: only where the image lies is another; the machine's /srv is not ours.
        (agent.pods / file.name).write_text(text.replace(LAYOUT, os.fspath(layout)))
    agent.start()
    names = [file.stem for file in files]
    for name in names:
        agent.wait_phase(name, "running")
    return names


def shows(network: Network, address: str, port: int, text: str) -> bool:
    return network(fetched, address, port) == (200, text)


def visit(network: Network, address: str) -> int:
    """Return which visit the stack says this is, 0 if it says nothing.

    One whose answer came too late counts all the same: so the numbers only grow.
    """
    status, text = network(fetched, address, 8088)
    return int(text.removeprefix("visit ")) if status == 200 and text.startswith("visit ") else 0


def test_the_page(agent: LanAgent) -> None:
    assert start(agent, "ports") == ["site"]
    wait_for(lambda: shows(agent.lan, "10.0.0.2", 8080, "hello from site\n"), "the LAN sees it")
    assert shows(agent.host, "127.0.0.1", 8080, "hello from site\n")


def test_the_stack(agent: LanAgent) -> None:
    names = start(agent, "stack")
    assert names == ["app", "db", "front"]
    first = wait_for(lambda: visit(agent.lan, "10.0.0.2"), "the LAN sees its visit")
    second = wait_for(lambda: visit(agent.host, "127.0.0.1"), "the machine itself sees its visit")
    assert second > first
    own = {name: agent.statuses(name)[0]["addresses"][0].partition("/")[0] for name in names}
    agent.lan.ip("route add 10.89.0.0/16 via 10.0.0.2")
    for name, port in (("app", 8000), ("db", 5000)):
        assert agent.lan(fetched, own[name], port, "/", 0.3)[0] == 0, "nobody else reaches them"
    os.kill(agent.pid("db"), signal.SIGKILL)
    third = wait_for(lambda: visit(agent.lan, "10.0.0.2"), "it is found again")
    assert third > second, "it has what it kept"
