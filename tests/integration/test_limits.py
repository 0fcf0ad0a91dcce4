"""Every limit is hit for real, changed while the container runs, and healed when it is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tank_agent.linux.pidfd import start_time
from tank_agent.runtime.container import conmon
from tank_agent.runtime.limits.cgroup import detect
from tests.support.agent import Agent, ended, running_agent, wait_for

# The shell's own memory grows until the kernel refuses.
HOG = ["/bin/sh", "-c", "trap 'exit 0' TERM; x=0123456789abcdef; while :; do x=$x$x; done"]
SPIN = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do :; done"]


def limits(**values: object) -> str:
    return "[containers.limits]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def group_file(agent: Agent, pid: int, name: str) -> Path:
    """Return a file of a process's cgroup, as this host has it."""
    host = detect(agent.run)
    for hierarchy in host.hierarchies:
        for directory in (hierarchy / agent.cgroup).glob("*/*"):
            if (directory / name).exists() and str(pid) in (directory / "cgroup.procs").read_text().split():
                return directory / name
    raise AssertionError(f"process {pid} has no {name}")


def container(agent: Agent, pod: str) -> dict[str, Any]:
    status = agent.status(pod)
    assert status is not None
    found: dict[str, Any] = status["containers"][0]
    return found


def memory_file(agent: Agent) -> str:
    return "memory.max" if detect(agent.run).mode == "unified" else "memory.limit_in_bytes"


def test_a_memory_hog_is_killed_and_reported_as_such(agent: Agent) -> None:
    agent.write("hog", agent.pod_text(command=HOG, head='restart = "never"', extra=limits(memory='"16M"')))
    status = agent.wait_phase("hog", "failed")
    assert status["containers"][0]["exit"]["signal"] == signal.SIGKILL
    assert status["containers"][0]["exit"]["oom"] is True
    assert "out of memory" in status["error"]
    assert any(e.type == "exited" and "out of memory" in e.message for e in agent.client.events())


def test_another_kill_is_not_taken_for_it(agent: Agent) -> None:
    agent.write("web", agent.pod_text(head='restart = "never"', extra=limits(memory='"16M"')))
    agent.wait_phase("web", "running")
    os.kill(agent.pid("web"), signal.SIGKILL)
    exit_ = agent.wait_phase("web", "failed")["containers"][0]["exit"]
    assert (exit_["signal"], exit_["oom"]) == (signal.SIGKILL, False)


def test_a_child_that_ran_out_of_memory_is_an_event_and_not_the_containers_end(agent: Agent) -> None:
    hog = "x=0123456789abcdef; while :; do x=$x$x; done"
    command = ["/bin/sh", "-c", f"trap 'exit 0' TERM; sh -c '{hog}'; echo went on; sleep 1000 & wait $!"]
    agent.write(
        "web", agent.pod_text(command=command, head='restart = "never"', extra=limits(memory='"16M"'))
    )
    wait_for(lambda: "went on" in agent.output("web"), "the child is killed")
    wait_for(lambda: any(e.type == "out-of-memory" for e in agent.client.events()), "it is told")
    assert container(agent, "web")["phase"] == "running"
    for _ in range(2):
        agent.client.sync()
    wait_for(
        lambda: not [*agent.run.rglob(conmon.OUT_OF_MEMORY)], "it is known, and no reason of a later end"
    )
    os.kill(agent.pid("web"), signal.SIGKILL)
    assert agent.wait_phase("web", "failed")["containers"][0]["exit"]["oom"] is False
    assert sum(e.type == "out-of-memory" for e in agent.client.events()) == 1


def test_a_fork_bomb_stops_at_pids_and_its_container_goes_on(agent: Agent) -> None:
    # The shell in between dies of it. What it leaves fills the limit, so process 1 needs no further one.
    script = "(while :; do sleep 1000 & done) & wait $!; echo stopped; exec sleep 1000"
    agent.write("bomb", agent.pod_text(command=["/bin/sh", "-c", script], extra=limits(pids=20)))
    wait_for(lambda: "stopped" in agent.output("bomb"), "the limit is reached")
    pid = agent.pid("bomb")
    refused = dict(line.split() for line in group_file(agent, pid, "pids.events").read_text().splitlines())
    assert int(refused["max"]) > 0
    assert 15 < int(group_file(agent, pid, "pids.current").read_text()) <= 20
    found = container(agent, "bomb")
    assert (found["phase"], found["pid"], found["restarts"]) == ("running", pid, 0)
    assert found["usage"]["pids"] <= 20


