"""Chaos: random edits and damage on twenty pods; then all is as the files say, and nothing is left over.

TANK_CHAOS_SECONDS sets how long (60), TANK_CHAOS_SEED what happens. All choices are drawn before the first
step, each step's from the seed and its number, and none depends on a clock or on names that a run makes up:
the same seed and length do the same things to the same pods, at the same times where the machine is as fast.
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
from msgspec import Struct

from tank_agent.linux import mounts
from tests.support.agent import SERVE, wait_for
from tests.support.lan import LanAgent, lan_agent, nic

SECONDS = float(os.environ.get("TANK_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("TANK_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
PODS = 20
RESYNC = 5.0
# What may come on top of two resyncs. Restarts wait for nothing here (backoff_base is 0). A change that fails
# is tried again after 1, 2, 4 s; the damage that makes it fail is healed within a resync, so never later.
BACK_OFF = 4.0
# How long to look before giving up, so that a failure can say how late it was.
GIVE_UP = 150.0
# How much an agent that lived through half of it may have above one that just started, in MiB. The first
# containers and interfaces cost 12 at once, and pages of the journal's file come on top: 13 to 16 in all.
MORE_MEMORY = 20
KINDS = ("edit", "workload", "conmon", "address", "link", "file", "pin", "mount", "limit", "agent")
WEIGHTS = (8, 6, 2, 3, 2, 2, 1, 3, 2, 1)
EDITS = ("word", "address", "pids", "restart", "mode", "containers", "here")
MODES = ("none", "nics", "host")
FILES = ("hosts", "hostname", "resolv.conf")
MOUNTS = ("/data", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
# The pace is part of the chaos: bursts, and pauses in which things begin to heal; 0.1 s on average.
PAUSES = (0.0, 0.0, 0.05, 0.35)
STEPS = round(SECONDS / (sum(PAUSES) / len(PAUSES)))
# The agent of the last part lives through it, so that what it leaks shows.
LAST_KILL, WARM = round(STEPS * 0.4), round(STEPS * 0.5)


class Step(Struct, frozen=True, kw_only=True):
    """One thing to do; every kind of step has all values, and uses some."""

    kind: str
    pod: int
    container: int
    edit: str
    mode: str
    pids: int
    mount: str
    deleted: tuple[bool, ...]
    pause: float


def drawn(number: int) -> Step:
    """Draw a step from the seed and its number alone."""
    choose = random.Random(f"{SEED}/{number}")
    weights = WEIGHTS if number < LAST_KILL else (*WEIGHTS[:-1], 0)
    return Step(
        kind=choose.choices(KINDS, weights=weights)[0],
        pod=choose.randrange(PODS),
        container=choose.randrange(2),
        edit=choose.choice(EDITS),
        mode=choose.choice(MODES),
        pids=choose.randrange(40, 90),
        mount=choose.choice(MOUNTS),
        deleted=tuple(choose.random() < 0.5 for _ in FILES),
        pause=choose.choice(PAUSES),
    )


class Wanted:
    """What one pod's file says now."""

    def __init__(self, number: int) -> None:
        self.name, self.number = f"pod-{number:02}", number
        self.mode = ("none", "nics", "nics", "host")[number % 4]
        self.word, self.address, self.pids, self.restart = 0, number + 10, 50, "always"
        self.containers = 1 + number % 2
        self.here = True

    @property
    def address_text(self) -> str:
        return f"10.0.0.{self.address}/24"

    def container(self, number: int) -> str:
        """Return the name of one of the containers that the file has."""
        return ("app", "more-1")[number % self.containers]

    def text(self, agent: LanAgent) -> str:
        env = f'env = {{ CHAOS = "{self.word}" }}\n'
        limits = f"[containers.limits]\npids = {self.pids}\n"
        mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        container = agent.pod_text(command=SERVE, extra=env + mount + limits)
        more = "".join(container.replace('"app"', f'"more-{i}"') for i in range(1, self.containers))
        network = f"[network]\n[[network.nics]]\n{nic(self.address_text)}\n" if self.mode == "nics" else ""
        head = f'restart = "{self.restart}"\n' + (network or f'network = "{self.mode}"\n')
        # Kills are no fault of an update: no number of them brings an older one back.
        head += "[update]\nmax_restarts = 100\n"
        return f'{head}[[volumes]]\nname = "data"\n{container}{more}'

    def edit(self, agent: LanAgent, step: Step) -> None:
        match step.edit:
            case "word":
                self.word += 1
            case "address":
                self.address = self.number + (10 if self.address > 100 else 110)
            case "pids":
                self.pids = step.pids
            case "restart":
                self.restart = "on-failure" if self.restart == "always" else "always"
            case "mode":
                self.mode = step.mode
            case "containers":
                self.containers = 3 - self.containers
            case "here":
                self.here = not self.here
        if self.here:
            agent.write(self.name, self.text(agent))
        else:
            (agent.pods / f"{self.name}.toml").unlink(missing_ok=True)


