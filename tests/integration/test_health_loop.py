"""Health checks as a user has them: in the file or the image, shown by status, and what follows of them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import lmdb
import pytest

from tank_agent.journal.store import Table
from tank_agent.linux import pidfd
from tank_agent.linux.namespaces import in_network_namespace
from tank_agent.reconcile.storm import PACE
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.run import RECORD, RunRecord, read_file
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.bridges import bridge_agent, running
from tests.support.images import busybox_members, layer, write_image
from tests.support.lan import LanAgent
from tests.support.probe_servers import listening
from tests.support.terminal import add_commands

COMMANDS = ("test", "httpd", "nc", "seq")
# As quick as a file may have it, but for the timeout: a slow machine is not to count as a failure.
QUICK = 'interval = "1s"\nstart_interval = "500ms"\ntimeout = "20s"\nretries = 2\nstart_period = "0s"\n'
# Healthy as long as a file is there.
FILE = f'[containers.health]\nexec = ["test", "-e", "/w/ok"]\n{QUICK}'
SERVE = ["/bin/sh", "-c", "echo started; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]
MOUNT = '[[containers.mounts]]\nvolume = "w"\npath = "/w"\n'


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    """Return a file that decides of health, in a directory that pods mount."""
    (tmp_path / "w").mkdir()
    return tmp_path / "w" / "ok"


def text(agent: Agent, health: str = FILE, head: str = "", switch: Path | None = None) -> str:
    if switch is not None:
        head += f'\n[[volumes]]\nname = "w"\nhost = "{switch.parent}"\n'
        health = MOUNT + health
    return agent.pod_text(command=SERVE, head=head, extra=f'stop_grace = "300ms"\n{health}')


def container(agent: Agent, name: str = "web") -> dict[str, Any]:
    status = agent.status(name)
    unknown = {"health": {"state": "unknown"}, "restarts": -1}
    found: dict[str, Any] = status["containers"][0] if status is not None else unknown
    return found


def health(agent: Agent, name: str = "web") -> dict[str, Any]:
    found: dict[str, Any] = container(agent, name)["health"]
    return found


def wait_health(agent: Agent, state: str, name: str = "web") -> dict[str, Any]:
    wait_for(lambda: health(agent, name)["state"] == state, f"{name} is {state}")
    return health(agent, name)


def events(agent: Agent, name: str | None = None) -> list[str]:
    return [event.type for event in agent.client.events(pod=name)]


def told_at(agent: Agent, kind: str) -> float:
    """Return when the first event of a kind was told, in Unix time."""
    event = next(event for event in agent.client.events() if event.type == kind)
    return datetime.fromisoformat(event.at).timestamp()


def inside(agent: Agent, name: str = "web") -> set[int]:
    """Return the processes of a pod's containers but the main ones and their children."""
    cgroups = cgroup.detect(agent.run)
    found: set[int] = set()
    for directory in (agent.run / "containers").iterdir():
        record = read_file(directory / RECORD, RunRecord)
        if record is not None and record.pod == name:
            found |= cgroups.processes(record.cgroup)
    # Commands of probes have a session from outside.
    return {pid for pid in found if pidfd.session_numbers(pid)[1:] == (0,)}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with running_agent(tmp_path) as started:
        add_commands(started, *COMMANDS)
        yield started


def test_a_health_check_comes_and_goes_with_the_file(agent: Agent) -> None:
    agent.write("web", text(agent, ""))
    agent.wait_phase("web", "running")
    assert health(agent)["state"] == "none"
    pid = agent.pid("web")
    agent.write("web", text(agent, f'[containers.health]\nexec = ["true"]\n{QUICK}'))
    wait_health(agent, "healthy")
    agent.write("web", text(agent, ""))
    wait_health(agent, "none")
    assert agent.pid("web") == pid


