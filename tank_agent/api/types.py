"""Everything that travels between the agent and its callers: the calls, and the structs of their answers.

The JSON of these structs is what `-o json` prints: fields may be added, never renamed. Times are RFC 3339 in
UTC unless a docstring names another form. The server's routes and the client's methods follow from the calls.
"""

# The bodies of `Calls` are never run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar

from msgspec import Struct, convert

from tank_agent.errors import Problem
from tank_agent.spec.model import Pod

_T = TypeVar("_T")
_P = ParamSpec("_P")

# Phases of a pod (DESIGN section 6), and what `wait` takes for a pod of which nothing is left.
PHASES = (
    "pending", "pulling", "starting", "running", "backing-off", "stopping", "completed", "failed", "degraded",
)  # fmt: skip
DELETED = "deleted"

# Bytes of one pod file, and of all the files of one plan.
MAX_POD_FILE = 1 << 20
MAX_PLAN = 32 << 20
# Bytes of a command with its variables; the kernel itself takes 2 MiB (execve(2)).
MAX_COMMAND = 4 << 20
# The longest that one `wait` request is held open, in seconds; a longer wait is several requests.
WAIT_SLICE = 30.0
# The longest that one `sync` request waits for the pods to settle, in seconds.
MAX_SYNC_WAIT = 600.0
# Deleting the files of large layers and volumes takes its time, in seconds.
REMOVED_WITHIN = 600.0
# Seconds that the agent gives its sources, files and git, to look again.
SOURCES_WITHIN = 60.0


def shown(record: object, kind: type[_T]) -> _T:
    """Return a record of the agent as the struct of this module that has some or all of its fields."""
    return convert(record, kind, from_attributes=True)


class ListedHold(Struct, frozen=True, kw_only=True):
    """Why a pod does not follow its file; `since` is Unix time, `declared` the hash of what the file says."""

    kind: Literal["pinned", "suspended"]
    since: float
    generation: int = 0
    declared: str = ""


class ListedPod(Struct, frozen=True, kw_only=True):
    """A pod that should run, as `tank list` shows it.

    `generation` counts its changes from 1; `revision` is what the source calls it; `changed_at` is Unix time.
    `file` is where a person edits it (empty for the API), `error` what is wrong with the newer text there.
    `author` and `subject` are of the commit that `revision` names, for pods of git.
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
    hold: ListedHold | None = None


class ListedRevision(Struct, frozen=True, kw_only=True):
    """A past or the present spec of a pod; `restored` is the generation that a rollback restored with it."""

    generation: int
    pod: Pod
    owner: str
    revision: str
    hash: str
    changed_at: float
    author: str = ""
    subject: str = ""
    restored: int | None = None


class ListedEvent(Struct, frozen=True, kw_only=True):
    """A line of `tank events -o json`; `container` is empty where the whole pod is meant."""

    seq: int
    at: str
    pod: str
    container: str
    type: str
    message: str
    revision: str
    cause: str


class UsageReport(Struct, frozen=True, kw_only=True):
    """What is used: `memory` in bytes, `cpu` in seconds since the start, `pids` are processes and threads."""

    memory: int
    cpu: float
    pids: int


class ExitReport(Struct, frozen=True, kw_only=True):
    """How a run ended; `reason` is a sentence where the numbers do not suffice."""

    code: int | None
    signal: int | None
    oom: bool
    at: str | None
    reason: str | None = None


class ProgressReport(Struct, frozen=True, kw_only=True):
    """How far a container's image is, in bytes of compressed layers."""

    done: int
    total: int


class ContainerReport(Struct, frozen=True, kw_only=True):
    """A container in a pod's status; `exit` is that of its last run, `usage` null where nothing runs."""

    name: str
    phase: str
    pid: int | None
    restarts: int
    image: str
    progress: ProgressReport | None = None
    exit: ExitReport | None = None
    usage: UsageReport | None = None


class PodGitReport(Struct, frozen=True, kw_only=True):
    """How a pod stands to its repository: in-sync, behind, held, error, pinned or suspended."""

    state: str
    error: str | None
    commit: str
    author: str
    subject: str
    file: str


class HoldReport(Struct, frozen=True, kw_only=True):
    """Why a pod does not follow its file; `since` is null where everything is suspended."""

    kind: str
    since: str | None
    generation: int | None


class PodReport(Struct, frozen=True, kw_only=True):
    """A pod's status (DESIGN section 8)."""

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
    usage: UsageReport | None = None
    containers: tuple[ContainerReport, ...] = ()


class AppliedPod(Struct, frozen=True, kw_only=True):
    """What `tank apply` did with one pod: `change` is "created", "changed" or "unchanged"."""

    name: str
    change: str
    generation: int


