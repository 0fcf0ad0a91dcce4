"""Talk to systemd without its library: the state of the service, and log entries with fields.

See sd_notify(3), sd_watchdog_enabled(3) and systemd.journal-fields(7).
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from collections.abc import Mapping

JOURNAL = "/run/systemd/journal/socket"
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# The journal keeps no more of one field, and a datagram must fit into a socket's buffer.
_VALUE_MAX = 48 << 10
# Fewer lines than a terminal has columns; systemctl status shows it on one.
_STATUS_MAX = 200


class Notifier:
    """Reports the state of the service to systemd, if the environment shows that systemd started us."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An @ stands for the NUL before an abstract name (unix(7)).
        self._address = re.sub("^@", "\0", address) if address[:1] in ("@", "/") else None
        self.watchdog = _watchdog(environ) if self._address else None

    def ready(self, status: str) -> None:
        """Report that the start, or a reload, is complete."""
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        """Report that a reload began; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={now}")

    def stopping(self) -> None:
        """Report that the agent is ending."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Reset the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        # systemd that restarts, or a full socket, must not end the agent; the watchdog notices in time.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(5.0)
            with contextlib.suppress(OSError):
                sender.sendto(message.encode(), self._address)


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return the interval at which to reset the watchdog, in seconds: half of the time that it waits."""
    period, pid = environ.get("WATCHDOG_USEC", ""), str(os.getpid())
    if not period.isdigit() or environ.get("WATCHDOG_PID", pid) != pid:
        return None
    return int(period) / 2_000_000 or None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_STATUS_MAX]


def stderr_is_journal(environ: Mapping[str, str]) -> bool:
    """Return whether our standard error leads to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    found = os.fstat(2)
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def encode(fields: Mapping[str, str]) -> bytes:
    """Return an entry as the journal reads it; the length of a value with line breaks comes before it."""
    parts: list[bytes] = []
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name} is not the name of a journal field")
        data = value.encode(errors="backslashreplace")[:_VALUE_MAX]
        separator = b"\n" + struct.pack("<Q", len(data)) if b"\n" in data else b"="
        parts += [name.encode(), separator, data, b"\n"]
    return b"".join(parts)


class JournalSocket:
    """Sends entries to the journal; any number of threads may use it."""

    def __init__(self, address: str = JOURNAL) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(1.0)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send an entry; False if the journal did not take it, for example while it is restarted."""
        with contextlib.suppress(OSError):
            self._socket.sendto(encode(fields), self._address)
            return True
        return False

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
