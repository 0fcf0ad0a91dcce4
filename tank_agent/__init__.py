"""tank-agent: runs containers on one Linux machine from files.

Read the rooms in the order in which data flows: `source` → `spec` → `journal` → `reconcile` → `runtime`.
The public Python API is `Client`, `Pod` and the structs in it, the results of sessions, and errors; they are
imported on first use, since `tank list` must start fast.
"""

from __future__ import annotations

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = [
    "AgentUnreachable", "Client", "Container", "CpuLimit", "Detached", "Exited", "InvalidSpec", "Limits",
    "Mount", "Network", "Nic", "NotATty", "NotRunning", "OwnedElsewhere", "Pod", "PodNotFound",
    "RestartPolicy", "Security", "Signaled", "TankError", "Volume", "__version__",
]  # fmt: skip
# The modules of these names; the light ones come first.
_HOMES = ("client.fast.results", "errors", "spec.model", "client.client")

if TYPE_CHECKING:
    from tank_agent.client.client import Client
    from tank_agent.client.fast.results import Detached, Exited, Signaled
    from tank_agent.errors import (
        AgentUnreachable,
        InvalidSpec,
        NotATty,
        NotRunning,
        OwnedElsewhere,
        PodNotFound,
        TankError,
    )
    from tank_agent.spec.model import (
        Container,
        CpuLimit,
        Limits,
        Mount,
        Network,
        Nic,
        Pod,
        RestartPolicy,
        Security,
        Volume,
    )


def __getattr__(name: str) -> object:
    if name in __all__:
        from importlib import import_module

        # A Pod gets its reader `new` where pods are parsed.
        for home in ("spec.parse",) if name == "Pod" else _HOMES:
            module = import_module(f"tank_agent.{home}")
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(name)