class Chaos:
    """Does the steps, and remembers what it did."""

    def __init__(self, agent: LanAgent) -> None:
        self.agent, self.done = agent, list[str]()
        self.pods = [Wanted(number) for number in range(PODS)]
        for pod in self.pods:
            agent.write(pod.name, pod.text(agent))

    def do(self, step: Step, when: float) -> None:
        pod = self.pods[step.pod]
        name = pod.container(step.container)
        word = {"edit": step.edit, "mount": f"{name} {step.mount}", "workload": name, "conmon": name}
        self.done.append(f"{when:7.2f} {step.kind} {pod.name} {word.get(step.kind, '')}")
        match step.kind:
            case "edit":
                pod.edit(self.agent, step)
            case "agent":
                self.agent.kill()
                self.agent.start()
            case "workload" | "conmon":
                self._kill(pod, name, "conmon.pid" if step.kind == "conmon" else "container.pid")
            case "address" | "link":
                self._damage_network(pod, step.kind)
            case "file":
                self._damage_files(self.agent.run / "pods" / pod.name, step.deleted)
            case "pin":
                mounts.unmount_all(self.agent.pod(pod.name).path)
            case "mount":
                self._unmount(pod, name, step.mount)
            case "limit":
                for file in Path("/sys/fs/cgroup").glob(f"*/{self.agent.cgroup}/{pod.name}/*/pids.max"):
                    with contextlib.suppress(OSError):
                        file.write_text("max")

    def _processes(self, pod: Wanted, container: str, file: str) -> Iterator[int]:
        """Yield the processes that a file of the container's runs names, if they are ours."""
        for directory in (self.agent.run / "containers").glob(f"{pod.name}-{container}-*"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((directory / file).read_text())
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"conmon" in words or b"/bin/sh" in words:
                    yield pid

    def _kill(self, pod: Wanted, container: str, file: str) -> None:
        for pid in self._processes(pod, container, file):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _unmount(self, pod: Wanted, container: str, path: str) -> None:
        for pid in self._processes(pod, container, "container.pid"):
            command = ["nsenter", "--target", str(pid), "--mount", "/bin/busybox", "umount", "-l", path]
            subprocess.run(command, check=False, capture_output=True, timeout=10)

    def _damage_files(self, directory: Path, deleted: tuple[bool, ...]) -> None:
        for name, delete in zip(FILES, deleted, strict=True):
            with contextlib.suppress(OSError):
                if delete:
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
    found = {status["name"]: status for status in agent.statuses()}
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
    pinned = {name for name, pod in wanted.items() if pod.mode != "host"}
    yield from leftovers(agent, sum(pod.containers for pod in wanted.values()), pinned)
    yield from network_leaks(agent, pinned)


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
    found = Counter(
        line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
    )
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


def leftovers(agent: LanAgent, containers: int, own: set[str]) -> Iterator[str]:
    """Yield what is there beyond the containers that should run, and the networks that should be pinned."""
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
    mounted = {path.name for path in mounts.mount_points(agent.run)}
    if mounted != own:
        yield f"mounts {mounted ^ own}"
    pinned = {path.name for path in (agent.run / "netns").iterdir()}
    if pinned != own:
        yield f"pins {pinned ^ own}"
    if agent.host.links() != {"lo", "eth0", "eth1"}:
        yield f"links {agent.host.links()}"


def network_leaks(agent: LanAgent, pinned: set[str]) -> Iterator[str]:
    """Yield the network namespaces that anything of the agent's holds, and no pod has."""
    assert agent.process is not None
    right = {agent.host.inode(), *(agent.pod(name).inode() for name in pinned)}
    held = {f"net:[{inode}]" for inode in right}
    threads = [*Path(f"/proc/{agent.process.pid}/task").iterdir(), *of_agent(agent)]
    descriptors = Path(f"/proc/{agent.process.pid}/fd").iterdir()
    for link in (*(thread / "ns" / "net" for thread in threads), *descriptors):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            target = str(link.readlink())
            if target.startswith("net:") and target not in held:
                yield f"{link} is {target}"


def of_agent(agent: LanAgent) -> Iterator[Path]:
    """Yield the processes that the agent, or one before it, started, containers among them."""
    home, group = os.fsencode(agent.home), os.fsencode(agent.cgroup)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if home in (entry / "cmdline").read_bytes() or group in (entry / "cgroup").read_bytes():
                yield entry


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
        wait_for(nothing, "everything is as the files say", GIVE_UP)
    except AssertionError:
        raise AssertionError(f"{last}\n{agent.log.read_text()[-5000:]}") from None
    return time.monotonic() - begin


def live_through(agent: LanAgent, chaos: Chaos) -> int:
    """Do all steps, and return the agent's memory half-way."""
    begin, due, warm = time.monotonic(), 0.0, 0
    for number, step in enumerate([drawn(number) for number in range(STEPS)]):
        if number == WARM:
            warm = state_of(agent.process)[1]
        chaos.do(step, time.monotonic() - begin)
        # What took longer than its pause is caught up with, so that the whole takes as long as it should.
        due += step.pause
        time.sleep(max(0.0, begin + due - time.monotonic()))
    return warm


def shaken(agent: LanAgent, chaos: Chaos) -> str:
    """Do all steps, assert that the agent deals with them, and return the numbers."""
    # What is left to do at the end is less than to start all pods: so long may this machine take for it.
    work = converged(agent, chaos.pods)
    began = time.monotonic()
    warm = live_through(agent, chaos)
    lasted = time.monotonic() - began
    waiting = any(status["error"] for status in agent.statuses())
    took = converged(agent, chaos.pods)
    lived = state_of(agent.process)
    agent.kill()
    agent.start()
    converged(agent, chaos.pods)
    fresh = state_of(agent.process)
    numbers = (
        f"{STEPS} steps in {lasted:.0f} s; converged in {took:.1f} s, at first in {work:.1f} s; "
        f"fds {lived[0]} ({fresh[0]} fresh), "
        f"MiB {lived[1]} ({warm} half-way, {fresh[1]} fresh)"
    )
    assert took <= 2 * RESYNC + (BACK_OFF if waiting else 0) + work, f"more than two resyncs: {numbers}"
    assert lived[0] <= fresh[0] + 8, f"descriptors leak: {numbers}"
    assert lived[1] <= warm + 8, f"memory grows: {numbers}"
    assert lived[1] <= fresh[1] + MORE_MEMORY, f"memory is kept: {numbers}"
    return numbers


@pytest.mark.timeout(2 * SECONDS + 600)
def test_chaos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nTANK_CHAOS_SEED={SEED} TANK_CHAOS_SECONDS={SECONDS:g}")
    with lan_agent(tmp_path, resync=f"{RESYNC:g}s") as agent:
        chaos = Chaos(agent)
        try:
            numbers = shaken(agent, chaos)
        except BaseException:
            # pytest shows it with the failure.
            print("\n".join(chaos.done))
            raise
        with capsys.disabled():
            print(numbers)


def test_the_same_seed_draws_the_same_steps() -> None:
    steps = [drawn(number) for number in range(STEPS)]
    assert steps[::-1] == [drawn(number) for number in reversed(range(STEPS))]
    assert all(step.kind != "agent" for step in steps[LAST_KILL:])
