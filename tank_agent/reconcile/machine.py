"""The parts of the machine that the loop works with, and a turn of work on one pod."""

from __future__ import annotations

from msgspec import Struct, field

from tank_agent.journal.journal import Journal
from tank_agent.journal.records import DesiredPod, NewEvent, PodStatus
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.observed import Run, Situation
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.counters import Counters
from tank_agent.reconcile.fills import Fills
from tank_agent.reconcile.networks import Networks
from tank_agent.reconcile.probes import Probes
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.spec.model import Container, Pod


class Machine(Struct, frozen=True, kw_only=True):
    """The parts that the loop observes and acts on; `since` is when this agent began (monotonic)."""

    journal: Journal
    containers: Containers
    networks: Networks
    pulls: Pulls
    probes: Probes
    snapshots: Snapshots
    fills: Fills
    secrets: Secrets
    clock: Clock
    boot_id: str
    backoff: Backoff
    since: float
    counters: Counters = field(default_factory=Counters)


def runs_now(machine: Machine, pod: str, status: PodStatus) -> tuple[Run, ...]:
    """Return the runs of a pod as the plan sees them."""
    replacing = status.replacing
    return tuple(
        Run.of(
            live,
            machine.probes.observe(live.record.id),
            replaced=bool(replacing) and live.record.id in replacing,
        )
        for live in machine.containers.runs(pod)
    )


class Work(Struct, frozen=True, kw_only=True):
    """A turn of a pod. `cause` is the reason, for logs and events; no `situation`: not looked at yet."""

    name: str
    cause: str
    situation: Situation | None = None

    @property
    def seen(self) -> Situation:
        """Return the situation that the plan is for."""
        assert self.situation is not None
        return self.situation

    @property
    def desired(self) -> DesiredPod | None:
        """Return the desired pod; None for one that should be gone."""
        return self.situation.desired if self.situation is not None else None

    @property
    def wanted(self) -> DesiredPod:
        """Return the desired pod of one that is desired."""
        assert self.desired is not None
        return self.desired

    @property
    def pod(self) -> Pod:
        """Return the spec of a pod that is desired."""
        return self.wanted.pod

    @property
    def revision(self) -> str:
        """Return the source's name for the spec's revision; empty for a pod that should be gone."""
        return self.desired.revision if self.desired is not None else ""

    def container(self, name: str) -> Container:
        """Return the spec of a container of a pod that is desired."""
        return next(found for found in self.pod.containers if found.name == name)

    def event(self, kind: str, message: str, container: str = "") -> NewEvent:
        """Return an event of this pod."""
        about = {"pod": self.name, "container": container, "revision": self.revision, "cause": self.cause}
        return NewEvent(type=kind, message=message, **about)
