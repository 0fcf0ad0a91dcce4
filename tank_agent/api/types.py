"""The calls of the API, and the structs of their answers; those of a status are in `reports`,
those of images and volumes in `storage`.

The JSON of these structs is what `-o json` prints: fields may be added, never renamed. Times are RFC 3339 in
UTC unless a docstring names another form. The server's routes and the client's methods follow from the calls.
"""

# The bodies of `Calls` are never run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from msgspec import Struct, convert, field

from tank_agent.api.frames import PROTOCOL
from tank_agent.api.reports import (
    ClientAnswer,
    Deleted,
    NotifyReport,
    PlanReport,
    PodReport,
    PortReport,
    SourcesReport,
    StartedRun,
    TestedReceiver,
    TimedAnswer,
    WhyReport,
)
from tank_agent.api.storage import (
    ImageUpdate,
    ListedImage,
    ListedSnapshot,
    ManagedVolume,
    PullReport,
    RemovedImages,
    RemovedVolume,
    RestoredVolume,
)
from tank_agent.errors import Problem
from tank_agent.spec.beside import Sent
from tank_agent.spec.model import Pod

_T = TypeVar("_T")
_P = ParamSpec("_P")

# Phases of a pod (DESIGN section 6), and the word by which `wait` means a pod of which nothing is left.
PHASES = (
    "pending", "pulling", "starting", "running", "backing-off", "stopping", "stopped", "scheduled",
    "completed", "failed", "degraded", "elsewhere",
)  # fmt: skip
DELETED = "deleted"
# What `wait` knows beside phases: a pod all of whose containers are ready.
READY = "ready"

# Bytes of one pod file, and of all the files of one plan.
MAX_POD_FILE = 1 << 20
MAX_PLAN = 32 << 20
# Bytes of a pod file with the files beside it, in JSON.
MAX_APPLY = 20 << 20
# Bytes of a command with its variables; the kernel accepts 2 MiB (execve(2)).
MAX_COMMAND = 4 << 20
# The most seconds of one `wait` request; a longer wait is several requests.
WAIT_SLICE = 30.0
# The most seconds that one `sync` request waits for the pods to settle.
MAX_SYNC_WAIT = 600.0
# Seconds that deleting the files of large layers and volumes may take.
REMOVED_WITHIN = 600.0
# Seconds that copying a volume may take.
COPIED_WITHIN = 12 * 3600.0
# Seconds that the agent gives its sources, files and git, to look again.
SOURCES_WITHIN = 60.0


def shown(record: object, kind: type[_T]) -> _T:
    """Return a record of the agent as the struct of this module that has some or all of its fields."""
    return convert(record, kind, from_attributes=True)


class ListedHold(TimedAnswer, frozen=True, kw_only=True):
    """A pod's reason not to follow its file; `declared` is the hash of the file's pod.

    `since` is Unix time, and `since_time` the same in RFC 3339.
    """

    kind: Literal["pinned", "quarantined", "suspended"]
    since: float
    generation: int = 0
    declared: str = ""
    since_time: str = ""


