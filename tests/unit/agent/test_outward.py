"""What settings do not ask for is not started, and not loaded."""

from __future__ import annotations

import subprocess
import sys

# In a process of its own: the tests of others have loaded all of it.
OFF = """
import sys, threading
from contextlib import ExitStack
from types import SimpleNamespace
from tank_agent.agent.outward import NoStarts, start_outward, told_of_start
from tank_agent.settings.settings import Settings

service = SimpleNamespace(sources=SimpleNamespace(git=None))
with ExitStack() as stack:
    start_outward(Settings(), service, stack)
assert threading.active_count() == 1
assert [*vars(service)] == ["sources"]
assert isinstance(told_of_start(Settings()), NoStarts)
print(*(name for name in sys.modules if name.startswith("tank_agent.outward") or "apprise" in name))
"""


def test_an_agent_that_tells_nobody_starts_and_loads_nothing_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", OFF], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
