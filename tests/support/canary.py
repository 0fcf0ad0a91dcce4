"""Search for a secret in everything that others could see: files, outputs, command lines and environments."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import secrets
import stat
import threading
import urllib.parse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Canary:
    """A secret that is nowhere else, and the forms in which it could leak."""

    def __init__(self) -> None:
        self.text = f"ca/na&ry {secrets.token_hex(12)} é"
        raw = self.text.encode()
        self.forms = {raw, *_in_base64(raw), binascii.hexlify(raw), binascii.hexlify(raw).upper()}
        self.forms |= {urllib.parse.quote(self.text).encode(), self.text.encode("utf-16-le")}
        # Whatever an encoding does to its other characters.
        self.forms.add(self.text.split()[1].encode())

    def is_in(self, content: bytes | str) -> bool:
        """Return whether it is in a text, in any form."""
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        return any(form in data for form in self.forms)

    def files(self, *roots: Path, without: Path) -> list[str]:
        """Return the files below directories that hold it, or are named so, without one tree of them."""
        found = []
        for path in (path for root in roots for path in _below(root, without)):
            try:
                status = path.lstat()
                data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                if stat.S_ISLNK(status.st_mode):
                    data = os.fsencode(path.readlink())
            except OSError:
                continue
            if self.is_in(data) or self.is_in(os.fsencode(path)):
                found.append(str(path))
        return found


def in_processes(canaries: Sequence[Canary]) -> list[str]:
    """Return the processes with one of them in their command line or environment."""
    found = []
    for pid in (path.name for path in Path("/proc").iterdir() if path.name.isdigit()):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
                content = file.read()
                if any(canary.is_in(content) for canary in canaries):
                    found.append(f"{name} of {content[:200]!r}")
    return found


@contextmanager
def watched(canaries: Sequence[Canary]) -> Iterator[list[str]]:
    """Look at all processes again and again; yield what was found so far."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            found.extend(in_processes(canaries))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join(20)


def _in_base64(raw: bytes) -> Iterator[bytes]:
    """Yield what is in common of every text in base64 that has the bytes at some place."""
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            encoded = encode(bytes(before) + raw)
            # The first and last characters also hold bits of their neighbours.
            yield encoded[4 if before else 0 : len(encoded) // 4 * 4 - 4]


def _below(root: Path, without: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(root):
        place = Path(directory)
        directories[:] = [name for name in directories if place / name != without]
        yield from (place / name for name in (*directories, *names))
