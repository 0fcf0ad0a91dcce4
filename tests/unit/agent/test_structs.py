"""Structs are read by several threads from the first moment of an agent on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Whatever one thread does can be interrupted at any moment.
SCRIPT = """
import sys, threading
import tank_agent.agent.assembly
from tank_agent.agent import structs
from tank_agent.spec.parse import parse_pod_file
structs.prepare()
sys.setswitchinterval(1e-6)
begin = threading.Barrier(8)
def read():
    begin.wait()
    parse_pod_file('name = "a"\\n[[containers]]\\nname = "x"\\nimage = "y"\\n', "a.toml")
threads = [threading.Thread(target=read) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.parametrize("attempt", range(6))
def test_threads_that_read_the_first_pods_at_once_crash_nothing(attempt: int) -> None:
    """Without `prepare` two of five such processes die of SIGSEGV."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
