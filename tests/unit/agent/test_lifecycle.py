"""Why an agent does not work yet is told, a bug stays one, and its threads may read structs at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tank_agent.agent.lifecycle import as_trouble, unable
from tank_agent.errors import Retry


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS), "/data"),
            "/data: cannot start: Read-only file system",
        ),
        (MemoryError(), "too small"),
        (RuntimeError("can't start new thread"), "too small"),
        (Retry("cannot open the journal: no"), "cannot open the journal: no"),
    ],
)
def test_every_question_is_answered_with_what_is_wrong(error: Exception, said: str) -> None:
    trouble = as_trouble(error)
    assert said in str(trouble)
    with pytest.raises(Retry) as answer:
        unable(trouble).status()
    assert answer.value is trouble


def test_a_bug_stays_one() -> None:
    with pytest.raises(RuntimeError, match="plan does not converge"):
        as_trouble(RuntimeError("plan does not converge"))


# Whatever one thread does can be interrupted at any moment.
SCRIPT = """
import sys, threading
from tank_agent.agent import lifecycle
from tank_agent.spec.parse import parse_pod_file
lifecycle.prepare_structs()
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


def test_every_struct_of_the_agent_can_be_prepared() -> None:
    """In a process of its own: another test may have loaded structs that no agent has."""
    script = (
        "import tank_agent.agent.assembly\n"
        "from tank_agent.agent.lifecycle import prepare_structs\n"
        "prepare_structs()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
