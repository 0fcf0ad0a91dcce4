"""A command in a running container, cold, and 100 MB through it: `tank exec` beside `podman exec`.

Both enter a container of the same root file system, made by the same crun; ours has the agent's hardening,
podman's the default of podman without seccomp, which its exec does not pay for either.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tank_agent
from bench._measure import Table, add_all, alternate, milliseconds
from tank_agent.linux import mounts
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.limits import cgroup
from tests.support.agent import Agent, wait_for

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "100"))
BULK_ROUNDS = max(3, ROUNDS // 10)
MEGABYTES = 100
TANK = Path(sys.executable).with_name("tank")
OURS, PEER = "tank exec", "podman exec"


def main() -> None:
    """Print the tables."""
    assert shutil.which("podman"), "the peer is not installed: apt install podman"
    # As pip and the package do when they install it, whatever PYTHONDONTWRITEBYTECODE says here.
    compileall.compile_dir(Path(tank_agent.__file__).parent, quiet=1)
    # Short, for the sockets of both; on a tmpfs, since this is not about disks.
    home = Path(tempfile.mkdtemp(prefix="x", dir="/dev/shm"))
    try:
        with agent_at(home / "a") as agent, podman_at(home / "p", agent.rootfs) as podman:
            cold(agent, podman)
            bulk(agent, podman, home / "data")
    finally:
        shutil.rmtree(home)


@contextmanager
def agent_at(home: Path) -> Iterator[Agent]:
    """Run an agent with one pod."""
    home.mkdir()
    agent = Agent(home, resync="10s")
    agent.start()
    try:
        agent.write("web", agent.pod_text(command=["/bin/sleep", "infinity"]))
        agent.wait_phase("web", "running")
        os.environ["TANK_SOCKET"] = str(agent.run / "tank.sock")
        yield agent
    finally:
        agent.end()


@contextmanager
def podman_at(home: Path, rootfs: Path, *options: str) -> Iterator[list[str]]:
    """Run one container under podman; yield the words that every call of it begins with.

    `options` are further ones of `podman run`.
    """
    home.mkdir()
    base = ["podman", f"--root={home / 's'}", f"--runroot={home / 'r'}", "--log-level=error"]
    base += ["--cgroup-manager=cgroupfs", "--events-backend=file", f"--runtime={runtime(home)}"]
    limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--security-opt=seccomp=unconfined"]
    run = [
        "run",
        "--detach",
        "--net=none",
        "--name=web",
        *limits,
        *options,
        "--rootfs",
        str(rootfs),
        "sleep",
        "infinity",
    ]
    call([*base, *run])
    try:
        yield base
    finally:
        call([*base, "rm", "--force", "--time=0", "web"])
        # conmon starts podman once more to clean up, which mounts its directory again.
        wait_for(lambda: not any(str(home) in words for words in command_lines()), "podman has ended")
        for target in sorted(mounts.mount_points(home), reverse=True):
            mounts.unmount_all(target)


def command_lines() -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def runtime(home: Path) -> Path:
    """Return a crun that also starts on hybrid hosts: `create` in our private view of the cgroups."""
    program, options = Crun("/usr/bin/crun", home, cgroup.detect(home)).create_command(home / "log")
    words = " ".join(
        [program, *options[: options.index("/usr/bin/crun") + 1]] if program != "/usr/bin/crun" else []
    )
    create = f'for word; do [ "$word" = create ] && exec {words} "$@"; done\n' if words else ""
    script = home / "crun-anywhere"
    script.write_text(f'#!/bin/sh\n{create}exec /usr/bin/crun "$@"\n')
    script.chmod(0o755)
    return script


def call(argv: list[str], **options: object) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr


def cold(agent: Agent, podman: list[str]) -> None:
    """Measure a whole process that runs `true` in the container."""
    quiet = {"stdin": subprocess.DEVNULL}
    measured: dict[str, Callable[[], float]] = {
        f"{OURS} web -- true": lambda: milliseconds(
            lambda: call([str(TANK), "exec", "web", "--", "true"], **quiet)
        ),
        f"{PEER} web true": lambda: milliseconds(lambda: call([*podman, "exec", "web", "true"], **quiet)),
        "tank --version": lambda: milliseconds(lambda: call([str(TANK), "--version"], **quiet)),
        "podman --version": lambda: milliseconds(lambda: call(["podman", "--version"], **quiet)),
    }
    samples = alternate(ROUNDS, measured, warm_up=2)
    table = Table("A command in a running container, from the shell's point of view", "ms")
    add_all(table, samples, {f"{OURS} web -- true": f"{PEER} web true"})
    table.print()


def bulk(agent: Agent, podman: list[str], data: Path) -> None:
    """Measure 100 MB into `cat` in the container, and out again."""
    data.write_bytes(os.urandom(1 << 20) * MEGABYTES)

    def through(argv: list[str]) -> float:
        with data.open("rb") as source, data.with_name("back").open("w+b") as target:
            began = time.perf_counter()
            subprocess.run(argv, stdin=source, stdout=target, check=True)
            took = time.perf_counter() - began
            assert target.seek(0, os.SEEK_END) == data.stat().st_size
        return MEGABYTES / took

    measured: dict[str, Callable[[], float]] = {
        OURS: lambda: through([str(TANK), "exec", "web", "-T", "--", "cat"]),
        PEER: lambda: through([*podman, "exec", "--interactive", "web", "cat"]),
    }
    samples = alternate(BULK_ROUNDS, measured)
    table = Table(f"{MEGABYTES} MB through `cat` in a container and back", "MB/s")
    add_all(table, samples, {OURS: PEER})
    table.print()


if __name__ == "__main__":
    main()
