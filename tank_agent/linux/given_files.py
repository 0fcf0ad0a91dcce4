"""Read files of any kind that a user names, within limits of size and time, and check certificates."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from tank_agent.errors import TankError
from tank_agent.linux.paths import Closing, read_all

# A script may start the writer of a fifo so many seconds later than the reader.
_WRITER_WITHIN = 2.0
_LOOK_EVERY = 0.02
CERTIFICATES_HINT = "name a file with certificates in PEM; openssl x509 -inform der -in FILE makes one of DER"


def read_given(path: Path, most: int) -> bytes:
    """Read a file, else TankError; up to one byte more than `most` shows the caller that it is too large."""
    try:
        # O_NONBLOCK: a fifo without a writer can't be opened otherwise.
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        with Closing(os.open(path, flags)) as descriptor:
            first = _first_of(descriptor, path) if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else b""
            os.set_blocking(descriptor, True)
            return first + read_all(descriptor, most - len(first))
    except OSError as error:
        raise TankError(f"cannot read: {error.strerror}", where=os.fspath(path)) from error


def read_stdin(most: int) -> bytes:
    """Read standard input as `read_given` reads a file."""
    try:
        return read_all(0, most)
    except OSError as error:
        raise TankError(f"cannot read: {error.strerror}", where="<stdin>") from error


def certificate_complaint(text: str) -> str | None:
    """Return why a text can't serve as certificates of authorities in PEM: a sentence without its subject."""
    # Costs 20 ms, and is only needed where such a file is named.
    import ssl

    if not text.strip():
        return "is empty"
    if "-----BEGIN " not in text:
        return "holds no certificate in PEM"
    if "CERTIFICATE-----" not in text:
        return "holds a key, but no certificate" if "KEY-----" in text else "holds no certificate"
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        return "holds a certificate that can't be read"
    return None


def why_no_certificates(path: str, error: OSError) -> str:
    """Return why a file of authorities could not be loaded: a sentence without its subject."""
    import ssl

    if not isinstance(error, ssl.SSLError):
        return f"can't be read: {error.strerror}"
    with open(path, "rb") as file:
        return certificate_complaint(file.read(1 << 20).decode("ascii", "ignore")) or "can't be read"


def _first_of(descriptor: int, path: Path) -> bytes:
    """Wait until a fifo has a writer, else TankError; return the first byte if one has written already."""
    deadline = time.monotonic() + _WRITER_WITHIN
    while True:
        try:
            # Nothing means that there is no writer; with a silent one it raises.
            if first := os.read(descriptor, 1):
                return first
        except BlockingIOError:
            return b""
        if time.monotonic() > deadline:
            raise TankError(
                "is a fifo that nobody writes to", where=os.fspath(path), hint="give a regular file, or -"
            )
        time.sleep(_LOOK_EVERY)
