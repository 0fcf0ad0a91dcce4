"""tank-agent: runs containers on one Linux machine from files.

Read the rooms in the order in which data flows: `source` → `spec` → `journal` → `reconcile` → `runtime`.
The public Python API is `Client`, `Pod`, the results of sessions and some errors; they are imported on first
use, since `tank list` must start fast.
"""

from __future__ import annotations

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = [
    "Client",
    "Detached",
    "Exited",
    "NotATty",
    "NotRunning",
    "Pod",
    "Signaled",
    "TankError",
    "__version__",
]

if TYPE_CHECKING:
    from tank_agent.client.client import Client
    from tank_agent.client.results import Detached, Exited, Signaled
    from tank_agent.errors import NotATty, NotRunning, TankError
    from tank_agent.spec.model import Pod

_HOMES = {
    "Client": "tank_agent.client.client",
    "Detached": "tank_agent.client.results",
    "Exited": "tank_agent.client.results",
    "NotATty": "tank_agent.errors",
    "NotRunning": "tank_agent.errors",
    "Pod": "tank_agent.spec.model",
    "Signaled": "tank_agent.client.results",
    "TankError": "tank_agent.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
