"""Limits of processes, /dev/shm and kernel parameters: obeyed by the kernel, seen from inside, or refused."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.linux import namespaces
from tank_agent.linux.mounts import mount_points
from tank_agent.linux.namespaces import read_network_sysctl
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import StaticHostFacts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.network.sysctls import SysctlMemory, before_interfaces
from tank_agent.runtime.security.capabilities import own_capabilities
from tank_agent.spec.model import Network
from tests.support.agent import Agent, running_agent, wait_for

NONE = Network()
SOMAXCONN = {"net.core.somaxconn": "1234"}
_ENSURE = """
import sys
from pathlib import Path
from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.host_facts import StaticHostFacts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.spec.model import Network
networks = PodNetworks(Path(sys.argv[1]), StaticHostFacts(None, ()), Leases(Pool(), {}, list))
networks.ensure("web", Network(), {"net.core.somaxconn": "1234"})
"""


@pytest.fixture
def networks(tmp_path: Path) -> Iterator[PodNetworks]:
    made = PodNetworks(tmp_path, StaticHostFacts(None, ()), Leases(Pool(), {}, list))
    yield made
    made.sweep(())
    assert mount_points(tmp_path) == frozenset()


def value(networks: PodNetworks, path: str) -> str:
    return namespaces.in_network_namespace(networks.path("web"), lambda: read_network_sysctl(path))


def test_a_namespace_has_its_sysctls_and_the_machine_keeps_its_own(networks: PodNetworks) -> None:
    before = read_network_sysctl("core/somaxconn")
    networks.ensure("web", NONE, SOMAXCONN)
    assert value(networks, "core/somaxconn") == "1234" != before
    assert read_network_sysctl("core/somaxconn") == before
    assert networks.drift("web", NONE, sysctls=SOMAXCONN) == ()
    namespaces.in_network_namespace(
        networks.path("web"), lambda: namespaces.set_network_sysctl("core/somaxconn", "99")
    )
    found = networks.drift("web", NONE, sysctls=SOMAXCONN)
    assert found == ("net.core.somaxconn is 99 instead of 1234",)
    networks.ensure("web", NONE, SOMAXCONN)
    assert value(networks, "core/somaxconn") == "1234"


def test_what_the_agent_sets_itself_can_be_set_otherwise(networks: PodNetworks) -> None:
    networks.ensure("web", NONE, {"net.ipv4.ip_unprivileged_port_start": "1024"})
    assert value(networks, "ipv4/ip_unprivileged_port_start") == "1024"


def test_forwarding_goes_first_since_it_resets_others(networks: PodNetworks) -> None:
    wanted = {"net.ipv4.conf.all.accept_redirects": "1", "net.ipv4.ip_forward": "1"}
    networks.ensure("web", NONE, wanted)
    assert value(networks, "ipv4/ip_forward") == value(networks, "ipv4/conf/all/accept_redirects") == "1"


def test_a_value_that_the_kernel_writes_otherwise_is_no_drift(networks: PodNetworks) -> None:
    # Two numbers come back with a tab, and a hexadecimal one as a decimal.
    wanted = {"net.ipv4.ip_local_port_range": "20000 30000", "net.core.somaxconn": "0x10"}
    networks.ensure("web", NONE, wanted)
    assert value(networks, "core/somaxconn") == "16"
    assert networks.drift("web", NONE, sysctls=wanted) == ()
    # One that can only be written is none either.
    flushed = {"net.ipv4.route.flush": "1"}
    networks.ensure("web", NONE, flushed)
    assert networks.drift("web", NONE, sysctls=flushed) == ()


@pytest.mark.parametrize(
    ("sysctls", "words"),
    [
        ({"net.core.somaxconn": "many"}, ("net.core.somaxconn", "'many'", "Invalid argument")),
        ({"net.core.nothing_like_it": "1"}, ("net.core.nothing_like_it", "none of that name")),
        ({"net.ipv4.conf.eth7.forwarding": "1"}, ("no interface eth7",)),
        ({"net.netfilter.nf_conntrack_count": "1"}, ("net.netfilter.nf_conntrack_count",)),
        ({"net/../kernel/core_pattern": "x"}, ("not a kernel parameter",)),
        ({"net/ipv4/conf/../../../kernel/core_pattern": "x"}, ("not a kernel parameter",)),
    ],
)
def test_what_the_kernel_refuses_is_one_sentence_and_leaves_nothing(
    networks: PodNetworks, sysctls: dict[str, str], words: tuple[str, ...]
) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    with pytest.raises(Stalled) as caught:
        networks.ensure("web", NONE, sysctls)
    for word in words:
        assert word in caught.value.message
    assert "\n" not in caught.value.message
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    networks.remove("web")
    assert networks.pinned() == frozenset()


def test_the_machines_own_network_is_never_written_to(networks: PodNetworks) -> None:
    before = read_network_sysctl("core/somaxconn")
    for write in (before_interfaces(SOMAXCONN), lambda: SysctlMemory(None).write(SOMAXCONN)):
        with pytest.raises(RuntimeError, match="machine's own"):
            write()
        with pytest.raises(RuntimeError, match="machine's own"):
            namespaces.in_thread(write)
    assert read_network_sysctl("core/somaxconn") == before


@pytest.mark.parametrize("fault", ["network:namespace-made", "network:sysctls-written"])
def test_killed_while_it_writes_them_the_next_agent_goes_on(
    networks: PodNetworks, tmp_path: Path, fault: str
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _ENSURE, os.fspath(tmp_path)],
        env={**os.environ, "TANK_FAULT": fault},
        timeout=30,
        check=False,
    )
    assert killed.returncode == -9
    networks.ensure("web", NONE, SOMAXCONN)
    assert value(networks, "core/somaxconn") == "1234"
    assert networks.drift("web", NONE, sysctls=SOMAXCONN) == ()


@pytest.fixture
def patient_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that waits long before it starts what failed again."""
    with running_agent(tmp_path, backoff_base="100s") as agent:
        yield agent