def busy(agent: Agent, pod: str, seconds: float) -> float:
    """Return how many cores a pod used over a while."""
    begin = (time.monotonic(), container(agent, pod)["usage"]["cpu"])
    wait_for(lambda: time.monotonic() - begin[0] >= seconds, "time passes")
    cpu = container(agent, pod)["usage"]["cpu"]
    return float((cpu - begin[1]) / (time.monotonic() - begin[0]))


@pytest.mark.alone
def test_a_spinner_is_held_to_its_share(agent: Agent) -> None:
    agent.write("spin", agent.pod_text(command=SPIN, extra=limits(cpu=0.2)))
    agent.wait_phase("spin", "running")
    # Less only while others leave it less, as they may on a machine that is busy.
    wait_for(lambda: busy(agent, "spin", 4) == pytest.approx(0.2, rel=0.1), "it has its share")
    pid = agent.pid("spin")
    agent.write("spin", agent.pod_text(command=SPIN, extra=limits(cpu="{ quota = 10000, period = 100000 }")))
    wait_for(lambda: busy(agent, "spin", 1) < 0.12, "the new share counts")
    wait_for(lambda: busy(agent, "spin", 4) == pytest.approx(0.1, rel=0.1), "it has its new share")
    assert agent.pid("spin") == pid


def test_limits_change_while_the_container_runs(agent: Agent) -> None:
    agent.write("web", agent.pod_text(extra=limits(memory='"32M"', pids=50)))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    began, memory = start_time(pid), group_file(agent, pid, memory_file(agent))
    assert memory.read_text().strip() == str(32 << 20)
    for wanted in ('"64M"', '"16M"'):
        agent.write("web", agent.pod_text(extra=limits(memory=wanted, pids=40)))
        bytes_ = str(int(wanted[1:-2]) << 20)
        wait_for(lambda bytes_=bytes_: memory.read_text().strip() == bytes_, f"memory is {wanted}")  # type: ignore[misc]
    assert group_file(agent, pid, "pids.max").read_text().strip() == "40"
    agent.write("web", agent.pod_text())
    wait_for(lambda: group_file(agent, pid, "pids.max").read_text().strip() == "2048", "the default is back")
    wait_for(lambda: memory.read_text().strip() in ("max", "9223372036854771712"), "memory, too")
    assert (agent.pid("web"), start_time(pid)) == (pid, began)
    assert container(agent, "web")["restarts"] == 0


def test_every_container_has_a_limit_of_processes_without_a_restart(agent: Agent) -> None:
    """Also one that a former version started without any, and that goes on."""
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    began, file = start_time(pid), group_file(agent, pid, "pids.max")
    assert file.read_text().strip() == "2048"
    assert "pids" not in agent.tank("get", "web").stdout
    agent.kill()
    file.write_text("max")
    agent.start()
    wait_for(lambda: file.read_text().strip() == "2048", "the next agent sets it")
    assert (agent.pid("web"), start_time(pid)) == (pid, began)
    assert container(agent, "web")["restarts"] == 0


def test_a_lost_limit_is_healed_within_a_resync(tmp_path: Path) -> None:
    with running_agent(tmp_path, resync="3s") as agent:
        agent.write("web", agent.pod_text(extra=limits(memory='"32M"', pids=50, cpu=0.5)))
        agent.wait_phase("web", "running")
        pid = agent.pid("web")
        unified = detect(agent.run).mode == "unified"
        damages = {memory_file(agent): "max" if unified else "-1", "pids.max": "max"}
        damages["cpu.max" if unified else "cpu.cfs_quota_us"] = "max" if unified else "-1"
        if not unified:
            group_file(agent, pid, "memory.memsw.limit_in_bytes").write_text("-1")
        for name, value in damages.items():
            file = group_file(agent, pid, name)
            right = file.read_text()
            file.write_text(value)
            # A resync, and a second to do it.
            wait_for(lambda file=file, right=right: file.read_text() == right, f"{name} is healed", 4)  # type: ignore[misc]
        assert agent.pid("web") == pid


