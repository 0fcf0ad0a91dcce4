"""Signals by descriptor reach the processes that are meant, and no other."""

from __future__ import annotations

import os
import signal

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
