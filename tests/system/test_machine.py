"""Limits, networks and disks of a whole machine: what a container of the development host cannot show."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.installed import Installed
from tests.support.machine import Result

_BURN = "while :; do :; done"


def test_memory_limit_kills_and_says_so(machine: Installed) -> None:
    machine.pod(
        "hungry",
        "echo begin; dd if=/dev/zero of=/dev/null bs=200M count=1; exit 3",
        head='restart = "never"',
        extra='[containers.limits]\nmemory = "32M"',
    )
    exit_ = machine.wait_phase("hungry", "failed")["containers"][0]["exit"]
    # The shell outlives its child and ends with a code of its own: the reason is known all the same.
    assert (exit_["code"], exit_["oom"]) == (3, True)


def test_memory_limit_on_the_main_process(machine: Installed) -> None:
    machine.pod(
        "hungry",
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1",
        head='restart = "never"',
        extra='[containers.limits]\nmemory = "32M"',
    )
    exit_ = machine.wait_phase("hungry", "failed")["containers"][0]["exit"]
    assert (exit_["signal"], exit_["oom"]) == (9, True)


def test_process_and_cpu_limits(machine: Installed) -> None:
    machine.pod(
        "busy",
        f"(for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait) & {_BURN}",
        extra="[containers.limits]\npids = 5\ncpu = 0.2",
    )
    group = machine.cgroup(machine.wait_phase("busy")["containers"][0]["pid"])
    machine.wait("forks fail", lambda: "max 0" not in machine.sh(f"cat {group}/pids.events").splitlines(), 60)
    assert int(machine.sh(f"cat {group}/pids.current")) <= 5
    # The emulated cores may lose a window to the host, and what they lose counts as used.
    machine.wait("it is held to its share within 10 %", lambda: 18_000 < _share(machine, group) < 22_000)


def _share(machine: Installed, group: Path) -> float:
    """Return what a group used of each period of 100 ms, in µs by the kernel's count, over 100 of them."""
    before = _cpu(machine, group)
    machine.wait(
        "it was held back", lambda: _cpu(machine, group)["nr_throttled"] >= before["nr_throttled"] + 100
    )
    after = _cpu(machine, group)
    return (after["usage_usec"] - before["usage_usec"]) / (after["nr_periods"] - before["nr_periods"])


def _cpu(machine: Installed, group: Path) -> dict[str, int]:
    lines = machine.sh(f"cat {group}/cpu.stat").splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def test_limits_change_under_what_runs_and_are_given_back(machine: Installed) -> None:
    machine.pod("web", extra='[containers.limits]\nmemory = "64M"\npids = 50\ncpu = 0.5')
    pid = machine.wait_phase("web")["containers"][0]["pid"]
    group = machine.cgroup(pid)

    def held() -> list[str]:
        return machine.sh(f"cd {group} && cat memory.max pids.max cpu.max").split()

    assert held() == [str(64 << 20), "50", "50000", "100000"]
    machine.pod("web", extra='[containers.limits]\nmemory = "96M"\npids = 60\ncpu = 0.25')
    machine.wait("they are others", lambda: held() == [str(96 << 20), "60", "25000", "100000"])
    machine.sh(f"echo max > {group}/pids.max")
    machine.wait("the lost one is back", lambda: held()[1] == "60")
    status = machine.statuses()["web"]
    assert status["containers"][0]["pid"] == pid
    assert status["usage"]["memory"] > 0 and status["usage"]["cpu"] > 0 and status["usage"]["pids"] >= 1


def test_a_container_opens_no_device_that_it_was_not_given(machine: Installed) -> None:
    machine.pod("web", extra='[containers.security]\ncapabilities = { add = ["MKNOD"] }')
    machine.wait_phase("web")
    make = "/bin/busybox mknod /dev/kmsg c 1 11 && echo made; echo x > /dev/kmsg && echo opened"
    said = machine.vm.tank("exec", "-T", "web", "--", "/bin/sh", "-c", make, check=False)
    assert (said.out, "not permitted" in said.err) == ("made\n", True), said


_CORE_PATTERN = "/proc/sys/kernel/core_pattern"
_SECURITY = "[containers.security]\napparmor = "


