"""What the kernel may refuse without harm is refused without harm."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

from tank_agent.linux.channels import enlarge_pipe

LOWER = """
import resource
from tank_agent.linux.confine import lower_limit
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 2000))
lower_limit(resource.RLIMIT_FSIZE, 1 << 30)
print(resource.getrlimit(resource.RLIMIT_FSIZE))
lower_limit(resource.RLIMIT_CORE, 0)
print(resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_a_pipe_that_cannot_grow_stays_as_it_is() -> None:
    reader, writer = os.pipe()
    try:
        before = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        # No pipe has this size, whoever asks.
        enlarge_pipe(writer, -1)
        assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == before
        enlarge_pipe(writer, before * 2)
        assert fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ) == before * 2
    finally:
        os.close(reader)
        os.close(writer)


def test_a_limit_that_is_lower_already_stays() -> None:
    shown = subprocess.run([sys.executable, "-c", LOWER], capture_output=True, check=True, text=True).stdout
    assert shown.splitlines() == ["(2000, 2000)", "(0, 0)"]
