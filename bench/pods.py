"""From a file to a container: ours beside bare conmon and crun, and beside podman, with one root file system.

The workload writes its own start: its first instruction opens a fifo that the benchmark waits on.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench._measure import Table, add_all, alternate, milliseconds
from tank_agent.linux import mounts
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.run import LiveRun, RunRecord
from tests.support.agent import Agent, wait_for

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "100"))
MANY = 100
CONCURRENT = 4
_DEADLINE = 60.0


class Fifo:
    """A fifo in a directory that is mounted into every workload; each writes one byte when it begins."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        os.mkfifo(directory / "began")
        self._fd = os.open(directory / "began", os.O_RDWR | os.O_NONBLOCK)

    def wait(self, count: int = 1) -> None:
        """Wait until so many workloads have begun."""
        poller = select.poll()
        poller.register(self._fd, select.POLLIN)
        while count:
            assert poller.poll(_DEADLINE * 1000), "the workload did not begin in time"
            count -= len(os.read(self._fd, count))


BEGIN = ["/bin/sh", "-c", "printf x >/fifo/began; trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done"]


def pod_file(agent: Agent, fifo: Fifo) -> str:
    """Return a pod file whose container writes a byte when it begins."""
    words = json.dumps(BEGIN)
    return (
        f'[[volumes]]\nname = "fifo"\nhost = "{fifo.directory}"\n[[containers]]\nname = "app"\n'
        f'rootfs = "{agent.rootfs}"\ncommand = {words}\nstop_grace = "1s"\n'
        '[[containers.mounts]]\nvolume = "fifo"\npath = "/fifo"\n'
    )


class Ours:
    """A file renamed into pods.d."""

    def __init__(self, agent: Agent, fifo: Fifo) -> None:
        self._agent = agent
        self._fifo = fifo
        self._text = pod_file(agent, fifo)

    def __call__(self) -> float:
        temporary = self._agent.home / "web.new"
        temporary.write_text(self._text)
        target = self._agent.pods / "web.toml"
        took = milliseconds(lambda: (temporary.rename(target), self._fifo.wait()))
        target.unlink()
        self._agent.wait_gone("web")
        return took


class Bare:
    """conmon and crun alone, on a bundle that the agent made, with a fresh overlay."""

    def __init__(self, agent: Agent, fifo: Fifo, home: Path) -> None:
        self._fifo = fifo
        self._home = home
        self._rootfs = agent.rootfs
        self._tools = Tools.of(home, home)
        self._cgroups, self._crun = self._tools.cgroups, self._tools.crun
        self._lock = threading.Lock()
        self._count = 0
        self._template = self._capture(agent, fifo)

    def _capture(self, agent: Agent, fifo: Fifo) -> dict[str, object]:
        for _ in range(2):
            # The second start has the compiled seccomp program, as all later ones.
            agent.write("web", pod_file(agent, fifo))
            fifo.wait()
            agent.wait_phase("web", "running")
            (bundle,) = (agent.run / "containers").iterdir()
            config: dict[str, object] = json.loads((bundle / "config.json").read_text())
            (agent.pods / "web.toml").unlink()
            agent.wait_gone("web")
        return config

    def prepare(self) -> tuple[Path, RunRecord]:
        """Make a bundle; not measured, except for its overlay."""
        with self._lock:
            self._count += 1
            name = f"bare-{self._count}"
        bundle = self._home / name
        for part in ("rootfs", "upper", "work"):
            (bundle / part).mkdir(parents=True)
        config = json.loads(json.dumps(self._template))
        config["root"]["path"] = str(bundle / "rootfs")
        config["linux"]["cgroupsPath"] = self._cgroups.path("bare", name)
        config["linux"]["namespaces"] = [
            {"type": "network"} if n["type"] == "network" else n for n in config["linux"]["namespaces"]
        ]
        for mount in config["mounts"]:
            if mount["destination"] == "/fifo":
                mount["source"] = str(self._fifo.directory)
        config["mounts"] = [m for m in config["mounts"] if not m["destination"].startswith("/etc/")]
        (bundle / "config.json").write_text(json.dumps(config))
        record = RunRecord(
            id=name,
            pod="bare",
            container=name,
            hash="",
            revision="",
            cgroup=self._cgroups.path("bare", name),
            image="",
            stop_signal=15,
            stop_grace=1.0,
            terminal=False,
            created_at=0.0,
        )
        return bundle, record

    def start(self, bundle: Path, record: RunRecord) -> None:
        """Mount the overlay, create and start."""
        mounts.overlay([self._rootfs], bundle / "upper", bundle / "work", bundle / "rootfs")
        conmon.create(self._tools, LiveRun(record=record, directory=bundle), bundle / "log")
        self._crun.start(record.id)

    def remove(self, bundle: Path, record: RunRecord) -> None:
        """Remove a container that was measured."""
        self._crun.delete(record.id)
        mounts.unmount_all(bundle / "rootfs")
        wait_for(lambda: self._cgroups.remove(record.cgroup), "the cgroup is gone")
        shutil.rmtree(bundle)

    def __call__(self) -> float:
        bundle, record = self.prepare()
        took = milliseconds(lambda: (self.start(bundle, record), self._fifo.wait()))
        self.remove(bundle, record)
        return took

    def many(self, count: int) -> float:
        """Return the seconds for so many containers, at our workers' concurrency."""
        made = [self.prepare() for _ in range(count)]
        began = time.perf_counter()
        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(lambda pair: self.start(*pair), made))
        self._fifo.wait(count)
        took = time.perf_counter() - began
        with ThreadPoolExecutor(CONCURRENT) as pool:
            list(pool.map(lambda pair: self.remove(*pair), made))
        return took

    def close(self) -> None:
        """Remove our cgroup."""
        self._cgroups.remove_base()


