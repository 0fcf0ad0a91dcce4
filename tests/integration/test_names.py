"""Names of pods and containers, as programs in real containers look them up with glibc."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("network", ["none", "host", "bridge"])
def test_a_host_name_of_its_own_is_all_that_programs_see(agent: LanAgent, network: str) -> None:
    agent.start()
    script = "trap 'exit 0' TERM; echo $HOSTNAME $(busybox hostname) $(cat /etc/hostname)"
    command = ["/bin/sh", "-c", f"{script}; while :; do sleep 1000 & wait $!; done"]

    def said(*lines: str) -> None:
        wait_for(lambda: agent.output("web") == [*lines], f"it prints {lines}: {agent.status('web')}")

    head = f'network = "{network}"'
    agent.write("web", bridged(agent, head, command))
    said("web web web")
    start(agent, "web")
    agent.write("web", bridged(agent, f'hostname = "nas.lan"\n{head}', command))
    said("web web web", "nas.lan nas.lan nas.lan")
    start(agent, "web")
    addresses = {a.partition("/")[0] for a in agent.status("web")["addresses"]} or {"127.0.1.1"}  # type: ignore[index]
    assert look_up(agent, "web", "nas.lan") == look_up(agent, "web", "web") == addresses
    assert agent.tank("exec", "web", "--", "/bin/busybox", "hostname", "-f").stdout == "nas.lan\n"
    # The machine has its own.
    assert os.uname().nodename != "nas.lan"


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


def test_aliases_lead_to_a_pod_in_its_bridges_and_follow_its_file_live(agent: LanAgent) -> None:
    agent.start()
    network = '[network]\nbridges = ["front", "back"]\naliases = ["My_DB", "db.internal"]'
    agent.write("db", bridged(agent, network))
    start(agent, "db")
    for pod, bridge in (("web", "front"), ("mq", "back"), ("far", "other")):
        agent.write(pod, bridged(agent, f'[network]\nbridges = ["{bridge}"]'))
        start(agent, pod)
    pids = {pod: agent.pid(pod) for pod in ("db", "web", "mq")}
    wait_name(agent, "web", "My_DB", "10.89.0.2")
    wait_name(agent, "mq", "My_DB", "10.89.1.2")
    for name in ("My_DB", "my_db", "db.internal"):
        assert look_up(agent, "web", name) == {"10.89.0.2"}
        assert look_up(agent, "mq", name) == {"10.89.1.2"}
        assert look_up(agent, "db", name) == {"10.89.0.2", "10.89.1.2"}
        assert look_up(agent, "far", name) == set()
    # The name stays while the pod is down, as its own does.
    agent.write("db", bridged(agent, f'restart = "never"\n{network}', ONCE))
    agent.wait_phase("db", "completed")
    assert look_up(agent, "web", "My_DB") == {"10.89.0.2"}
    agent.write("db", bridged(agent, network.replace('"My_DB", ', "")))
    wait_name(agent, "web", "My_DB")
    wait_name(agent, "web", "db.internal", "10.89.0.2")
    start(agent, "db")
    pids["db"] = agent.pid("db")
    agent.write("db", bridged(agent, network.replace("My_DB", "other_db")))
    wait_name(agent, "web", "other_db", "10.89.0.2")
    wait_name(agent, "db", "other_db", "10.89.0.2", "10.89.1.2")
    assert {pod: agent.pid(pod) for pod in pids} == pids
    (agent.pods / "db.toml").unlink()
    agent.wait_gone("db")
    wait_name(agent, "web", "other_db")


def test_of_two_pods_the_first_has_an_alias_and_the_other_says_so_over_restarts(agent: LanAgent) -> None:
    agent.start()
    # By their names it would be the other way round.
    for pod, aliases in (("late", '["shared_name"]'), ("early", '["shared_name", "late", "own_name"]')):
        agent.write(pod, bridged(agent, f"[network]\naliases = {aliases}"))
        start(agent, pod)
    agent.write("web", bridged(agent))
    start(agent, "web")

    def said(pod: str) -> list[str]:
        # Others are about this machine.
        return [one for one in agent.status(pod)["warnings"] if one.startswith("alias ")]  # type: ignore[index]

    def seen() -> None:
        wait_name(agent, "web", "shared_name", "10.89.0.2")
        wait_name(agent, "web", "late", "10.89.0.2")
        wait_name(agent, "web", "own_name", "10.89.0.3")
        wait_name(agent, "early", "shared_name", "10.89.0.2")
        assert said("early") == [
            "alias late leads to pod late in bridge default, whose name it is",
            "alias shared_name leads to pod late in bridge default, which named it before",
        ]
        assert said("late") == []
        assert "alias shared_name leads to pod late" in agent.tank("status", "early").stdout

    seen()
    pids = {pod: agent.pid(pod) for pod in ("late", "early", "web")}
    agent.kill()
    agent.start()
    seen()
    assert {pod: agent.pid(pod) for pod in pids} == pids
    agent.write("late", bridged(agent))
    wait_name(agent, "web", "shared_name", "10.89.0.3")
    wait_name(agent, "early", "shared_name", "10.89.0.3")
    wait_name(agent, "late", "shared_name", "10.89.0.3")
    assert said("early") == ["alias late leads to pod late in bridge default, whose name it is"]


def test_a_host_name_leads_to_its_pod_for_others_of_its_bridges(agent: LanAgent) -> None:
    agent.start()
    agent.write("nas", bridged(agent, 'hostname = "nas.lan"\nnetwork = { aliases = ["files"] }'))
    start(agent, "nas")
    for pod, top in (
        ("web", 'network = "bridge"'),
        ("apart", '[network]\nbridges = ["other"]'),
        ("copy", 'hostname = "Nas.LAN"\nnetwork = "bridge"'),
    ):
        agent.write(pod, bridged(agent, top))
        start(agent, pod)
    wait_name(agent, "web", "nas.lan", "10.89.0.2")
    assert look_up(agent, "web", "files") == look_up(agent, "web", "nas") == {"10.89.0.2"}
    assert look_up(agent, "apart", "nas.lan") == set()
    assert look_up(agent, "copy", "nas.lan") == {"10.89.0.4"}, "for itself it is itself"
    said = "hostname Nas.LAN leads to pod nas in bridge default, which named it before"
    assert said in agent.tank("status", "copy").stdout
    pid = agent.pid("web")
    agent.write("nas", bridged(agent, 'hostname = "store.lan"\nnetwork = "bridge"'))
    wait_name(agent, "web", "store.lan", "10.89.0.2")
    wait_name(agent, "web", "Nas.LAN", "10.89.0.4")
    assert agent.pid("web") == pid


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
