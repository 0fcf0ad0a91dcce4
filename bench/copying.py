"""`tank cp` of 100 MiB and of 10,000 small files, both ways, in turns with tar through `tank exec`.

The container is busybox, so its tar is that of busybox; the one here is GNU's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench._measure import Table, milliseconds
from tests.support.agent import Agent, running_agent
from tests.support.terminal import add_commands

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "5"))
_TANK = f"{sys.executable} -m tank_agent"


def main() -> None:
    """Measure and print the table."""
    home = Path(tempfile.mkdtemp(prefix="tank-bench-"))
    try:
        with running_agent(home) as agent:
            add_commands(agent, "tar", "rm", "mkdir")
            agent.write("web", agent.pod_text())
            agent.wait_phase("web", "running")
            table = Table("Copies", "ms")
            for name, source in (("100 MiB", large(home / "large")), ("10,000 files", small(home / "small"))):
                for _ in range(ROUNDS):
                    measure(agent, table, name, source)
            table.print()
    finally:
        shutil.rmtree(home)


def large(path: Path) -> Path:
    """Make a directory with one file of 100 MiB."""
    path.mkdir()
    (path / "file").write_bytes(os.urandom(100 << 20))
    return path


def small(path: Path) -> Path:
    """Make 100 directories with 100 files of 1,000 bytes each."""
    for directory in range(100):
        (path / str(directory)).mkdir(parents=True)
        for file in range(100):
            (path / str(directory) / str(file)).write_bytes(os.urandom(1000))
    return path


def measure(agent: Agent, table: Table, name: str, source: Path) -> None:
    """Copy to the container and back, by each of the two."""
    back = agent.home / "back"
    shell(agent, f"{_TANK} exec -T web rm -rf /cp /tar; {_TANK} exec -T web mkdir /cp /tar")
    shutil.rmtree(back, ignore_errors=True)
    for made in ("cp", "tar"):
        (back / made).mkdir(parents=True)
    commands = {
        "to, tar": f"tar -C {source} -c . | {_TANK} exec -T web tar -C /tar -x",
        "to, tank cp": f"{_TANK} cp -q {source}/. web:/cp",
        "from, tar": f"{_TANK} exec -T web tar -C /tar -c . | tar -C {back}/tar -x",
        "from, tank cp": f"{_TANK} cp -q web:/cp/. {back}/cp",
    }
    for what, command in commands.items():
        peer = f"{name} {what.partition(',')[0]}, tar" if what.endswith("cp") else ""
        spent = milliseconds(lambda command=command: shell(agent, command))  # type: ignore[misc]
        table.add(f"{name} {what}", spent, peer=peer)


def shell(agent: Agent, command: str) -> None:
    """Run a command line against the agent."""
    environment = {**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")}
    subprocess.run(["/bin/sh", "-c", command], env=environment, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
