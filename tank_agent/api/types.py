"""The calls of the API, and the structs of their answers; those of a status are in `reports`.

The JSON of these structs is what `-o json` prints: fields may be added, never renamed. Times are RFC 3339 in
UTC unless a docstring names another form. The server's routes and the client's methods follow from the calls.
"""

# The bodies of `Calls` are never run.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from typing import Any, Literal, TypeVar

from msgspec import Struct, convert

from tank_agent.api.call import Call, asks
from tank_agent.api.reports import ClientAnswer, PodReport, SourcesReport
from tank_agent.errors import Problem
from tank_agent.spec.model import Pod

_T = TypeVar("_T")

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


class ListedHold(ClientAnswer, frozen=True, kw_only=True):
    """Why a pod does not follow its file; `since` is Unix time, `declared` the hash of what the file says."""

    kind: Literal["pinned", "suspended"]
    since: float
    generation: int = 0
    declared: str = ""


class ListedPod(ClientAnswer, frozen=True, kw_only=True):
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


class ListedRevision(ClientAnswer, frozen=True, kw_only=True):
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


class ListedEvent(ClientAnswer, frozen=True, kw_only=True):
    """A line of `tank events -o json`; `container` is empty where the whole pod is meant."""

    seq: int
    at: str
    pod: str
    container: str
    type: str
    message: str
    revision: str
    cause: str


class AppliedPod(ClientAnswer, frozen=True, kw_only=True):
    """What `tank apply` did with one pod: `change` is "created", "changed" or "unchanged"."""

    name: str
    change: str
    generation: int


class PlannedPod(ClientAnswer, frozen=True, kw_only=True):
    """What would be done for one pod: `change` is "create", "update", "remove" or "none".

    `actions` are sentences in the order of work, `diff` lines "key: old → new (effect)".
    """

    name: str
    change: str
    actions: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


class PlanReport(ClientAnswer, frozen=True, kw_only=True):
    """The answer to `tank plan`. `problems` are the `file:line: …` lines of files that can't be used."""

    pods: tuple[PlannedPod, ...]
    problems: tuple[str, ...] = ()


class PlanRequest(Struct, frozen=True):
    """The body of a plan request: absolute path → text, or a commit of git; neither: what is pending now."""

    files: dict[str, str] | None = None
    git: str | None = None


class ManagedVolume(ClientAnswer, frozen=True, kw_only=True):
    """A managed volume. `in_use`: its pod is desired with it, or runs."""

    pod: str
    name: str
    path: str
    in_use: bool


class ListedImage(ClientAnswer, frozen=True, kw_only=True):
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


class RemovedImages(ClientAnswer, frozen=True, kw_only=True):
    """What was removed: names, or digests of images without one, and the bytes that their layers had."""

    removed: tuple[str, ...] = ()
    freed: int = 0


class PulledLayer(ClientAnswer, frozen=True, kw_only=True):
    """How far one layer is; `digest` is that of the compressed layer."""

    digest: str
    done: int
    total: int
    state: Literal["waiting", "downloading", "unpacking", "done", "cached"] = "waiting"


class PullReport(ClientAnswer, frozen=True, kw_only=True):
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


class AgentInfo(ClientAnswer, frozen=True, kw_only=True):
    """Which agent it is; `uptime` is in seconds, `crun` and `conmon` are their versions."""

    version: str
    pid: int
    uptime: float
    data_dir: str
    run_dir: str
    pods_dir: str
    crun: str = ""
    conmon: str = ""


class Calls:
    """The verbs that take no more than names; `Client` has the others as well."""

    @asks("GET /v1/info", AgentInfo)
    def info(self) -> AgentInfo:
        """Return the agent's version, pid, uptime, directories, and its tools' versions."""

    @asks("GET /v1/pods/{name}", ListedPod)
    def get(self, name: str) -> ListedPod:
        """Return one desired pod, or raise PodNotFound."""

    @asks("GET /v1/pods/{name}/history", list[ListedRevision])
    def history(self, name: str) -> list[ListedRevision]:
        """Return the kept revisions of a pod, oldest first; raises PodNotFound if there never was one."""

    @asks("GET /v1/sources", SourcesReport, "sources.report")
    def sources(self) -> SourcesReport:
        """Return how far files and git are."""

    @asks("GET /v1/images", list[ListedImage], "images.list")
    def images(self) -> list[ListedImage]:
        """Return every image on the agent's machine, by name; those without a name come last."""

    @asks("POST /v1/images/prune", RemovedImages, "images.prune", patience=REMOVED_WITHIN)
    def prune_images(self) -> RemovedImages:
        """Remove every image that no pod runs, is to run, or ran before its last change."""

    @asks("GET /v1/volumes", list[ManagedVolume])
    def volumes(self) -> list[ManagedVolume]:
        """Return every managed volume, in the order of pods and names."""

    @asks("GET /v1/pods", list[ListedPod])
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
