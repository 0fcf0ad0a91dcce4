"""Input of `plan`: what should be, what is remembered, and what is true on the machine."""

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
    """Now: `wall` is Unix time, `monotonic` the clock that deadlines of this boot are on, both in seconds."""

    wall: float
    monotonic: float
    boot_id: str


class PendingChange(Failure, frozen=True, kw_only=True):
    """A difference that is to be changed under what runs, and how that failed."""

    reason: str


# A copy that nobody changes: msgspec freezes what is inherited, which mypy does not know.
class Run(RunFacts, frozen=True, kw_only=True):  # type: ignore[misc]
    """One run of a container, as it is observed; `settings` is the hash of what can change while it runs."""

    id: str
    container: str
    hash: str
    state: RunState
    image: str = ""
    settings: str = ""

    @staticmethod
    def of(live: LiveRun) -> Run:
        """Return what is observed of a run; each field is one of it, or of its record."""
        record = RunRecord.__struct_fields__
        found = {
            name: getattr(live.record if name in record else live, name) for name in Run.__struct_fields__
        }
        return Run(**found)


class ImageState(enum.StrEnum):
    """Whether a container's image can be run from."""

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


# "fresh": made, and no container ran in it yet; "used": it must not outlive the containers that ran in it.
NetworkUse = Literal["absent", "fresh", "used"]


class Observed(Struct, frozen=True, kw_only=True):
    """Everything of one pod that is there. `images` is by container, of those that are `plan.missing`.

    `network_change` is set where the network, or a file about it, is not as the pod wants it.
    """

    runs: tuple[Run, ...] = ()
    network: NetworkUse = "absent"
    network_change: PendingChange | None = None
    images: Mapping[str, ObservedImage] = msgspec.field(default_factory=dict)


class Situation(Struct, frozen=True, kw_only=True):
    """Everything that is decided from, for one pod.

    `desired` is None for a pod that should be gone, `status` is what the journal remembers of it, if it is
    `remembered` at all. `unclaimed`: it runs, and the journal never knew it, so nobody asked for its end.
    `cut_short`: it runs only once, and is stopped though it is desired, as all pods are at a shutdown.
    `troubles` are only shown: the plan does not know what is held back because of them.
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
