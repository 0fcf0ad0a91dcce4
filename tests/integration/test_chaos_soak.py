"""Soak, the second driver of chaos: clients that vanish, every program killed, a nearly full disk.

`test_chaos` damages what belongs to running pods; this one does what people and tidy programs do around
them: commands and readers that end in the middle, single files of run_dir removed, half-written pod files, a
disk that fills and empties, and SIGKILL for the agent, crun, conmon and workloads soon after an edit.

TANK_SOAK_SECONDS sets how long (40), TANK_SOAK_SEED what happens; as in `test_chaos` no clock draws anything.
TANK_SOAK_KILLS asks for at least as many kills of each kind (0): the soak goes on until there were so many.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import TankError
from tank_agent.linux import mounts
from tests.integration.test_chaos import state_of
from tests.support.agent import Agent, ended, wait_converged

SECONDS = float(os.environ.get("TANK_SOAK_SECONDS", "40"))
KILLS = int(os.environ.get("TANK_SOAK_KILLS", "0"))
SEED = int(os.environ.get("TANK_SOAK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
FILE_PODS, API_PODS = 12, 4
DISK = "48m"
# How long to look before giving up, so that a failure can say how late it was.
GIVE_UP = 90.0
PAUSES = (0.0, 0.0, 0.05, 0.25)
WEIGHTS = {
    "edit": 10,
    "here": 4,
    "rename": 2,
    "half-written": 2,
    "exec": 5,
    "attach": 2,
    "logs": 3,
    "events": 1,
    "vanish": 6,
    "workload": 5,
    "conmon": 4,
    "crun": 6,
    # It takes most of a second to come back, so in a short soak it is rare.
    "agent": 8 if KILLS else 2,
    "stopped": 1,
    "unmount": 2,
    "remove": 3,
    "flood": 1,
    "fill": 2,
    "free": 3,
}
KILLED = ("workload", "conmon", "crun", "agent")
PROGRAM = "trap 'exit 0' TERM; echo soak; while :; do sleep 1000 & wait $!; done"


class Wanted:
    """What should be of one pod: in pods.d, or by the API."""

    def __init__(self, number: int, agent: Agent) -> None:
        self.by_api = number >= FILE_PODS
        self.name, self.agent = f"{'api' if self.by_api else 'file'}-{number:02}", agent
        self.file = self.name
        self.tty = number % 3 == 0
        self.word, self.here = 0, False
        self.refused: TankError | None = None

    def text(self, word: int) -> str:
        extra = f'tty = {str(self.tty).lower()}\nenv = {{ WORD = "{word}" }}\n'
        mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        # Kills are no fault of an update: no number of them brings an older one back.
        head = f'name = "{self.name}"\n[update]\nmax_restarts = 100\n[[volumes]]\nname = "data"\n'
        return self.agent.pod_text(command=["/bin/sh", "-c", PROGRAM], head=head, extra=extra + mount)

    def change(self, word: int, *, here: bool) -> None:
        """Ask for a spec, or for none; what is refused stays as it was."""
        if not self.by_api:
            if here:
                self.agent.write(self.file, self.text(word))
            else:
                (self.agent.pods / f"{self.file}.toml").unlink(missing_ok=True)
        else:
            try:
                if here:
                    self.agent.client.apply(self.text(word))
                else:
                    self.agent.client.delete(self.name)
            except TankError as error:
                self.refused = error
                return
        self.word, self.here = word, here

    def rename(self) -> None:
        """Give the file another name, and the pod the same."""
        if self.by_api or not self.here:
            return
        old, self.file = self.file, f"{self.name}-{'b' if self.file == self.name else 'a'}"
        (self.agent.pods / f"{old}.toml").rename(self.agent.pods / f"{self.file}.toml")


class Soak:
    """Does the steps, and remembers what it did."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self.done, self.counts = agent, list[str](), Counter[str]()
        self.clients: list[subprocess.Popen[bytes]] = []
        self.twice: list[str] = []
        self.ballast = agent.data / "ballast"
        self.pods = [Wanted(number, agent) for number in range(FILE_PODS + API_PODS)]
        for pod in self.pods:
            pod.change(0, here=True)
            assert pod.here, (pod.refused, agent.log.read_text()[-3000:])

    def do(self, number: int) -> float:
        """Do the step of a number, and return how long to pause after it."""
        choose = random.Random(f"{SEED}/{number}")
        kind = choose.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))[0]
        pod = choose.choice(self.pods)
        self.done.append(f"{number} {kind} {pod.name}")
        match kind:
            case "edit":
                pod.change(pod.word + 1, here=True)
            case "here":
                pod.change(pod.word, here=not pod.here)
            case "rename":
                pod.rename()
            case "half-written":
                self._write_half(choose)
            case "exec" | "attach" | "logs" | "events":
                self._begin(kind, pod)
            case "vanish":
                self._vanish(choose)
            case "workload" | "conmon" | "crun":
                self._kill(kind, choose)
            case "agent":
                self.agent.kill()
                self.agent.start()
                self.counts[kind] += 1
            case "stopped":
                self._stop_for_a_moment(pod)
            case "unmount":
                self._unmount(pod)
            case "remove":
                self._remove_a_file(choose)
            case "flood":
                self._flood()
            case "fill":
                self._fill(choose)
            case "free":
                self.ballast.unlink(missing_ok=True)
        self.twice.extend(running_twice(self.agent))
        return choose.choice(PAUSES)

    def settle(self) -> None:
        """End the clients, and give the disk back."""
        for client in self.clients:
            end(client)
        self.clients.clear()
        self.ballast.unlink(missing_ok=True)

    def _tank(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tank_agent", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TANK_SOCKET": str(self.agent.run / "tank.sock")},
        )

    def _begin(self, kind: str, pod: Wanted) -> None:
        if len(self.clients) >= 8:
            end(self.clients.pop(0))
        words = {
            "exec": ("exec", pod.name, "--", "/bin/sh", "-c", "sleep 1000 & wait"),
            "attach": ("attach", pod.name),
            "logs": ("logs", "-f", pod.name),
            "events": ("events", "-f"),
        }
        self.clients.append(self._tank(*words[kind]))

    def _vanish(self, choose: random.Random) -> None:
        if self.clients:
            end(self.clients.pop(choose.randrange(len(self.clients))))

    def _write_half(self, choose: random.Random) -> None:
        """Write a part of a pod's file in place, as an editor that was killed leaves it; then all of it."""
        pod = choose.choice(self.pods[:FILE_PODS])
        if pod.here:
            text = pod.text(pod.word)
            file = self.agent.pods / f"{pod.file}.toml"
            file.write_text(text[: len(text) // 2])
            pod.change(pod.word + 1, here=True)

    def _kill(self, kind: str, choose: random.Random) -> None:
        """Kill one of a kind; crun lives for milliseconds, so an edit makes some first."""
        if kind == "crun":
            pod = choose.choice(self.pods[:FILE_PODS])
            pod.change(pod.word + 1, here=True)
        limit = time.monotonic() + 0.5
        while True:
            found = sorted(workloads(self.agent) if kind == "workload" else of_kind(self.agent, kind))
            if found or kind != "crun" or time.monotonic() > limit:
                break
        for pid in found if kind == "crun" else found[: 1 + choose.randrange(2)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.counts[kind] += 1

    def _stop_for_a_moment(self, pod: Wanted) -> None:
        assert self.agent.process is not None
        self.agent.process.send_signal(signal.SIGSTOP)
        if not pod.by_api:
            for _ in range(6):
                pod.change(pod.word + 1, here=True)
        time.sleep(0.5)
        self.agent.process.send_signal(signal.SIGCONT)

    def _unmount(self, pod: Wanted) -> None:
        for directory in (self.agent.run / "containers").glob(f"{pod.name}-app-*"):
            with contextlib.suppress(OSError, ValueError):
                pid = int((directory / "container.pid").read_text())
                command = [
                    "nsenter",
                    "--target",
                    str(pid),
                    "--mount",
                    "/bin/busybox",
                    "umount",
                    "-l",
                    "/data",
                ]
                subprocess.run(command, check=False, capture_output=True, timeout=10)

    def _remove_a_file(self, choose: random.Random) -> None:
        """Remove a file of run_dir, as those do who tidy up."""
        files = []
        for directory, below, names in os.walk(self.agent.run):
            below[:] = [name for name in below if name not in ("rootfs", "netns")]
            files += sorted(Path(directory, name) for name in names)
        if files:
            file = choose.choice(files)
            self.done.append(f"  {file.relative_to(self.agent.run)}")
            file.unlink(missing_ok=True)

    def _flood(self) -> None:
        for client in [self._tank("status") for _ in range(10)]:
            client.wait(60)

    def _fill(self, choose: random.Random) -> None:
        """Leave 0 to 200 kB of the disk."""
        free = os.statvfs(self.agent.data)
        size = free.f_bavail * free.f_bsize - choose.randrange(0, 200_000)
        with contextlib.suppress(OSError), self.ballast.open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), max(size, 1))


def end(client: subprocess.Popen[bytes]) -> None:
    """Kill a client and reap it."""
    client.kill()
    client.wait(60)


def of_kind(agent: Agent, kind: str) -> Iterator[int]:
    """Yield the agent's monitors or runs of crun."""
    run = os.fsencode(agent.run)
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].rpartition(b"/")[2] == kind.encode() and any(run in word for word in words):
                yield int(entry.name)