class ListedPod(TimedAnswer, frozen=True, kw_only=True):
    """A pod that should run, as `tank list` shows it.

    `generation` counts its changes from 1; `revision` is the source's name for it; `changed_at` is Unix time,
    and `changed_time` the same in RFC 3339. `file` is the file to edit (empty for the API), `error` the
    mistakes of a newer text there. `author` and `subject` are of the commit that `revision` names, for pods
    of git. `ports` are those of its file, each with the address where it is published.
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
    ports: tuple[PortReport, ...] = ()
    changed_time: str = ""


class ListedVerdict(TimedAnswer, frozen=True, kw_only=True):
    """The outcome of a revision; `at` is Unix time, `at_time` the same in RFC 3339, `reason` a sentence.

    `images` are the digests that its containers ran, `proof` is the hash of the steps that it took, as
    `tank plan` prints it.
    """

    outcome: Literal["good", "failed", "superseded"]
    at: float
    reason: str = ""
    images: dict[str, str] = field(default_factory=dict)
    proof: str = ""
    at_time: str = ""


class ListedRevision(TimedAnswer, frozen=True, kw_only=True):
    """A past or the present revision of a pod; `restored` is the generation that a rollback made it from.

    `changed_at` is Unix time, and `changed_time` the same in RFC 3339. `verdict`, and so `outcome`, is null
    before its rollout ends. `images` are the digests that its containers must run. `by` is the user who
    asked for it by a verb, as in `ListedEvent`.
    """

    generation: int
    pod: Pod
    owner: str
    revision: str
    hash: str
    changed_at: float
    author: str = ""
    subject: str = ""
    by: str = ""
    restored: int | None = None
    images: dict[str, str] = field(default_factory=dict)
    outcome: str | None = None
    verdict: ListedVerdict | None = None
    changed_time: str = ""


class ListedEvent(ClientAnswer, frozen=True, kw_only=True):
    """A line of `tank events -o json`; `container` is empty if the event is about the whole pod.

    `by` is the user who asked for it: the name, or number, on the agent's machine; empty if nobody did.
    """

    seq: int
    at: str
    pod: str
    container: str
    type: str
    message: str
    revision: str
    cause: str
    by: str = ""


class AppliedPod(ClientAnswer, frozen=True, kw_only=True):
    """One pod of `tank apply`; `change` is "created", "changed" or "unchanged".

    `stopped`: a person stopped it, so nothing of it runs until it is started.
    """

    name: str
    change: str
    generation: int
    stopped: bool = False


class AskedPod(ClientAnswer, frozen=True, kw_only=True):
    """The answer to a stop, a start or a restart; `change` is what becomes of the pod.

    "stopped", "started", "restarted", or "unchanged" if it was so already. `since` is when it was stopped;
    null if it is not. `containers` are those that get a fresh run. `message` says it in a sentence.
    """

    name: str
    change: str
    message: str
    since: str | None = None
    containers: tuple[str, ...] = ()


class ApplyRequest(Struct, frozen=True):
    """The body of a request to apply a pod file that names files beside it."""

    text: str
    beside: Sent


class PlanRequest(Struct, frozen=True):
    """The body of a plan request: absolute path → text, or a commit of git; neither for the present state.

    `beside` are the files that the texts name, which are all in one directory.
    """

    files: dict[str, str] | None = None
    git: str | None = None
    beside: Sent = Sent()


class ErrorBody(Struct, frozen=True, kw_only=True):
    """An error on the wire; `reason` names its class, so that the client raises what the agent raised."""

    reason: str
    message: str
    where: str | None = None
    hint: str | None = None
    problems: tuple[Problem, ...] = ()


class Envelope(Struct, frozen=True):
    """The answer of a request that failed."""

    error: ErrorBody


class PullLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answer to a pull: its progress, or at last the image or an error."""

    progress: PullReport | None = None
    image: ListedImage | None = None
    error: ErrorBody | None = None


class UpdateLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the answer to an update of images: the progress of a pull, or at last the end."""

    progress: PullReport | None = None
    update: ImageUpdate | None = None
    error: ErrorBody | None = None


class AgentInfo(ClientAnswer, frozen=True, kw_only=True):
    """The agent; `uptime` is in seconds, `crun` and `conmon` are their versions."""

    version: str
    pid: int
    uptime: float
    data_dir: str
    run_dir: str
    pods_dir: str
    crun: str = ""
    conmon: str = ""


class Call(Struct, Generic[_T], frozen=True):
    """A request that the API answers.

    Attributes:
        request: method and path; `{name}` in the path is one segment, which may be empty.
        answer: the type of the answer, or of each of its lines; bytes is no JSON.
        service: the method of the service that takes no more than the names in the path.
        patience: seconds that the agent may take beyond the usual.
        body: the most bytes of the request's body.
        upgrade: the protocol that the caller must ask to upgrade to; empty for plain HTTP.
        access: "member" is root, the agent's own user, and group tank; "owner" is the first two only.
    """

    request: str
    answer: type[_T]
    service: str = ""
    patience: float = 0.0
    body: int = 0
    upgrade: str = ""
    access: Literal["member", "owner"] = "member"

    @property
    def method(self) -> str:
        """Return the method of HTTP."""
        return self.request.partition(" ")[0]

    @property
    def path(self) -> str:
        """Return the path with its placeholders."""
        return self.request.partition(" ")[2]

    @property
    def changes(self) -> bool:
        """Return whether it changes anything or lets the caller in: log and events name the user, as `by`."""
        # Two are no GET, since they take a body or long, and change nothing.
        return (self.method != "GET" or self.upgrade != "") and self not in (PLAN, SYNC)


# The calls that `asks` declared, by the names of their methods.
PLAIN: dict[str, Call[Any]] = {}


def asks(
    request: str, answer: type[_T], service: str = "", *, patience: float = 0.0
) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Make a method of `Calls` ask the agent: its arguments fill the placeholders of the path."""

    def declare(stub: Callable[_P, _T]) -> Callable[_P, _T]:
        name, code = stub.__name__, stub.__code__
        names = code.co_varnames[1 : code.co_argcount]
        call = PLAIN[name] = Call(request, answer, service or name, patience)

        @wraps(stub)
        def ask(client: Calls, *values: str, **named: str) -> _T:
            answer: _T = client.ask(call, dict(zip(names, values, strict=False)) | named)
            return answer

        return ask  # type: ignore[return-value]

    return declare


