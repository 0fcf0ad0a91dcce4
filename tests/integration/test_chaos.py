"""Chaos: random edits and damage on twenty pods; then all is as the files say, and nothing is left over.

TANK_CHAOS_SECONDS sets how long (60), TANK_CHAOS_SEED what happens: the same seed makes the same choices.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tests.support.agent import SERVE, wait_for
from tests.support.lan import LanAgent, lan_agent, nic

SECONDS = float(os.environ.get("TANK_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("TANK_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PODS = 20
RESYNC = 5.0
# Beside two resyncs: the restarts that they begin, on a machine that others use, too.
CONVERGED_WITHIN = 2 * RESYNC + 10
FILES = ("hosts", "hostname", "resolv.conf")
MOUNTS = ("/data", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


class Wanted:
    """What one pod's file says now."""

    def __init__(self, number: int, choose: random.Random) -> None:
        self.name, self.number, self.choose = f"pod-{number:02}", number, choose
        self.mode = ("none", "nics", "nics", "host")[number % 4]
        self.word, self.address, self.pids, self.restart = 0, number + 10, 50, "always"
        self.containers = 1 + number % 2
        self.here = True

    @property
    def address_text(self) -> str:
        return f"10.0.0.{self.address}/24"

    def text(self, agent: LanAgent) -> str:
        env = f'env = {{ CHAOS = "{self.word}" }}\n'
        limits = f"[containers.limits]\npids = {self.pids}\n"
        mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        container = agent.pod_text(command=SERVE, extra=env + mount + limits)
        more = "".join(container.replace('"app"', f'"more-{i}"') for i in range(1, self.containers))
        network = f"[network]\n[[network.nics]]\n{nic(self.address_text)}\n" if self.mode == "nics" else ""
        head = f'restart = "{self.restart}"\n' + (network or f'network = "{self.mode}"\n')
        return f'{head}[[volumes]]\nname = "data"\n{container}{more}'

    def edit(self, agent: LanAgent) -> str:
        what = self.choose.choice(("word", "address", "pids", "restart", "mode", "containers", "here"))
        match what:
            case "word":
                self.word += 1
            case "address":
                self.address = self.number + (10 if self.address > 100 else 110)
            case "pids":
                self.pids = self.choose.randrange(40, 90)
            case "restart":
                self.restart = "on-failure" if self.restart == "always" else "always"
            case "mode":
                self.mode = self.choose.choice(("none", "nics", "host"))
            case "containers":
                self.containers = 3 - self.containers
            case "here":
                self.here = not self.here
        if self.here:
            agent.write(self.name, self.text(agent))
        else:
            (agent.pods / f"{self.name}.toml").unlink(missing_ok=True)
        return f"edit {self.name} {what}"


