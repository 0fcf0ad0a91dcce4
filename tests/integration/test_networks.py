"""Pods with interfaces of their own under a running agent: made, changed live, healed, refused."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tank_agent.linux.pidfd import start_time
from tank_agent.network.wanted import stable_mac
from tests.support.agent import wait_for
from tests.support.lan import LanAgent, lan_agent, nic, stopped_lan_agent, talk
from tests.support.private_mounts import run_with_private_mounts

FIVE = nic(["10.0.0.5/24", "fd00::5/64"], gateway="10.0.0.1")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with lan_agent(tmp_path) as started:
        yield started


def identity(agent: LanAgent, pod: str) -> tuple[int, int | None, int]:
    """Return what must stay the same while a pod is changed live: process, its start, its network."""
    pid = agent.pid(pod)
    return pid, start_time(pid), Path(f"/proc/{pid}/ns/net").stat().st_ino


def in_network(pid: int | None, inode: int) -> bool:
    try:
        return pid is not None and Path(f"/proc/{pid}/ns/net").stat().st_ino == inode
    except FileNotFoundError:
        return False


def seen(agent: LanAgent, pod: str, file: str) -> str:
    return Path(f"/proc/{agent.pid(pod)}/root/etc/{file}").read_text()


def addresses(agent: LanAgent, pod: str) -> list[str]:
    status = agent.status(pod)
    assert status is not None
    return list(status["addresses"])


class TestReach:
    def test_a_second_machine_reaches_a_pod_over_ipv4_and_ipv6(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        status = agent.wait_phase("web", "running")
        assert status["addresses"] == ["10.0.0.5/24", "fd00::5/64"]
        for address in ("10.0.0.5", "fd00::5"):
            assert talk(agent.lan, agent.pod("web"), address) == b"hello"
        assert "10.0.0.5 web\n" in seen(agent, "web", "hosts")
        assert agent.host.links() == {"lo", "eth0", "eth1"}

    def test_two_pods_talk_and_two_uplinks_serve_one_pod(self, agent: LanAgent) -> None:
        agent.write("a", agent.nics_text(FIVE, nic("192.168.5.5/24", name="eth1", parent="eth1")))
        agent.write("b", agent.nics_text(nic("10.0.0.6/24")))
        agent.wait_phase("a", "running")
        agent.wait_phase("b", "running")
        assert talk(agent.pod("a"), agent.pod("b"), "10.0.0.6") == b"hello"
        assert talk(agent.lan, agent.pod("a"), "192.168.5.5") == b"hello"

    def test_it_is_there_before_the_first_line_of_the_program(self, agent: LanAgent) -> None:
        look = "busybox ip -o addr show eth0; busybox ip route; busybox ip -6 route; cat /etc/resolv.conf"
        both = nic(["10.0.0.5/24", "fd00::5/64"]) + '\ngateway = ["10.0.0.1", "fd00::1"]'
        head = f'restart = "never"\n[network]\ndns = ["10.0.0.53"]\n[[network.nics]]\n{both}\n'
        agent.write("web", agent.pod_text(command=["/bin/sh", "-c", f"{look} /etc/hosts"], head=head))
        # Files come last: with them, all of it is there.
        wait_for(lambda: "fd00::5 web" in agent.output("web"), "it has looked")
        seen = "\n".join(agent.output("web"))
        for sentence in (
            "inet 10.0.0.5/24",
            "inet6 fd00::5/64",
            "default via 10.0.0.1 dev eth0",
            "default via fd00::1 dev eth0",
            "nameserver 10.0.0.53",
            "10.0.0.5 web",
        ):
            assert sentence in seen, seen
        assert "tentative" not in next(line for line in agent.output("web") if "fd00::5/64" in line)

    def test_the_network_outlives_the_agent_and_a_container(self, agent: LanAgent) -> None:
        text = agent.nics_text(FIVE) + agent.pod_text().replace('"app"', '"other"')
        agent.write("web", text)
        agent.wait_phase("web", "running")
        agent.wait_output("web", "started", container="other")
        agent.wait_output("web", "started")
        inode = agent.pod("web").inode()
        other = agent.pid("web", 1)
        began = start_time(other)
        agent.kill()
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"
        agent.start()
        os.kill(agent.pid("web", 0), signal.SIGKILL)
        wait_for(lambda: agent.output("web") == ["started", "started"], "one container restarts")
        containers = agent.wait_phase("web", "running")["containers"]
        assert agent.pod("web").inode() == inode
        # Alone: the other has not noticed.
        assert [container["restarts"] for container in containers] == [1, 0]
        assert (agent.pid("web", 1), start_time(other)) == (other, began)
        assert agent.output("web", "other") == ["started"]
        assert in_network(agent.pid("web", 0), inode)
        assert addresses(agent, "web") == ["10.0.0.5/24", "fd00::5/64"]


class TestLiveChanges:
    def test_addresses_interfaces_and_dns_change_under_the_container(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        second = nic("192.168.5.5/24", name="eth1", parent="eth1")
        agent.write("web", agent.nics_text(nic("10.0.0.7/24"), second, dns='["10.0.0.53"]'))
        wait_for(lambda: addresses(agent, "web") == ["10.0.0.7/24", "192.168.5.5/24"], "the addresses change")
        assert talk(agent.lan, agent.pod("web"), "10.0.0.7") == b"hello"
        wait_for(lambda: seen(agent, "web", "resolv.conf") == "nameserver 10.0.0.53\n", "the DNS changes")
        assert "10.0.0.7 web\n" in seen(agent, "web", "hosts")
        assert "10.0.0.5" not in seen(agent, "web", "hosts")
        assert agent.pod("web").links() == {"lo", "eth0", "eth1"}
        assert identity(agent, "web") == before
        assert agent.status("web")["phase"] == "running"  # type: ignore[index]

    def test_interfaces_come_to_and_leave_a_pod_without_any(self, agent: LanAgent) -> None:
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        agent.write("web", agent.nics_text(FIVE))
        wait_for(lambda: addresses(agent, "web") == ["10.0.0.5/24", "fd00::5/64"], "the interface comes")
        agent.write("web", agent.pod_text())
        wait_for(lambda: addresses(agent, "web") == [], "the interface goes")
        assert agent.pod("web").links() == {"lo"}
        assert identity(agent, "web") == before

    def test_the_hosts_network_is_another_pod_network(self, agent: LanAgent) -> None:
        two = agent.pod_text(command=["/bin/sleep", "1000"], extra='stop_grace = "1s"')
        agent.write("web", agent.nics_text(FIVE) + two.replace('"app"', '"other"'))
        agent.wait_phase("web", "running")
        agent.write("web", agent.pod_text(head='network = "host"') + two.replace('"app"', '"other"'))
        host = agent.host.inode()

        def moved() -> bool:
            pids = [c["pid"] for c in (agent.status("web") or {"containers": []})["containers"]]
            return len(pids) == 2 and all(in_network(pid, host) for pid in pids)

        wait_for(moved, "both containers run in the host's network")
        agent.wait_phase("web", "running")
        assert not agent.pod("web").path.exists()
        assert addresses(agent, "web") == []
        agent.write("web", agent.nics_text(FIVE))
        wait_for(lambda: addresses(agent, "web") == ["10.0.0.5/24", "fd00::5/64"], "it moves back")

    def test_a_failed_change_is_shown_and_stops_nothing(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        agent.write("other", agent.nics_text(nic("10.0.0.6/24")))
        agent.wait_phase("web", "running")
        agent.wait_phase("other", "running")
        before = identity(agent, "web")
        agent.write("web", agent.nics_text(FIVE, nic("10.0.0.9/24", name="eth1", parent="eth7")))
        status = agent.wait_phase("web", "degraded")
        assert "eth7" in status["error"], status
        assert status["next_retry"] is not None
        assert identity(agent, "web") == before
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"
        assert talk(agent.lan, agent.pod("other"), "10.0.0.6") == b"hello"
        types = [event.type for event in agent.client.events() if event.pod == "web"]
        assert types.count("network-failed") == 1
        agent.write("web", agent.nics_text(FIVE))
        status = agent.wait_phase("web", "running")
        assert status["error"] is None
        assert identity(agent, "web") == before

    def test_what_can_be_done_is_done_while_another_interface_cannot_be_made(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        absent = nic("10.0.0.9/24", name="eth1", parent="eth7")
        agent.write("web", agent.nics_text(nic("10.0.0.8/24", gateway="10.0.0.1"), absent))
        wait_for(lambda: addresses(agent, "web") == ["10.0.0.8/24"], "the address changes")
        wait_for(lambda: "10.0.0.8 web\n" in seen(agent, "web", "hosts"), "so does /etc/hosts")
        agent.pod("web").ip("addr del 10.0.0.8/24 dev eth0")
        wait_for(lambda: "10.0.0.8/24" in agent.pod("web").ip("addr show eth0"), "damage is repaired")
        assert "eth7" in agent.wait_phase("web", "degraded")["error"]
        assert talk(agent.lan, agent.pod("web"), "10.0.0.8") == b"hello"
        assert identity(agent, "web") == before


class TestRefusals:
    def test_an_address_that_another_machine_has_is_refused_until_it_is_free(self, agent: LanAgent) -> None:
        agent.lan.ip("addr add 10.0.0.5/24 dev br0")
        agent.write("web", agent.nics_text(nic()))
        error = wait_for(lambda: (agent.status("web") or {}).get("error"), "the error shows")
        assert "10.0.0.5" in str(error)
        agent.lan.ip("addr del 10.0.0.5/24 dev br0")
        agent.wait_phase("web", "running")
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"

    def test_of_two_pods_that_start_together_with_one_address_exactly_one_runs(self, tmp_path: Path) -> None:
        with stopped_lan_agent(tmp_path, backoff_base="10m", backoff_cap="10m") as agent:
            for pod in ("a", "b"):
                agent.write(pod, agent.nics_text(FIVE))
            agent.start()

            def phases() -> list[str]:
                return sorted((agent.status(pod) or {"phase": ""})["phase"] for pod in ("a", "b"))

            # Nobody tries a second time that soon: they do not have to drift apart first.
            wait_for(lambda: "running" in phases(), "one of them runs")
            wait_for(
                lambda: any((agent.status(pod) or {}).get("error") for pod in ("a", "b")),
                "the other says why",
            )
            assert phases().count("running") == 1
            loser = next(pod for pod in ("a", "b") if (agent.status(pod) or {})["phase"] != "running")
            assert "10.0.0.5 is taken" in str((agent.status(loser) or {})["error"])
            assert talk(agent.lan, agent.pod("b" if loser == "a" else "a"), "10.0.0.5") == b"hello"

    @pytest.mark.parametrize("parent", ["eth7", "port0"])
    def test_a_pod_that_cannot_have_its_network_says_why_and_leaves_nothing(
        self, agent: LanAgent, parent: str
    ) -> None:
        agent.write("web", agent.nics_text(nic(parent=parent)))
        status = wait_for(lambda: (agent.status("web") or {}).get("error"), "the error shows")
        assert parent in str(status)
        (agent.pods / "web.toml").unlink()
        agent.wait_gone("web")
        assert not (agent.run / "netns" / "web").exists()

    def test_without_an_uplink_it_waits_for_one_and_says_so(self, agent: LanAgent) -> None:
        agent.host.ip("route del default")
        agent.write("web", agent.nics_text(nic("fd00::5/64")))
        error = wait_for(lambda: (agent.status("web") or {}).get("error"), "the error shows")
        assert "no uplink" in str(error)
        agent.host.ip("route add default via 10.0.0.1")
        status = agent.wait_phase("web", "running")
        assert (status["addresses"], status["error"]) == (["fd00::5/64"], None)
        assert talk(agent.lan, agent.pod("web"), "fd00::5") == b"hello"


class TestDrift:
    def test_what_is_taken_away_comes_back_within_a_resync(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE, dns='["10.0.0.53"]'))
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        network = agent.pod("web")
        for damage in (
            "addr del 10.0.0.5/24 dev eth0",
            "addr del fd00::5/64 dev eth0",
            "addr add 10.0.0.99/24 dev eth0",
            "route del default",
            "link set eth0 down",
            "link set lo down",
            "link del eth0",
        ):
            network.ip(damage)
            healed = wait_for(
                lambda: (
                    "10.0.0.5/24" in network.ip("-br addr show dev eth0 up", check=False)
                    and "fd00::5/64" in network.ip("-br addr show dev eth0", check=False)
                    and "10.0.0.99" not in network.ip("-br addr show dev eth0", check=False)
                    and "10.0.0.1" in network.ip("route show default")
                    and "lo" in network.ip("-br link show dev lo up")
                ),
                f"healed after {damage}",
                5,
            )
            assert healed
        assert talk(agent.lan, network, "10.0.0.5") == b"hello"
        assert identity(agent, "web") == before
        assert agent.wait_phase("web", "running")["containers"][0]["restarts"] == 0

    def test_a_lost_uplink_is_shown_and_followed_when_it_returns(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(nic(parent="eth0")))
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        agent.host.ip("link del eth0")
        status = agent.wait_phase("web", "degraded")
        assert "eth0" in status["error"]
        agent.add_uplink(0)
        agent.wait_phase("web", "running")
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"
        assert identity(agent, "web") == before

    def test_a_lost_pin_is_made_again_from_the_container(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        mounts.unmount_all(agent.pod("web").path)
        wait_for(lambda: agent.pod("web").inode() == before[2], "the pin is back")
        agent.kill()
        mounts.unmount_all(agent.pod("web").path)
        agent.start()
        wait_for(lambda: agent.pod("web").inode() == before[2], "the next agent pins it, too")
        agent.wait_phase("web", "running")
        assert identity(agent, "web") == before
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"

    def test_the_network_is_made_anew_when_all_containers_are_down(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE))
        agent.wait_phase("web", "running")
        agent.wait_output("web", "started")
        first = identity(agent, "web")
        network = agent.pod("web")
        network.ip("link add own0 type bridge")
        network.ip("addr add 10.9.9.9/24 dev lo")
        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: agent.output("web") == ["started", "started"], "it runs again")
        agent.wait_phase("web", "running")
        assert network.links() == {"lo", "eth0"}
        assert "10.9.9.9" not in network.ip("addr")
        assert addresses(agent, "web") == ["10.0.0.5/24", "fd00::5/64"]
        assert in_network(agent.pid("web"), network.inode())
        assert talk(agent.lan, network, "10.0.0.5") == b"hello"

    def test_a_pin_is_never_made_again_of_the_hosts_namespace(self, agent: LanAgent) -> None:
        """A container of the pod that is still to leave the host's network is no source for a lost pin."""
        stubborn = agent.pod_text(
            command=["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"], extra='stop_grace = "20s"'
        )
        other = agent.pod_text(extra='stop_grace = "1s"').replace('"app"', '"other"')
        host = 'network = "host"'
        agent.write("web", f"{host}\n{stubborn}{other}")
        agent.wait_phase("web", "running")
        left = agent.pid("web")
        links = agent.host.ip("-o link")
        network = f"[network]\n[[network.nics]]\n{FIVE}\n"
        agent.write("web", f"{network}{stubborn}{other}")

        def moved() -> bool:
            pid = next(c["pid"] for c in (agent.status("web") or {})["containers"] if c["name"] == "other")
            path = agent.pod("web").path
            return path.exists() and in_network(pid, path.stat().st_ino)

        wait_for(moved, "one container is in the pod's network")
        assert in_network(left, agent.host.inode())
        inode = agent.pod("web").inode()
        mounts.unmount_all(agent.pod("web").path)
        wait_for(lambda: agent.pod("web").inode() == inode, "the pod's own namespace is pinned again")
        assert agent.host.ip("-o link") == links
        assert talk(agent.lan, agent.pod("web"), "10.0.0.5") == b"hello"
        agent.write("web", f"{network}{stubborn}{other}".replace('"20s"', '"300ms"'))
        os.kill(left, signal.SIGKILL)
        agent.wait_phase("web", "running")

    def test_files_that_tell_of_the_network_are_kept_right(self, agent: LanAgent) -> None:
        agent.write("web", agent.nics_text(FIVE, dns='["10.0.0.53"]'))
        agent.wait_phase("web", "running")
        directory = agent.run / "pods" / "web"
        right = {file.name: file.read_text() for file in directory.iterdir()}
        assert set(right) == {"hosts", "hostname", "resolv.conf"}
        with (directory / "hosts").open("a") as file:
            file.write("10.0.0.66 bank.example\n")
        wait_for(lambda: seen(agent, "web", "hosts") == right["hosts"], "a changed file is put right")
        (directory / "resolv.conf").unlink()
        (directory / "hostname").unlink()
        wait_for(
            lambda: {file.name: file.read_text() for file in directory.iterdir()} == right,
            "deleted files are written again",
            5,
        )


