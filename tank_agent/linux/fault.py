"""Points at which tests kill the agent, to show that it recovers from everywhere.

`TANK_FAULT="name"` kills the process with SIGKILL when it passes that point the first time, `name@3` the
third. Names are `room:step`, such as `network:link-created`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from itertools import count

_NAME, _, _NTH = os.environ.get("TANK_FAULT", "").partition("@")
_PASSED: Iterator[int] = count(1)


def point(name: str) -> None:
    """Die here if this is the point that the environment asks for."""
    if _NAME and name == _NAME and next(_PASSED) == int(_NTH or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