def test_apparmor_holds_where_a_read_only_mount_is_lost(machine: Installed) -> None:
    # May mount, as far as capabilities and seccomp are concerned.
    admin = 'capabilities = { add = ["SYS_ADMIN"] }'
    machine.pod("web", extra=f'{_SECURITY}"default"\n{admin}')
    machine.pod("free", extra=f'{_SECURITY}"unconfined"\n{admin}')
    pids = {name: machine.wait_phase(name)["containers"][0]["pid"] for name in ("web", "free")}
    # Where crun has a profile of its own, a label names both.
    assert "tank-default" in machine.sh(f"cat /proc/{pids['web']}/attr/current")
    assert "tank-default" not in machine.sh(f"cat /proc/{pids['free']}/attr/current")
    assert "tank-default" in _in_pod(machine, "web", "cat /proc/self/attr/current").out
    before = machine.sh(f"cat {_CORE_PATTERN}")
    write, unmount = f"echo evil > {_CORE_PATTERN}", "/bin/busybox umount /proc/sys"
    try:
        for name in pids:
            assert "Read-only" in _in_pod(machine, name, write).err
        assert "Permission denied" in _in_pod(machine, "web", unmount).err
        # As an agent once did that was led astray by a link.
        machine.sh(f"nsenter -t {pids['web']} -m {unmount}")
        assert "Permission denied" in _in_pod(machine, "web", write).err
        assert machine.sh(f"cat {_CORE_PATTERN}") == before
        # Else it was something else that held.
        assert (_in_pod(machine, "free", unmount).code, _in_pod(machine, "free", write).code) == (0, 0)
        assert machine.sh(f"cat {_CORE_PATTERN}") == "evil"
    finally:
        machine.sh(f"echo '{before}' > {_CORE_PATTERN}")
    # What it is for goes on: signals among its processes and from outside, files of its own.
    sent = _in_pod(machine, "web", "sleep 1000 & kill $!; wait $!; echo $?; echo x > /tmp/x; cat /tmp/x")
    assert sent.out.split() == ["143", "x"], sent
    machine.pod("web", extra='env = { CHANGED = "yes" }')
    machine.wait("it stopped in order", lambda: "bye" in machine.lines("web"))


def _in_pod(machine: Installed, name: str, script: str) -> Result:
    return machine.vm.tank("exec", "-T", name, "--", "/bin/sh", "-c", script, check=False)


def test_a_profile_that_is_not_loaded_is_said_and_waited_for(machine: Installed) -> None:
    machine.pod("web", extra=f'{_SECURITY}"mine"')
    said = machine.wait("it is refused", lambda: machine.statuses().get("web", {}).get("error"))
    assert "AppArmor profile mine is not loaded" in said and "apparmor_parser -r FILE" in said
    machine.vm.write("/root/mine", "abi <abi/3.0>,\nprofile mine { file, signal, deny /etc/secret r, }\n")
    machine.sh("apparmor_parser -r /root/mine")
    try:
        pid = machine.wait_phase("web")["containers"][0]["pid"]
        assert "mine" in machine.sh(f"cat /proc/{pid}/attr/current")
        said = _in_pod(machine, "web", "echo x > /etc/secret; cat /etc/secret").err
        assert "Permission denied" in said
        machine.remove_pod("web")
        machine.wait("it is gone", lambda: not machine.statuses())
    finally:
        machine.sh("apparmor_parser -R /root/mine")


def test_an_agent_without_the_package_loads_the_profile_itself(machine: Installed) -> None:
    def restart() -> str:
        machine.sh("systemctl restart tank-agent")
        machine.wait_for_agent()
        checks = json.loads(machine.vm.tank("doctor", "-o", "json", check=False).out)
        return next(str(check["found"]) for check in checks if check["name"] == "AppArmor")

    installed, removed = "/etc/apparmor.d/tank-default", "/sys/kernel/security/apparmor/.remove"
    machine.sh(f"mv {installed} /root/ && printf tank-default > {removed}")
    try:
        assert restart() == "on; tank-default is loaded"
        # Switched off by the administrator: the parser looks for the file's name.
        machine.sh("mkdir -p /etc/apparmor.d/disable && touch /etc/apparmor.d/disable/tank-default")
        machine.sh(f"printf tank-default > {removed}")
        assert "is not loaded" in restart()
        machine.pod("web")
        pid = machine.wait_phase("web")["containers"][0]["pid"]
        assert "tank-default" not in machine.sh(f"cat /proc/{pid}/attr/current")
    finally:
        machine.sh(f"rm -f /etc/apparmor.d/disable/tank-default; mv /root/tank-default {installed}")
    assert restart() == "on; tank-default is loaded"


def test_a_container_with_users_of_its_own(machine: Installed) -> None:
    machine.pod(
        "web",
        head='[[volumes]]\nname = "data"',
        extra='[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        '[containers.limits]\npids = 50\n[containers.security]\nuserns = "auto"',
    )
    pid = machine.wait_phase("web")["containers"][0]["pid"]
    assert int(machine.sh(f"stat -c %u /proc/{pid}")) == 0x7000_0000
    assert machine.sh(f"cat {machine.cgroup(pid)}/pids.max") == "50"
    inside = machine.vm.tank(
        "exec", "-T", "web", "--", "sh", "-c", "cat /proc/self/uid_map; echo kept > /data/file"
    )
    assert inside.out.split() == ["0", str(0x7000_0000), "65536"]
    assert machine.sh("stat -c %u:%g /var/lib/tank/volumes/web/data/file") == "0:0"
    # What crun did to the host's own, in the version of Debian 13, was undone.
    assert machine.sh("stat -c '%u %a' /dev/null") == "0 666"
    machine.sh("rm -r /var/lib/tank/volumes/web", check=False)


