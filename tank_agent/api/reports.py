"""Structs of the status of pods, containers and sources, and of plans. Times are RFC 3339 in UTC."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import force_setattr

from tank_agent.linux.clock import rfc3339


class ClientAnswer(Struct, frozen=True, kw_only=True):
    """An answer in the Python API: its fields are attributes, and can be read by `answer["name"]`, too."""

    def __getitem__(self, name: str) -> Any:
        """Return a field by its name.

        Raises:
            KeyError: there is no such field.
        """
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)


class TimedAnswer(ClientAnswer, frozen=True, kw_only=True):
    """An answer with a Unix time, and a field for the same time in RFC 3339, which fills itself."""

    def __post_init__(self) -> None:
        """Write each time in its other form."""
        for name, of in (("since_time", "since"), ("changed_time", "changed_at"), ("at_time", "at")):
            if name in self.__struct_fields__:
                force_setattr(self, name, rfc3339(getattr(self, of)))


class UsageReport(ClientAnswer, frozen=True, kw_only=True):
    """Resources in use: `memory` in bytes, `cpu` in seconds since the start, `pids` counts threads, too."""

    memory: int
    cpu: float
    pids: int


class ExitReport(ClientAnswer, frozen=True, kw_only=True):
    """The exit of a run; `reason` is a sentence where the numbers do not suffice."""

    code: int | None
    signal: int | None
    oom: bool
    at: str | None
    reason: str | None = None


class ProgressReport(ClientAnswer, frozen=True, kw_only=True):
    """The progress of the pull of a container's image, in bytes of compressed layers."""

    done: int
    total: int


class HealthReport(ClientAnswer, frozen=True, kw_only=True):
    """The health of a container by its probe; `state` is none (no probe), starting, healthy or unhealthy.

    `message` is the text of the last failed probe, `failing` the number of failures in a row.
    """

    state: Literal["none", "starting", "healthy", "unhealthy"] = "none"
    since: str | None = None
    message: str | None = None
    failing: int = 0


class ContainerReport(ClientAnswer, frozen=True, kw_only=True):
    """A container in a pod's status: `exit` is the exit of its last run, `usage` null unless it runs.

    `memory_limit` is in bytes. `last_line` is what it printed last before it ended badly, null for a pod with
    secrets. `digest` is that of its image's manifest; `newer` that of a newer image that its reference names
    by now, and `newer_error` why the last look for one failed.
    """

    name: str
    phase: str
    pid: int | None
    restarts: int
    image: str
    progress: ProgressReport | None = None
    exit: ExitReport | None = None
    usage: UsageReport | None = None
    memory_limit: int | None = None
    health: HealthReport = HealthReport()
    started_at: str | None = None
    digest: str | None = None
    newer: str | None = None
    newer_error: str | None = None
    last_line: str | None = None