def test_an_unhealthy_container_is_restarted_and_says_why(agent: Agent, switch: Path) -> None:
    switch.touch()
    agent.write("web", text(agent, switch=switch))
    first = wait_health(agent, "healthy")
    assert first["message"] is None
    pid = agent.pid("web")
    switch.unlink()
    wait_for(lambda: container(agent)["restarts"] == 1, "it is restarted")
    found = container(agent)["exit"]
    assert found["reason"] == "unhealthy: the command ended with code 1"
    agent.wait_phase("web", "running")
    assert agent.pid("web") != pid
    switch.touch()
    wait_health(agent, "healthy")
    # The event is stored a moment after it is shown.
    wait_for(lambda: [name for name in events(agent, "web") if "healthy" in name][-1] == "healthy", "told")
    assert [name for name in events(agent, "web") if "healthy" in name][:2] == ["healthy", "unhealthy"]


def test_it_is_restarted_again_and_again_with_back_off(tmp_path: Path, switch: Path) -> None:
    with running_agent(tmp_path, backoff_base="1s", backoff_cap="2s") as agent:
        add_commands(agent, *COMMANDS)
        agent.write("web", text(agent, switch=switch))
        wait_for(lambda: container(agent)["restarts"] >= 2, "it is restarted twice")
        wait_for(lambda: agent.status("web")["phase"] == "backing-off", "it backs off")  # type: ignore[index]


def test_on_failure_none_only_tells(agent: Agent, switch: Path) -> None:
    switch.touch()
    agent.write("web", text(agent, FILE + 'on_failure = "none"\n', switch=switch))
    wait_health(agent, "healthy")
    pid = agent.pid("web")
    switch.unlink()
    found = wait_health(agent, "unhealthy")
    assert found["message"] == "the command ended with code 1"
    wait_for(lambda: health(agent)["failing"] >= 4, "it is probed on")
    assert (agent.pid("web"), container(agent)["restarts"]) == (pid, 0)
    switch.touch()
    wait_health(agent, "healthy")
    assert agent.pid("web") == pid


def test_a_pod_that_runs_once_fails_by_its_health(agent: Agent, switch: Path) -> None:
    agent.write("web", text(agent, head='restart = "never"', switch=switch))
    agent.wait_phase("web", "failed")
    assert container(agent)["exit"]["reason"].startswith("unhealthy: ")


def test_failures_in_the_start_period_restart_nothing(agent: Agent, switch: Path) -> None:
    agent.write("web", text(agent, FILE.replace('"0s"', '"5s"'), switch=switch))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")

    def first_failure() -> dict[str, Any] | None:
        found = health(agent)
        return found if found["message"] else None

    found = wait_for(first_failure, "it is shown why it is not healthy yet")
    assert found is not None
    assert found["failing"] == 0
    wait_for(lambda: container(agent)["restarts"] == 1, "it is restarted in the end")
    # By the agent's own times: when this test sees either is up to the machine.
    assert told_at(agent, "unhealthy") - told_at(agent, "started") > 4.5
    agent.wait_phase("web", "running")
    assert agent.pid("web") != pid
    switch.touch()
    wait_health(agent, "healthy")


def test_a_server_over_http(agent: Agent) -> None:
    check = (
        f'[containers.health]\nhttp = {{ port = 8080, path = "/index.html" }}\n{QUICK}on_failure = "none"\n'
    )
    serve = "mkdir -p /www; echo ok > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"
    agent.write("web", agent.pod_text(command=["/bin/sh", "-c", serve], extra=f'stop_grace = "0s"\n{check}'))
    wait_health(agent, "healthy")
    root = Path(f"/proc/{agent.pid('web')}/root/www")
    (root / "index.html").rename(root / "other.html")
    assert wait_health(agent, "unhealthy")["message"] == "port 8080 answers 404 Not Found"
    # A changed probe counts from now on, and restarts nothing.
    pid = agent.pid("web")
    other = check.replace("index", "other")
    agent.write("web", agent.pod_text(command=["/bin/sh", "-c", serve], extra=f'stop_grace = "0s"\n{other}'))
    wait_health(agent, "healthy")
    assert agent.pid("web") == pid


