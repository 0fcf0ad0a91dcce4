"""The input of `plan`: the desired pod, its status in the journal, and the state of the machine."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import Blocked, DesiredPod, Health, PodStatus, Revision
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.retry import Failure
from tank_agent.runtime.run import LiveRun, RunFacts, RunRecord, RunState
from tank_agent.spec.model import PullPolicy


class Moment(Struct, frozen=True, kw_only=True):
    """The present: `wall` is Unix time, `monotonic` the clock of this boot's deadlines, both in seconds."""

    wall: float
    monotonic: float
    boot_id: str


class PendingChange(Failure, frozen=True, kw_only=True):
    """A difference to correct while containers run, and how the last try failed."""

    reason: str


class Probed(Struct, frozen=True, kw_only=True):
    """The health of a run by its probe.

    Every probe succeeded since `steady_since` (monotonic); None while it is not healthy. `restart`: it is
    unhealthy, and to be restarted for that, but not before `hold` (monotonic).
    """

    health: Health
    steady_since: float | None = None
    restart: bool = False
    hold: float | None = None


# msgspec freezes what is inherited, too, which mypy does not know.
class Run(RunFacts, frozen=True, kw_only=True):  # type: ignore[misc]
    """One observed run of a container; `settings` is the hash of the fields that can change while it runs.

    `digest` is that of its image, `after` are the containers that it started after. `probed` is None for a
    run without a probe. `contents` are the digests of its files and secrets, by path. `replaced`: a person
    asked for a fresh run in its place, so its id is in the status.
    """

    id: str
    container: str
    hash: str
    state: RunState
    image: str = ""
    digest: str = ""
    settings: str = ""
    after: tuple[str, ...] = ()
    contents: dict[str, str] = msgspec.field(default_factory=dict)
    probed: Probed | None = None
    replaced: bool = False

    @staticmethod
    def of(live: LiveRun, probed: Probed | None = None, *, replaced: bool = False) -> Run:
        """Return a frozen copy of a run; each field is one of the run, or of its record."""
        facts = zip(_OF_RUN, _facts_of(live), strict=True)
        return Run(**dict(facts), probed=probed, replaced=replaced)

    @property
    def is_alive(self) -> bool:
        """Return whether it runs, and nobody asked for its end."""
        return self.state is RunState.RUNNING and self.stopping is None

    @property
    def goes_on(self) -> bool:
        """Return whether it runs without a probe, and nothing is to be done about it."""
        return (
            self.state is RunState.RUNNING
            and self.stopping is None
            and self.probed is None
            and self.drift is None
            and self.failure is None
            and self.unmounted is None
            and self.undelivered is None
            and not self.out_of_memory
        )


_OF_RECORD = frozenset(RunRecord.__struct_fields__)
_OF_RUN = tuple(name for name in Run.__struct_fields__ if name not in ("probed", "replaced"))
_facts_of = attrgetter(*(f"record.{name}" if name in _OF_RECORD else name for name in _OF_RUN))


class ImageState(enum.StrEnum):
    """The state of a container's image."""

    READY = "ready"
    ABSENT = "absent"
    PULLING = "pulling"
    FAILED = "failed"


class ObservedImage(Struct, frozen=True, kw_only=True):
    """An image that the pod needs.

    FAILED has `retry_at` (monotonic) and `error`, PULLING has `progress`, and the `error` of the last try.
    """

    state: ImageState
    error: str | None = None
    retry_at: float | None = None
    progress: PullProgress | None = None


# "fresh": no container ran in it yet; "used": it must not outlive the containers that ran in it.
NetworkUse = Literal["absent", "fresh", "used"]


CopyKind = Literal["check", "take", "put-back"]


class SnapshotJob(Struct, frozen=True, kw_only=True):
    """A copy of volumes for a generation of a pod, in the background.

    "check" looks whether there is room for snapshots, "take" makes them, with their `ids` by volume, and
    "put-back" makes volumes of them. One that failed is tried again at `retry_at` (monotonic).
    """

    kind: CopyKind
    generation: int
    state: Literal["running", "done", "failed"] = "running"
    error: str = ""
    ids: Mapping[str, str] = msgspec.field(default_factory=dict)
    retry_at: float = 0.0


class Observed(Struct, frozen=True, kw_only=True):
    """One pod as it is on the machine. `images` is by container, for those that are `plan.missing`.

    `network_change` is set if the network, or a file about it, is not as the pod declares it. Where it is
    `network_outdated`, it was made with other sysctls. `copying` is the work on its volumes. `awaited` are
    the pods that it starts after and that are not ready, each with its state in a word. `filling` is, by
    container, which volume is being filled for it, in words.
    """

    runs: tuple[Run, ...] = ()
    network: NetworkUse = "absent"
    network_change: PendingChange | None = None
    network_outdated: bool = False
    images: Mapping[str, ObservedImage] = msgspec.field(default_factory=dict)
    copying: SnapshotJob | None = None
    awaited: Mapping[str, str] = msgspec.field(default_factory=dict)
    filling: Mapping[str, str] = msgspec.field(default_factory=dict)


class Upcoming(Struct, frozen=True, kw_only=True):
    """An update whose images, or whose room for snapshots, are not ready yet; `images` as in `Observed`."""

    desired: DesiredPod
    images: Mapping[str, ObservedImage] = msgspec.field(default_factory=dict)


class Situation(Struct, frozen=True, kw_only=True):
    """All that the decisions for one pod depend on.

    `desired` is None for a pod that should be gone; `status` is its status in the journal. `remembered`: it
    has one there, or files or names that go with it.
    `unclaimed`: it runs, but was never in the journal, so nobody asked for its end.
    `cut_short`: it runs only once, and is stopped although desired, as all pods are at a shutdown.
    `troubles` are only for display: the plan does not depend on them. `former` is the revision that its
    rollout is of, if that is another generation than the desired one. `blocked`: an update that cannot begin,
    so `desired` is what ran before it; so it is while an update is `upcoming`. `held_by` are pods that
    started after it, and must end before it does. `declared` is what the journal has of a job, if a run of it
    goes on with the spec that is `desired`.
    `agent_since` is when this agent began (monotonic), `pull` the policy of containers that have none.
    """

    desired: DesiredPod | None
    status: PodStatus
    observed: Observed
    now: Moment
    backoff: Backoff
    remembered: bool = True
    unclaimed: bool = False
    cut_short: bool = False
    former: Revision | None = None
    blocked: Blocked | None = None
    declared: DesiredPod | None = None
    upcoming: Upcoming | None = None
    held_by: tuple[str, ...] = ()
    agent_since: float = 0.0
    pull: PullPolicy = "missing"
    troubles: tuple[Failure, ...] = ()

    def seeing(self, **changes: Any) -> Situation:
        """Return the situation with other values of `Observed`."""
        return replace(self, observed=replace(self.observed, **changes))

    @property
    def is_stopped(self) -> bool:
        """Return whether a person stopped the pod, so that nothing of it is to run."""
        return self.desired is not None and self.status.stopped is not None

    @property
    def of_update(self) -> Situation:
        """Return the situation with the upcoming update as what is desired, if there is one."""
        if self.upcoming is None:
            return self
        update = replace(self, desired=self.upcoming.desired, upcoming=None)
        return update.seeing(images=self.upcoming.images)
