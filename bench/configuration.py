"""Files and secrets: what they add to the start of a container, and how soon a change of one is in it.

The same container with three files and an encrypted secret, and without any; and one whose file changes while
it runs, which gets a signal for it, or restarts. Each writes to a fifo that the benchmark waits on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from bench._measure import Table, add_all, alternate, milliseconds
from bench.pods import BEGIN, Fifo, agent_at, pod_file
from tests.support.age import encrypt, make_key
from tests.support.agent import Agent

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "30"))
_FILES = 3
_WAIT = "while :; do sleep 1000 & wait $!; done"
_ON_HANGUP = ["/bin/sh", "-c", f"trap 'printf x >/fifo/began' HUP; trap 'exit 0' TERM; {_WAIT}"]


class Start:
    """A pod file renamed into pods.d, until the first instruction of its container."""

    def __init__(self, agent: Agent, fifo: Fifo, name: str, text: str) -> None:
        self._agent = agent
        self._fifo = fifo
        self._name = name
        self._text = text

    def __call__(self) -> float:
        temporary = self._agent.home / f"{self._name}.new"
        temporary.write_text(self._text)
        target = self._agent.pods / f"{self._name}.toml"
        took = milliseconds(lambda: (temporary.rename(target), self._fifo.wait()))
        target.unlink()
        self._agent.wait_gone(self._name)
        return took


class Change:
    """A file beside the pod file replaced, until the container that has it writes a byte."""

    def __init__(self, agent: Agent, name: str, on_change: str) -> None:
        self._agent = agent
        self._name = name
        self._count = 0
        self._fifo = Fifo(agent.home / f"fifo-{name}")
        self._write()
        text = pod_file(agent, self._fifo)
        if on_change != "restart":
            text = text.replace(json.dumps(BEGIN), json.dumps(_ON_HANGUP))
        mount = f'[[containers.mounts]]\nfile = "conf"\npath = "/etc/conf"\non_change = "{on_change}"\n'
        head = f'[[files]]\nname = "conf"\nsource = "{name}.conf"\n'
        agent.write(name, f"{head}{text}{mount}")
        if on_change == "restart":
            self._fifo.wait()
        agent.wait_phase(name, "running")

    def _write(self) -> None:
        self._count += 1
        temporary = self._agent.home / f"{self._name}.conf.new"
        temporary.write_text(f"workers = {self._count}\n")
        temporary.rename(self._agent.pods / f"{self._name}.conf")

    def __call__(self) -> float:
        took = milliseconds(lambda: (self._write(), self._fifo.wait()))
        # The container has answered a moment before the agent has recorded all of it.
        self._agent.wait_phase(self._name, "running")
        return took


def with_contents(agent: Agent, fifo: Fifo, recipient: str) -> str:
    """Return a pod file with files and a secret beside it, which are written there."""
    tables, mounts = "", ""
    for number in range(_FILES):
        (agent.pods / f"conf-{number}").write_text(f"workers = {number}\n" * 100)
        tables += f'[[files]]\nname = "conf-{number}"\nsource = "conf-{number}"\n'
        mounts += f'[[containers.mounts]]\nfile = "conf-{number}"\npath = "/etc/conf-{number}"\n'
    (agent.pods / "password.age").write_text(encrypt("a password", recipient))
    tables += '[[secrets]]\nname = "password"\nsource = "password.age"\n'
    mounts += '[[containers.mounts]]\nsecret = "password"\n'
    return f"{tables}{pod_file(agent, fifo)}{mounts}"


def main() -> None:
    """Run every benchmark of this module."""
    assert os.geteuid() == 0, "run it as root: it makes containers"
    assert shutil.which("age"), "age is not installed: apt install age"
    # A file system in memory: what a disk does is not what is compared here.
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tank-bench-") as name:
        home = Path(name)
        recipient = make_key(home / "age.key")
        fifo = Fifo(home / "fifo")
        settings = f'[secrets]\nidentities = ["{home / "age.key"}"]\n'
        with agent_at(home / "a", settings) as agent:
            plain, full = "start, without any", f"start, with {_FILES} files and a secret"
            signalled, restarted = "change, to the signal's handler", "change, to the successor"
            samples = alternate(
                ROUNDS,
                {
                    plain: Start(agent, fifo, "plain", pod_file(agent, fifo)),
                    full: Start(agent, fifo, "full", with_contents(agent, fifo, recipient)),
                    signalled: Change(agent, "signalled", "signal:HUP"),
                    restarted: Change(agent, "restarted", "restart"),
                },
                warm_up=2,
            )
        table = Table("Files and secrets of a container", "ms")
        add_all(table, samples, {full: plain, signalled: restarted})
        table.print()


if __name__ == "__main__":
    main()