class Podman:
    """`podman run` of the same root file system by the same crun, without a network of its own."""

    def __init__(self, rootfs: Path, fifo: Fifo, home: Path) -> None:
        self._rootfs = rootfs
        self._fifo = fifo
        home.mkdir()
        self._home = home
        self._base = ["podman", f"--root={home / 'storage'}", f"--runroot={home / 'runroot'}"]
        self._base += ["--cgroup-manager=cgroupfs", "--log-level=error", f"--runtime={self._runtime(home)}"]

    def _runtime(self, home: Path) -> Path:
        """Return a crun that also starts on hybrid hosts, in the same way as the agent's."""
        program, options = Crun("/usr/bin/crun", home, cgroup.detect(home)).create_command(home / "log")
        split = "/usr/bin/crun" in options
        words = [program, *options[: options.index("/usr/bin/crun") + 1]] if split else [program]
        script = home / "crun-anywhere"
        script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        script.chmod(0o755)
        return script

    def close(self) -> None:
        """Detach what podman's storage keeps mounted."""
        for target in sorted(mounts.mount_points(self._home), reverse=True):
            mounts.unmount_all(target)

    def __call__(self) -> float:
        run = [
            "run",
            "--detach",
            "--net=none",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--name=web",
            f"--volume={self._fifo.directory}:/fifo",
        ]
        argv = [*self._base, *run, "--rootfs", f"{self._rootfs}:O", *BEGIN]
        took = milliseconds(lambda: (self._call(argv), self._fifo.wait()))
        self._call([*self._base, "rm", "--force", "--time=0", "web"])
        return took

    def _call(self, argv: list[str]) -> None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@contextmanager
def agent_at(home: Path, settings: str = "", **reconcile: str) -> Iterator[Agent]:
    """Run an agent for a while, with the back-off switched off, and more lines of agent.toml."""
    home.mkdir()
    agent = Agent(home, resync="10s", **reconcile)
    with agent.config.open("a") as file:
        file.write(settings)
    agent.start()
    try:
        yield agent
    finally:
        agent.end()