MAKING = [
    "network:namespace-made",
    "network:pin-created",
    "network:namespace-pinned",
    "network:link-created",
    "network:link-configured",
    "network:link-named",
    "network:link-up",
    "network:probed",
    "network:address-added",
    "network:route-added",
]


@pytest.mark.parametrize("point", MAKING)
def test_an_agent_killed_while_it_makes_a_network(tmp_path: Path, point: str) -> None:
    with stopped_lan_agent(tmp_path) as agent:
        agent.write("web", agent.nics_text(FIVE))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        assert agent.host.links() == {"lo", "eth0", "eth1"}
        agent.start()
        status = agent.wait_phase("web", "running")
        assert status["addresses"] == ["10.0.0.5/24", "fd00::5/64"]
        wait_for(lambda: agent.output("web") == ["started"], "it starts once")


@pytest.mark.parametrize("point", MAKING)
def test_an_agent_killed_while_it_makes_a_network_that_nobody_wants_any_more(
    tmp_path: Path, point: str
) -> None:
    with stopped_lan_agent(tmp_path) as agent:
        file = agent.write("web", agent.nics_text(FIVE))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        file.unlink()
        agent.start()
        wait_for(lambda: not list((agent.run / "netns").glob("*")), "its network is gone")
        agent.wait_gone("web")
        # Gone from the parent, too, where two can't have one MAC address.
        mac = stable_mac("web", "eth0").hex(":")
        agent.host.ip(f"link add link eth0 name up9 address {mac} type macvlan mode bridge")
        agent.host.ip("link set up9 up")
        agent.host.ip("link del up9")