@pytest.fixture
def open_agent() -> Iterator[Agent]:
    """Return an agent in a directory that root of a user namespace may go through; pytest's it may not."""
    home = Path(tempfile.mkdtemp(prefix="tank-parameters-"))
    home.chmod(0o711)
    with running_agent(home) as agent:
        yield agent
    shutil.rmtree(home)


LOOK = "trap 'exit 0' TERM; {}; echo done; while :; do sleep 1000 & wait $!; done"


def shell(text: str) -> list[str]:
    return ["/bin/sh", "-c", LOOK.format(text)]


def two(agent: Agent, *, head: str = "", text: str = "true") -> str:
    """Return a pod of two containers that do the same."""
    plain = agent.pod_text(command=shell(text))
    return agent.pod_text(command=shell(text), head=head) + plain.replace('"app"', '"other"')


def error(agent: Agent, pod: str) -> str:
    return str((agent.status(pod) or {}).get("error"))


def pid_of(agent: Agent, container: int = 0) -> int:
    """Return the process of a container of the pod web that runs; 0 while it does not."""
    status = agent.status("web")
    return (status["containers"][container]["pid"] or 0) if status and status["phase"] == "running" else 0


def limits_of(pid: int) -> dict[str, list[str]]:
    """Return the limits of a process by name: soft and hard."""
    return limits_in(Path(f"/proc/{pid}/limits").read_text())


def limits_in(text: str) -> dict[str, list[str]]:
    lines = text.splitlines()[1:]
    return {line[:26].strip(): line[26:].split()[:2] for line in lines}


def own_sysctl(pid: int, name: str) -> str:
    """Return a parameter of the namespaces of a process."""
    done = subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "-i", "cat", f"/proc/sys/{name}"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    return " ".join(done.stdout.split())


_held: list[int] = []


@pytest.fixture(autouse=True)
def networks_are_let_go() -> Iterator[None]:
    yield
    while _held:
        os.close(_held.pop())