def one_pod(home: Path) -> None:
    """Measure a file to the workload's first instruction."""
    fifo = Fifo(home / "fifo")
    with agent_at(home / "a") as agent:
        bare = Bare(agent, fifo, home / "b")
        measured: dict[str, Callable[[], float]] = {
            "tank: file renamed into pods.d": Ours(agent, fifo),
            "bare conmon + crun": bare,
        }
        podman = Podman(agent.rootfs, fifo, home / "p")
        measured["podman run"] = podman
        try:
            samples = alternate(ROUNDS, measured, warm_up=2)
        finally:
            podman.close()
            bare.close()
    table = Table("A file to the workload's first instruction", "ms")
    ours = "tank: file renamed into pods.d"
    add_all(table, samples, {ours: "bare conmon + crun", "podman run": ours})
    table.print()


def hundred_pods(home: Path) -> None:
    """Measure 100 pods from an agent that starts with them, then what it costs while nothing happens."""
    fifo = Fifo(home / "fifo")
    table = Table("100 pods, from a cold agent", "s")
    for number in range(max(3, ROUNDS // 20)):
        with agent_at(home / f"w{number}") as agent:
            bare = Bare(agent, fifo, home / f"b{number}")
            agent.stop()
            for index in range(MANY):
                (agent.pods / f"pod-{index}.toml").write_text(pod_file(agent, fifo))
            began = time.perf_counter()
            agent.launch()
            fifo.wait(MANY)
            table.add(
                "tank: agent started", time.perf_counter() - began, peer="bare conmon + crun, 4 at once"
            )
            if number == 0:
                idle(agent)
            agent.end()
            table.add("bare conmon + crun, 4 at once", bare.many(MANY))
            bare.close()
            agent.start()
    table.print()


def idle(agent: Agent) -> None:
    """Print what an agent with 100 pods costs while nothing happens, and how long a quiet look takes."""
    agent.wait_phase(f"pod-{MANY - 1}", "running", deadline=_DEADLINE)
    agent.client.sync(wait=_DEADLINE)
    assert agent.process is not None
    pid = agent.process.pid
    before, began = _cpu(pid), time.monotonic()
    threading.Event().wait(30)
    share = (_cpu(pid) - before) / (time.monotonic() - began) * 100
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    pss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
    print(f"\nIdle with {MANY} pods over 30 s: {share:.2f} % of a core, {pss:.1f} MB PSS", flush=True)
    table = Table("The command line, cold, with 100 pods", "ms")
    tank = [str(Path(sys.executable).with_name("tank")), "list", "--socket", str(agent.run / "tank.sock")]
    for _ in range(20):
        table.add("tank list", milliseconds(lambda: subprocess.run(tank, check=True, capture_output=True)))
    table.print()


def restart(home: Path, base: str = "0s") -> None:
    """Measure the end of a workload to its next first instruction, with this base of the back-off."""
    home.mkdir(exist_ok=True)
    fifo = Fifo(home / "fifo")
    table = Table(f"A killed workload to its successor's first instruction, backoff_base {base}", "ms")
    # Each run is stable at once, so that each end is the first of a row.
    with agent_at(home / "a", backoff_base=base, stable_after="0s") as agent:
        agent.write("web", pod_file(agent, fifo))
        fifo.wait()
        agent.wait_phase("web", "running")
        for _ in range(ROUNDS):
            pid = agent.pid("web")
            table.add("tank", milliseconds(lambda pid=pid: (os.kill(pid, 9), fifo.wait())))  # type: ignore[misc]
            # The workload has begun a moment before the agent says that it runs.
            agent.wait_phase("web", "running")
    table.print()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run every benchmark of this module."""
    assert os.geteuid() == 0, "run it as root: it makes containers"
    assert shutil.which("podman"), "the peer is not installed: apt install podman"
    # A file system in memory: what a disk does is not what is compared here.
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tank-bench-") as name:
        for benchmark in (one_pod, restart, hundred_pods):
            home = Path(name) / benchmark.__name__
            home.mkdir()
            benchmark(home)
        restart(Path(name) / "half-a-second", "0.5s")


if __name__ == "__main__":
    main()