class PlannedPod(Struct, frozen=True, kw_only=True):
    """What would be done for one pod: `change` is "create", "update", "remove" or "none".

    `actions` are sentences in the order of work, `diff` lines "key: old → new (effect)".
    """

    name: str
    change: str
    actions: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


class PlanReport(Struct, frozen=True, kw_only=True):
    """The answer to `tank plan`. `problems` are the `file:line: …` lines of files that can't be used."""

    pods: tuple[PlannedPod, ...]
    problems: tuple[str, ...] = ()


class PlanRequest(Struct, frozen=True):
    """The body of a plan request: absolute path → text, or a commit of git; neither: what is pending now."""

    files: dict[str, str] | None = None
    git: str | None = None


class DirectoryReport(Struct, frozen=True, kw_only=True):
    """A directory of pod files or seeds, with what is wrong with it as a whole."""

    path: str
    error: str | None = None


class CommitReport(Struct, frozen=True, kw_only=True):
    """What people know a commit by; `at` is its committer's time."""

    id: str
    author: str
    subject: str
    at: str | None


class StepReport(Struct, frozen=True, kw_only=True):
    """A step of git: the revision that it last finished, what went wrong since, and when either changed."""

    revision: str | None = None
    error: str | None = None
    hint: str | None = None
    at: str | None = None


class StepReports(Struct, frozen=True, kw_only=True):
    """The steps of git in their order."""

    fetched: StepReport
    verified: StepReport
    checked: StepReport
    applied: StepReport


class GitReport(Struct, frozen=True, kw_only=True):
    """How far the repository is; `state` is that of a pod, or "pending": not looked yet.

    `commit` is applied, `latest` fetched; `held` is why it waits for a nod; `pods` counts those from there.
    Without [git] in agent.toml, all but `state`, `error` and `pods` is empty.
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
    pods: int = 0


class SourcesReport(Struct, frozen=True, kw_only=True):
    """How far the sources are; `git` is null where there is no repository."""

    suspended: bool
    directories: tuple[DirectoryReport, ...] = ()
    git: GitReport | None = None


class ManagedVolume(Struct, frozen=True, kw_only=True):
    """A managed volume. `in_use`: its pod is desired with it, or runs."""

    pod: str
    name: str
    path: str
    in_use: bool


class ListedImage(Struct, frozen=True, kw_only=True):
    """One name of an image, or an image that no name stands for any more (`reference` is then empty).

    `reference` is the full form; `size` is in bytes, unpacked; layers are shared, so sizes don't add up.
    `pods` need the image: they run it, should run it, or did before.
    """

    reference: str
    digest: str
    size: int
    layers: int
    pulled_at: str | None = None
    pods: tuple[str, ...] = ()


class RemovedImages(Struct, frozen=True, kw_only=True):
    """What was removed: names, or digests of images without one, and the bytes that their layers had."""

    removed: tuple[str, ...] = ()
    freed: int = 0


class PulledLayer(Struct, frozen=True, kw_only=True):
    """How far one layer is; `digest` is that of the compressed layer."""

    digest: str
    done: int
    total: int
    state: Literal["waiting", "downloading", "unpacking", "done", "cached"] = "waiting"


class PullReport(Struct, frozen=True, kw_only=True):
    """How far a pull is, in bytes of compressed layers; `trouble` is how the last request failed."""

    done: int
    total: int
    layers: tuple[PulledLayer, ...] = ()
    trouble: str = ""


class ErrorBody(Struct, frozen=True, kw_only=True):
    """An error as it travels; the reason names its class, so that the client raises what the agent raised."""

    reason: str
    message: str
    where: str | None = None
    hint: str | None = None
    problems: tuple[Problem, ...] = ()


class Envelope(Struct, frozen=True):
    """The one shape of every answer that is an error."""

    error: ErrorBody


class PullLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answer to a pull: how far it is, or at last the image, or why there is none."""

    progress: PullReport | None = None
    image: ListedImage | None = None
    error: ErrorBody | None = None


class Deleted(Struct, frozen=True):
    """Whether there was what was to be deleted."""

    deleted: bool


class AgentInfo(Struct, frozen=True, kw_only=True):
    """Which agent it is; `uptime` is in seconds, `crun` and `conmon` are their versions."""

    version: str
    pid: int
    uptime: float
    data_dir: str
    run_dir: str
    pods_dir: str
    crun: str = ""
    conmon: str = ""


class Call(Struct, Generic[_T], frozen=True, kw_only=True):
    """One thing that can be asked: a request, the service's method that answers it, and the answer's struct.

    `{name}` in the path is one segment, and an argument of that method. `patience` is how many seconds the
    agent may take beyond the usual, `body` how many bytes may be sent.
    """

    request: str
    service: str
    answer: type[_T]
    patience: float = 0.0
    body: int = 0
    upgrade: str = ""

    @property
    def method(self) -> str:
        """Return the method of HTTP."""
        return self.request.partition(" ")[0]

    @property
    def path(self) -> str:
        """Return the path with its placeholders."""
        return self.request.partition(" ")[2]