def test_more_memory_ends_the_wait_after_running_out_of_it(agent: Agent) -> None:
    agent.config.write_text(agent.config.read_text().replace('backoff_base = "0s"', 'backoff_base = "200s"'))
    agent.stop()
    agent.start()
    command = ["/bin/sh", "-c", "x=$(head -c 12000000 /dev/zero | tr '\\0' x); echo enough; sleep 1000"]
    text = agent.pod_text(command=command, extra='stop_grace = "0s"\n' + limits(memory='"8M"'))
    agent.write("web", text)
    agent.wait_phase("web", "backing-off")
    agent.write("web", text.replace("8M", "128M"))
    wait_for(lambda: "enough" in agent.output("web"), "it starts at once")


CPUS = Path("/sys/devices/system/cpu/possible").read_text().strip()
# Keys of [containers.limits] that few have: two values of each, and its file on both kinds of hosts, with the
# content for the first, the second, and without the key.
RARE = {
    "memory_reservation": (
        ('"20M"', '"30M"'),
        ("memory.low", (str(20 << 20), str(30 << 20), "0")),
        ("memory.soft_limit_in_bytes", (str(20 << 20), str(30 << 20), "9223372036854771712")),
    ),
    "swap": (
        ('"8M"', '"0"'),
        ("memory.swap.max", (str(8 << 20), "0", "0")),
        ("memory.memsw.limit_in_bytes", (str(72 << 20), str(64 << 20), str(64 << 20))),
    ),
    "cpu_weight": (
        ("50", "10000"),
        ("cpu.weight", ("50", "10000", "100")),
        ("cpu.shares", ("512", "102400", "1024")),
    ),
    "cpus": (('"0"', '"1"'), ("cpuset.cpus", ("0", "1", CPUS)), ("cpuset.cpus", ("0", "1", CPUS))),
}


@pytest.mark.parametrize("key", RARE)
def test_every_further_limit_is_obeyed_changed_live_healed_and_taken_away(agent: Agent, key: str) -> None:
    if os.cpu_count() == 1:
        pytest.skip("needs two CPUs")
    (first, second), *files = RARE[key]
    name, contents = files[detect(agent.run).mode == "split"]
    agent.write("web", agent.pod_text(extra=limits(memory='"64M"', **{key: first})))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    file = group_file(agent, pid, name)
    assert file.read_text().strip() == contents[0]
    if key == "cpus":
        assert os.sched_getaffinity(pid) == {0}
    agent.write("web", agent.pod_text(extra=limits(memory='"64M"', **{key: second})))
    wait_for(lambda: file.read_text().strip() == contents[1], "it is changed")
    if key == "cpus":
        assert os.sched_getaffinity(pid) == {1}
    file.write_text(contents[0])
    wait_for(lambda: file.read_text().strip() == contents[1], "what was changed by hand is healed")
    wait_for(lambda: "the limit of" in agent.log.read_text(), "and said")
    agent.write("web", agent.pod_text(extra=limits(memory='"64M"')))
    wait_for(lambda: file.read_text().strip() == contents[2], "the default is back")
    assert agent.pid("web") == pid
    assert container(agent, "web")["restarts"] == 0


def test_memory_and_swap_rise_and_fall_together(agent: Agent) -> None:
    """The kernel of v1 lets their sum never be less than memory, whichever is written first."""
    agent.write("web", agent.pod_text(extra=limits(memory='"64M"', swap='"64M"')))
    agent.wait_phase("web", "running")
    pid, memory = agent.pid("web"), group_file(agent, agent.pid("web"), memory_file(agent))
    for wanted, swap in ((256, 0), (32, 256), (300, 8), (16, 16), (16, 0)):
        agent.write("web", agent.pod_text(extra=limits(memory=f'"{wanted}M"', swap=f'"{swap}M"')))
        wait_for(lambda wanted=wanted: memory.read_text().strip() == str(wanted << 20), f"it is {wanted}M")  # type: ignore[misc]
        unified = detect(agent.run).mode == "unified"
        both = group_file(agent, pid, "memory.swap.max" if unified else "memory.memsw.limit_in_bytes")
        right = str((swap if unified else wanted + swap) << 20)
        wait_for(lambda both=both, right=right: both.read_text().strip() == right, f"and {swap}M of swap")  # type: ignore[misc]
    assert agent.status("web")["error"] is None  # type: ignore[index]
    assert agent.pid("web") == pid


