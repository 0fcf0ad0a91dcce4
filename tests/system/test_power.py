"""Reboots, upgrades and power cuts: what was wanted is there again, with no hand laid on."""

from __future__ import annotations

import os
import random
import re
import threading
from pathlib import Path

import pytest

from tests.support.deb import newer, version_of
from tests.support.debian import ROOT
from tests.support.installed import SERVE, Installed
from tests.system.test_package import contiguous

_CUTS = int(os.environ.get("TANK_POWER_CUTS", "3"))
_SEED = int(os.environ.get("TANK_POWER_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)


def test_what_the_disk_has_acknowledged_is_on_it(machine: Installed) -> None:
    """Else a power cut would lose here what it never does on a machine of iron."""
    files = machine.sh("find /usr/share/doc -type f -size +60k | sort | head -4").split()
    block = b"kept" * 1024
    machine.vm.write("/root/block", block)
    for file in files:
        # In its place, and with O_DSYNC: the kernel asks to keep this block alone (FUA), and for no flush.
        write = f"dd if=/root/block of={file} bs=4096 seek=10 oflag=direct,dsync conv=notrunc 2>/dev/null"
        machine.sh(write)
        assert machine.vm.on_disk(file)[10 * 4096 : 11 * 4096] == block, file


def test_an_upgrade_keeps_every_container_and_every_line(machine: Installed, package: Path) -> None:
    upgrade = newer(package)
    for name in ("first", "second"):
        machine.pod(name, extra='[containers.limits]\nmemory = "64M"')
        machine.wait_phase(name)
    _update(machine, "second", min_healthy="1s")
    machine.wait("it is good", lambda: _rollout(machine, "second") == "good")
    # The upgrade comes while this one has to prove itself.
    _update(machine, "second", min_healthy="1h")
    machine.wait("it waits", lambda: _rollout(machine, "second") == "updating" and machine.pids()["second"])
    before = {name: machine.wait_phase(name)["containers"][0]["pid"] for name in ("first", "second")}
    untouched = _held(machine)
    machine.sh("echo '# Ours.' >> /etc/tank/agent.toml; chmod 0710 /etc/tank")
    agent = machine.agent()
    machine.install(upgrade)
    machine.wait_for_agent()
    assert machine.sh("dpkg-query -W -f '${Version}' tank-agent") == version_of(upgrade)
    assert agent not in (machine.agent(), machine.answering())
    assert machine.pids() == before
    assert _rollout(machine, "second") == "updating"
    assert _held(machine) == untouched
    # What the administrator changed.
    assert machine.sh("tail -1 /etc/tank/agent.toml") == "# Ours."
    assert machine.sh("stat -c '%a %G' /etc/tank") == "710 tank"
    machine.sh("chmod 0750 /etc/tank")
    for name in before:
        seen = contiguous(_last_run(machine, name))
        machine.wait(
            f"{name} goes on", lambda name=name, seen=seen: contiguous(_last_run(machine, name)) > seen
        )  # type: ignore[misc]


def _last_run(machine: Installed, name: str) -> list[str]:
    """Return what the last run of a pod that counts has printed."""
    lines = machine.lines(name)
    return lines[len(lines) - 1 - lines[::-1].index("1") :]


def _goes_on(machine: Installed, name: str, seen: int) -> bool:
    return contiguous(_last_run(machine, name)) > seen


def _update(machine: Installed, name: str, *, min_healthy: str) -> None:
    """Write a revision of a pod that has to prove itself for so long."""
    head = f'[update]\nmin_healthy = "{min_healthy}"\ndeadline = "2h"'
    extra = f'env = {{ PROOF = "{min_healthy}" }}\n[containers.limits]\nmemory = "64M"'
    machine.pod(name, head=head, extra=extra)


def _rollout(machine: Installed, name: str) -> str:
    return str(machine.statuses()[name]["rollout"]["state"])


def _held(machine: Installed) -> str:
    """Return the monitors, the limits, and everything that is mounted or made for pods."""
    tree = "/sys/fs/cgroup/tank.slice/tank-pods.service/tank"
    limits = f"grep -r . --include=memory.max {tree} | sort"
    mounts = "grep ' /run/tank' /proc/mounts; ls /run/tank/netns /run/tank/containers 2>/dev/null || true"
    held = machine.sh(f"pgrep -x conmon; {limits}; {mounts}")
    assert held.count(f"memory.max:{64 << 20}") == 2, held
    return held


def test_a_reboot_brings_everything_back_and_keeps_decisions(machine: Installed) -> None:
    machine.sh("cp /etc/tank/agent.toml /root/agent.toml")
    machine.vm.write("/etc/tank/agent.toml", '[reconcile]\nbackoff_base = "1h"\nbackoff_cap = "1h"\n')
    machine.sh("systemctl reload tank-agent")
    try:
        machine.pod("web")
        machine.pod("failing", "exit 7")
        machine.pod("away", head='hosts = ["other"]')
        for name in ("changed", "deleted"):
            machine.pod(name)
            machine.sh(f"mv /etc/tank/pods.d/{name}.toml /etc/tank/seed.d/")
        machine.wait("no seed yet", lambda: set(machine.statuses()) == {"web", "failing"})
        machine.pod("held")
        machine.wait_phase("held")
        machine.sh("systemctl reload tank-agent")
        machine.wait_phase("deleted")
        machine.vm.tank("delete", "deleted")
        machine.sh(
            "sed 's/stop_grace = .*/stop_grace = \"3s\"/' /etc/tank/seed.d/changed.toml > /root/changed.toml"
        )
        machine.vm.tank("apply", "/root/changed.toml")
        machine.wait_phase("changed")
        retry = machine.wait_phase("failing", "backing-off")["next_retry"]
        machine.vm.tank("stop", "held", "--wait", "--timeout", "4m", timeout=300)
        printed = contiguous(machine.lines("web"))

        machine.vm.reboot()
        machine.wait_for_agent()
        assert machine.wait_phase("web")["containers"][0]["pid"]
        lines = machine.lines("web")
        assert "bye" in lines, "the pod was not asked to stop when the machine went down"
        assert contiguous(lines[: lines.index("bye")]) >= printed
        assert 'stop_grace = "3s"' in machine.vm.tank("get", "changed").out
        machine.wait_phase("changed")
        assert "deleted" not in machine.statuses()
        failing = machine.wait_phase("failing", "backing-off")
        assert (failing["next_retry"], failing["containers"][0]["exit"]["code"]) == (retry, 7)
        assert machine.sh("stat -c '%a %G' /run/tank /run/tank/tank.sock") == "711 root\n660 tank"
        assert "elsewhere: away - " in machine.vm.tank("status").out
        _check_what_was_stopped_by_hand(machine)
    finally:
        machine.sh(
            "cp /root/agent.toml /etc/tank/agent.toml; rm /etc/tank/seed.d/*; systemctl restart tank-agent"
        )
        machine.vm.tank("delete", "changed")


def _check_what_was_stopped_by_hand(machine: Installed) -> None:
    """Check that pod "held" waited for a person over the reboot, and that others have fresh runs by hand."""
    held = machine.wait_phase("held", "stopped")
    assert [one["pid"] for one in held["containers"]] == [None], held
    before = machine.pids()
    machine.vm.tank("start", "held", "--wait", "--timeout", "4m", timeout=300)
    assert machine.statuses()["held"]["phase"] == "running"
    machine.vm.tank("restart", "changed", "--wait", "--timeout", "4m", timeout=300)
    fresh = machine.pids()
    assert fresh["web"] == before["web"] and fresh["changed"] not in (None, before["changed"])
    assert machine.cgroup(fresh["changed"] or 0).parts[4:7] == ("tank.slice", "tank-pods.service", "tank")


def test_at_power_off_pods_stop_in_order_while_the_network_is_up(machine: Installed) -> None:
    # Its last words go through its own interface, on the machine's network card.
    last_words = "trap 'echo farewell | nc -w 5 10.77.0.1 9000; exit 0' TERM; while :; do sleep 0.2; done"
    machine.pod("lan", last_words, head='[network]\n[[network.nics]]\nname = "eth0"\nip = "10.77.0.52/24"')
    machine.pod("web")
    # What needs another pod ends before it, however long it takes.
    slow = "trap 'sleep 0.3; echo gone; exit 0' TERM; while :; do sleep 0.2; done"
    machine.pod("site", slow, head='after = ["db"]')
    machine.pod("db", slow.replace("sleep 0.3; ", ""))
    names = ("lan", "web", "site", "db")
    for name in names:
        machine.wait_phase(name)
    with machine.vm.listening_outside(9000) as heard:
        machine.vm.power_off()
        assert heard() == "farewell\n"
    machine.vm.start()
    machine.wait_for_agent()
    assert machine.lines("web").count("bye") == 1
    for name in names:
        machine.wait_phase(name)
    ends = [machine.sh(f"cat /var/lib/tank/logs/{name}/app.log").splitlines() for name in ("site", "db")]
    # Each line begins with its time.
    assert [line.split(" ", 3)[3] for lines in ends for line in lines] == ["gone", "gone"]
    assert ends[0] < ends[1]
    # systemd had nothing left to kill.
    log = machine.sh("journalctl -b -1 -o cat -u tank-agent -u tank-pods")
    assert "Failed with result" not in log
    assert "left-over process" not in log


# The line of docs/networking.md.
_FORWARD = "echo net.ipv4.ip_forward=1 >>/etc/sysctl.d/90-tank.conf; sysctl -p /etc/sysctl.d/90-tank.conf"


def test_bridges_ports_and_names_are_there_before_and_after_a_reboot(machine: Installed) -> None:
    assert _FORWARD in (ROOT / "docs" / "networking.md").read_text()
    machine.pod("web", SERVE, head='ports = ["8080:80", "127.0.0.1:8081:80"]')
    machine.pod("other", SERVE, head='[network]\nbridges = ["default", "back"]')
    machine.sh(_FORWARD)
    try:
        addresses = _check_bridges(machine)
        machine.vm.reboot()
        machine.wait_for_agent()
        assert _check_bridges(machine) == addresses
    finally:
        machine.sh("rm /etc/sysctl.d/90-tank.conf; sysctl net.ipv4.ip_forward=0")
    for name in ("web", "other"):
        machine.remove_pod(name)
    machine.wait("nothing is left of them", lambda: not machine.statuses() and not machine.leftovers())
    assert "inet tank" not in _nft(machine, "list tables")


def _check_bridges(machine: Installed) -> list[list[str]]:
    """Check that the pods are reached from everywhere, and return their addresses."""
    addresses = [machine.wait_phase(name)["addresses"] for name in ("web", "other")]
    # A pod runs before its server listens, and the agent answers before the machine has its address.
    for address in ("127.0.0.1:8080", "10.77.0.2:8080", "127.0.0.1:8081"):
        machine.wait(f"{address} answers", lambda address=address: _page(machine, address) == "web")  # type: ignore[misc]
    for client, server in (("other", "web"), ("web", "other"), ("web", "web")):
        ask = ("exec", "-T", client, "--", "busybox", *_FETCH, f"http://{server}/")
        machine.wait(
            f"{client} finds {server}",
            lambda ask=ask, server=server: machine.vm.tank(*ask, check=False).out.strip() == server,  # type: ignore[misc]
        )
    seen = ("busybox", *_FETCH, "http://10.77.0.2:8080/")
    machine.wait("it is seen outside", lambda: machine.vm.outside(*seen).out.strip() == "web")
    assert machine.vm.outside("busybox", *_FETCH, "http://10.77.0.2:8081/").out == ""
    table = _nft(machine, "list table inet tank")
    assert all(f'iifname "tank-{name}" oifname "tank-{name}" accept' in table for name in ("default", "back"))
    return addresses


_FETCH = ("wget", "-q", "-O", "-")


def _page(machine: Installed, address: str) -> str:
    return machine.vm.run("busybox", *_FETCH, f"http://{address}/", check=False).out.strip()


def _nft(machine: Installed, command: str) -> str:
    # By the library that the package depends on: the machine need not have the program.
    code = "import sys; from tank_agent.linux import nftables; print(nftables.run(sys.argv[1]))"
    return machine.vm.run("python3", "-c", code, command).out


@pytest.mark.parametrize("cut", range(_CUTS))
def test_a_power_cut_during_churn(machine: Installed, cut: int) -> None:
    chance = random.Random(_SEED + cut)
    machine.pod("steady", head='ports = ["8080:80"]')
    addresses = machine.wait_phase("steady")["addresses"]
    machine.sh(_CHURN)
    acknowledged = _apply_until_the_cut(machine, chance.uniform(1.0, 15.0))
    machine.vm.start()
    machine.wait_for_agent()

    what = f"cut {cut}, TANK_POWER_SEED={_SEED}, {acknowledged} acknowledged"
    if acknowledged:
        spec = machine.vm.tank("get", "counter").out
        found = re.search(r'NUMBER = "(\d+)"', spec)
        assert found is not None, (what, spec)
        # The one under way when the power went may have been committed, or not.
        assert int(found.group(1)) in (acknowledged, acknowledged + 1), what
    wanted = set(machine.sh("cd /etc/tank/pods.d && ls | sed -n 's/[.]toml$//p'").split())
    wanted |= set(machine.sh('tank list -o json | sed -n \'s/.*"name": *"\\(counter\\)".*/\\1/p\'').split())
    assert "steady" in wanted, what

    def converged() -> bool:
        pods = machine.statuses()
        broken = {name for name, pod in pods.items() if pod["phase"] != "running"}
        # A file that was being written may be cut short: it is reported, and hurts no other.
        return set(pods) == wanted and all("toml:" in (pods[name]["error"] or "") for name in broken)

    machine.wait(f"{what}: all of {wanted} run", converged, 180)
    assert machine.statuses()["steady"]["addresses"] == addresses, what
    running = {name for name, pod in machine.statuses().items() if pod["phase"] == "running"}
    assert int(machine.sh("pgrep -cx conmon")) == len(running), what
    for name in sorted(running - {"counter", "steady"}):
        written = _number(machine.sh(f"cat /etc/tank/pods.d/{name}.toml"))
        if written is None:
            # Cut short by the power: reported, and the last good spec goes on.
            continue
        # What the journal had may be started before the file was read.
        machine.wait(
            f"{what}: {name} is as its file says, {written}",
            lambda name=name, written=written: _numbers(machine, name) == (written, written),  # type: ignore[misc]
            90,
        )
    # What runs before the cut had written was thrown away, and nothing else.
    machine.wait(
        f"{what}: no root file system is left over", lambda: _root_file_systems(machine) == _runs(machine)
    )
    assert "corrupt" not in machine.sh("journalctl -b -u tank-agent -o cat").lower(), what
    machine.vm.tank("delete", "counter")


def _apply_until_the_cut(machine: Installed, seconds: float) -> int:
    """Apply one spec after the other until the power is cut, and return how many were acknowledged."""
    acknowledged = 0
    off = threading.Event()

    def cut() -> None:
        off.set()
        machine.vm.cut_power()

    timer = threading.Timer(seconds, cut)
    timer.start()
    try:
        while not off.is_set():
            script = _APPLY.format(number=acknowledged + 1)
            applied = machine.vm.run("sh", "-c", script, check=False, timeout=60)
            assert applied.code == 0, applied
            acknowledged += 1
    except (AssertionError, OSError):
        # It is the cut that ends the last one, and nothing else may end one.
        if not off.is_set():
            raise
    finally:
        timer.cancel()
        timer.join()
    return acknowledged


def _number(text: str) -> str | None:
    found = re.search(r"""\bN *= *["']?(\d+)""", text)
    return None if found is None else found.group(1)


def _numbers(machine: Installed, name: str) -> tuple[str | None, str | None]:
    """Return the number that is wanted of a pod, and the one that it runs with."""
    wanted = _number(machine.vm.tank("get", name).out)
    pid = machine.pids()[name]
    environment = machine.sh(f"tr '\\0' '\\n' < /proc/{pid}/environ", check=False)
    return wanted, _number(environment)


def _root_file_systems(machine: Installed) -> set[str]:
    return set(machine.sh("ls /var/lib/tank/overlay").split())


def _runs(machine: Installed) -> set[str]:
    """Return the containers that have processes, by their control groups."""
    tree = "/sys/fs/cgroup/tank.slice/tank-pods.service/tank"
    groups = f"cd {tree} && grep -l 'populated 1' */*/cgroup.events || true"
    return {line.split("/")[1] for line in machine.sh(groups).splitlines()}


_SPEC = (
    '[[containers]]\nname = "app"\nrootfs = "/srv/busybox"\nstop_grace = "1s"\n'
    'command = ["/bin/sh", "-c", "trap exit TERM; while :; do sleep 0.2; done"]\n'
)
# Applies a spec that differs each time.
_APPLY = (
    f"cat > /root/counter.toml <<'END'\nname = \"counter\"\n{_SPEC}".replace("{", "{{").replace("}", "}}")
    + 'env = {{ NUMBER = "{number}" }}\nEND\ntank apply /root/counter.toml'
)
# Adds, changes and removes pod files as fast as the machine can, until the power goes.
_CHURN = f"""
cat > /root/churn <<'END'
n=0
while :; do
  n=$((n + 1))
  name=churn$((n % 5))
  if [ $((n % 7)) = 0 ]; then rm -f /etc/tank/pods.d/$name.toml
  else
    cat > /root/$name.toml <<'POD'
{_SPEC}POD
    echo "env = {{ N = \\"$n\\" }}" >> /root/$name.toml
    mv /root/$name.toml /etc/tank/pods.d/$name.toml
  fi
  sleep 0.4
done
END
systemd-run --quiet --unit=churn sh /root/churn
"""