@pytest.mark.parametrize(
    "point",
    [
        "network:address-added",
        "network:address-removed",
        "network:ipv6-switched-off",
        "network:route-removed",
        "network:link-removed",
    ],
)
def test_an_agent_killed_while_it_changes_a_network_under_a_container(tmp_path: Path, point: str) -> None:
    with stopped_lan_agent(tmp_path) as agent:
        agent.write("web", agent.nics_text(FIVE, nic("192.168.5.5/24", name="eth1", parent="eth1")))
        agent.start()
        agent.wait_phase("web", "running")
        before = identity(agent, "web")
        agent.kill()
        agent.write("web", agent.nics_text(nic("10.0.0.8/24")))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        agent.start()
        wait_for(lambda: addresses(agent, "web") == ["10.0.0.8/24"], "the next agent finishes the change")
        assert agent.pod("web").links() == {"lo", "eth0"}
        assert identity(agent, "web") == before


def test_the_hosts_dns_reaches_pods_that_run(tmp_path: Path) -> None:
    """The host's resolv.conf is a file of the test's, by an adapter of its own."""
    facts, home = tmp_path / "facts", tmp_path / "home"
    facts.mkdir()
    home.mkdir()
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 10.0.0.53\n")
    (facts / "lan_facts.py").write_text(
        "from pathlib import Path\n"
        "from tank_agent.network.host_facts import AutoHostFacts\n\n\n"
        "class Facts(AutoHostFacts):\n"
        "    def __init__(self):\n"
        f"        super().__init__(resolv_conf=Path({str(resolv_conf)!r}))\n"
    )
    with stopped_lan_agent(home) as agent:
        agent.environment["PYTHONPATH"] = os.pathsep.join([str(facts), *sys.path])
        agent.config.write_text(agent.config.read_text() + '[host]\nadapter = "lan_facts.Facts"\n')
        agent.write("web", agent.nics_text(FIVE))
        agent.write("host", agent.pod_text(head='network = "host"'))
        agent.write("alone", agent.pod_text())
        agent.start()
        for pod in ("web", "host", "alone"):
            agent.wait_phase(pod, "running")
        pids = [agent.pid(pod) for pod in ("web", "host", "alone")]
        resolv_conf.write_text("nameserver 10.0.0.54\nsearch lan.example\n")
        wanted = ["nameserver 10.0.0.54\nsearch lan.example\n"] * 2
        wait_for(
            lambda: [seen(agent, pod, "resolv.conf") for pod in ("web", "host")] == wanted, "both follow", 5
        )
        assert seen(agent, "alone", "resolv.conf") == ""
        assert [agent.pid(pod) for pod in ("web", "host", "alone")] == pids


