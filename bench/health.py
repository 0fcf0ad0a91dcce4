"""Health checks: what they cost, and how soon an unhealthy container is replaced.

Over the network: 100 network namespaces with a server in each, all of them in one other process. By a
command: real containers, beside `podman healthcheck run`, which a systemd timer starts for each of podman's.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench._measure import Table
from bench.interactive import podman_at
from bench.pods import Fifo, agent_at, pod_file
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import create_network_namespace, in_network_namespace, unpin
from tank_agent.reconcile.probes import Probes
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.health.command import probe_executor
from tank_agent.runtime.run import RECORD, LiveRun, RunRecord, read_file
from tank_agent.spec.model import Container, HealthCheck, HttpProbe
from tests.support.agent import Agent, wait_for

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
PODS = 100
INTERVAL = 10.0
# So many containers that are probed so often need as many commands a second as 100 each 10 s.
CONTAINERS = 20
PORT = 8080
_DEADLINE = 60.0
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def serve(namespaces: list[Path]) -> None:
    """Answer every request in every namespace; does not return."""
    poller, open_sockets = select.epoll(), {}
    for path in namespaces:
        listener = in_network_namespace(path, lambda: socket.socket(socket.AF_INET))
        listener.bind(("127.0.0.1", PORT))
        listener.listen()
        open_sockets[listener.fileno()] = listener
        poller.register(listener.fileno(), select.EPOLLIN)
    listeners = set(open_sockets)
    os.write(1, b"serving\n")
    while True:
        for descriptor, _ in poller.poll():
            if descriptor in listeners:
                accepted, _ = open_sockets[descriptor].accept()
                open_sockets[accepted.fileno()] = accepted
                poller.register(accepted.fileno(), select.EPOLLIN)
                continue
            connection = open_sockets[descriptor]
            with contextlib.suppress(OSError):
                if connection.recv(65536):
                    connection.sendall(_ANSWER)
                    continue
            del open_sockets[descriptor]
            connection.close()


@contextlib.contextmanager
def served_namespaces(home: Path) -> Iterator[list[Path]]:
    """Make network namespaces, and a process that serves in all of them."""
    paths = [home / f"pod-{number}" for number in range(PODS)]
    for path in paths:
        create_network_namespace(path)
    reader, writer = os.pipe()
    server = os.fork()
    if server == 0:
        os.dup2(writer, 1)
        try:
            serve(paths)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 8) == b"serving\n"
    os.close(reader)
    try:
        yield paths
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        for path in paths:
            unpin(path)


def cpu(*who: int) -> float:
    """Return the seconds of CPU that this process, its children, or both have used."""
    used = [resource.getrusage(one) for one in who or (resource.RUSAGE_SELF,)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def made_up_run(pod: str) -> LiveRun:
    """Return a run that nothing but its network is known of."""
    record = RunRecord(
        id=f"{pod}-1",
        pod=pod,
        container="app",
        hash="",
        revision="",
        cgroup="/none",
        image="",
        stop_signal=15,
        stop_grace=1.0,
        terminal=False,
        created_at=0.0,
    )
    return LiveRun(record=record, directory=Path("/none"), started=True, alive_since=time.monotonic())


def share(probes: Probes, runs: list[str], seconds: float, *who: int) -> float:
    """Return the part of a core, in percent, that probes take once all runs are healthy."""

    def healthy() -> bool:
        found = [probes.observe(run) for run in runs]
        return all(probed is not None and probed.health.state == "healthy" for probed in found)

    wait_for(healthy, "all are healthy", _DEADLINE)
    # The probes that follow the first ones are not yet an interval apart.
    threading.Event().wait(INTERVAL)
    before, began = cpu(*who), time.monotonic()
    threading.Event().wait(seconds)
    used = (cpu(*who) - before) / (time.monotonic() - began) * 100
    assert healthy(), "all stay healthy"
    return used


def over_the_network(home: Path) -> None:
    """Measure the process that probes 100 pods each 10 s."""
    table = Table(
        f"{PODS} pods probed each {INTERVAL:g} s over their networks: CPU of the agent", "% of a core"
    )
    kinds = {"http": HealthCheck(http=HttpProbe(port=PORT)), "tcp": HealthCheck(tcp=PORT)}
    tools = Tools.of(home, home)
    with served_namespaces(home) as paths:
        for _ in range(max(1, ROUNDS // 2)):
            for name, check in kinds.items():
                executor = probe_executor(tools, home)
                probes = Probes(executor, Clock(), lambda *_: None, lambda _: None, lambda pod: home / pod)
                for path in paths:
                    container = Container(name="app", health=check)
                    probes.want(made_up_run(path.name), container, hurry=False, known=None)
                runs = [f"{path.name}-1" for path in paths]
                table.add(name, share(probes, runs, 2 * INTERVAL))
                probes.close()
    table.print()


def live_runs(agent: Agent) -> list[LiveRun]:
    """Return the runs of an agent's pods."""
    found = []
    for directory in (agent.run / "containers").iterdir():
        record = read_file(directory / RECORD, RunRecord)
        if record is not None:
            facts: dict[str, Any] = {"started": True, "alive_since": time.monotonic()}
            found.append(LiveRun(record=record, directory=directory, **facts))
    return found