def test_a_pod_with_its_own_address_is_reached_from_outside(machine: Installed) -> None:
    machine.pod(
        "lan",
        "while :; do echo hello from the pod | nc -l -p 8080; done",
        head='[network]\n[[network.nics]]\nname = "eth0"\nip = "10.77.0.50/24"\ngateway = "10.77.0.1"',
    )
    status = machine.wait_phase("lan")
    assert status["addresses"] == ["10.77.0.50/24"]
    machine.wait("it answers a ping", lambda: _pings(machine), 30)
    # The pod has its address before its first process listens.
    machine.wait("it says hello", lambda: _said_by_pod(machine) == "hello from the pod\n", 60)
    machine.sh("systemctl restart tank-agent")
    machine.wait_for_agent()
    # One packet may take longer than its time while the agent starts.
    machine.wait("it still answers", lambda: _pings(machine), 30)
    machine.remove_pod("lan")
    machine.wait("it is gone", lambda: not machine.statuses())
    assert not _pings(machine)


def _said_by_pod(machine: Installed) -> str:
    return machine.vm.outside("busybox", "nc", "-w", "10", "10.77.0.50", "8080").out


def _pings(machine: Installed) -> bool:
    return machine.vm.outside("busybox", "ping", "-c1", "-W2", "10.77.0.50").code == 0


def test_a_full_disk_stops_nobody_and_is_recovered_from(machine: Installed) -> None:
    machine.sh("systemctl stop tank-pods && mount -t tmpfs -o size=40M data /var/lib/tank")
    try:
        machine.sh("systemctl start tank-agent")
        machine.wait_for_agent()
        machine.pod("web")
        pid = machine.wait_phase("web")["containers"][0]["pid"]
        # More than the journal has pages to spare.
        large = f'env = {{ LARGE = "{"x" * 60_000}" }}'
        machine.vm.write("/root/applied.toml", machine.sh("cat /etc/tank/pods.d/web.toml") + f"\n{large}\n")
        machine.sh("dd if=/dev/zero of=/var/lib/tank/ballast bs=4k 2>/dev/null || true")
        machine.pod("second", extra=large)
        said = "journalctl -b -u tank-agent -o cat -p warning {} | grep -i 'no space\\|full' || true"
        machine.wait("a clear error", lambda: machine.sh(said.format("")))
        refused = machine.vm.tank("apply", "/root/applied.toml", check=False)
        assert (refused.code, refused.out) == (1, "")
        assert "cannot write the journal in /var/lib/tank/journal" in refused.err
        assert "make room on that disk" in refused.err
        # An agent that begins on a full disk, too.
        agent = machine.agent()
        machine.sh("systemctl restart --no-block tank-agent")
        again = machine.wait_for_another_agent(agent)
        machine.wait("its word on it", lambda: machine.sh(said.format(f"_PID={again}")))
        assert machine.sh(f"cat /proc/{pid}/comm") == "sh"
        machine.sh("rm /var/lib/tank/ballast")
        printed = _printed(machine)
        machine.wait_for_agent()
        machine.wait_phase("second")
        machine.vm.tank("apply", "/root/applied.toml")
        machine.wait_phase("applied")
        assert machine.wait_phase("web")["containers"][0]["pid"] == pid
        machine.wait("its output is kept again", lambda: _printed(machine) > printed)
        machine.vm.tank("delete", "applied")
    finally:
        machine.sh("rm -f /etc/tank/pods.d/*.toml; systemctl stop tank-pods; umount /var/lib/tank")


def _printed(machine: Installed) -> int:
    """Return the last number of pod web; a line that the full disk cut short does not count."""
    return int(machine.sh("grep -o 'F [0-9]*$' /var/lib/tank/logs/web/app.log | tail -1").split()[1])


def test_a_command_has_a_terminal_of_the_right_size_and_a_telling_exit_code(machine: Installed) -> None:
    machine.pod("web")
    machine.wait_phase("web")
    ask = "stty rows 33 cols 101; tank exec web -- stty size"
    said = machine.sh(f"for i in 1 2 3 4 5; do script -qec '{ask}' /dev/null; done")
    assert said.count("33 101") == 5, said
    machine.vm.tank(
        "exec", "-T", "web", "--", "/bin/sh", "-c", "echo nonsense > /bin/none; chmod 755 /bin/none"
    )
    groups = machine.vm.tank(
        "exec", "-T", "web", "--", "cat", "/proc/self/cgroup", "/proc/1/cgroup"
    ).out.split()
    assert groups[0] == groups[1], groups
    lost = machine.vm.tank("exec", "-T", "--cwd", "/no/such", "web", "--", "true", check=False)
    assert (lost.code, "/no/such" in lost.err) == (126, True), lost
    codes = "for name in none no-such-command /etc; do tank exec web -- $name || echo $?; done"
    assert machine.sh(f"({codes}) </dev/null 2>/dev/null").split() == ["126", "127", "126"]
