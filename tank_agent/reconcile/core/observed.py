"""The input of `plan`: the desired pod, its status in the journal, and the state of the machine."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.image.config import PullProgress
from tank_agent.journal.records import DesiredPod, PodStatus
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.retry import Failure
from tank_agent.runtime.run import LiveRun, RunFacts, RunRecord, RunState


class Moment(Struct, frozen=True, kw_only=True):
    """The present: `wall` is Unix time, `monotonic` the clock of this boot's deadlines, both in seconds."""

    wall: float
    monotonic: float
    boot_id: str


class PendingChange(Failure, frozen=True, kw_only=True):
    """A difference to correct while containers run, and how the last try failed."""

    reason: str


# msgspec freezes what is inherited, too, which mypy does not know.
class Run(RunFacts, frozen=True, kw_only=True):  # type: ignore[misc]
    """One observed run of a container; `settings` is the hash of the fields that can change while it runs."""

    id: str
    container: str
    hash: str
    state: RunState
    image: str = ""
    settings: str = ""

    @staticmethod
    def of(live: LiveRun) -> Run:
        """Return a frozen copy of a run; each field is one of the run, or of its record."""
        record = RunRecord.__struct_fields__
        return Run(
            **{name: getattr(live.record if name in record else live, name) for name in Run.__struct_fields__}
        )


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


class Observed(Struct, frozen=True, kw_only=True):
    """One pod as it is on the machine. `images` is by container, for those that are `plan.missing`.

    `network_change` is set if the network, or a file about it, is not as the pod declares it.
    """

    runs: tuple[Run, ...] = ()
    network: NetworkUse = "absent"
    network_change: PendingChange | None = None
    images: Mapping[str, ObservedImage] = msgspec.field(default_factory=dict)


class Situation(Struct, frozen=True, kw_only=True):
    """All that the decisions for one pod depend on.

    `desired` is None for a pod that should be gone; `status` is its status in the journal, if it is
    `remembered` there. `unclaimed`: it runs, but was never in the journal, so nobody asked for its end.
    `cut_short`: it runs only once, and is stopped although desired, as all pods are at a shutdown.
    `troubles` are only for display: the plan does not depend on them.
    """

    desired: DesiredPod | None
    status: PodStatus
    observed: Observed
    now: Moment
    backoff: Backoff
    remembered: bool = True
    unclaimed: bool = False
    cut_short: bool = False
    troubles: tuple[Failure, ...] = ()

    def seeing(self, **changes: Any) -> Situation:
        """Return the situation with other values of `Observed`."""
        return replace(self, observed=replace(self.observed, **changes))