class Calls:
    """The calls that take no more than names; `Client` sends them, and has the others as well."""

    def ask(self, call: Call[_T], names: Mapping[str, str]) -> _T:
        """Make a call with the names for the placeholders of its path, and return its answer."""
        raise NotImplementedError

    @asks("GET /v1/info", AgentInfo)
    def info(self) -> AgentInfo:
        """Return the agent's version, pid, uptime, directories, and its tools' versions.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("GET /v1/pods/{name}", ListedPod)
    def get(self, name: str) -> ListedPod:
        """Return one desired pod.

        Raises:
            PodNotFound: there is none of that name.
        """

    @asks("GET /v1/pods/{name}/history", list[ListedRevision])
    def history(self, name: str) -> list[ListedRevision]:
        """Return the kept revisions of a pod, oldest first.

        Raises:
            PodNotFound: there never was one of that name.
        """

    @asks("GET /v1/pods/{name}/why", WhyReport, patience=SOURCES_WITHIN)
    def why(self, name: str) -> WhyReport:
        """Return why a pod is as it is, and what would change it.

        Raises:
            PodNotFound: nothing knows one of that name.
        """

    @asks("POST /v1/pods/{name}/run", StartedRun)
    def run(self, name: str) -> StartedRun:
        """Begin a run of a job now.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: it is no job, or a run is under way.
        """

    @asks("POST /v1/pods/{name}/stop", AskedPod, "by_hand.stop")
    def stop(self, name: str) -> AskedPod:
        """Let nothing of a pod run until `start`, over reboots.

        Raises:
            PodNotFound: there is none of that name.
        """

    @asks("POST /v1/pods/{name}/start", AskedPod, "by_hand.start")
    def start(self, name: str) -> AskedPod:
        """Let a stopped pod run again.

        Raises:
            PodNotFound: there is none of that name.
        """

    @asks("POST /v1/pods/{name}/restart", AskedPod, "by_hand.restart")
    def restart(self, name: str) -> AskedPod:
        """Give `POD` or `POD/CONTAINER` a fresh run.

        Raises:
            PodNotFound: there is no such pod or container.
            Stalled: it is a job, or an init container.
        """

    @asks("GET /v1/sources", SourcesReport, "sources.report")
    def sources(self) -> SourcesReport:
        """Return the status of files and git.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("GET /v1/notifications", NotifyReport, "notices.report")
    def notifications(self) -> NotifyReport:
        """Return who is told of what happens here, and whether that works.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("POST /v1/notifications/test", list[TestedReceiver], "notices.test", patience=120.0)
    def test_notifications(self) -> list[TestedReceiver]:
        """Send a test notification to each receiver, and return what each said.

        Raises:
            Stalled: nobody is to be told.
        """

    @asks("GET /v1/images", list[ListedImage], "images.list")
    def images(self) -> list[ListedImage]:
        """Return every image on the agent's machine, by name; those without a name come last.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("POST /v1/images/prune", RemovedImages, "images.prune", patience=REMOVED_WITHIN)
    def prune_images(self) -> RemovedImages:
        """Remove every image that no pod runs, is to run, or ran before its last change.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("GET /v1/volumes", list[ManagedVolume], "storage.list")
    def volumes(self) -> list[ManagedVolume]:
        """Return every managed volume, in the order of pods and names; those that are shared come last.

        Raises:
            AgentUnreachable: nobody answers.
        """

    @asks("GET /v1/pods", list[ListedPod])
    def list_pods(self) -> list[ListedPod]:
        """Return the desired pods in the order of their names.

        Raises:
            AgentUnreachable: nobody answers.
        """


# Each has a method of its own in `Client`; one without a service's method also has a handler in `routes`.
STATUS = Call("GET /v1/status", list[PodReport])
POD_STATUS = Call("GET /v1/pods/{name}/status", PodReport)
APPLY = Call("POST /v1/pods", list[AppliedPod], body=MAX_POD_FILE)
APPLY_WITH_FILES = Call("POST /v1/apply", list[AppliedPod], body=MAX_APPLY)
DELETE = Call("DELETE /v1/pods/{name}", Deleted)
WAIT = Call("GET /v1/pods/{name}/wait", PodReport)
EVENTS = Call("GET /v1/events", ListedEvent)
PLAN = Call("POST /v1/plan", PlanReport, body=MAX_PLAN)
SYNC = Call("POST /v1/sync", list[PodReport], patience=SOURCES_WITHIN)
SUSPEND = Call("POST /v1/suspend", SourcesReport, "sources.suspend")
RESUME = Call("POST /v1/resume", SourcesReport, "sources.resume")
SUSPEND_POD = Call("POST /v1/pods/{name}/suspend", SourcesReport, "sources.suspend")
RESUME_POD = Call("POST /v1/pods/{name}/resume", SourcesReport, "sources.resume")
ROLLBACK = Call("POST /v1/pods/{name}/rollback", ListedRevision, patience=SOURCES_WITHIN)
PULL_IMAGE = Call("POST /v1/images/pull", PullLine)
UPDATE_IMAGES = Call("POST /v1/pods/{name}/images/update", UpdateLine)
REMOVE_IMAGE = Call("DELETE /v1/images", RemovedImages, patience=REMOVED_WITHIN)
REMOVE_VOLUME = Call(
    "DELETE /v1/volumes/{pod}/{name}", RemovedVolume, "storage.remove", patience=REMOVED_WITHIN
)
REMOVE_SHARED_VOLUME = Call(
    "DELETE /v1/volumes-shared/{name}", RemovedVolume, "storage.remove_shared", patience=REMOVED_WITHIN
)
TAKE_SNAPSHOT = Call("POST /v1/volumes/{pod}/{name}/snapshots", ListedSnapshot, patience=COPIED_WITHIN)
RESTORE_VOLUME = Call("POST /v1/volumes/{pod}/{name}/restore", RestoredVolume, patience=COPIED_WITHIN)
EXEC = Call("POST /v1/pods/{name}/exec", bytes, body=MAX_COMMAND, upgrade=PROTOCOL)
READ_FILES = Call("GET /v1/pods/{name}/files", bytes, upgrade=PROTOCOL)
WRITE_FILES = Call("PUT /v1/pods/{name}/files", bytes, upgrade=PROTOCOL)
ATTACH = Call("POST /v1/pods/{name}/attach", bytes, upgrade=PROTOCOL)
LOGS = Call("GET /v1/pods/{name}/logs", bytes)
# Prometheus' text format; the path is the one that it asks for by default.
METRICS = Call("GET /metrics", bytes)
