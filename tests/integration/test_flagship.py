"""The flagship example on a LAN: one file gives an address, a volume, limits and a pod that comes back."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.runtime.limits.cgroup import detect
from tank_agent.spec.parse import parse_pod_file
from tests.support.agent import wait_for
from tests.support.images import busybox_layout
from tests.support.lan import LanAgent, stopped_lan_agent

EXAMPLE = Path(__file__).parents[2] / "examples" / "flagship" / "api.toml"
LAYOUT = "/srv/images/busybox"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path) as made:
        layout = busybox_layout(tmp_path / "busybox")
        # As ./dev run does: only where the image lies is another; the machine's /srv is not ours.
        (made.pods / "api.toml").write_text(EXAMPLE.read_text().replace(LAYOUT, os.fspath(layout)))
        made.start()
        yield made


def page(agent: LanAgent) -> str:
    """Fetch the page from the second machine; empty while nobody answers."""

    def fetch() -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open("http://10.0.0.20:8080/", timeout=20) as answer:
            return str(answer.read().decode())

    try:
        return agent.lan(fetch)
    except OSError:
        return ""


def test_the_flagship_pod(agent: LanAgent) -> None:
    assert LAYOUT in EXAMPLE.read_text()
    assert parse_pod_file(EXAMPLE.read_text(), str(EXAMPLE)).problems == ()
    status = agent.wait_phase("api", "running")
    assert status["addresses"] == ["10.0.0.20/24"]
    wait_for(lambda: page(agent) == "start\n", "the LAN reaches it")
    pid = agent.pid("api")
    host = detect(agent.run)
    name = "memory.max" if host.mode == "unified" else "memory.limit_in_bytes"
    limits = [
        path.read_text().strip()
        for top in host.hierarchies
        for path in top.glob(f"{agent.cgroup}/api/*/{name}")
    ]
    assert limits == [str(512 << 20)]
    assert Path(f"/proc/{pid}/root/etc/resolv.conf").read_text() == "nameserver 10.0.0.1\n"
    # It comes back with its address and its data: after a crash, with the agent gone, and as a new pod.
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: page(agent) == "start\nstart\n", "it is started again")
    agent.kill()
    assert page(agent) == "start\nstart\n"
    agent.start()
    text = (agent.pods / "api.toml").read_text()
    (agent.pods / "api.toml").unlink()
    agent.wait_gone("api")
    assert page(agent) == ""
    agent.write("api", text)
    wait_for(lambda: page(agent) == "start\nstart\nstart\n", "the volume was kept")
