"""Records of the journal. All times are Unix timestamps in seconds (UTC), since they outlive a boot."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.spec.model import Pod, Port

# In the event of an update that failed and does not stay; notifications wait for what comes of it.
GOING_BACK = "going back to generation"


class Hold(Struct, frozen=True, kw_only=True):
    """The reason that a pod does not follow its file for now.

    `pinned`: it runs the older spec of `generation` (0: of a commit that never ran here), until its file
    declares another spec than the one whose hash is `declared`. `quarantined`: the same after an update that
    failed; `failed` is its generation. `suspended`: it ignores its file.
    """

    kind: Literal["pinned", "quarantined", "suspended"]
    since: float
    generation: int = 0
    declared: str = ""
    failed: int = 0


class DesiredPod(Struct, frozen=True, kw_only=True):
    """A pod that should run.

    `hash` is `content_hash(pod)`; `generation` counts its changes from 1; `revision` is the source's name for
    it. `file` is where a person edits it (empty for the API). `error` is what is wrong with the *newer* text
    of its file, whose last good spec this is; or with the file that declares the same name elsewhere.
    `author` and `subject` are of the commit that `revision` names, for pods of git. `images` are the digests
    that containers must run; the others run those of their references.
    """

    name: str
    pod: Pod
    owner: str
    revision: str
    generation: int
    hash: str
    changed_at: float
    file: str = ""
    error: str | None = None
    author: str = ""
    subject: str = ""
    hold: Hold | None = None
    images: dict[str, str] = msgspec.field(default_factory=dict)


Outcome = Literal["good", "failed", "superseded"]


class Verdict(Struct, frozen=True, kw_only=True):
    """The end of the rollout of a revision; `images` are the digests that its containers ran.

    `reason` is a sentence. `proof` is the hash of the steps that the rollout took, as `tank plan` prints it.
    """

    outcome: Outcome
    at: float
    reason: str = ""
    images: dict[str, str] = msgspec.field(default_factory=dict)
    proof: str = ""


class Revision(Struct, frozen=True, kw_only=True):
    """A past (or the present) spec of a pod; `restored` is the generation that a rollback repeated.

    `verdict` is None before its rollout ends. `images` are as in `DesiredPod`. `before` is the hash of the
    spec that it took the place of; empty if there was none. `by` is the user who asked for it by a verb;
    empty if files, git or the agent did.
    """

    generation: int
    pod: Pod
    owner: str
    revision: str
    hash: str
    changed_at: float
    author: str = ""
    subject: str = ""
    restored: int | None = None
    images: dict[str, str] = msgspec.field(default_factory=dict)
    verdict: Verdict | None = None
    before: str = ""
    by: str = ""

    @property
    def outcome(self) -> Outcome | None:
        """Return the outcome of its rollout; None before that ends."""
        return self.verdict.outcome if self.verdict is not None else None

    @property
    def ran(self) -> dict[str, str]:
        """Return the digests that its containers ran, as far as they are known."""
        return self.verdict.images if self.verdict is not None and self.verdict.images else self.images

    def in_place_of(self, desired: DesiredPod, images: dict[str, str]) -> DesiredPod:
        """Return a pod as it is while this revision, with these digests, runs in place of the newest."""
        return replace(
            desired,
            pod=self.pod,
            generation=self.generation,
            hash=self.hash,
            revision=self.revision,
            images=images,
        )


class Exit(Struct, frozen=True, kw_only=True):
    """The end of a run of a container.

    `code` is None if a signal ended the run or the code is unknown; `signal` is the signal's number.
    `reason` is a sentence where the numbers are not enough (could not be started, lost at a power cut).
    `unhealthy`: it was stopped because its probe failed.
    """

    at: float
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    reason: str | None = None
    unhealthy: bool = False

    @property
    def clean(self) -> bool:
        """Return whether the run ended by itself with exit code 0."""
        return self.code == 0 and self.signal is None and not self.unhealthy


class Health(Struct, frozen=True, kw_only=True):
    """The health of a run by its probe, since the Unix time `since`.

    `message` is the text of the last failed probe, `failing` the number of failures in a row.
    """

    state: Literal["starting", "healthy", "unhealthy"]
    since: float
    message: str | None = None
    failing: int = 0


class Good(Struct, frozen=True, kw_only=True):
    """The last good revision of a pod: its generation, the hash of its spec, and the digests that it ran.

    `snapshots` are those of its volumes (by name), taken as an update replaced it; empty while it runs.
    """

    generation: int
    hash: str
    at: float
    images: dict[str, str] = msgspec.field(default_factory=dict)
    snapshots: dict[str, str] = msgspec.field(default_factory=dict)


class Bad(Struct, frozen=True, kw_only=True):
    """A spec that failed as an update: its hash, and the digests that it ran.

    `attempts` counts its failures that were less than a day apart.
    """

    hash: str
    generation: int
    revision: str
    at: float
    reason: str
    images: dict[str, str] = msgspec.field(default_factory=dict)
    attempts: int = 1


class Rollout(Struct, frozen=True, kw_only=True):
    """The way of one generation to its verdict, `outcome`, whose reason is a sentence.

    `begun` is its first start, on the monotonic clock of the boot `boot_id` in seconds; None before that.
    `boots` counts the boots that ended without a shutdown since, `clean` is set by a shutdown. `ends` counts
    the ends of its containers. `replaced` is the generation that ran before it. `restore` are the snapshots
    (by volume) that must be put back before it starts. `steps` are those that it took, for its proof. A
    failed rollout goes on: its outcome is good once it proves healthy.
    """

    generation: int
    kind: Literal["first", "update", "rollback"]
    boot_id: str
    begun: float | None = None
    boots: int = 0
    clean: bool = False
    ends: int = 0
    replaced: int = 0
    restore: dict[str, str] = msgspec.field(default_factory=dict)
    steps: tuple[str, ...] = ()
    outcome: Outcome | None = None
    reason: str = ""


class Blocked(Struct, frozen=True, kw_only=True):
    """The reason that an update to a generation cannot begin, while the last good revision goes on.

    `retry_at` is the Unix time of the next try, `count` the number of tries.
    """

    generation: int
    error: str
    retry_at: float
    count: int = 1


RunCause = Literal["schedule", "catch-up", "manual"]


class JobRun(Struct, frozen=True, kw_only=True):
    """One run of a job; `number` counts them from 1, for the life of the pod. Times are Unix times.

    `due` is when its schedule asked for it (or when a person did). `outcome` is None while it goes on, and
    `reason` a sentence on a failure; with an outcome, but not `ended`, it is being stopped. `exits` are those
    of its containers that ended. `generation` is that of the spec that it runs. `clock` is when it began on
    the monotonic clock of the boot `boot_id`, in seconds.
    """

    number: int
    cause: RunCause
    due: float
    begun: float
    ended: float | None = None
    outcome: Literal["succeeded", "failed", "timed-out"] | None = None
    reason: str = ""
    exits: dict[str, Exit] = msgspec.field(default_factory=dict)
    generation: int = 0
    boot_id: str = ""
    clock: float = 0.0


class JobStatus(Struct, frozen=True, kw_only=True):
    """The runs of a job: the last ones, oldest first, and when the next is due (Unix time).

    `schedule` is the hash of the `Schedule` that `next_due` is of: its first time after `since` (Unix time);
    None if there is none. `asked` is when a person asked for a run that has not begun. `fetched` is the
    generation whose images are here. `succeeded` is when a run last succeeded (Unix time).
    """

    schedule: str = ""
    next_due: float | None = None
    runs: tuple[JobRun, ...] = ()
    asked: float | None = None
    since: float = 0.0
    fetched: int = 0
    succeeded: float | None = None

    @property
    def current(self) -> JobRun | None:
        """Return the run that is under way."""
        return self.runs[-1] if self.runs and self.runs[-1].ended is None else None

    @property
    def last(self) -> JobRun | None:
        """Return the last run that ended."""
        return next((run for run in reversed(self.runs) if run.ended is not None), None)


class ContainerStatus(Struct, frozen=True, kw_only=True):
    """The facts of a container that outlive the agent and the machine's boot.

    `hash` is of the container's own part of the spec, which these counts belong to; `settings` is the hash of
    the live-changeable fields, and `network` the hash of the pod's network at the last exit (or "").
    `restarts` counts all starts after the first; `failures` counts ends since the last stable run
    (back-off's n). `instance` is the id of the run that was started last, `boot_id` the boot it belongs
    to; both are empty once its end was recorded. `retry_at` is the earliest next start. A container that
    starts no more is not marked: that follows from `exit` and the pod's restart policy, which can change.
    `health` is that of the last run, `digest` that of its image, `ended_boot` the boot in which it ended.
    """

    hash: str
    restarts: int = 0
    failures: int = 0
    instance: str = ""
    boot_id: str = ""
    started_at: float | None = None
    retry_at: float | None = None
    exit: Exit | None = None
    settings: str = ""
    network: str = ""
    error: str | None = None
    health: Health | None = None
    digest: str = ""
    ended_boot: str = ""


class PodStatus(Struct, frozen=True, kw_only=True):
    """The facts of a pod that outlive the agent; `error` is the failure of a step of an older agent.

    `leases` are its addresses with prefix in each of its bridges, in their order; `ports` are the machine's
    that are reserved for it, `aliases` its further names, each with its place in the order in which all were
    named. `released` is the boot in which the pods that it starts after were ready.
    `rollout` is the one under way or the last one, `good` the revision that a failed update goes back to.
    `job` are the runs of a pod that is one. `stopped` is when a person stopped the pod (Unix time): nothing
    of it runs until it is started. `replacing` are the ids of runs that are to end because a person asked
    for fresh ones; each is an `instance` of a container, and goes with its end.
    """

    containers: dict[str, ContainerStatus] = msgspec.field(default_factory=dict)
    error: str | None = None
    leases: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    aliases: dict[str, int] = msgspec.field(default_factory=dict)
    released: str = ""
    rollout: Rollout | None = None
    good: Good | None = None
    bad: tuple[Bad, ...] = ()
    blocked: Blocked | None = None
    job: JobStatus | None = None
    stopped: float | None = None
    replacing: tuple[str, ...] = ()

    def without_ended(self) -> PodStatus:
        """Return it without runs in `replacing` that have ended."""
        if not self.replacing:
            return self
        instances = {known.instance for known in self.containers.values()}
        return replace(self, replacing=tuple(run for run in self.replacing if run in instances))


class NewEvent(Struct, frozen=True, kw_only=True):
    """Something that happened; `container` is empty for the whole pod, `pod` for no single one.

    `by` is the user who asked for it; empty if nobody did.
    """

    pod: str
    type: str
    message: str
    container: str = ""
    revision: str = ""
    cause: str = ""
    by: str = ""


class Event(NewEvent, frozen=True, kw_only=True):
    """An event with its number in the journal and its time, in the form of RFC 3339 in UTC."""

    seq: int
    at: str