def test_cpus_that_the_machine_lacks_are_one_sentence(agent: Agent) -> None:
    there = Path("/sys/devices/system/cpu/online").read_text().strip()
    agent.write("web", agent.pod_text(extra=limits(cpus='"0,4000"')))
    wait_for(lambda: "no CPU 4000" in str((agent.status("web") or {}).get("error")), "it is said")
    assert there in str((agent.status("web") or {}).get("error"))
    agent.write("web", agent.pod_text(extra=limits(cpus='"0"')))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.write("web", agent.pod_text(extra=limits(cpus='"4000"')))
    status = agent.wait_phase("web", "degraded")
    assert "no CPU 4000" in status["error"]
    assert agent.pid("web") == pid


def test_a_killed_agent_sets_the_limits_of_a_start_in_the_next_one(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text(extra=limits(cpu_weight=50)))
    agent.launch(fault="runtime:limits-written")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    name, right = ("cpu.weight", "50") if detect(agent.run).mode == "unified" else ("cpu.shares", "512")
    assert group_file(agent, agent.pid("web"), name).read_text().strip() == right
    assert agent.output("web") == ["started"]


@pytest.fixture
def stopped_agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    with ended(agent):
        yield agent


def test_an_agent_killed_while_it_changes_a_limit(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", agent.pod_text(extra=limits(memory='"32M"')))
    agent.start()
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    agent.write("web", agent.pod_text(extra=limits(memory='"64M"', pids=7)))
    agent.launch(fault="runtime:limits-written")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    memory = group_file(agent, pid, memory_file(agent))
    wait_for(lambda: memory.read_text().strip() == str(64 << 20), "the change is finished")
    wait_for(lambda: any(e.type == "changed" for e in agent.client.events()), "and told")
    assert agent.pid("web") == pid


def test_a_limit_that_cannot_be_lowered_is_shown_and_costs_nothing(agent: Agent) -> None:
    if detect(agent.run).mode == "unified":
        return  # There the kernel takes any limit, and makes room for it.
    command = [
        "/bin/sh",
        "-c",
        "x=$(head -c 24000000 /dev/zero | tr '\\0' x); echo full; sleep 1000 & wait $!",
    ]
    text = agent.pod_text(command=command, extra='stop_grace = "0s"\n' + limits(memory='"256M"'))
    agent.write("web", text)
    wait_for(lambda: "full" in agent.output("web"), "memory is in use")
    pid = agent.pid("web")
    agent.write("web", text.replace("256M", "8M"))
    status = agent.wait_phase("web", "degraded")
    assert "limit of memory" in status["error"]
    assert agent.pid("web") == pid
    agent.write("web", text)
    assert agent.wait_phase("web", "running")["error"] is None
    assert agent.pid("web") == pid


def test_usage_is_shown_by_container_and_by_pod(agent: Agent) -> None:
    agent.write("web", agent.pod_text() + agent.pod_text(command=SPIN).replace('"app"', '"spin"'))
    agent.wait_phase("web", "running")
    wait_for(lambda: (agent.status("web") or {})["usage"]["cpu"] > 0.2, "CPU time is counted")
    status = agent.status("web")
    assert status is not None
    parts = [one["usage"] for one in status["containers"]]
    assert status["usage"]["pids"] == sum(part["pids"] for part in parts) == 3
    assert status["usage"]["memory"] == sum(part["memory"] for part in parts) > 0


@pytest.mark.parametrize(("name", "value"), [("nofile", 3), ("fsize", 1000)])
def test_ulimits_that_are_too_low_for_the_runtime_are_said(agent: Agent, name: str, value: int) -> None:
    agent.write("web", agent.pod_text(extra=f"ulimits = {{ {name} = {value} }}"))

    def said() -> str:
        status = agent.status("web")
        return str(status["error"]) if status is not None and status["error"] else ""

    wait_for(lambda: f"ulimits.{name}" in said(), "the limit is named", 60.0)