def test_an_adapter_that_fails_keeps_only_those_from_starting_who_need_it(tmp_path: Path) -> None:
    facts, home = tmp_path / "facts", tmp_path / "home"
    facts.mkdir()
    home.mkdir()
    (facts / "failing_facts.py").write_text(
        "from pathlib import Path\n\n\n"
        "class Facts:\n"
        "    def uplink(self):\n"
        "        return 'eth0'\n\n"
        "    def dns(self):\n"
        f"        return Path({str(tmp_path / 'servers')!r}).read_text().split()\n"
    )
    with stopped_lan_agent(home) as agent:
        agent.environment["PYTHONPATH"] = os.pathsep.join([str(facts), *sys.path])
        agent.config.write_text(agent.config.read_text() + '[host]\nadapter = "failing_facts.Facts"\n')
        agent.write("alone", agent.pod_text())
        agent.write("own", agent.nics_text(nic("10.0.0.6/24"), dns='["10.0.0.53"]'))
        agent.write("web", agent.nics_text(nic()))
        agent.start()
        for pod in ("alone", "own"):
            agent.wait_phase(pod, "running")
        error = wait_for(lambda: (agent.status("web") or {}).get("error"), "the error shows")
        assert "failing_facts.Facts.dns() failed: FileNotFoundError" in str(error)
        (tmp_path / "servers").write_text("10.0.0.54 fd00::54")
        agent.wait_phase("web", "running")
        assert seen(agent, "web", "resolv.conf") == "nameserver 10.0.0.54\nnameserver fd00::54\n"
        assert seen(agent, "own", "resolv.conf") == "nameserver 10.0.0.53\n"
        agent.client.sync()
        assert [agent.status(pod)["phase"] for pod in ("alone", "own")] == ["running"] * 2  # type: ignore[index]


@pytest.mark.parametrize("what", ["hosts", "dns"])
def test_the_hosts_own_files_in_etc(tmp_path: Path, what: str) -> None:
    """Both by the adapter `auto`, in a mount namespace in which the machine's files are the test's."""
    run_with_private_mounts("host_files.py", what, str(tmp_path))


def test_a_static_host_is_what_agent_toml_says(tmp_path: Path) -> None:
    with stopped_lan_agent(tmp_path) as agent:
        host = '[host]\nadapter = "static"\nuplink = "eth1"\ndns = ["192.168.5.53"]\n'
        agent.config.write_text(agent.config.read_text() + host)
        # Its default route leads to eth0, which nobody asks for now.
        agent.write("web", agent.nics_text(nic("192.168.5.5/24")))
        agent.write("own", agent.nics_text(nic("192.168.5.6/24"), dns='["192.168.5.54"]'))
        agent.start()
        for pod in ("web", "own"):
            agent.wait_phase(pod, "running")
        assert talk(agent.lan, agent.pod("web"), "192.168.5.5") == b"hello"
        assert seen(agent, "web", "resolv.conf") == "nameserver 192.168.5.53\n"
        assert seen(agent, "own", "resolv.conf") == "nameserver 192.168.5.54\n"