def workloads(agent: Agent) -> dict[int, str]:
    """Return the main processes of containers, and the pod of each."""
    found, group = {}, f"/{agent.cgroup}/"
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # A shell that is about to become another program still looks like the main process.
            # A process may call itself anything, also what is no UTF-8.
            status = (entry / "status").read_bytes()
            is_main = b"\t1\n" in status.partition(b"\nNSpid:")[2].partition(b"\n")[0] + b"\n"
            if is_main and b"echo soak" in (entry / "cmdline").read_bytes():
                place = (entry / "cgroup").read_text().partition(group)[2]
                if place:
                    found[int(entry.name)] = place.partition("/")[0]
    return found


def running_twice(agent: Agent) -> Iterator[str]:
    """Yield the pods of which two main processes live at one moment."""
    found = workloads(agent)
    for pod in {pod for pod, count in Counter(found.values()).items() if count > 1}:
        both = [pid for pid in found if found[pid] == pod]
        # One may have ended before the other was looked at.
        if sum(workloads(agent).get(pid) == pod for pid in both) > 1:
            yield f"{pod}: {both}"


def differences(soak: Soak) -> Iterator[str]:
    """Yield what is not as it was asked for."""
    agent, wanted = soak.agent, {pod.name: pod for pod in soak.pods if pod.here}
    found = {status["name"]: status for status in agent.statuses()}
    if wanted.keys() != found.keys():
        yield f"pods {sorted(wanted.keys() ^ found.keys())}"
    for name in wanted.keys() & found.keys():
        status, word = found[name], wanted[name].word
        pids = [one["pid"] for one in status["containers"]]
        if status["phase"] != "running" or None in pids or status["error"]:
            yield f"{name} is {status['phase']}, {pids}: {status['error']}"
            continue
        yield from (
            f"{name}: {pid} has another word than {word}"
            for pid in pids
            if f"WORD={word}".encode() not in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        )
    counts = {
        "conmons": len(agent.conmons()),
        "workloads": len(workloads(agent)),
        "runs": len(list((agent.run / "containers").iterdir())),
        "overlays": len(list((agent.data / "overlay").iterdir())),
        "crun": len([one for one in (agent.run / "crun").iterdir() if one.name != ".cache"]),
        "cgroups": len(cgroups_of(agent)),
    }
    yield from (f"{count} {what} not {len(wanted)}" for what, count in counts.items() if count != len(wanted))