def by_a_command(home: Path) -> None:
    """Measure as many commands a second as 100 pods need each 10 s, beside podman."""
    title = f"{PODS} containers probed each {INTERVAL:g} s by `true` in them: CPU"
    table = Table(title, "% of a core")
    children = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ours, peer = "tank, with crun and the command", "podman healthcheck run, without its conmon and crun"
    check = HealthCheck(exec=("/bin/true",), interval=INTERVAL * CONTAINERS / PODS)
    with (
        agent_at(home / "a") as agent,
        podman_at(home / "p", agent.rootfs, "--health-cmd=/bin/true", "--health-interval=disable") as podman,
    ):
        for number in range(CONTAINERS):
            agent.write(f"pod-{number}", agent.pod_text())
        for number in range(CONTAINERS):
            agent.wait_phase(f"pod-{number}", "running", _DEADLINE)
        executor = probe_executor(Tools.of(agent.data, agent.run), home)
        for _ in range(ROUNDS):
            probes = Probes(executor, Clock(), lambda *_: None, lambda _: None, lambda _: None)
            runs = live_runs(agent)
            for run in runs:
                probes.want(run, Container(name="app", health=check), hurry=False, known=None)
            table.add(ours, share(probes, [run.record.id for run in runs], INTERVAL, *children), peer=peer)
            probes.close()
            table.add(peer, share_of_calls([*podman, "healthcheck", "run", "web"]))
            words = executor.crun.exec_command("/dev/null")
            table.add("crun exec alone", share_of_calls([*words, runs[0].record.id, "/bin/true"]), peer=peer)
    table.print()


def share_of_calls(argv: list[str]) -> float:
    """Return the part of a core that a program takes if it is called for each check, in percent."""
    calls = 20
    before = cpu(resource.RUSAGE_CHILDREN)
    for _ in range(calls):
        subprocess.run(argv, check=True, capture_output=True)
    return (cpu(resource.RUSAGE_CHILDREN) - before) / calls * PODS / INTERVAL * 100


def replaced(home: Path) -> None:
    """Measure from the moment at which a server hangs up to the first instruction of the next container."""
    fifo, interval = Fifo(home / "fifo"), 1.0
    table = Table(f"An unhealthy container, probed each {interval:g} s, replaced after one failure", "ms")
    check = (
        f'[containers.health]\ntcp = {PORT}\ninterval = "{interval:g}s"\nretries = 1\nstart_period = "0s"\n'
    )
    with agent_at(home / "a") as agent:
        text = pod_file(agent, fifo).replace("[[containers.mounts]]", f"{check}[[containers.mounts]]")
        netns = agent.run / "netns" / "web"
        for _ in range(ROUNDS * 4):
            agent.write("web", text)
            wait_for(netns.exists, "the network is there")
            listener = in_network_namespace(netns, lambda: socket.socket(socket.AF_INET))
            listener.bind(("127.0.0.1", PORT))
            listener.listen()
            fifo.wait()
            wait_for(lambda: _health(agent) == "healthy", "it is healthy", _DEADLINE)
            last = max(event.seq for event in agent.client.events())
            told: list[float] = []

            def follow(last: int = last, told: list[float] = told) -> None:
                for event in agent.client.events(follow=True, after=last, pod="web"):
                    if event.type == "unhealthy":
                        told.append(time.perf_counter())
                        return

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            begin = time.perf_counter()
            listener.close()
            fifo.wait()
            end = time.perf_counter()
            follower.join(_DEADLINE)
            table.add("the server's end → the next container's first instruction", (end - begin) * 1000)
            table.add("the verdict → the next container's first instruction", (end - told[0]) * 1000)
            (agent.pods / "web.toml").unlink()
            agent.wait_gone("web")
    table.print()


def _health(agent: Agent) -> str:
    status = agent.status("web")
    return "" if status is None else str(status["health"])


def main() -> None:
    """Run every benchmark of this module."""
    assert os.geteuid() == 0, "run it as root: it makes containers"
    assert shutil.which("podman"), "the peer is not installed: apt install podman"
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tank-bench-") as name:
        for benchmark in (over_the_network, by_a_command, replaced):
            home = Path(name) / benchmark.__name__
            home.mkdir()
            print(f"\n{benchmark.__name__}: load of the machine {os.getloadavg()[0]:.1f}", flush=True)
            benchmark(home)


if __name__ == "__main__":
    main()
