"""tank-agent: runs containers on one Linux machine from files.

Read the rooms in the order in which data flows: `source` → `spec` → `journal` → `reconcile` → `runtime`.
The public Python API is all that is listed here: `Client`, `Pod` and the structs in it, the structs of
answers, the results of sessions, and errors. They are imported on first use: `tank list` must start fast.
"""

from __future__ import annotations

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False

__version__ = "0.1.0"
__all__ = [
    "AgentInfo", "AgentUnreachable", "AppliedPod", "AskedPod", "CannotCopy", "CannotRun", "ChangeReport",
    "Client", "CommandNotFound", "CommitReport", "CommitStatusReport", "ConfigFile", "Container",
    "ContainerReport", "CpuLimit", "DataPutAside", "Detached", "DirectoryReport", "ElsewherePod",
    "ElsewhereReport", "ExitReport", "Exited", "GitReport", "HappenedReport", "HealthCheck", "HealthReport",
    "HoldReport", "HttpProbe", "ImageInUse", "ImageUpdate", "InvalidSpec", "JobReport", "JobRunReport",
    "Limits", "ListedEvent", "ListedHold", "ListedImage", "ListedPod", "ListedRevision", "ListedSnapshot",
    "ListedVerdict", "LogLine", "ManagedVolume", "Mount", "MovedImage", "Network", "Nic", "NotATty",
    "NotReached", "NotRunning", "NotifyReceiver", "NotifyReport", "OwnedElsewhere", "PlanReport",
    "PlannedPod", "Pod", "PodGitReport", "PodNotFound", "PodReport", "Port", "PortReport", "Problem",
    "ProgressReport", "PullReport", "PulledLayer", "RemovedImages", "RemovedVolume", "RestartPolicy",
    "RestoredVolume", "Retry", "RolloutReport", "Schedule", "Secret", "SecretError", "Security", "Signaled",
    "SourcesReport", "Stalled", "StartedRun", "StepReport", "StepReports", "TankError", "TestedReceiver",
    "Ulimit", "Update", "UsageReport", "Volume", "VolumeInUse", "WantedReport", "WebReport", "WhyReport",
    "__version__",
]  # fmt: skip
# The modules of these names; the light ones come first.
_HOMES = (
    *(
        "client.fast.results",
        "errors",
        "spec.model",
        "api.reports",
        "api.storage",
        "api.types",
        "client.logs",
        "client.not_reached",
    ),
    "client.client",
)

if TYPE_CHECKING:
    from tank_agent.api.reports import (
        ChangeReport,
        CommitReport,
        CommitStatusReport,
        ContainerReport,
        DirectoryReport,
        ElsewherePod,
        ElsewhereReport,
        ExitReport,
        GitReport,
        HappenedReport,
        HealthReport,
        HoldReport,
        JobReport,
        JobRunReport,
        NotifyReceiver,
        NotifyReport,
        PlannedPod,
        PlanReport,
        PodGitReport,
        PodReport,
        PortReport,
        ProgressReport,
        RolloutReport,
        SourcesReport,
        StartedRun,
        StepReport,
        StepReports,
        TestedReceiver,
        UsageReport,
        WantedReport,
        WebReport,
        WhyReport,
    )
    from tank_agent.api.storage import (
        DataPutAside,
        ImageUpdate,
        ListedImage,
        ListedSnapshot,
        ManagedVolume,
        MovedImage,
        PulledLayer,
        PullReport,
        RemovedImages,
        RemovedVolume,
        RestoredVolume,
    )
    from tank_agent.api.types import (
        AgentInfo,
        AppliedPod,
        AskedPod,
        ListedEvent,
        ListedHold,
        ListedPod,
        ListedRevision,
        ListedVerdict,
    )
    from tank_agent.client.client import (
        Client,
    )
    from tank_agent.client.fast.results import (
        Detached,
        Exited,
        Signaled,
    )
    from tank_agent.client.logs import (
        LogLine,
    )
    from tank_agent.client.not_reached import (
        NotReached,
    )
    from tank_agent.errors import (
        AgentUnreachable,
        CannotCopy,
        CannotRun,
        CommandNotFound,
        ImageInUse,
        InvalidSpec,
        NotATty,
        NotRunning,
        OwnedElsewhere,
        PodNotFound,
        Problem,
        Retry,
        SecretError,
        Stalled,
        TankError,
        VolumeInUse,
    )
    from tank_agent.spec.model import (
        ConfigFile,
        Container,
        CpuLimit,
        HealthCheck,
        HttpProbe,
        Limits,
        Mount,
        Network,
        Nic,
        Pod,
        Port,
        RestartPolicy,
        Schedule,
        Secret,
        Security,
        Ulimit,
        Update,
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
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
