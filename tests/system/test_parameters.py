"""Limits and kernel parameters as cgroup v2, systemd and a whole kernel have them."""

from __future__ import annotations

from tests.support.installed import SERVE, Installed

_RARE = ("memory.low", "memory.swap.max", "cpu.weight", "cpuset.cpus", "cpuset.cpus.effective")
_MIB = 1 << 20


def test_further_limits_are_those_of_cgroup_v2_and_change_live(machine: Installed) -> None:
    first = 'memory = "64M"\nmemory_reservation = "20M"\nswap = "8M"\ncpu_weight = 50\ncpus = "0"'
    machine.pod("par-limits", extra=f"[containers.limits]\n{first}")
    pid = machine.wait_phase("par-limits")["containers"][0]["pid"]
    group = machine.cgroup(pid)

    def held(names: tuple[str, ...] = _RARE) -> list[str]:
        return [machine.sh(f"cat {group}/{name}").strip() for name in names]

    assert held() == [str(20 * _MIB), str(8 * _MIB), "50", "0", "0"]
    # What a group has reserved counts as far as those above it have it, up to the unit that systemd gave us.
    for above in (group.parent, group.parent.parent):
        assert machine.sh(f"cat {above}/memory.low").strip() == str(20 * _MIB)
    machine.sh(f"echo 100 > {group}/cpu.weight; echo 0 > {group}/memory.low")
    machine.wait(
        "what was changed by hand is back", lambda: held()[:3] == [str(20 * _MIB), str(8 * _MIB), "50"]
    )
    machine.pod("par-limits", extra='[containers.limits]\nmemory = "64M"\nswap = "0"\ncpu_weight = 200')
    every = machine.sh("cat /sys/devices/system/cpu/possible").strip()
    machine.wait("they are others", lambda: held()[:4] == ["0", "0", "200", every])
    assert held()[4] == machine.sh("cat /sys/devices/system/cpu/online").strip()
    machine.pod("par-limits", extra="")
    machine.wait("the defaults are back", lambda: held()[1:3] == ["max", "100"])
    assert machine.statuses()["par-limits"]["containers"][0]["pid"] == pid
    for above in (group.parent, group.parent.parent):
        assert machine.sh(f"cat {above}/memory.low").strip() == "0"


def test_what_the_machine_cannot_give_is_one_sentence(machine: Installed) -> None:
    machine.pod("par-cpus", extra='[containers.limits]\ncpus = "0,4000"')
    machine.pod("par-files", extra="ulimits = { nofile = 2000000000 }")
    machine.pod("par-net", head='sysctls = { "net.core.somaxconn" = "many" }')
    machine.pod("par-ipc", head='sysctls = { "kernel.shm_rmid_forced" = "7" }')
    for pod, words in {
        "par-cpus": "no CPU 4000",
        "par-files": "fs.nr_open",
        "par-net": "the kernel refuses 'many'",
        "par-ipc": "kernel.shm_rmid_forced: the kernel refuses '7'",
    }.items():
        machine.wait(
            f"{pod} says why", lambda pod=pod, words=words: words in str(machine.statuses()[pod]["error"])
        )


def test_an_agent_of_systemd_may_raise_limits_and_give_a_user_namespace_sysctls(machine: Installed) -> None:
    """Here the agent has CAP_SYS_RESOURCE, which the development host takes away."""
    machine.pod(
        "par-own",
        head='sysctls = { "net.core.somaxconn" = "777", "kernel.shmmax" = "1000000" }',
        extra='ulimits = { memlock = "unlimited", nofile = 600000, rtprio = 10 }\nshm_size = "5M"\n'
        '[containers.security]\nuserns = "auto"',
    )
    pid = machine.wait_phase("par-own")["containers"][0]["pid"]
    found = machine.sh(f"cat /proc/{pid}/limits")
    kept = {line[:26].strip(): line[26:].split()[:2] for line in found.splitlines()[1:]}
    assert kept["Max locked memory"] == ["unlimited", "unlimited"]
    assert kept["Max open files"] == ["600000", "600000"]
    assert kept["Max realtime priority"] == ["10", "10"]
    inside = f"nsenter -t {pid} -n -i"
    assert machine.sh(f"{inside} cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmax").split() == [
        "777",
        "1000000",
    ]
    assert machine.sh("cat /proc/sys/net/core/somaxconn").strip() != "777"
    assert "size=5120k" in machine.sh(f"grep ' /dev/shm ' /proc/{pid}/mounts")
    machine.sh(f"{inside} sh -c 'echo 5 > /proc/sys/net/core/somaxconn'")
    machine.wait(
        "it is healed",
        lambda: machine.sh(f"{inside} cat /proc/sys/net/core/somaxconn").strip() == "777",
    )


def test_host_names_aliases_and_groups_are_the_same_after_a_reboot(machine: Installed) -> None:
    group = "/srv/busybox/etc/group"
    machine.sh(f"echo media:x:2000: > {group}")
    head = '[network]\naliases = ["my_db"]'
    machine.pod("par-second", SERVE, head=f'hostname = "nas.lan"\n{head}', extra='groups = ["44", "media"]')
    machine.wait_phase("par-second")
    # It comes later, so the name is not its own.
    machine.pod("par-first", SERVE, head=head)
    machine.pod("par-web", head='network = "bridge"')
    _check_names(machine)
    machine.vm.reboot()
    machine.wait_for_agent()
    _check_names(machine)
    machine.sh(f"rm {group}")


def _check_names(machine: Installed) -> None:
    pids = {name: machine.wait_phase(name)["containers"][0]["pid"] for name in ("par-first", "par-second")}
    machine.wait_phase("par-web")

    def said(pod: str, *words: str) -> str:
        return machine.vm.tank("exec", "-T", pod, "--", "busybox", *words, check=False).out.strip()

    for asking in ("par-web", "par-first", "par-second"):
        page = ("wget", "-q", "-O", "-", "http://my_db/")
        machine.wait(
            f"{asking} finds it",
            lambda asking=asking, page=page: said(asking, *page) == "nas.lan",  # type: ignore[misc]
        )
    assert said("par-second", "hostname") == "nas.lan"
    assert said("par-second", "id", "-G") == "0 44 2000"
    assert machine.sh(f"grep ^Groups: /proc/{pids['par-second']}/status").split()[1:] == ["0", "44", "2000"]
    warnings = machine.statuses()["par-first"]["warnings"]
    assert any("alias my_db leads to pod par-second" in warning for warning in warnings), warnings
    assert machine.sh("hostname") == "edge"