def netns(pid: int) -> int:
    """Return the number of a process's network, which no other gets until the test is over."""
    _held.append(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    return os.fstat(_held[-1]).st_ino


# /dev/shm


def test_the_size_of_dev_shm_is_seen_inside_and_its_change_restarts_the_container(agent: Agent) -> None:
    def size() -> int:
        found = os.statvfs(f"/proc/{agent.pid('web')}/root/dev/shm")
        return found.f_blocks * found.f_frsize

    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    assert size() == 64 << 20
    pid = agent.pid("web")
    agent.write("web", agent.pod_text(extra='shm_size = "5M"'))
    wait_for(lambda: pid_of(agent) not in (0, pid), "it is started anew")
    assert size() == 5 << 20
    full = agent.tank("exec", "web", "--", "/bin/sh", "-c", "head -c 9000000 /dev/zero > /dev/shm/x")
    assert full.returncode != 0
    assert Path(f"/proc/{agent.pid('web')}/root/dev/shm/x").stat().st_size == 5 << 20


# ulimits


def test_ulimits_hold_for_the_program_and_for_exec(agent: Agent) -> None:
    text = agent.pod_text(extra="ulimits = { nofile = 300, nproc = { soft = 50, hard = 60 }, core = 0 }")
    agent.write("web", text)
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    found = limits_of(pid)
    assert found["Max open files"] == ["300", "300"]
    assert found["Max processes"] == ["50", "60"]
    assert found["Max core file size"] == ["0", "0"]
    inside = agent.tank("exec", "web", "--", "/bin/cat", "/proc/self/limits")
    assert limits_in(inside.stdout) == found
    agent.write("web", text.replace("nofile = 300, ", ""))
    wait_for(lambda: pid_of(agent) not in (0, pid), "it is started anew")
    soft, hard = limits_of(agent.pid("web"))["Max open files"]
    assert (soft, int(hard)) == ("1024", min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 524_288))


NAMES = {
    "core": "Max core file size", "cpu": "Max cpu time", "data": "Max data size", "fsize": "Max file size",
    "locks": "Max file locks", "memlock": "Max locked memory", "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority", "nofile": "Max open files", "nproc": "Max processes",
    "as": "Max address space", "rss": "Max resident set", "rtprio": "Max realtime priority",
    "rttime": "Max realtime timeout", "sigpending": "Max pending signals", "stack": "Max stack size",
}  # fmt: skip


def test_every_name_of_setrlimit_is_obeyed(agent: Agent) -> None:
    own = limits_of(os.getpid())
    # The greatest that every agent may give.
    wanted = {name: "0" if own[words][1] == "0" else "4096" for name, words in NAMES.items()}
    wanted |= {"data": "900000000", "as": "900000000", "stack": "8000000", "fsize": "unlimited"}
    pairs = [f"{name} = {one if one.isdigit() else repr(one)}" for name, one in wanted.items()]
    agent.write("web", agent.pod_text(extra=f"ulimits = {{ {chr(44).join(pairs)} }}"))
    agent.wait_phase("web", "running")
    found = limits_of(agent.pid("web"))
    assert {name: found[words] for name, words in NAMES.items()} == {
        name: [value, value] for name, value in wanted.items()
    }


def test_a_limit_that_the_agent_may_not_give_is_one_sentence_with_what_to_do(patient_agent: Agent) -> None:
    agent = patient_agent
    if "CAP_SYS_RESOURCE" in own_capabilities():
        pytest.skip("this machine lets its root exceed its limits")
    text = agent.pod_text(extra='ulimits = { memlock = "unlimited" }')
    agent.write("web", text)
    wait_for(lambda: "ulimits.memlock" in error(agent, "web"), "it is said")
    assert "LimitMEMLOCK=infinity" in error(agent, "web")
    wait_for(lambda: (agent.status("web") or {})["next_retry"], "it is tried again later")
    assert pid_of(agent) == 0
    agent.write("web", text.replace('"unlimited"', "65536"))
    agent.wait_phase("web", "running")
    assert limits_of(agent.pid("web"))["Max locked memory"] == ["65536", "65536"]


