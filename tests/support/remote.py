"""Another machine, for tests of `--host`: a real sshd on loopback, whose `tank` is the program under test."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.agent import wait_for
from tests.support.git import Keys, known_hosts, sshd

REPOSITORY = Path(__file__).parents[2]


class Remote:
    """An sshd, and a user here whose ssh knows it by the name `edge` and by `127.0.0.1`."""

    def __init__(self, base: Path, keys: Keys, user: str, port: int, server: int) -> None:
        self.base, self.keys, self.user, self.port = base, keys, user, port
        self.server = server
        self.bin = base / "far"
        self.bin.mkdir()
        self.line = f'exec {sys.executable} -m tank_agent "$@"'
        self.write_tank(self.line)
        (base / "known_hosts").write_text(known_hosts(keys, port))
        self.configure()
        # ssh looks at no $HOME, so the user's configuration is given by a program before it on the PATH.
        self.near = base / "near"
        self.near.mkdir()
        self.set_ssh(f'exec /usr/bin/ssh -F {base / "config"} "$@"')

    def write_tank(self, line: str) -> None:
        """Make the `tank` of the other machine a shell script of this line; none if it is empty."""
        tank = self.bin / "tank"
        tank.unlink(missing_ok=True)
        if line:
            tank.write_text(f"#!/bin/sh\n{line}\n")
            tank.chmod(0o755)

    def set_ssh(self, line: str) -> None:
        """Make the user's `ssh` a shell script of this line."""
        (self.near / "ssh").write_text(f"#!/bin/sh\n{line}\n")
        (self.near / "ssh").chmod(0o755)

    def configure(self, *lines: str) -> None:
        """Write the user's configuration of ssh: these lines, and what the test's sshd needs."""
        common = (
            "Host *",
            "HostName 127.0.0.1",
            f"Port {self.port}",
            f"User {self.user}",
            f"IdentityFile {self.keys.client}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {self.base / 'known_hosts'}",
            "GlobalKnownHostsFile none",
        )
        (self.base / "config").write_text("\n".join((*lines, *common)) + "\n")

    @property
    def environment(self) -> dict[str, str]:
        """Return what a `tank` of the user has around it."""
        kept = {key: value for key, value in os.environ.items() if key not in ("TANK_SOCKET", "TANK_HOST")}
        return {**kept, "PATH": f"{self.near}:{kept['PATH']}", "PYTHONPATH": str(REPOSITORY)}

    def tank(
        self, *words: str, stdin: bytes = b"", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a `tank` of this machine to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "tank_agent", *words],
            input=stdin,
            capture_output=True,
            env={**self.environment, **(env or {})},
            timeout=60,
            check=False,
            start_new_session=True,
        )
        return subprocess.CompletedProcess(
            words, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        )

    def end_sessions(self) -> None:
        """Kill the server's process of each connection."""
        children = Path(f"/proc/{self.server}/task/{self.server}/children").read_text()
        for pid in map(int, children.split()):
            os.kill(pid, signal.SIGKILL)

    def processes(self) -> list[str]:
        """Return the ssh of the user that live, by their command lines."""
        listed = subprocess.run(
            ["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
        return [line for line in listed.splitlines() if f"ssh -F {self.base}" in line]

    def wait_quiet(self) -> None:
        """Wait until no ssh is left."""
        wait_for(lambda: not self.processes(), "no ssh is left")


@contextmanager
def remote(base: Path) -> Iterator[Remote]:
    """Run another machine; no ssh may be left at the end."""
    keys = Keys(base)
    far = f"{base / 'far'}:{os.environ['PATH']}"
    setting = f"SetEnv PATH={shlex.quote(far)} PYTHONPATH={REPOSITORY}"
    with sshd(base, keys, setting) as (user, port, server):
        made = Remote(base, keys, user, port, server)
        yield made
        made.wait_quiet()
