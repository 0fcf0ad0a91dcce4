"""Resource limits of processes, and whether this agent may give them (setrlimit(2), capabilities(7))."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from pathlib import Path

from tank_agent.errors import Stalled
from tank_agent.runtime.security.capabilities import own_capabilities
from tank_agent.spec.model import UNLIMITED, Ulimit

# Less breaks the runtime itself in odd ways.
_LEAST_FILE = 1 << 16
# What even CAP_SYS_RESOURCE does not exceed.
_MOST_FILES = Path("/proc/sys/fs/nr_open")


def check_ulimits(ulimits: Mapping[str, Ulimit]) -> None:
    """Raise Stalled for a limit that the kernel would refuse to this agent's children."""
    may_raise = "CAP_SYS_RESOURCE" in own_capabilities()
    for name, wanted in ulimits.items():
        if name == "nofile":
            most = int(_MOST_FILES.read_text())
            if wanted.hard == UNLIMITED or wanted.hard > most:
                hint = f"lower it, or raise the machine's with `sysctl fs.nr_open`, which is {most}"
                raise Stalled(
                    f"ulimits.nofile: {_shown(wanted.hard)} files are more than any may have", hint=hint
                )
        if name == "fsize" and wanted.soft != UNLIMITED and wanted.soft < _LEAST_FILE:
            hint = "the runtime writes files under this limit as it starts the program"
            raise Stalled(f"ulimits.fsize: {wanted.soft} is less than {_LEAST_FILE} bytes", hint=hint)
        # Python lacks RLIMIT_LOCKS, which the kernel has not obeyed since 2.4.25.
        number = getattr(resource, f"RLIMIT_{name.upper()}", None)
        if number is None or may_raise:
            continue
        _, own = resource.getrlimit(number)
        if own != resource.RLIM_INFINITY and (wanted.hard == UNLIMITED or wanted.hard > own):
            line = f"Limit{name.upper()}={'infinity' if wanted.hard == UNLIMITED else wanted.hard}"
            message = (
                f"ulimits.{name}: {_shown(wanted.hard)} is above {own}, the most that this agent may give"
            )
            raise Stalled(message, hint=f"lower it, or set {line} with `systemctl edit tank-agent`")


def _shown(value: int) -> str:
    return "unlimited" if value == UNLIMITED else str(value)
