"""The capabilities of this agent, which nothing that it starts can exceed (capabilities(7))."""

from __future__ import annotations

import functools
from pathlib import Path

from tank_agent.spec.values import CAPABILITIES


@functools.cache
def own_capabilities() -> frozenset[str]:
    """Return the capabilities in the agent's bounding set, which as root it has."""
    status = Path("/proc/self/status").read_text()
    bits = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")), 16)
    return frozenset(name for number, name in enumerate(CAPABILITIES) if bits >> number & 1)
