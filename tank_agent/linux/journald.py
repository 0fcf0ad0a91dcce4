"""Send log entries with fields to systemd's journal (systemd.journal-fields(7), its native protocol)."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# The journal keeps no more of one field, and a datagram must fit into a socket's buffer.
_VALUE_MAX = 48 << 10


def is_our_stderr(environ: Mapping[str, str]) -> bool:
    """Return whether our standard error leads to the journal (JOURNAL_STREAM in systemd.exec(5))."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdigit() and inode.isdigit()):
        return False
    found = os.fstat(2)
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def encode(fields: Mapping[str, str]) -> bytes:
    """Return an entry as the journal reads it; a value with line breaks goes with its length before it."""
    parts = []
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name} is not the name of a journal field")
        data = value.encode(errors="backslashreplace")[:_VALUE_MAX]
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


class Journal:
    """Sends entries; the socket may be used by many threads.

    Args:
        address: the journal's socket.
    """

    def __init__(self, address: str = SOCKET) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(1.0)

    def send(self, fields: Mapping[str, str]) -> bool:
        """Send an entry; False if the journal did not take it, for example while it is restarted."""
        try:
            self._socket.sendto(encode(fields), self._address)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