class Asker(Protocol):
    """What sends a request and decodes its answer."""

    def ask(self, call: Call[_T], **arguments: str) -> _T:
        """Return the answer; raises the TankError that the agent raised."""
        ...


# Those of `Calls`, by the names of its methods.
PLAIN: dict[str, Call[Any]] = {}


def _asks(
    request: str, answer: type[_T], service: str = "", *, patience: float = 0.0
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a method without a body ask the agent: its arguments fill the placeholders of the path."""

    def declare(stub: Callable[_P, _T]) -> Callable[_P, _T]:
        name, code = stub.__name__, stub.__code__
        names = code.co_varnames[1 : code.co_argcount]
        call = PLAIN[name] = Call(request=request, service=service or name, answer=answer, patience=patience)

        @wraps(stub)
        def ask(asker: Asker, *values: str, **named: str) -> _T:
            answer: _T = asker.ask(call, **dict(zip(names, values, strict=False)), **named)
            return answer

        return ask  # type: ignore[return-value]

    return declare


class Calls:
    """The verbs that take no more than names; `Client` has the others as well."""

    @_asks("GET /v1/info", AgentInfo)
    def info(self) -> AgentInfo:
        """Return the agent's version, pid, uptime, directories, and its tools' versions."""

    @_asks("GET /v1/pods/{name}", ListedPod)
    def get(self, name: str) -> ListedPod:
        """Return one desired pod, or raise PodNotFound."""

    @_asks("GET /v1/pods/{name}/history", list[ListedRevision])
    def history(self, name: str) -> list[ListedRevision]:
        """Return the kept revisions of a pod, oldest first; raises PodNotFound if there never was one."""

    @_asks("GET /v1/sources", SourcesReport, "sources.report")
    def sources(self) -> SourcesReport:
        """Return how far files and git are."""

    @_asks("GET /v1/images", list[ListedImage], "images.list")
    def images(self) -> list[ListedImage]:
        """Return every image on the agent's machine, by name; those without a name come last."""

    @_asks("POST /v1/images/prune", RemovedImages, "images.prune", patience=REMOVED_WITHIN)
    def prune_images(self) -> RemovedImages:
        """Remove every image that no pod runs, is to run, or ran before its last change."""

    @_asks("GET /v1/volumes", list[ManagedVolume])
    def volumes(self) -> list[ManagedVolume]:
        """Return every managed volume, in the order of pods and names."""

    @_asks("GET /v1/pods", list[ListedPod])
    def list_pods(self) -> list[ListedPod]:
        """Return the desired pods in the order of their names."""


def _call(request: str, service: str, answer: type[_T], **options: Any) -> Call[_T]:
    return Call(request=request, service=service, answer=answer, **options)


# What takes more than names has a handler in `routes`, and a method of its own in `Client`.
STATUS = _call("GET /v1/status", "status", list[PodReport])
POD_STATUS = _call("GET /v1/pods/{name}/status", "status", PodReport)
APPLY = _call("POST /v1/pods", "apply", list[AppliedPod], body=MAX_POD_FILE)
DELETE = _call("DELETE /v1/pods/{name}", "delete", Deleted)
WAIT = _call("GET /v1/pods/{name}/wait", "wait", PodReport)
EVENTS = _call("GET /v1/events", "events", ListedEvent)
PLAN = _call("POST /v1/plan", "plan", PlanReport, body=MAX_PLAN)
SYNC = _call("POST /v1/sync", "sync", list[PodReport], patience=SOURCES_WITHIN)
SUSPEND = _call("POST /v1/suspend", "sources.suspend", SourcesReport)
RESUME = _call("POST /v1/resume", "sources.resume", SourcesReport)
SUSPEND_POD = _call("POST /v1/pods/{name}/suspend", "sources.suspend", SourcesReport)
RESUME_POD = _call("POST /v1/pods/{name}/resume", "sources.resume", SourcesReport)
ROLLBACK = _call(
    "POST /v1/pods/{name}/rollback", "sources.roll_back", ListedRevision, patience=SOURCES_WITHIN
)
PULL_IMAGE = _call("POST /v1/images/pull", "images.pull", PullLine)
REMOVE_IMAGE = _call("DELETE /v1/images", "images.remove", RemovedImages, patience=REMOVED_WITHIN)
REMOVE_VOLUME = _call("DELETE /v1/volumes/{pod}/{name}", "remove_volume", Deleted, patience=REMOVED_WITHIN)
