"""Signals by descriptor reach the processes that are meant, and no other."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

from tank_agent.linux import pidfd

DEADLINE_MS = 10_000


def test_a_process_that_left_the_set_meanwhile_gets_no_signal() -> None:
    member, former = (os.posix_spawn("/bin/sleep", ["sleep", "60"], {}) for _ in range(2))
    answers = [{member, former}, {member}]
    descriptors = [os.pidfd_open(pid) for pid in (member, former)]
    try:
        pidfd.signal_all(lambda: answers.pop(0), signal.SIGTERM)
        assert pidfd.wait(descriptors[0], DEADLINE_MS)
        assert not pidfd.ended(descriptors[1])
    finally:
        for pid, descriptor in zip((member, former), descriptors, strict=True):
            pidfd.send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
            os.waitpid(pid, 0)


def test_what_is_gone_already_is_no_error() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    pidfd.signal_all(lambda: {pid}, signal.SIGTERM)


def test_more_processes_than_we_may_have_descriptors_are_reached() -> None:
    pids = [os.posix_spawn("/bin/sleep", ["sleep", "60"], {}) for _ in range(120)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        taken = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
        eighty_more = [number for number in range(limits[0]) if number not in taken][80]
        resource.setrlimit(resource.RLIMIT_NOFILE, (eighty_more, limits[1]))
        pidfd.signal_all(lambda: pids, signal.SIGTERM)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert {os.waitpid(pid, 0)[1] for pid in pids} == {signal.SIGTERM}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
