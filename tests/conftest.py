"""What every test needs: signals as in a terminal, random input that may take its time, compiled modules.

A shell starts what it runs in the background with SIGINT and SIGQUIT ignored, nohup adds SIGHUP, and children
inherit that. The tests send these signals, whoever started them.

With PYTHONDONTWRITEBYTECODE, which many build servers set, each of the thousands of agents that tests start
would compile every module again, which is two fifths of the work of its start.
"""

from __future__ import annotations

import compileall
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# By default an example that takes 200 ms fails, and so does input that is slow to make: on a busy machine
# any of them is now and then.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# For the test modules themselves, which each worker and each part of the suite reads.
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """Compile the package once, before workers are there: no agent that a test kills writes a file of it."""
    if not hasattr(config, "workerinput"):
        # What can't be written, in a checkout of another user, is compiled each time as before.
        compileall.compile_dir(Path(__file__).parents[1] / "tank_agent", quiet=2)
