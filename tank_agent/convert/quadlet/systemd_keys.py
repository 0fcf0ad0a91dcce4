"""The keys of systemd's own sections of a unit: what becomes of those that people write there."""

from __future__ import annotations

from tank_agent.convert.quadlet import security
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.keys import Named, Rule
from tank_agent.convert.quadlet.unit import Entry


def _read(_draft: ContainerDraft, _entry: Entry, _text: str) -> None:
    """Do nothing: `service` reads the key."""


_SEEN = Rule("last", _read)
_BACK_OFF = Named(
    "note", "is decided by the back-off here, [reconcile] of agent.toml: 0.5 s at first, then more"
)
_HOOK = Named(
    "lost", "runs on the host; there are no such hooks, a container with init = true runs before the others"
)
_AFTER = Named("lost", "runs on the host, and there is no such hook; follow `tank events -f` for it")
_CONDITION = Named("lost", "is asked by systemd; a pod file is for the machines that hosts and labels name")
_NOTIFY = Named("lost", "starts a unit of systemd; [notify] of agent.toml tells of failures")
_SYSTEMD = Named("note", "is about podman's own process, and none runs these containers")

UNIT: dict[str, Rule | Named] = {
    **dict.fromkeys(
        (
            "Description", "Documentation", "After", "Before", "Requires", "Wants", "BindsTo", "PartOf",
            "Requisite", "Upholds", "DefaultDependencies", "SourcePath",
        ),
        _SEEN,
    ),
    **dict.fromkeys(("StartLimitIntervalSec", "StartLimitBurst", "StartLimitInterval"), _BACK_OFF),
    **dict.fromkeys(("OnFailure", "OnSuccess"), _NOTIFY),
    "Conflicts": Named("lost", "no pod keeps another from running; stop one by `tank stop`"),
    "RequiresMountsFor": Named("note", "a pod whose volume's host directory is missing waits for it"),
    "WantsMountsFor": Named("note", "a pod whose volume's host directory is missing waits for it"),
}  # fmt: skip
SERVICE: dict[str, Rule | Named] = {
    **dict.fromkeys(("Restart", "Type", "RemainAfterExit", "Environment", "EnvironmentFile"), _SEEN),
    **dict.fromkeys(("RestartSec", "RestartSteps", "RestartMaxDelaySec", "StartLimitBurst",
                     "StartLimitInterval", "StartLimitIntervalSec"), _BACK_OFF),
    "TimeoutStartSec": Named("note", "pulls have no deadline; [update] has one for what follows"),
    "TimeoutSec": Named("note", "pulls have no deadline; stop_grace is the time to stop"),
    "TimeoutStopSec": Named("note", "podman gives the program StopTimeout, or 10 s, and so does stop_grace"),
    "RuntimeMaxSec": _SEEN,
    **dict.fromkeys(("ExecStartPre", "ExecStartPost", "ExecCondition", "ExecReload"), _HOOK),
    **dict.fromkeys(("ExecStop", "ExecStopPost"), _AFTER),
    "MemoryMax": Rule("last", security.memory("memory")),
    "MemoryLow": Rule("last", security.memory("memory_reservation")),
    "TasksMax": Rule("last", security.pids),
    "CPUQuota": Rule("last", security.cpus),
    "CPUWeight": Rule("last", security.cpu_weight),
    "AllowedCPUs": Rule("last", security.cpu_set),
    **dict.fromkeys(
        (
            "KillMode", "KillSignal", "SuccessExitStatus", "Delegate", "Slice", "SyslogIdentifier",
            "NotifyAccess", "StandardOutput", "StandardError", "TimeoutAbortSec", "ExitType", "SendSIGKILL",
        ),
        _SYSTEMD,
    ),
}  # fmt: skip
INSTALL: dict[str, Rule | Named] = {
    **dict.fromkeys(("WantedBy", "RequiredBy", "UpheldBy", "DefaultInstance"), _SEEN),
    "Alias": Named("note", "a pod has one name; [network] aliases are other names in its bridges"),
    "Also": Named("note", "does nothing here: each pod file stands for itself"),
}
TIMER: dict[str, Rule | Named] = {
    **dict.fromkeys(("OnCalendar", "OnUnitActiveSec", "OnUnitInactiveSec", "Persistent", "Unit"), _SEEN),
    **dict.fromkeys(
        ("AccuracySec", "RandomizedDelaySec", "FixedRandomDelay", "RandomizedOffsetSec"),
        Named("note", "a job begins at its minute"),
    ),
    **dict.fromkeys(
        ("OnBootSec", "OnStartupSec", "OnActiveSec"),
        Named("lost", "a schedule goes by the clock, not by the boot; `tank run` starts a run at once"),
    ),
    "WakeSystem": Named("lost", "no job wakes the machine"),
    "RemainAfterElapse": Named("note", "does nothing here"),
}
OTHER = Named("lost", "is of systemd, which does not run these containers; there is no counterpart")
SECTIONS = {"Unit": UNIT, "Service": SERVICE, "Install": INSTALL, "Timer": TIMER}


def of_condition(key: str) -> Named | None:
    """Return the sentence about a key whose name begins like those of conditions."""
    return _CONDITION if key.startswith(("Condition", "Assert")) else None