class PortReport(ClientAnswer, frozen=True, kw_only=True):
    """Ports of the machine that lead to a pod: `count` of them, from `host` on to those from `pod` on."""

    address: str
    host: int
    pod: int
    protocol: Literal["tcp", "udp"]
    count: int

    def __str__(self) -> str:
        """Return it for people: "127.0.0.1:8080→80/tcp"."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        last = self.count - 1
        host, pod = (f"{first}-{first + last}" if last else str(first) for first in (self.host, self.pod))
        return f"{address}:{host}→{pod}/{self.protocol}"


class PodGitReport(ClientAnswer, frozen=True, kw_only=True):
    """A pod of a git repository; `state` is in-sync, behind, held, error, pinned or suspended."""

    state: str
    error: str | None
    commit: str
    author: str
    subject: str
    file: str


class HoldReport(ClientAnswer, frozen=True, kw_only=True):
    """The reason why a pod does not follow its file; `since` is null if all sources are suspended."""

    kind: str
    since: str | None
    generation: int | None


class RolloutReport(ClientAnswer, frozen=True, kw_only=True):
    """The update of a pod.

    `state` is none, first, updating, good, failed, rolling-back, rolled-back, quarantined or blocked.
    `outcome` is the verdict of the wanted revision: good, failed, superseded, or null before there is one.
    `wanted` and `running` are revisions; `reason` is a sentence on what went wrong.
    """

    state: str
    outcome: str | None
    wanted: str
    running: str
    reason: str | None = None


class JobRunReport(ClientAnswer, frozen=True, kw_only=True):
    """A run of a job; `number` counts them from 1, `due` is when it was asked for.

    `cause` is schedule, catch-up or manual. `outcome` is succeeded, failed, timed-out, or null while it goes
    on, and `reason` a sentence on a failure. `exits` are those of its containers that ended, `generation` is
    the one of the spec that it runs.
    """

    number: int
    cause: str
    due: str | None
    begun: str | None
    ended: str | None = None
    outcome: str | None = None
    reason: str | None = None
    exits: dict[str, ExitReport] = field(default_factory=dict)
    generation: int = 0


class JobReport(ClientAnswer, frozen=True, kw_only=True):
    """A job: its `schedule` in cron's five fields, in `time_zone` ("" is the machine's own).

    `next_run` is null if its time never comes. `run` is the one under way, `runs` are the last ones, oldest
    first, with that one. `asked` is when a person asked for a run that has not begun. `timeout` is in
    seconds.
    """

    schedule: str
    time_zone: str
    next_run: str | None
    run: JobRunReport | None = None
    runs: tuple[JobRunReport, ...] = ()
    catch_up: bool = False
    timeout: float | None = None
    asked: str | None = None


class StartedRun(ClientAnswer, frozen=True, kw_only=True):
    """The answer to `tank run`: the pod, and the number of the run that begins now."""

    pod: str
    number: int


class PodReport(ClientAnswer, frozen=True, kw_only=True):
    """A pod's status (DESIGN section 8).

    `health` is the worst of its containers; `waits` are sentences on what it waits for before it starts.
    `warnings` are about what of the machine keeps others from a pod that runs, each with the line to type.
    `bridges` has the addresses that are the pod's in each of its bridges, `ports` those that lead to it now.
    `job` is null for a pod that is no job. `elsewhere` are lines on the files that declare it for other
    machines only: its phase is then elsewhere, and nothing of it is here. `stopped` is when a person stopped
    it; null if nobody did. `ready`: each of its containers is healthy, has run for a second, or has ended as
    it should.
    """

    name: str
    phase: str
    owner: str = ""
    revision: str = ""
    generation: int = 0
    error: str | None = None
    git: PodGitReport | None = None
    hold: HoldReport | None = None
    next_retry: str | None = None
    addresses: tuple[str, ...] = ()
    bridges: dict[str, tuple[str, ...]] = field(default_factory=dict)
    ports: tuple[PortReport, ...] = ()
    warnings: tuple[str, ...] = ()
    usage: UsageReport | None = None
    containers: tuple[ContainerReport, ...] = ()
    health: str = "none"
    rollout: RolloutReport | None = None
    waits: tuple[str, ...] = ()
    job: JobReport | None = None
    elsewhere: tuple[str, ...] = ()
    stopped: str | None = None
    ready: bool = False


class WantedReport(ClientAnswer, frozen=True, kw_only=True):
    """A field that is wanted otherwise than it runs, and the line where that is written (0: not known).

    Values of variables and headers are not shown: `old` and `new` are then "set" or "none".
    """

    key: str
    old: str
    new: str
    effect: str
    file: str = ""
    line: int = 0


class ChangeReport(ClientAnswer, frozen=True, kw_only=True):
    """A change of a pod's spec: its cause, and the outcome of its update (null before there is one).

    `by` is the user who asked for it by a verb, or empty.
    """

    generation: int
    at: str | None
    revision: str
    cause: str
    outcome: str | None = None
    reason: str | None = None
    proof: str = ""
    by: str = ""


class HappenedReport(ClientAnswer, frozen=True, kw_only=True):
    """Something that happened to a pod; `by` is the user who asked for it, or empty."""

    at: str
    container: str
    type: str
    message: str
    by: str = ""


class WhyReport(ClientAnswer, frozen=True, kw_only=True):
    """The reason that a pod is as it is; `summary` says it in one sentence, `unblock` what would change it.

    `status` is null for a pod that is not here. `file` and `line` are where it is declared, `commit` is the
    revision that is wanted there. `wanted` are the fields that differ from what runs, `changes` and `events`
    the last ones, oldest first. `log` has the last lines of container `log_of`. `elsewhere` says why a pod is
    for other machines.
    """

    name: str
    summary: str
    status: PodReport | None = None
    file: str = ""
    line: int = 0
    commit: str = ""
    wanted: tuple[WantedReport, ...] = ()
    changes: tuple[ChangeReport, ...] = ()
    events: tuple[HappenedReport, ...] = ()
    log_of: str = ""
    log: tuple[str, ...] = ()
    unblock: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


class DirectoryReport(ClientAnswer, frozen=True, kw_only=True):
    """A directory of pod files or seeds; `error` is about the directory as a whole."""

    path: str
    error: str | None = None


class CommitReport(ClientAnswer, frozen=True, kw_only=True):
    """A commit; `at` is its committer's time."""

    id: str
    author: str
    subject: str
    at: str | None


class StepReport(ClientAnswer, frozen=True, kw_only=True):
    """A step of git: the revision that it last finished, the error since then, and when either changed."""

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: str | None = None


class StepReports(ClientAnswer, frozen=True, kw_only=True):
    """The steps of git in their order."""

    fetched: StepReport
    verified: StepReport
    checked: StepReport
    applied: StepReport


