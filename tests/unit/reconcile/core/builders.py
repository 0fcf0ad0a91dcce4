"""Situations in the middle of an update: a pod "web" whose generation 1 was good, and 2 is the update."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from tank_agent.journal.records import (
    ContainerStatus,
    DesiredPod,
    Good,
    Health,
    PodStatus,
    Revision,
    Rollout,
)
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.hashes import container_hash, settings_hash
from tank_agent.reconcile.core.observed import Moment, Observed, Probed, Run, Situation
from tank_agent.reconcile.core.plan import plan
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.runtime.run import RunState
from tank_agent.spec.model import Container, HealthCheck, Pod, Update, content_hash

BEGUN = 500.0
NOW = Moment(wall=1_000_000.0, monotonic=BEGUN, boot_id="this")
BACKOFF = Backoff(base=10.0, cap=300.0, jitter=0.0, stable_after=600.0)
UPDATE = Update(min_healthy=10.0, deadline=60.0, max_restarts=2)
CHECK = HealthCheck(exec=("check",), start_period=20.0)


def container(name: str = "app", word: str = "new", **changes: Any) -> Container:
    """Return a container whose program is a word."""
    return replace(Container(name=name, rootfs="/r", command=(word,)), **changes)


def pod(*containers: Container, **changes: Any) -> Pod:
    """Return a pod "web"; of one container without any."""
    return replace(Pod(name="web", containers=containers or (container(),), update=UPDATE), **changes)


OLD = pod(container(word="old"))


def wanted(spec: Pod | None = None, generation: int = 2, **changes: Any) -> DesiredPod:
    """Return a pod as the journal has it."""
    spec = spec or pod()
    found = DesiredPod(
        name="web",
        pod=spec,
        owner="api",
        revision="r",
        generation=generation,
        hash=content_hash(spec),
        changed_at=0.0,
    )
    return replace(found, **changes)


def revision(spec: Pod = OLD, generation: int = 1, **changes: Any) -> Revision:
    """Return a revision as the journal keeps it."""
    found = Revision(
        generation=generation,
        pod=spec,
        owner="api",
        revision="r",
        hash=content_hash(spec),
        changed_at=0.0,
    )
    return replace(found, **changes)


def good(spec: Pod = OLD, generation: int = 1, **changes: Any) -> Good:
    """Return the last good revision."""
    return replace(Good(generation=generation, hash=content_hash(spec), at=0.0), **changes)


def rollout(**changes: Any) -> Rollout:
    """Return the rollout of generation 2, in its watch since BEGUN."""
    found = Rollout(generation=2, kind="update", boot_id="this", begun=BEGUN, replaced=1)
    return replace(found, **changes)


def run_of(desired: DesiredPod, name: str = "app", **changes: Any) -> Run:
    """Return a run as the desired pod wants it, alive since BEGUN."""
    spec = next(found for found in desired.pod.containers if found.name == name)
    run = Run(
        id=f"{name}-1",
        container=name,
        hash=container_hash(desired.pod, spec),
        settings=settings_hash(spec),
        state=RunState.RUNNING,
        alive_since=BEGUN,
    )
    return replace(run, **changes)


def known(desired: DesiredPod, name: str = "app", **changes: Any) -> ContainerStatus:
    """Return the status of a container that runs as desired."""
    spec = next(found for found in desired.pod.containers if found.name == name)
    found = ContainerStatus(
        hash=container_hash(desired.pod, spec),
        settings=settings_hash(spec),
        instance=f"{name}-1",
        boot_id="this",
        started_at=NOW.wall,
    )
    return replace(found, **changes)


def probed(state: Any = "healthy", since: float | None = None, message: str | None = None) -> Probed:
    """Return the health of a run."""
    return Probed(health=Health(state=state, since=NOW.wall, message=message), steady_since=since)


def watching(desired: DesiredPod | None = None, *, after: float = 0.0, **changes: Any) -> Situation:
    """Return the watch of generation 2, so many seconds after its begin: all of its containers run.

    Other values are those of the status, of what is observed, or of the situation.
    """
    desired = desired or wanted()
    runs = tuple(run_of(desired, found.name) for found in desired.pod.containers)
    status = PodStatus(
        containers={found.name: known(desired, found.name) for found in desired.pod.containers},
        rollout=changes.pop("rollout", rollout()),
        good=changes.pop("good", good()),
    )
    status = replace(status, **_taken(changes, PodStatus))
    observed = replace(Observed(runs=runs, network="used"), **_taken(changes, Observed))
    now = replace(NOW, wall=NOW.wall + after, monotonic=NOW.monotonic + after)
    situation = Situation(desired=desired, status=status, observed=observed, now=now, backoff=BACKOFF)
    return replace(situation, **changes)


def updating(new: DesiredPod | None = None, old: Pod = OLD, **changes: Any) -> Situation:
    """Return the situation before generation 2 begins: all containers of generation 1 run."""
    before = wanted(old, generation=1)
    runs = tuple(run_of(before, found.name, alive_since=0.0) for found in old.containers)
    found = {
        "runs": runs,
        "containers": {found.name: known(before, found.name) for found in old.containers},
        "rollout": rollout(begun=None),
        "good": good(old),
    }
    return watching(new, **{**found, **changes})


def steps(situation: Situation) -> list[Action]:
    """Return what is to be done now."""
    return list(plan(situation).actions)


def _taken(changes: dict[str, Any], kind: type) -> dict[str, Any]:
    names = set(getattr(kind, "__struct_fields__"))  # noqa: B009
    return {name: changes.pop(name) for name in list(changes) if name in names}