def test_more_open_files_than_the_machine_allows_is_one_sentence(agent: Agent) -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    agent.write("web", agent.pod_text(extra=f"ulimits = {{ nofile = {most + 1} }}"))
    wait_for(lambda: "fs.nr_open" in error(agent, "web"), "it is said")


# sysctls


SYSCTLS = (
    'sysctls = { "net.core.somaxconn" = "777", "net.ipv4.ip_local_port_range" = "20000 30000", '
    '"kernel.shmmax" = "1000000", "kernel.sem" = "300 32000 100 128", "fs.mqueue.msg_max" = "17" }\n'
)


@pytest.mark.parametrize("userns", ["host", "auto"])
def test_sysctls_are_the_pods_own_and_seen_inside(open_agent: Agent, userns: str) -> None:
    agent = open_agent
    names = ("net.core.somaxconn", "kernel.shmmax", "kernel.sem", "fs.mqueue.msg_max")
    here = [Path("/proc/sys", *name.split(".")).read_text() for name in names]
    extra = f'[containers.security]\nuserns = "{userns}"\n'
    command = shell("; ".join(f"cat /proc/sys/{name.replace('.', '/')}" for name in names))
    agent.write("web", agent.pod_text(command=command, head=SYSCTLS, extra=extra))
    wait_for(lambda: "done" in agent.output("web"), f"it ran: {error(agent, 'web')}")
    seen = [" ".join(line.split()) for line in agent.output("web")]
    assert seen == ["777", "1000000", "300 32000 100 128", "17", "done"]
    assert [Path("/proc/sys", *name.split(".")).read_text() for name in names] == here


def test_a_change_restarts_the_whole_pod_in_a_new_network(agent: Agent) -> None:
    agent.write("web", two(agent, head=SYSCTLS))
    agent.wait_phase("web", "running")
    pids, network = [agent.pid("web", 0), agent.pid("web", 1)], netns(agent.pid("web"))
    default = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    agent.write("web", two(agent, head='sysctls = { "net.core.somaxconn" = "888" }\n'))
    wait_for(
        lambda: (agent.status("web") or {})["phase"] == "running" and agent.pid("web") not in pids,
        "it restarts",
    )
    assert agent.pid("web", 1) not in pids
    assert netns(agent.pid("web")) == netns(agent.pid("web", 1)) != network
    pid = agent.pid("web", 1)
    assert own_sysctl(pid, "net/core/somaxconn") == "888"
    assert own_sysctl(pid, "net/ipv4/ip_local_port_range").split() == default
    assert own_sysctl(pid, "kernel/shmmax") == Path("/proc/sys/kernel/shmmax").read_text().strip()
    # The same again restarts nothing, nor does another agent.
    agent.write("web", two(agent, head="sysctls = { 'net.core.somaxconn' = '888' }\n"))
    agent.client.sync()
    agent.kill()
    agent.start()
    agent.client.sync()
    assert agent.pid("web", 1) == pid
    assert own_sysctl(pid, "net/core/somaxconn") == "888"


def test_nothing_starts_in_the_former_network_while_another_container_still_ends(agent: Agent) -> None:
    stubborn = [
        "/bin/sh",
        "-c",
        "trap 'sleep 1.5; exit 0' TERM; echo up; while :; do sleep 1000 & wait $!; done",
    ]
    text = agent.pod_text(head="{}", extra='stop_grace = "10s"').replace("\n\n", "\n", 1)
    text += agent.pod_text(command=stubborn, extra='stop_grace = "10s"').replace('"app"', '"slow"')
    agent.write("web", text.replace("{}", ""))
    agent.wait_phase("web", "running")
    wait_for(lambda: agent.output("web", "slow") == ["up"], "its trap is set")
    network = netns(agent.pid("web"))
    agent.write("web", text.replace("{}", 'sysctls = { "net.core.somaxconn" = "888" }'))
    wait_for(lambda: len(agent.output("web")) == 2, "the quick one starts again")
    wait_for(lambda: len(agent.output("web", "slow")) == 2, "the slow one, too")
    agent.wait_phase("web", "running")
    assert netns(agent.pid("web", 0)) == netns(agent.pid("web", 1)) != network
    assert agent.output("web") == ["started", "started"]


