"""Measure what only a whole machine can show, and print rows for docs/performance.md.

python -m tests.support.figures [PODS]    # as root; takes about ten minutes on two emulated cores
"""

from __future__ import annotations

import json
import sys
import time

from tests.support.deb import build
from tests.support.installed import Installed
from tests.support.machine import running_machine

_SLEEP = "trap exit TERM; while :; do sleep 1000 & wait; done"


def main() -> None:
    """Print the rows."""
    pods = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with running_machine() as vm:
        machine = Installed(vm)
        machine.install(build())
        for number in range(20):
            machine.pod(f"pod{number}", _SLEEP)
        machine.wait("20 pods run", lambda: running(machine) == 20, 600)
        vm.reboot()
        machine.wait("20 pods run", lambda: running(machine) == 20, 600)
        print(f"| boot: multi-user.target → all of 20 pods running | {after_multi_user(machine):.1f} s |")
        print(
            f"| boot: kernel and userspace until multi-user.target | {machine.sh('systemd-analyze time')} |"
        )
        for number in range(20, pods):
            machine.pod(f"pod{number}", _SLEEP)
        machine.wait(f"{pods} pods run", lambda: running(machine) == pods, 1200)
        before = machine.pids()
        for how in ("systemctl restart tank-agent", "systemctl kill -s KILL tank-agent"):
            began = time.monotonic()
            machine.sh(how)
            machine.wait("all adopted", lambda: machine.pids() == before, 300)
            print(f"| {how} → all of {pods} pods adopted (same pids) | {time.monotonic() - began:.1f} s |")
        memory = int(machine.sh("systemctl show -P MemoryCurrent tank-agent"))
        print(f"| memory of the agent's unit with {pods} pods | {memory / (1 << 20):.0f} MiB |")


def running(machine: Installed) -> int:
    """Return how many pods run."""
    return sum(pod["phase"] == "running" for pod in machine.statuses().values())


def after_multi_user(machine: Installed) -> float:
    """Return how many seconds after multi-user.target the last pod was started, by the journal's clock."""
    reached = int(machine.sh("systemctl show -P ActiveEnterTimestampMonotonic multi-user.target"))
    entries = machine.sh("journalctl -b -o json -u tank-agent 'TANK_EVENT=start container app'").splitlines()
    # The step that the entry announces takes about as long as the whole of them, divided.
    last = max(int(json.loads(entry)["__MONOTONIC_TIMESTAMP"]) for entry in entries)
    return (last - reached) / 1_000_000


if __name__ == "__main__":
    main()