class Chaos:
    """Does one random thing after the other."""

    def __init__(self, agent: LanAgent, choose: random.Random) -> None:
        self.agent, self.choose = agent, choose
        self.pods = [Wanted(number, choose) for number in range(PODS)]
        for pod in self.pods:
            agent.write(pod.name, pod.text(agent))

    def step(self, *, kill_agent: bool) -> str:
        kinds = ["edit", "workload", "conmon", "address", "link", "file", "pin", "mount", "limit", "agent"]
        weights = (8, 6, 2, 3, 2, 2, 1, 3, 2, 1 if kill_agent else 0)
        kind = self.choose.choices(kinds, weights=weights)[0]
        pod = self.choose.choice(self.pods)
        if kind == "edit":
            return pod.edit(self.agent)
        if kind == "agent":
            self.agent.kill()
            self.agent.start()
        elif kind in ("workload", "conmon"):
            self._kill(kind)
        elif kind in ("address", "link"):
            self._damage_network(pod, kind)
        elif kind == "file":
            self._damage_files(self.agent.run / "pods" / pod.name)
        elif kind == "pin":
            mounts.unmount_all(self.agent.pod(pod.name).path)
        elif kind == "mount":
            self._unmount()
        else:
            for file in Path("/sys/fs/cgroup").glob(f"*/{self.agent.cgroup}/{pod.name}/*/pids.max"):
                with contextlib.suppress(OSError):
                    file.write_text("max")
        return f"{kind} {pod.name}"

    def _process(self, name: str) -> int | None:
        """Return the process that a file of a random run names, if it is one of ours."""
        directories = sorted(path for path in (self.agent.run / "containers").iterdir())
        if not directories:
            return None
        directory = self.choose.choice(directories)
        with contextlib.suppress(OSError, ValueError):
            pid = int((directory / name).read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            return pid if b"conmon" in words or b"/bin/sh" in words else None
        return None

    def _kill(self, kind: str) -> None:
        pid = self._process("conmon.pid" if kind == "conmon" else "container.pid")
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _unmount(self) -> None:
        pid, path = self._process("container.pid"), self.choose.choice(MOUNTS)
        if pid is not None:
            command = ["nsenter", "--target", str(pid), "--mount", "/bin/busybox", "umount", "-l", path]
            subprocess.run(command, check=False, capture_output=True, timeout=10)

    def _damage_files(self, directory: Path) -> None:
        with contextlib.suppress(OSError):
            for name in FILES:
                if self.choose.random() < 0.5:
                    (directory / name).unlink(missing_ok=True)
                else:
                    # The same, but another inode.
                    copy = directory / f"{name}.new"
                    copy.write_bytes((directory / name).read_bytes())
                    copy.rename(directory / name)

    def _damage_network(self, pod: Wanted, kind: str) -> None:
        command = f"addr del {pod.address_text} dev eth0" if kind == "address" else "link del eth0"
        with contextlib.suppress(OSError):
            self.agent.pod(pod.name).ip(command, check=False)


def differences(agent: LanAgent, pods: list[Wanted]) -> Iterator[str]:
    """Yield what on the machine is not as the files say."""
    wanted = {pod.name: pod for pod in pods if pod.here}
    found = {status["name"]: status for status in agent.client.status()}
    if wanted.keys() != found.keys():
        yield f"pods {sorted(wanted.keys() ^ found.keys())}"
        return
    for name, pod in wanted.items():
        status = found[name]
        pids = [one["pid"] for one in status["containers"]]
        if status["phase"] != "running" or len(pids) != pod.containers or None in pids or status["error"]:
            yield f"{name} is {status['phase']}, {pids}: {status['error']}"
            continue
        yield from (f"{name}: {what}" for what in pod_differences(agent, pod, pids))
        if status["addresses"] != ([pod.address_text] if pod.mode == "nics" else []):
            yield f"{name} shows {status['addresses']}"
    assert agent.process is not None
    threads = Path(f"/proc/{agent.process.pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    if children:
        yield f"the agent has the children {children}"
    yield from leftovers(agent, sum(pod.containers for pod in wanted.values()), set(wanted))


def pod_differences(agent: LanAgent, pod: Wanted, pids: list[int]) -> Iterator[str]:
    network = agent.host if pod.mode == "host" else agent.pod(pod.name)
    for pid in pids:
        if f"CHAOS={pod.word}".encode() not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            yield f"{pid} has an older environment"
        if Path(f"/proc/{pid}/ns/net").stat().st_ino != network.inode():
            yield f"{pid} runs in another network"
    for file in Path("/sys/fs/cgroup").glob(f"**/{agent.cgroup}/{pod.name}/*/pids.max"):
        if file.read_text().strip() != str(pod.pids):
            yield f"limit {file.read_text().strip()} instead of {pod.pids}"
    if pod.mode == "nics":
        shown = json.loads(network.ip("-j addr show dev eth0"))[0]
        found = [
            f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"] if one["family"] == "inet"
        ]
        if found != [pod.address_text]:
            yield f"has {found}"
    elif pod.mode == "none" and network.links() != {"lo"}:
        yield f"has {network.links()}"
    names = {file.name for file in (agent.run / "pods" / pod.name).iterdir()}
    if names != set(FILES):
        yield f"files {names}"
    for pid in pids:
        yield from (f"{pid}: {what}" for what in mount_differences(agent, pod, pid))


def mount_differences(agent: LanAgent, pod: Wanted, pid: int) -> Iterator[str]:
    """Yield which mounts of a container are missing, are of something else, or are there twice."""
    found = Counter(line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    sources = {f"/etc/{name}": agent.run / "pods" / pod.name / name for name in FILES}
    sources["/data"] = agent.data / "volumes" / pod.name / "data"
    for path, source in sources.items():
        seen = Path(f"/proc/{pid}/root{path}").stat()
        if found[path] != 1:
            yield f"{found[path]} mounts at {path}"
        elif (seen.st_dev, seen.st_ino) != (source.stat().st_dev, source.stat().st_ino):
            yield f"another file at {path}"


def cgroups(agent: LanAgent) -> set[str]:
    """Return the groups of containers, in whichever hierarchy they are."""
    found = Path("/sys/fs/cgroup").glob(f"**/{agent.cgroup}/pod-*/*/")
    return {f"{path.parent.name}/{path.name}" for path in found}


def leftovers(agent: LanAgent, containers: int, pods: set[str]) -> Iterator[str]:
    """Yield what is there beyond the containers that should run."""
    counts = {
        "conmons": len(agent.conmons()),
        "runs": len(list((agent.run / "containers").iterdir())),
        "overlays": len(list((agent.data / "overlay").iterdir())),
        "crun": len(list((agent.run / "crun").iterdir())),
        "cgroups": len(cgroups(agent)),
    }
    yield from (
        f"{count} {what} instead of {containers}" for what, count in counts.items() if count != containers
    )
    own = {pod for pod in pods if (agent.run / "netns" / pod).exists()}
    mounted = {path.name for path in mounts.mount_points(agent.run)}
    if mounted != own:
        yield f"mounts {mounted ^ own}"
    pinned = {path.name for path in (agent.run / "netns").iterdir()}
    if pinned != own:
        yield f"pins {pinned ^ own}"
    if agent.host.links() != {"lo", "eth0", "eth1"}:
        yield f"links {agent.host.links()}"


def state_of(process: subprocess.Popen[bytes] | None) -> tuple[int, int]:
    """Return a process's open descriptors and resident memory in MiB."""
    assert process is not None
    descriptors = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return descriptors, int(resident.split()[1]) // 1024


def converged(agent: LanAgent, pods: list[Wanted]) -> float:
    """Wait until nothing differs, and return how long it took."""
    begin = time.monotonic()
    last: list[str] = []

    def nothing() -> bool:
        try:
            last[:] = differences(agent, pods)
        except (OSError, subprocess.CalledProcessError) as error:
            last[:] = [repr(error)]
        return not last

    try:
        wait_for(nothing, "everything is as the files say", CONVERGED_WITHIN)
    except AssertionError:
        raise AssertionError(f"seed {SEED}: {last}\n{agent.log.read_text()[-5000:]}") from None
    return time.monotonic() - begin


@pytest.mark.timeout(SECONDS + 180)
def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nTANK_CHAOS_SEED={SEED} TANK_CHAOS_SECONDS={SECONDS:g}")
    choose = random.Random(SEED)
    with lan_agent(tmp_path, resync=f"{RESYNC:g}s") as agent:
        chaos = Chaos(agent, choose)
        converged(agent, chaos.pods)
        begin, steps, warm = time.monotonic(), 0, 0
        while (passed := time.monotonic() - begin) < SECONDS:
            # The agent of the last part lives through it, so that what it leaks shows.
            chaos.step(kill_agent=passed < SECONDS * 0.5)
            if not warm and passed > SECONDS * 0.75:
                warm = state_of(agent.process)[1]
            steps += 1
            # The pace is part of the chaos: bursts, and pauses in which things begin to heal.
            time.sleep(choose.choice((0, 0, 0.05, 0.3)))
        took = converged(agent, chaos.pods)
        assert agent.process is not None
        lived = state_of(agent.process)
        agent.kill()
        agent.start()
        converged(agent, chaos.pods)
        fresh = state_of(agent.process)
        with capsys.disabled():
            print(f"{steps} steps; converged in {took:.1f} s; fds {lived[0]} ({fresh[0]} fresh), ", end="")
            print(f"MiB {lived[1]} ({warm} at three quarters, {fresh[1]} fresh)")
        assert lived[0] <= fresh[0] + 8, f"seed {SEED}: descriptors leak"
        assert lived[1] <= warm + 8, f"seed {SEED}: memory grows"
