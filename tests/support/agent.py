"""A real agent in directories of its own, for tests: started, killed, and looked at from outside."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tank_agent import Client
from tank_agent.errors import AgentUnreachable, TankError
from tests.support.prepared import ForkedAgent, forked_agent

T = TypeVar("T")
# What takes a moment takes many on a machine that does much else: only what never comes is to fail here.
DEADLINE = 60.0
BUSYBOX = Path("/bin/busybox")
# Ends at once when it is asked to, and counts its starts in its output.
SERVE = ["/bin/sh", "-c", "trap 'exit 0' TERM; echo started; while :; do sleep 1000 & wait $!; done"]


def wait_for(condition: Callable[[], T | None], what: str, deadline: float = DEADLINE) -> T:
    """Return the first true answer of a condition; fail when there is none in time."""
    end = time.monotonic() + deadline
    while True:
        asked = time.monotonic()
        answer = condition()
        if answer:
            return answer
        now = time.monotonic()
        if now > end:
            raise AssertionError(f"not within {deadline:g} s: {what}; last answer: {answer!r}")
        # A question that takes long, as a program does, keeps what it waits for from a processor.
        time.sleep(min(max(0.01, now - asked), 0.2))


def busybox_rootfs(path: Path) -> Path:
    """Make a root file system of Debian's static busybox and links to it."""
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "busybox").write_bytes(BUSYBOX.read_bytes())
    (path / "bin" / "busybox").chmod(0o755)
    for name in (
        "sh",
        "sleep",
        "echo",
        "cat",
        "true",
        "id",
        "ls",
        "kill",
        "ps",
        "mount",
        "touch",
        "head",
        "tr",
    ):
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc").mkdir()
    (path / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"
    )
    (path / "etc" / "group").write_text("root:x:0:\nweb:x:1000:\nextra:x:2000:web\n")
    return path