def test_a_pod_in_the_hosts_network_is_probed_there(agent: Agent) -> None:
    with listening() as listener:
        port = listener.getsockname()[1]
        check = f"[containers.health]\ntcp = {port}\n{QUICK}on_failure = 'none'\n"
        agent.write("web", text(agent, check, head='network = "host"'))
        wait_health(agent, "healthy")
    message = wait_health(agent, "unhealthy")["message"]
    assert message == f"cannot connect to port {port}: Connection refused"


def test_the_health_check_of_an_image(agent: Agent, switch: Path, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    layout.mkdir()
    config = {
        "Cmd": SERVE,
        "Env": ["PATH=/bin"],
        "Healthcheck": {"Test": ["CMD-SHELL", "test -e /w/ok"], "Interval": 10**9, "Retries": 1},
    }
    write_image(layout, [layer(busybox_members())], config=config)
    volume = f'[[volumes]]\nname = "w"\nhost = "{switch.parent}"\n'
    pod = f'{volume}[[containers]]\nname = "app"\nimage = "oci:{layout}:latest"\nstop_grace = "0s"\n{MOUNT}'
    switch.touch()
    agent.write("web", pod)
    wait_health(agent, "healthy")
    pid = agent.pid("web")
    switch.unlink()
    wait_health(agent, "unhealthy")
    agent.kill()
    # The next agent has it from the run itself: the image may be gone.
    for blob in (layout / "blobs" / "sha256").iterdir():
        blob.unlink()
    agent.start()
    # What the journal had, which may be a moment older; never that it only starts.
    assert health(agent)["state"] in ("healthy", "unhealthy")
    wait_health(agent, "unhealthy")
    switch.touch()
    wait_health(agent, "healthy")
    assert (agent.pid("web"), container(agent)["restarts"]) == (pid, 0)
    agent.write("web", f"{pod}[containers.health]\nimage = false\n")
    wait_health(agent, "none")
    assert agent.pid("web") == pid


def stored_status(agent: Agent) -> bytes:
    """Return the status of the pod as it is committed: bytes in the file may be of a commit under way."""
    with lmdb.open(str(agent.data / "journal"), readonly=True, lock=False, max_dbs=len(Table)) as environment:
        table = environment.open_db(Table.STATUS.value.encode(), create=False)
        with environment.begin(table) as transaction:
            return bytes(transaction.get(b"web") or b"")


def test_health_over_the_death_of_the_agent(agent: Agent, switch: Path) -> None:
    switch.touch()
    agent.write("web", text(agent, FILE.replace('"1s"\ns', '"5s"\ns'), switch=switch))
    found = wait_health(agent, "healthy")
    pid = agent.pid("web")
    wait_for(lambda: b'"state":"healthy"' in stored_status(agent), "the loop has written it")
    agent.kill()
    agent.start()
    # At once, and since when it was; never "starting" in between.
    again = health(agent)
    assert (again["state"], again["since"]) == ("healthy", found["since"])
    assert agent.pid("web") == pid
    switch.unlink()
    wait_for(lambda: container(agent)["restarts"] == 1, "a probe of the new agent finds out")


def test_commands_that_hang_at_the_death_of_the_agent(agent: Agent) -> None:
    check = '[containers.health]\nexec = ["/bin/sh", "-c", "trap true HUP TERM; sleep 1000; sleep 1000"]\n'
    agent.write("web", text(agent, f'{check}timeout = "1h"\n'))
    agent.wait_phase("web", "running")
    wait_for(lambda: len(inside(agent)) == 2, "a command runs")
    left = inside(agent)
    agent.kill()
    agent.start()
    wait_for(lambda: not left & inside(agent), "it is killed")
    assert agent.stop() == 0
    wait_for(lambda: not inside(agent), "nothing of it is left when the agent ends in order")
    agent.start()


def test_a_container_that_is_killed_while_its_probe_runs(agent: Agent) -> None:
    check = '[containers.health]\nexec = ["sleep", "1000"]\ntimeout = "1h"\n'
    agent.write("web", text(agent, check))
    agent.wait_phase("web", "running")
    wait_for(lambda: inside(agent), "a command runs")
    os.kill(agent.pid("web"), 9)
    wait_for(lambda: container(agent)["restarts"] == 1, "it is restarted")
    assert "unhealthy" not in events(agent, "web")
    assert container(agent)["exit"]["signal"] == 9


def waits_for_answer(agent: LanAgent) -> bool:
    """Return whether a connection to the pod's server is under way, or waits for its answer."""
    netns = agent.run / "netns" / "web"
    table = in_network_namespace(netns, lambda: Path("/proc/thread-self/net/tcp").read_text())
    # To port 8080, from somewhere: established, or SYN sent.
    return any(
        line.split()[2].endswith(":1F90") and line.split()[3] in ("01", "02")
        for line in table.splitlines()[1:]
    )


@pytest.mark.parametrize("check", ["http = { port = 8080 }"])
def test_a_probe_that_hangs_keeps_no_network(tmp_path: Path, check: str) -> None:
    """Neither the namespace nor the link to the bridge outlives the pod."""
    with bridge_agent(tmp_path) as agent:
        agent.start()
        add_commands(agent, *COMMANDS)
        # The second connection waits to be accepted for ever, and the first one for an answer.
        script = "echo started; nc -l -p 8080 -e sleep 1000 & exec sleep 1000"
        pod = agent.pod_text(
            command=["/bin/sh", "-c", script],
            head='network = "bridge"',
            extra=f'stop_grace = "0s"\n[containers.health]\n{check}\ntimeout = "1h"\ninterval = "1s"\n',
        )
        for _ in range(3):
            agent.write("web", pod)
            running(agent, "web")
            assert any(name.startswith("t") for name in agent.host.links() - {"lo", "eth0", "eth1"})
            wait_for(lambda: waits_for_answer(agent), "a probe is in flight")
            before = {name for name in agent.host.links() if "@" in name or name.startswith("tk")}
            (agent.pods / "web.toml").unlink()
            agent.wait_gone("web")
            wait_for(lambda before=before: not before & agent.host.links(), "its link is gone")
            assert agent.process is not None
            mounts = Path(f"/proc/{agent.process.pid}/mountinfo").read_text()
            assert str(agent.run / "netns" / "web") not in mounts


def restarts(agent: Agent, names: list[str]) -> int:
    return sum(container(agent, name)["restarts"] for name in names)


def test_a_storm_paces_restarts(agent: Agent, switch: Path) -> None:
    names = [f"web{number}" for number in range(6)]
    switch.touch()
    # After a restart, nobody is unhealthy again before the others are for the first time.
    quick = FILE.replace("retries = 2", "retries = 4").replace('"500ms"', '"1s"')
    for name in names:
        agent.write(name, text(agent, quick, switch=switch))
    # Whatever turns within the longest interval of all makes a storm: a slow machine takes its time.
    calm = FILE.replace('interval = "1s"', 'interval = "1m"', 1).replace("/w/ok", "/bin/sh")
    agent.write("calm", text(agent, calm))
    for name in (*names, "calm"):
        wait_health(agent, "healthy", name)
    switch.unlink()
    wait_for(lambda: "health-storm" in events(agent), "the storm is told")
    begun = told_at(agent, "health-storm")
    wait_for(lambda: time.time() - begun > 5.0, "time passes")
    sum_of_restarts = restarts(agent, names)
    # Half of them before it was one; since then one at once, and one in each further pace.
    assert 1 <= sum_of_restarts <= 4 + (time.time() - begun) // PACE, sum_of_restarts
    switch.touch()
    for name in names:
        wait_health(agent, "healthy", name)
    assert events(agent).count("health-storm") == 1
    storm = next(event for event in agent.client.events() if event.type == "health-storm")
    assert storm.pod == ""
    assert "of 7 pods" in storm.message
    # Whoever recovered by itself is not restarted for what it was.
    sum_of_restarts, recovered = restarts(agent, names), time.monotonic()
    wait_for(lambda: time.monotonic() - recovered > PACE + 2.0, "a pace passes")
    assert restarts(agent, names) == sum_of_restarts
