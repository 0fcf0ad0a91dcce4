"""Watching the mounts of processes: also of those that end at that moment."""

from __future__ import annotations

import os

from tank_agent.linux.mount_namespaces import MountWatch


def test_a_process_that_has_ended_is_nothing_to_watch() -> None:
    watch = MountWatch()
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    # Not reaped yet: it has no namespaces, but still a directory in /proc.
    watch.watch("zombie", pid)
    os.waitpid(pid, 0)
    watch.watch("gone", pid)
    assert watch.changed() == frozenset()
    watch.close()
