"""A cold `tank --host … exec` beside `ssh HOST tank exec`, and both with a login that is there already."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tank_agent
from bench._measure import Table, add_all, alternate, milliseconds
from bench.interactive import agent_at
from tank_agent import Client
from tank_agent.client.fast.ssh import close_all
from tests.support.remote import Remote, remote

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "20"))
OURS, PEER = "tank --host", "ssh HOST tank"


def main() -> None:
    """Print the table."""
    compileall.compile_dir(Path(tank_agent.__file__).parent, quiet=1)
    home = Path(tempfile.mkdtemp(prefix="x", dir="/dev/shm"))
    (home / "far").mkdir()
    try:
        with agent_at(home / "a") as agent, remote(home / "far") as edge:
            measure(edge, agent.run / "tank.sock")
    finally:
        shutil.rmtree(home)


def measure(edge: Remote, socket: Path) -> None:
    """Measure whole processes, and requests over a connection that is kept."""
    os.environ["PATH"] = edge.environment["PATH"]
    tank = [sys.executable, "-m", "tank_agent"]
    at = ["--host", f"ssh://edge{socket}"]
    ours, peer = f"{OURS} exec web true", f"{PEER} exec web true"
    argvs = {
        ours: [*tank, "exec", *at, "web", "true"],
        peer: ["ssh", "edge", "tank", "exec", "--socket", str(socket), "web", "true"],
        "ssh HOST true": ["ssh", "edge", "true"],
    }
    client = Client(socket, host="ssh://edge")

    def call(argv: list[str]) -> None:
        subprocess.run(argv, stdin=subprocess.DEVNULL, check=True, capture_output=True)

    measured: dict[str, Callable[[], float]] = {
        name: partial(milliseconds, partial(call, argv)) for name, argv in argvs.items()
    }
    measured["Client.status, over a kept connection"] = partial(milliseconds, client.status)
    add_and_print("Another machine, by loopback", measured, {ours: peer})
    edge.configure("ControlMaster auto", f"ControlPath {edge.base}/control", "ControlPersist 60s")
    try:
        again = {f"{name}, ControlPersist": run for name, run in measured.items() if "Client" not in name}
        names = {f"{ours}, ControlPersist": f"{peer}, ControlPersist"}
        add_and_print("With a login that is there already", again, names)
    finally:
        subprocess.run(["ssh", "-O", "exit", "edge"], check=False, capture_output=True)
    close_all()


def add_and_print(title: str, measured: dict[str, Callable[[], float]], peers: dict[str, str]) -> None:
    table = Table(title, "ms")
    add_all(table, alternate(ROUNDS, measured, warm_up=2), peers)
    table.print()


if __name__ == "__main__":
    main()
