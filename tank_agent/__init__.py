"""tank-agent: runs containers on one Linux machine from files.

Read the rooms in the order in which data flows: `source` → `spec` → `journal` → `reconcile` → `runtime`.
The public Python API is `Client` and `Pod`; both are imported on first use, since `tank list` must start fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Client", "Pod", "__version__"]

if TYPE_CHECKING:
    from tank_agent.client.client import Client
    from tank_agent.spec.model import Pod


def __getattr__(name: str) -> object:
    if name == "Client":
        from tank_agent.client.client import Client

        return Client
    if name == "Pod":
        from tank_agent.spec.model import Pod

        return Pod
    raise AttributeError(name)
