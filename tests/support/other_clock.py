"""Run the agent by another clock of the wall: argv is a file, a boot or "", and the agent's command line.

The file has the seconds to add to the clock; it is read at each look, so that a test sets the clock by it.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

from tank_agent.linux import clock

if __name__ == "__main__":
    offset, boot = Path(sys.argv[1]), sys.argv[2]
    clock.Clock.wall = lambda _: time.time() + float(offset.read_text())  # type: ignore[method-assign]
    if boot:
        clock.boot_id = lambda: boot
    sys.argv = ["tank", *sys.argv[6:]]
    runpy.run_module("tank_agent", run_name="__main__", alter_sys=True)
