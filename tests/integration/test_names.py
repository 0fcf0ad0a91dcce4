"""Names of pods and containers, as programs in real containers look them up with glibc."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SERVE, wait_for
from tests.support.lan import LanAgent, nic, stopped_lan_agent

ONCE = ["/bin/sh", "-c", "exit 0"]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    # Nothing is left to a resync.
    with stopped_lan_agent(tmp_path, resync="1h") as made:
        add_getent(made.rootfs)
        yield made


def add_getent(rootfs: Path) -> None:
    """Copy the machine's getent(1) with its glibc, whose lookups are those of most programs."""
    getent = shutil.which("getent") or "/usr/bin/getent"
    listed = subprocess.run(["ldd", getent], check=True, capture_output=True, text=True).stdout
    for file in (getent, *(word for word in listed.split() if word.startswith("/"))):
        target = rootfs / file.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    # As in Debian's base-files.
    (rootfs / "etc" / "host.conf").write_text("multi on\n")


def bridged(agent: LanAgent, network: str = 'network = "bridge"', command: list[str] = SERVE) -> str:
    return agent.pod_text(head=f"{network}\n", command=command)


def start(agent: LanAgent, *pods: str) -> None:
    for pod in pods:
        agent.wait_phase(pod, "running")


def look_up(agent: LanAgent, pod: str, name: str) -> set[str]:
    """Return the addresses of a name, as a program in a pod finds them."""
    found = agent.tank("exec", pod, "--", "/usr/bin/getent", "-A", "ahosts", name).stdout
    return {line.split()[0] for line in found.splitlines()}


def file(agent: LanAgent, pod: str) -> Path:
    return Path(f"/proc/{agent.pid(pod)}/root/etc/hosts")


def wait_name(agent: LanAgent, pod: str, name: str, *addresses: str) -> None:
    def seen() -> bool:
        lines = [line.split() for line in file(agent, pod).read_text().splitlines()]
        return {words[0] for words in lines if name in words[1:]} == set(addresses)

    wait_for(seen, f"{name} is {addresses} in {pod}")


def test_containers_have_names_in_every_network_and_pods_of_one_bridge_or_lan(agent: LanAgent) -> None:
    agent.start()
    agent.write("none", agent.pod_text())
    agent.write("host", agent.pod_text(head='network = "host"\n'))
    for number in (5, 6):
        agent.write(f"lan{number}", agent.nics_text(nic([f"10.0.0.{number}/24", f"fd00::{number}/64"])))
    for pod in ("web", "db"):
        agent.write(pod, bridged(agent))
    start(agent, "none", "host", "lan5", "lan6", "web", "db")
    for pod in ("none", "host", "lan5", "web"):
        assert look_up(agent, pod, "app") == {"127.0.0.1"}, pod
    own = {pod: {a.partition("/")[0] for a in agent.status(pod)["addresses"]} for pod in ("lan6", "db")}  # type: ignore[index]
    for pod, other in (("web", "db"), ("lan5", "lan6")):
        wait_name(agent, pod, other, *own[other])
        assert look_up(agent, pod, other) == look_up(agent, other, other) == own[other]
    assert look_up(agent, "none", "none") == look_up(agent, "host", "host") == {"127.0.1.1"}
    for pod in ("none", "host", "lan5"):
        assert look_up(agent, pod, "db") == set(), pod
    assert look_up(agent, "web", "lan5") == set()


def test_a_file_s_entries_win_over_containers_and_those_over_pods(agent: LanAgent) -> None:
    agent.start()
    for pod in ("app", "db", "mq"):
        agent.write(pod, bridged(agent))
        # One after the other, as they get their addresses.
        start(agent, pod)
    extra = '{ DB = "10.9.9.9", me = "host-gateway", six = "fd00::9" }'
    agent.write("web", bridged(agent, f"[network]\nextra_hosts = {extra}"))
    start(agent, "web")
    wait_name(agent, "web", "mq", "10.89.0.4")
    names = {
        name: look_up(agent, "web", name) for name in ("db", "me", "six", "app", "mq", "web", "localhost")
    }
    assert names == {
        "db": {"10.9.9.9"},
        "me": {"10.89.0.1"},
        "six": {"fd00::9"},
        "app": {"127.0.0.1"},
        "mq": {"10.89.0.4"},
        "web": {"10.89.0.5"},
        "localhost": {"127.0.0.1", "::1"},
    }


