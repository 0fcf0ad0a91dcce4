"""What the package's removal takes away of bridges when the agent could not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.network.bridges import group_of
from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent, nft, reaches, web
from tests.support.lan import LanAgent

POSTRM = Path(__file__).parents[2] / "packaging" / "debian" / "tank-agent.postrm"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        made.start()
        yield made


def test_the_package_takes_bridges_and_rules_with_it(agent: LanAgent) -> None:
    agent.write("web", web(agent, 'ports = ["8080:80"]\n[network]\nbridges = ["default", "back"]\n'))
    agent.wait_phase("web", "running")
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers")
    agent.host.ip("link add tank-mine type bridge")
    nft(agent, "add table ip mine")
    agent.kill()
    function = POSTRM.read_text().partition("remove_bridges() {")[2].partition("\n}\n")[0]
    installed = str(group_of(Path("/run/tank")))
    assert installed in function
    function = function.replace(installed, str(group_of(agent.run)))
    script = f"set -e\nremove_bridges() {{{function}\n}}\nremove_bridges\nremove_bridges\n"
    agent.host(lambda: subprocess.run(["sh", "-c", script], check=True, timeout=60))
    assert agent.host.links() == {"lo", "eth0", "eth1", "tank-mine"}, "what is not ours stays"
    assert nft(agent, "list", "tables") == "table ip mine\n"
    agent.host.ip("link del tank-mine")
    # The pod is still there, and the next agent makes all of it again.
    agent.start()
    wait_for(lambda: reaches(agent.lan, "10.0.0.2", 8080), "it answers again")
