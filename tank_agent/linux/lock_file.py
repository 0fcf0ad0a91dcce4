"""What the holder of a lock file notes in it."""

from __future__ import annotations

import os
from contextlib import suppress


def note(descriptor: int, content: bytes) -> None:
    """Replace what a lock file says, if the disk has room: the lock itself needs none.

    The file is not emptied before, lest a full disk give its block to somebody else.
    """
    with suppress(OSError):
        os.truncate(descriptor, os.pwrite(descriptor, content, 0))
