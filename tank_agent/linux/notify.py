"""Tell systemd how the agent is: sd_notify(3) and sd_watchdog_enabled(3), without libsystemd."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

# Fewer lines than a terminal has columns; systemctl status shows it on one.
_STATUS_MAX = 200


class Notifier:
    """Sends what systemd wants to know; does nothing where nobody asked.

    Args:
        environ: holds NOTIFY_SOCKET, and WATCHDOG_USEC with WATCHDOG_PID, if systemd started us.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog = _watchdog(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Say that the start, or a reload, is complete."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        """Say that a reload began; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """Say that the agent is on its way out."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # systemd that restarts, or a full socket, must not end the agent; the watchdog tells in time.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(5.0)
            with contextlib.suppress(OSError):
                sender.sendto(message.encode(), self._address)


def _address(value: str) -> str | None:
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return how often to feed the watchdog, in seconds: in half of the time that it waits."""
    period = environ.get("WATCHDOG_USEC", "")
    if not period.isdigit() or int(period) == 0:
        return None
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(period) / 2_000_000


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_MAX]