def cgroups_of(agent: Agent) -> set[str]:
    found = Path("/sys/fs/cgroup").glob(f"**/{agent.cgroup}/*-[0-9][0-9]/*/")
    return {f"{path.parent.name}/{path.name}" for path in found}


def converged(soak: Soak) -> float:
    """Wait until nothing differs, and return how long it took."""
    return wait_converged(soak.agent, lambda: differences(soak), GIVE_UP)


def shaken(soak: Soak) -> str:
    """Do the steps, assert that the agent deals with them, and return the numbers."""
    agent = soak.agent
    converged(soak)
    elsewhere = set(Path("/tmp").glob("crun.*"))
    begin, number = time.monotonic(), 0
    while time.monotonic() < begin + SECONDS or min(soak.counts[kind] for kind in KILLED) < KILLS:
        time.sleep(soak.do(number))
        number += 1
    soak.settle()
    took = converged(soak)
    lived = state_of(agent.process)
    assert not soak.twice, f"ran twice at a time: {soak.twice}"
    log = agent.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert "by a bug" not in log, log[log.index("by a bug") - 1000 :][:4000]
    # Where crun puts its copy of itself by default; agent.leftovers() looks into ours.
    assert set(Path("/tmp").glob("crun.*")) <= elsewhere
    sequence = [event.seq for event in agent.client.events()]
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence))), "events are missing"
    agent.kill()
    agent.start()
    converged(soak)
    fresh = state_of(agent.process)
    numbers = (
        f"{number} steps in {time.monotonic() - begin:.0f} s, killed {dict(soak.counts)}; "
        f"converged in {took:.1f} s; fds {lived[0]} ({fresh[0]} fresh), MiB {lived[1]} ({fresh[1]} fresh)"
    )
    assert lived[0] <= fresh[0] + 8, f"descriptors leak: {numbers}"
    return numbers


@pytest.mark.timeout(0 if KILLS else 2 * SECONDS + 600)
def test_soak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nTANK_SOAK_SEED={SEED} TANK_SOAK_SECONDS={SECONDS:g}")
    agent = Agent(tmp_path, resync="2s")
    agent.data.mkdir()
    mounts.mount("none", agent.data, "tmpfs", options=f"size={DISK},mode=0711")
    agent.kept_mounts = frozenset({str(agent.data)})
    try:
        agent.start()
        with ended(agent):
            soak = Soak(agent)
            try:
                numbers = shaken(soak)
            except BaseException:
                # pytest shows it with the failure.
                print("\n".join(soak.done[-300:]))
                raise
            finally:
                soak.settle()
        with capsys.disabled():
            print(numbers)
    finally:
        mounts.unmount_all(agent.data)