@pytest.mark.parametrize(
    "fault",
    [
        "runtime:signalled",
        "runtime:removed",
        "network:namespace-unmounted",
        "network:sysctls-written",
        "network:namespace-pinned",
        "loop:start-recorded",
    ],
)
def test_an_agent_killed_while_it_changes_sysctls(agent: Agent, fault: str) -> None:
    agent.write("web", two(agent, head=SYSCTLS))
    agent.wait_phase("web", "running")
    network = netns(agent.pid("web"))
    agent.kill()
    agent.write("web", two(agent, head='sysctls = { "net.core.somaxconn" = "888" }\n'))
    agent.launch(fault=fault)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    assert netns(agent.pid("web")) == netns(agent.pid("web", 1)) != network
    assert own_sysctl(agent.pid("web"), "net/core/somaxconn") == "888"
    default = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    assert own_sysctl(agent.pid("web", 1), "net/ipv4/ip_local_port_range").split() == default


def test_a_sysctl_of_the_network_is_healed_within_a_resync(agent: Agent) -> None:
    agent.write("web", agent.pod_text(head=SYSCTLS))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "sh", "-c", "echo 5 > /proc/sys/net/core/somaxconn"],
        timeout=20,
        check=True,
    )
    wait_for(lambda: own_sysctl(pid, "net/core/somaxconn") == "777", "it is healed")
    assert agent.pid("web") == pid
    # After its death, the next agent knows them by the run.
    agent.kill()
    subprocess.run(
        ["nsenter", "-t", str(pid), "-n", "sh", "-c", "echo 5 > /proc/sys/net/core/somaxconn"],
        timeout=20,
        check=True,
    )
    agent.start()
    wait_for(lambda: own_sysctl(pid, "net/core/somaxconn") == "777", "it is healed by the next agent")
    assert agent.pid("web") == pid


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("net.core.somaxconn", "many", ("net.core.somaxconn", "many")),
        ("net.core.rmem_max_of_mine", "1", ("net.core.rmem_max_of_mine", "none of that name")),
        ("kernel.shm_rmid_forced", "7", ("kernel.shm_rmid_forced", "7")),
        ("fs.mqueue.nothing_like_it", "1", ("fs.mqueue.nothing_like_it",)),
    ],
)
def test_a_sysctl_that_the_kernel_refuses_is_one_sentence_and_no_crash_loop(
    patient_agent: Agent, name: str, given: str, words: tuple[str, ...]
) -> None:
    agent = patient_agent
    agent.write("web", agent.pod_text(head=f'sysctls = {{ "{name}" = "{given}" }}\n'))
    wait_for(lambda: name in error(agent, "web"), f"it is said: {error(agent, 'web')}")
    for word in words:
        assert word in error(agent, "web")
    wait_for(lambda: (agent.status("web") or {})["next_retry"], "it is tried again later")
    assert pid_of(agent) == 0
    agent.client.sync()
    assert [event.type for event in agent.client.events()].count("start-failed") == 1
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")


def test_the_machines_own_network_is_left_alone_but_ipc_is_the_containers(agent: Agent) -> None:
    here = Path("/proc/sys/net/core/somaxconn").read_text()
    head = 'network = "host"\nsysctls = { "kernel.shmmax" = "1000000" }\n'
    agent.write("web", agent.pod_text(command=shell("cat /proc/sys/kernel/shmmax"), head=head))
    agent.wait_output("web", "1000000", "done")
    agent.write("bad", agent.pod_text(head=head.replace("kernel.shmmax", "net.core.somaxconn")))
    agent.client.sync()
    plan = agent.tank("plan")
    assert "net.core.somaxconn" in plan.stdout + plan.stderr
    assert Path("/proc/sys/net/core/somaxconn").read_text() == here
