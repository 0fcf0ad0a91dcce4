"""Rollouts of pods whose tests are about something else: decided long ago, so that nothing follows."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tank_agent.journal.journal import Journal
from tank_agent.journal.records import PodStatus, Rollout


def settled(generation: int = 1, boot_id: str = "boot", **changes: Any) -> Rollout:
    """Return the rollout of a generation that was good."""
    rollout = Rollout(generation=generation, kind="first", boot_id=boot_id, begun=0.0, outcome="good")
    return replace(rollout, **changes)


def settle_all(journal: Journal) -> None:
    """Give every desired pod a rollout that was good."""
    for name, pod in journal.desired().items():
        status = journal.status(name)
        journal.record(name, replace(status, rollout=settled(pod.generation)))


def settled_status(status: PodStatus | None = None, generation: int = 1) -> PodStatus:
    """Return a status whose rollout was good, unless it has another one."""
    found = status or PodStatus()
    return found if found.rollout is not None else replace(found, rollout=settled(generation, "this"))