class Agent:
    """One agent with its own data_dir, run_dir and pods_dir below `home`.

    It is ended with the test, and everything that it runs with it; `leftovers` then tells what stayed.
    """

    def __init__(self, home: Path, **reconcile: str) -> None:
        self.home = home
        self.data, self.run, self.pods = home / "data", home / "run", home / "pods.d"
        self.rootfs = busybox_rootfs(home / "rootfs")
        self.pods.mkdir()
        self.config = home / "agent.toml"
        paces = {"resync": "1s", "backoff_base": "0s", **reconcile}
        lines = "".join(f'{key} = "{value}"\n' for key, value in paces.items())
        self.config.write_text(
            f'data_dir = "{self.data}"\nrun_dir = "{self.run}"\npods_dir = "{self.pods}"\n'
            f'seed_dir = "{home / "seed.d"}"\n[reconcile]\n{lines}'
        )
        self.log = home / "agent.log"
        # Mounts below home that belong to the test itself.
        self.kept_mounts: frozenset[str] = frozenset()
        # What the agent is started through; it takes that one's place.
        self.through: list[str] = []
        self.process: subprocess.Popen[bytes] | ForkedAgent | None = None
        # Whether what is started now is no more than what ends the test.
        self._ends = False

    @property
    def client(self) -> Client:
        """Return a client for the agent's socket."""
        return Client(self.run / "tank.sock")

    def launch(self, *flags: str, fault: str = "", env: Mapping[str, str] | None = None) -> None:
        """Start the agent and return at once; `fault` is where it kills itself."""
        environment = {**os.environ, **(env or {})}
        if fault:
            environment["TANK_FAULT"] = fault
        arguments = ["agent", "--config", str(self.config), *flags]
        if self._ends and not self.through and "TANK_FAULT" not in environment:
            self.process = forked_agent(arguments, environment, self.log)
            if self.process is not None:
                return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.through, sys.executable, "-m", "tank_agent", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def start(self, *flags: str) -> None:
        """Start the agent and wait until it answers."""
        self.launch(*flags)
        try:
            wait_for(self._answers, "the agent answers")
        except BaseException as error:
            # Left behind, it would slow down all tests that follow, until none of theirs starts in time.
            if self.process is not None:
                self.kill()
            if isinstance(error, AssertionError):
                raise AssertionError(f"{error}; its log: {self.log.read_text()[-2000:]}") from error
            raise

    def kill(self) -> None:
        """End the agent with SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process = None

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask the agent to end, and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.process = None
        return code

    def died(self) -> int:
        """Wait until the agent has ended by itself, and return its exit code."""
        assert self.process is not None
        code = self.process.wait(DEADLINE)
        self.process = None
        return code

    def end(self) -> None:
        """Stop every pod and the agent, however it stands."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE)
        for file in self.pods.iterdir() if self.pods.is_dir() else ():
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
        self._ends = True
        self.start("--stop-pods")
        assert self.stop() == 0, self.log.read_text()[-3000:]

    def tank(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run the command line against this agent."""
        return subprocess.run(
            [sys.executable, "-m", "tank_agent", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env={**os.environ, "TANK_SOCKET": str(self.run / "tank.sock")},
        )

    def pod_text(self, *, command: list[str] | None = None, head: str = "", extra: str = "") -> str:
        """Return the text of a pod file with one container."""
        words = json.dumps(command or SERVE)
        if "stop_grace" not in extra:
            # Most of what the tests run has no mind for signals, as process 1.
            grace = 'stop_grace = "300ms"'
            # After a table's header it would be a key of that table.
            extra = f"{grace}\n{extra}" if "\n[" in f"\n{extra}" else f"{extra}\n{grace}"
        return f'{head}\n[[containers]]\nname = "app"\nrootfs = "{self.rootfs}"\ncommand = {words}\n{extra}\n'

    def write(self, name: str, text: str) -> Path:
        """Rename a pod file into place."""
        temporary = self.home / f"{name}.new"
        temporary.write_text(text)
        target = self.pods / f"{name}.toml"
        temporary.rename(target)
        return target

    def statuses(self, *names: str) -> list[dict[str, Any]]:
        """Return the status of all pods, or of the named ones, in the form of `tank status -o json`."""
        found = [self.client.status(name) for name in names] if names else self.client.status()
        return list(msgspec.json.decode(msgspec.json.encode(found)))

    def sources(self) -> dict[str, Any]:
        """Return how far the sources are, as JSON has it."""
        return dict(msgspec.json.decode(msgspec.json.encode(self.client.sources())))

    def status(self, name: str) -> dict[str, Any] | None:
        """Return a pod's status; None if there is none."""
        return next((pod for pod in self.statuses() if pod["name"] == name), None)

    def wait_phase(self, name: str, phase: str, deadline: float = DEADLINE) -> dict[str, Any]:
        """Wait until a pod is in a phase, and return its status."""

        def reached() -> dict[str, Any] | None:
            status = self.status(name)
            return status if status is not None and status["phase"] == phase else None

        try:
            return wait_for(reached, f"pod {name} is {phase}", deadline)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.status(name)}\n{self.log.read_text()[-3000:]}") from None

    def wait_gone(self, name: str, deadline: float = DEADLINE) -> None:
        """Wait until nothing of a pod is left."""
        wait_for(lambda: self.status(name) is None, f"pod {name} is gone", deadline)

    def pid(self, name: str, container: int = 0) -> int:
        """Return the process id of a container once it runs: it may print before the agent has seen that."""

        def found() -> int | None:
            status = self.status(name)
            pid = status["containers"][container]["pid"] if status is not None else None
            return pid if isinstance(pid, int) else None

        pid = wait_for(found, f"container {container} of pod {name} runs")
        assert pid is not None
        return pid

    def output(self, pod: str, container: str = "app") -> list[str]:
        """Return what a container printed over all its runs."""
        file = self.data / "logs" / pod / f"{container}.log"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split(" ", 3)[3] for line in lines]

    def wait_output(self, pod: str, *lines: str, container: str = "app") -> None:
        """Wait until a container has printed these lines over all its runs.

        A container runs a moment before its program's first line: one that is ended at once prints nothing.
        """
        wait_for(lambda: self.output(pod, container) == [*lines], f"{pod} prints {lines}")

    def conmons(self) -> list[int]:
        """Return the monitors of this agent's containers."""
        return [
            pid
            for pid, words in _processes()
            if words[0].endswith("conmon") and str(self.run) in " ".join(words)
        ]

    def leftovers(self) -> list[str]:
        """Return what is left of this agent's pods: processes, mounts, cgroups, files in run_dir."""
        found = [
            f"process {pid}: {' '.join(words)[:200]}" for pid, words in _processes() if self._is_ours(words)
        ]
        home = str(self.home)
        mountinfo = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
        found += [
            f"mount {line}"
            for line in mountinfo
            if line.split()[4].startswith(home) and line.split()[4] not in self.kept_mounts
        ]
        found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{self.cgroup}")]
        found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(self.cgroup)]
        for directory in ("containers", "crun", "netns", "pods"):
            folder = self.run / directory
            # Newer versions of crun keep compiled seccomp filters here, beside the containers.
            left = [entry for entry in folder.iterdir() if entry.name != ".cache"] if folder.is_dir() else []
            found += [f"file {entry}" for entry in left]
        overlay = self.data / "overlay"
        return found + [f"file {entry}" for entry in (overlay.iterdir() if overlay.is_dir() else ())]

    @property
    def cgroup(self) -> str:
        """Return the name of this agent's own cgroup."""
        return f"tank-{hashlib.sha256(os.fsencode(self.run)).hexdigest()[:8]}"

    def _is_ours(self, words: list[str]) -> bool:
        text = " ".join(words)
        return str(self.run) in text or str(self.rootfs) in text

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            self.client.info()
        except AgentUnreachable:
            return False
        return True


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            except OSError:
                continue
            if words:
                yield int(entry.name), words


@contextmanager
def running_agent(home: Path, **reconcile: str) -> Iterator[Agent]:
    """Run an agent for a test, and fail the test if anything stays behind."""
    agent = Agent(home, **reconcile)
    with ended(agent):
        agent.start()
        yield agent


def wait_converged(
    agent: Agent, differences: Callable[[], Iterable[str]], deadline: float, note: str = ""
) -> float:
    """Wait until nothing differs from what was asked for, and return how long it took, in seconds.

    A failure shows what differs, the end of the agent's log, and `note` before them.
    """
    begin, last = time.monotonic(), list[str]()

    def nothing() -> bool:
        try:
            last[:] = differences()
        except (OSError, TankError) as error:
            last[:] = [repr(error)]
        return not last

    try:
        wait_for(nothing, "everything is as it was asked for", deadline)
    except AssertionError:
        raise AssertionError(f"{note}{last}\n{agent.log.read_text()[-6000:]}") from None
    return time.monotonic() - begin


@contextmanager
def ended(agent: Agent) -> Iterator[None]:
    """End an agent after a test, and fail the test if anything stays behind."""
    try:
        yield
    finally:
        agent.end()
    left = list[str]()

    def nothing() -> bool:
        left[:] = agent.leftovers()
        return not left

    try:
        wait_for(nothing, "nothing is left")
    except AssertionError:
        raise AssertionError(f"this is left: {left}") from None
