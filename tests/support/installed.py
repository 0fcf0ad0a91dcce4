"""The test machine with tank-agent installed: pods written, waited for, and looked at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.support.machine import Machine, Result

T = TypeVar("T")
# Prints a numbered line every 50 ms or so, so that a lost one shows, and ends at once when asked to.
COUNT = "trap 'echo bye; exit 0' TERM; i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
# Serves its host name at port 80.
SERVE = (
    "trap 'exit 0' TERM; busybox mkdir -p /www; cat /etc/hostname > /www/index.html; "
    "busybox httpd -p 80 -h /www; while :; do sleep 0.2; done"
)
_ROOTFS = "/srv/busybox"
# Half a minute when nothing else runs here.
_SLOW = 240.0


class Installed:
    """A machine, and short ways to what system tests do all the time."""

    def __init__(self, machine: Machine) -> None:
        self.vm = machine

    def install(self, package: Path) -> Result:
        """Install or upgrade with apt."""
        self.upload(package)
        return self.apt("install", f"/root/{package.name}")

    def upload(self, package: Path) -> None:
        """Put a package into /root, and make a root file system for pods."""
        self.vm.write(f"/root/{package.name}", package.read_bytes())
        self.sh(
            f"mkdir -p {_ROOTFS}/bin {_ROOTFS}/etc; "
            f"test -e {_ROOTFS}/bin/busybox || cp /bin/busybox {_ROOTFS}/bin/busybox; "
            f"cd {_ROOTFS}/bin; "
            "for name in sh sleep echo cat chmod dd head nc stty true; do ln -sf busybox $name; done"
        )

    def apt(self, *arguments: str) -> Result:
        """Run apt-get as a user would, but unattended; there is no network, and none is needed."""
        return self.vm.run(
            *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q", *arguments), timeout=400
        )

    def sh(self, script: str, *, check: bool = True, timeout: float = 120.0) -> str:
        """Run a shell script in the machine and return what it printed."""
        return self.vm.sh(script, check=check, timeout=timeout)

    def pod(self, name: str, script: str = COUNT, *, head: str = "", extra: str = "") -> None:
        """Write a pod file with one container, app, that runs a shell script."""
        command = json.dumps(["/bin/sh", "-c", script])
        self.vm.write(
            f"/etc/tank/pods.d/{name}.toml",
            f'{head}\n[[containers]]\nname = "app"\nrootfs = "{_ROOTFS}"\ncommand = {command}\n'
            f'stop_grace = "2s"\n{extra}\n',
        )

    def remove_pod(self, name: str) -> None:
        """Remove a pod's file."""
        self.sh(f"rm -f /etc/tank/pods.d/{name}.toml")

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Return the status of every pod by name; nothing while no agent answers."""
        result = self.vm.run("http-get", "/run/tank/tank.sock", "/v1/status", check=False)
        return {pod["name"]: pod for pod in json.loads(result.out)} if result.code == 0 else {}

    def answers(self) -> bool:
        """Return whether an agent answers."""
        return self.answering() is not None

    def answering(self) -> int | None:
        """Return the process id of the agent that answers, by its own word."""
        result = self.vm.run("http-get", "/run/tank/tank.sock", "/v1/info", check=False)
        return int(json.loads(result.out)["pid"]) if result.code == 0 else None

    def agent(self) -> int:
        """Return the process id of the agent by systemd's word; 0 if there is none."""
        return int(self.sh("systemctl show -P MainPID tank-agent"))

    def wait_for_another_agent(self, former: int) -> int:
        """Wait until systemd has started another agent, and return its process id; it may not answer yet."""
        return self.wait("another agent", lambda: (new := self.agent()) != former and new)

    def wait(self, what: str, condition: Callable[[], T | None], seconds: float = _SLOW) -> T:
        """Return the first true answer of a condition; what it looks up may not be there yet."""
        end = time.monotonic() + seconds
        while True:
            asked = time.monotonic()
            answer = None
            with suppress(KeyError):
                # Of a pod whose file is not read yet, or of an agent that does not answer.
                answer = condition()
            if answer:
                return answer
            now = time.monotonic()
            if now > end:
                raise AssertionError(f"not within {seconds:g} s: {what}; last: {answer!r}\n{self.sight()}")
            # Each look costs the emulated cores a process or two, which what it waits for lacks.
            time.sleep(min(max(0.2, now - asked), 1.0))

    def sight(self) -> str:
        """Return what tells why something does not happen: logs of this boot, programs, and statuses."""
        looks = {
            "log": "journalctl -b -u tank-agent -u tank-pods -o cat | tail -40",
            "output": "tail -n 5 $(find /var/lib/tank/logs -name '*.log' -mmin -30) </dev/null",
            "processes": "ps -eo pid,ppid,stat,wchan:20,etimes,args --ppid 2 -N | cut -c1-200 | tail -40",
            "kernel": "dmesg | grep -iE 'oops|bug:|int3|ext4|oom|hung|segfault' | tail -10",
            "earlier boot": "journalctl -b -1 -u tank-agent -o cat | tail -10",
        }
        found = {what: self.sh(script, check=False) for what, script in looks.items()}
        # The statuses come last, since what is printed of a failure may be cut at its beginning.
        parts = [f"--- {what}\n{text}" for what, text in found.items()]
        return "\n".join([*parts, "--- statuses", *map(str, self.statuses().values())])

    def wait_phase(self, name: str, phase: str = "running", seconds: float = _SLOW) -> dict[str, Any]:
        """Wait until a pod is in a phase and return its status."""

        def reached() -> dict[str, Any] | None:
            found = self.statuses().get(name)
            return found if found is not None and found["phase"] == phase else None

        return self.wait(f"pod {name} is {phase}", reached, seconds)

    def wait_for_agent(self) -> None:
        """Wait until systemd takes the agent for started, and it answers."""
        active = "systemctl is-active tank-agent"
        # In this order: a program costs the emulated cores ten times what a question to a socket does.
        self.wait("the agent answers", lambda: self.answers() and self.sh(active, check=False) == "active")

    def pids(self) -> dict[str, int | None]:
        """Return the main process of every pod."""
        found = self.statuses().items()
        return {name: pod["containers"][0]["pid"] for name, pod in found if pod["containers"]}

    def cgroup(self, pid: int) -> Path:
        """Return the directory of a process's control group."""
        group = self.sh(f"cut -d: -f3 /proc/{pid}/cgroup")
        return Path("/sys/fs/cgroup") / group.lstrip("/")

    def lines(self, pod: str) -> list[str]:
        """Return what a pod's container printed over all its runs, rotated files included."""
        files = f"/var/lib/tank/logs/{pod}/app.log"
        text = self.sh(f"cat $(ls -rv {files}.* 2>/dev/null) {files} 2>/dev/null || true")
        return [line.split(" ", 3)[3] for line in text.splitlines()]

    def leftovers(self) -> str:
        """Return every trace of containers: processes, mounts, control groups, networks."""
        return self.vm.run("leftovers").out.strip()

    def clean(self) -> None:
        """Remove all pod files and what they declare, and make sure that an agent runs."""
        self.sh("rm -f /etc/tank/pods.d/*.toml /etc/tank/seed.d/*.toml; systemctl start tank-agent")
        self.wait("no pod is left", lambda: self.answers() and not self.statuses())
        self.wait("nothing is left of them", lambda: not self.leftovers())