class CommitStatusReport(ClientAnswer, frozen=True, kw_only=True):
    """The status that the forge of `project` has from this machine, under the name `context`.

    `state` of `commit` is pending, success or failure, and `at` when the forge took it; null before one is
    written. `error` is why the last try failed, and `hint` what to do.
    """

    context: str
    project: str
    commit: str | None = None
    state: str | None = None
    at: str | None = None
    error: str | None = None
    hint: str | None = None


class GitReport(ClientAnswer, frozen=True, kw_only=True):
    """The git repository; `state` is one of a pod's states, or "pending" before the first poll.

    `commit` is applied, `latest` fetched; `held` is why the latter must be confirmed; `pods` is the number of
    pods that the repository owns, and `unusable` that of its files with errors. Without [git] in agent.toml,
    only `state`, `error` and `pods` are set. `status` is null without [git.status].
    """

    state: str
    remote: str = ""
    ref: str = ""
    error: str | None = None
    hint: str | None = None
    held: str | None = None
    commit: CommitReport | None = None
    latest: CommitReport | None = None
    looked_at: str | None = None
    steps: StepReports | None = None
    troubles: tuple[str, ...] = ()
    status: CommitStatusReport | None = None
    pods: int = 0
    unusable: int = 0


class ElsewherePod(ClientAnswer, frozen=True, kw_only=True):
    """A pod that a file declares for other machines; `why` says which selector does not match this one."""

    name: str
    file: str
    line: int
    why: str
    warning: str | None = None


class ElsewhereReport(ClientAnswer, frozen=True, kw_only=True):
    """The pods that files declare for other machines than `host`, which is this one.

    `by` counts them by the selectors that do not match: hosts, labels, or "hosts and labels". `pods` are all
    of them if they are few, else none; `tank status -a` has them all.
    """

    host: str = ""
    count: int = 0
    by: dict[str, int] = field(default_factory=dict)
    pods: tuple[ElsewherePod, ...] = ()


class WebReport(ClientAnswer, frozen=True, kw_only=True):
    """The door of [web]: the address, and while the agent can't listen there, why, and what to do."""

    listen: str
    error: str | None = None
    hint: str | None = None


class SourcesReport(ClientAnswer, frozen=True, kw_only=True):
    """The sources; `git` is null if there is no repository.

    `unusable` is the number of files with errors, or whose pod another source has. `overlooked` are the first
    files that look like pod files and are none, such as web.yaml, and `overlooked_count` is the number of all
    of them. `untold` are sentences on notifications that do not arrive. `web` is null without [web].
    """

    suspended: bool
    directories: tuple[DirectoryReport, ...] = ()
    git: GitReport | None = None
    elsewhere: ElsewhereReport = ElsewhereReport()
    overlooked: tuple[str, ...] = ()
    overlooked_count: int = 0
    unusable: int = 0
    untold: tuple[str, ...] = ()
    web: WebReport | None = None


class Deleted(Struct, frozen=True):
    """The answer to a deletion; `deleted` is False if there was nothing of that name."""

    deleted: bool


class PlannedPod(ClientAnswer, frozen=True, kw_only=True):
    """One pod of a plan; `change` is "create", "update", "remove" or "none".

    `actions` are sentences in the order of work, `diff` lines "key: old → new (effect)". `notes` are
    sentences on what it takes of the machine, and on what it will have to wait for, or why it goes away.
    `proof` is a hash over the change, which the history shows once it is done; empty without a change.
    """

    name: str
    change: str
    actions: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    proof: str = ""


class PlanReport(ClientAnswer, frozen=True, kw_only=True):
    """The answer to `tank plan`; `problems` are the `file:line: …` lines of files that can't be used.

    `proof` is a hash over the proofs of all pods; empty if nothing changes. `elsewhere` are `file:line: …`
    lines on pods for other machines, and `overlooked` are files that look like pod files and are none.
    """

    pods: tuple[PlannedPod, ...]
    problems: tuple[str, ...] = ()
    proof: str = ""
    elsewhere: tuple[str, ...] = ()
    overlooked: tuple[str, ...] = ()


class NotifyReceiver(ClientAnswer, frozen=True, kw_only=True):
    """One who is told: `waiting` messages have not reached it, `error` is why the last try failed.

    `since` is when the tries began to fail; null if it works.
    """

    name: str
    waiting: int = 0
    error: str = ""
    since: str | None = None


class NotifyReport(ClientAnswer, frozen=True, kw_only=True):
    """The notifications; `on` is false without `[notify]`.

    `problems` are sentences on what is wrong with its files. `held` notifications wait for their pause.
    """

    on: bool
    receivers: tuple[NotifyReceiver, ...] = ()
    problems: tuple[str, ...] = ()
    held: int = 0


class TestedReceiver(ClientAnswer, frozen=True, kw_only=True):
    """The answer of one receiver to a test; `error` is empty if it took the message."""

    # Not a test of pytest's.
    __test__ = False

    name: str
    error: str = ""
