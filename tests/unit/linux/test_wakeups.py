"""No signal is missed before a wait, and no process that ends while its mounts are watched is an error."""

from __future__ import annotations

import os
import signal
import threading

from tank_agent.linux.wakeups import CaughtSignals, MountWatch


def test_a_signal_before_the_wait_is_returned_by_it() -> None:
    with CaughtSignals((signal.SIGUSR1, signal.SIGUSR2)) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signals.wait() == signal.SIGUSR2


def test_a_signal_that_another_thread_takes_is_returned() -> None:
    with CaughtSignals((signal.SIGUSR1,)) as signals:
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        thread.start()
        assert signals.wait() == signal.SIGUSR1
        thread.join()


def test_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with CaughtSignals((signal.SIGUSR1,)):
        assert signal.getsignal(signal.SIGUSR1) is not before
    assert signal.getsignal(signal.SIGUSR1) is before


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