def test_names_follow_pods_live_and_in_place(agent: LanAgent) -> None:
    agent.start()
    for pod, bridges in (("web", ["front"]), ("db", ["front", "back"]), ("mq", ["back"])):
        agent.write(pod, bridged(agent, f"[network]\nbridges = {bridges}"))
        start(agent, pod)
    agent.write("lan", agent.nics_text(nic("10.0.0.5/24")))
    start(agent, "lan")
    inode, pid = file(agent, "web").stat().st_ino, agent.pid("web")
    with file(agent, "web").open() as held:
        wait_name(agent, "web", "db", "10.89.0.3")
        agent.write("mq", bridged(agent, '[network]\nbridges = ["front", "back"]'))
        # Of two common bridges, the first of each one that asks.
        wait_name(agent, "web", "mq", "10.89.0.4")
        wait_name(agent, "db", "mq", "10.89.0.4")
        agent.write("db", bridged(agent, '[network]\nbridges = ["back", "front"]'))
        wait_name(agent, "db", "mq", "10.89.1.3")
        wait_name(agent, "mq", "db", "10.89.0.3")
        assert look_up(agent, "db", "db") == {"10.89.0.3", "10.89.1.2"}
        agent.write("mq", bridged(agent, '[network]\nbridges = ["back"]'))
        wait_name(agent, "web", "mq")
        # From the bridge to the LAN, and to another address there, and to the machine's network.
        agent.write("db", agent.nics_text(nic("10.0.0.6/24")))
        wait_name(agent, "web", "db")
        wait_name(agent, "lan", "db", "10.0.0.6")
        agent.write("db", agent.nics_text(nic(["10.0.0.7/24", "fd00::7/64"])))
        wait_name(agent, "lan", "db", "10.0.0.7")
        agent.write("db", agent.pod_text(head='network = "host"\n'))
        wait_name(agent, "lan", "db")
        agent.write("db", bridged(agent, '[network]\nbridges = ["front"]'))
        wait_name(agent, "web", "db", "10.89.0.3")
        agent.write("db", agent.pod_text(head='network = "host"\n'))
        wait_name(agent, "web", "db")
        held.seek(0)
        assert held.read() == file(agent, "web").read_text()
    assert (file(agent, "web").stat().st_ino, agent.pid("web")) == (inode, pid)
    for pod in ("web", "db", "mq", "lan"):
        (agent.pods / f"{pod}.toml").unlink()
    for pod in ("web", "db", "mq", "lan"):
        agent.wait_gone(pod)


def test_names_stay_over_ends_of_pods_and_of_the_agent(agent: LanAgent) -> None:
    agent.config.write_text(agent.config.read_text() + '[network.bridge]\nipv6 = "fd12:3456:789a::/48"\n')
    agent.start()
    lan = 'restart = "never"\n' + agent.nics_text(nic("10.0.0.6/24"), command=ONCE)
    agent.write("once", bridged(agent, 'restart = "never"\nnetwork = "bridge"', ONCE))
    agent.write("lan-once", lan)
    agent.write("web", bridged(agent))
    agent.write("lan", agent.nics_text(nic("10.0.0.5/24")))
    start(agent, "web", "lan")

    def all_there() -> None:
        wait_name(agent, "web", "once", *addresses)
        wait_name(agent, "lan", "lan-once", "10.0.0.6")

    agent.wait_phase("once", "completed")
    agent.wait_phase("lan-once", "completed")
    addresses = look_up(agent, "web", "once")
    assert len(addresses) == 2, "of each family"
    pids = agent.pid("web"), agent.pid("lan")
    agent.kill()
    agent.start()
    start(agent, "web", "lan")
    all_there()
    # Those that ran before know those that come after.
    agent.write("late", bridged(agent))
    agent.write("lan-late", agent.nics_text(nic("10.0.0.8/24")))
    start(agent, "late", "lan-late")
    wait_name(agent, "lan", "lan-late", "10.0.0.8")
    late = look_up(agent, "late", "late")
    wait_name(agent, "web", "late", *late)
    assert (agent.pid("web"), agent.pid("lan")) == pids
    events = agent.tank("events", "--pod", "web").stdout
    assert "started" in events
    assert "network-changed" not in events, "only the names were written"
    # As after a reboot: nothing runs, and run_dir is empty.
    agent.kill()
    agent.start("--stop-pods")
    assert agent.stop(signal.SIGTERM) == 0
    shutil.rmtree(agent.run)
    agent.start()
    start(agent, "web", "lan", "late")
    all_there()
    wait_name(agent, "web", "late", *late)
