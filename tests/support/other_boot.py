"""Run the agent as in another boot of the machine: argv is the boot's name, and the agent's command line."""

from __future__ import annotations

import runpy
import sys

if __name__ == "__main__":
    # Modules beside this file must not take the place of Python's own, such as `secrets`.
    sys.path.pop(0)

    from tank_agent.linux import clock

    boot = sys.argv[1]
    clock.boot_id = lambda: boot
    sys.argv = ["tank", *sys.argv[5:]]
    runpy.run_module("tank_agent", run_name="__main__", alter_sys=True)
