"""A signal is never missed, however close to the wait it arrives."""

from __future__ import annotations

import os
import signal
import threading

from tank_agent.linux.signals import Signals


def test_a_signal_before_the_wait_is_returned_by_it() -> None:
    with Signals((signal.SIGUSR1, signal.SIGUSR2)) as signals:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert signals.wait() == signal.SIGUSR2


def test_a_signal_that_another_thread_takes_is_returned() -> None:
    with Signals((signal.SIGUSR1,)) as signals:
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
        thread.start()
        assert signals.wait() == signal.SIGUSR1
        thread.join()


def test_former_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Signals((signal.SIGUSR1,)):
        assert signal.getsignal(signal.SIGUSR1) is not before
    assert signal.getsignal(signal.SIGUSR1) is before
