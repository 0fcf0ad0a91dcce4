"""An agent that remembers what it was asked, for the tests of the API, the client and the command line."""

from __future__ import annotations

import ctypes
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from tank_agent.api.reports import (
    DirectoryReport,
    GitReport,
    NotifyReceiver,
    NotifyReport,
    PlannedPod,
    PlanReport,
    PodReport,
    SourcesReport,
    StartedRun,
    TestedReceiver,
    WebReport,
    WhyReport,
)
from tank_agent.api.request import Answer
from tank_agent.api.routes import ROUTES
from tank_agent.api.server import ApiServer
from tank_agent.api.storage import (
    DataPutAside,
    ImageUpdate,
    ListedImage,
    ListedSnapshot,
    ManagedVolume,
    MovedImage,
    PulledLayer,
    PullReport,
    RemovedImages,
    RemovedVolume,
    RestoredVolume,
)
from tank_agent.api.types import (
    METRICS,
    AgentInfo,
    AppliedPod,
    AskedPod,
    ListedEvent,
    ListedPod,
    ListedRevision,
    ListedVerdict,
    PullLine,
    UpdateLine,
)
from tank_agent.control.pods import Service
from tank_agent.errors import (
    ImageInUse,
    InvalidSpec,
    OwnedElsewhere,
    PodNotFound,
    Problem,
    Stalled,
    VolumeInUse,
)
from tank_agent.linux.libc import syscall
from tank_agent.spec.beside import Sent
from tank_agent.spec.model import Container, Pod

T = TypeVar("T")


def make_pod(name: str, image: str = "oci:/srv/busybox") -> Pod:
    return Pod(name=name, containers=(Container(name="app", image=image),))


def desired(name: str, generation: int = 1, owner: str = "api") -> ListedPod:
    return ListedPod(
        name=name,
        pod=make_pod(name),
        owner=owner,
        revision=f"rev{generation}",
        generation=generation,
        hash="0" * 64,
        changed_at=1_780_000_000.0,
    )


# Every verb that prints, with arguments with which it does; test_streams runs each of them.
PRINTING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("list", "status", "events", "suspend", "resume", "plan", "sync"), ()),
    **dict.fromkeys(("schema", "doctor", "version", "metrics"), ()),
    **dict.fromkeys(("get", "wait", "history", "rollback", "why"), ("web",)),
    **{"apply": ("names",), "delete": ("gone",), "validate": ("good.toml",), "git": ("status",)},
    **dict.fromkeys(("image", "volume"), ("ls",)),
    **{"run": ("-d", "web"), "top": ("-1", "--interval", "0.1s")},
    **dict.fromkeys(("stop", "start", "restart"), ("web",)),
    "notify": ("test",),
    **{"secret": ("recipients", "--identity", "key")},
}


SAMPLES = """\
# HELP tank_pod_ready 1 if all containers of a pod are ready.
# TYPE tank_pod_ready gauge
tank_pod_ready{pod="web"} 1
container_threads{pod="web",container="app",image="a\\"b\\\\n\\n,}c"} 2.5
tank_reconcile_duration_seconds_bucket{le="+Inf"} +Inf
"""


class FakeSources:
    """What the API asks about sources; `git` is what it answers."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.suspended = False
        self.git: GitReport | None = None
        self.directory_error: str | None = None
        self.web: Callable[[], WebReport | None] = lambda: None

    def report(self) -> SourcesReport:
        directory = DirectoryReport(path="/etc/tank/pods.d", error=self.directory_error)
        return SourcesReport(suspended=self.suspended, directories=(directory,), git=self.git, web=self.web())

    def suspend(self, name: str | None = None, *, by: str = "") -> SourcesReport:
        self.service.calls.append(("suspend", name))
        self.suspended = name is None
        return self.report()

    def resume(self, name: str | None = None, *, by: str = "") -> SourcesReport:
        self.service.calls.append(("resume", name))
        self.suspended = False
        return self.report()

    def roll_back(self, name: str, to: str | None, *, by: str, **options: bool) -> ListedRevision:
        self.service.calls.append(("rollback", name, to, *(key for key, on in options.items() if on)))
        return self.service.history(name)[0]


class FakeImages:
    """One image, which pod web needs; "bad" can't be pulled."""

    def __init__(self) -> None:
        self.known = ListedImage(
            reference="docker.io/library/nginx:1.27",
            digest=f"sha256:{'a' * 64}",
            size=188_000_000,
            layers=2,
            pulled_at="2026-11-22T06:00:33Z",
            pods=("web",),
        )
        self.calls: list[tuple[str, ...]] = []

    def list(self) -> Sequence[ListedImage]:
        return [self.known]

    def pull(self, reference: str, policy: str, ended: Callable[[], bool], *, by: str) -> Iterator[PullLine]:
        self.calls.append(("pull", reference, policy))
        for done, state in ((0, "waiting"), (60, "downloading"), (100, "done")):
            layer = PulledLayer(digest=f"sha256:{'b' * 64}", done=done, total=100, state=state)  # type: ignore[arg-type]
            cached = PulledLayer(digest=f"sha256:{'c' * 64}", done=50, total=50, state="cached")
            yield PullLine(progress=PullReport(done=done + 50, total=150, layers=(layer, cached)))
            if reference == "bad":
                raise Stalled("no such image", where=reference, hint="check the name")
        yield PullLine(image=self.known)

    def update(
        self, name: str, ended: Callable[[], bool], *, by: str, force: bool = False
    ) -> Iterator[UpdateLine]:
        self.calls.append(("update", name, *(("force",) if force else ())))
        yield UpdateLine(progress=PullReport(done=50, total=100))
        if name == "held":
            raise Stalled("pod held is pinned, so its images stay as they are", hint="`tank resume held`")
        digests = {"before": f"sha256:{'a' * 64}", "after": f"sha256:{'b' * 64}"}
        moved = MovedImage(container="app", image="nginx:1.27", **digests)
        found = (moved,) if name in ("web", "down") else ()
        stopped = name in ("down", "idle")
        yield UpdateLine(update=ImageUpdate(name=name, generation=4, moved=found, stopped=stopped))

    def remove(self, reference: str, *, by: str) -> RemovedImages:
        self.calls.append(("rm", reference))
        if reference == "used":
            raise ImageInUse("the image used is needed: pod web runs it", hint="remove the pod first")
        return RemovedImages(removed=(reference,), freed=1_500_000)

    def prune(self, by: str) -> RemovedImages:
        self.calls.append(("prune",))
        return RemovedImages(removed=("a", "b"), freed=2_500_000_000)


class FakeStorage:
    """A volume of pod web with two snapshots, and one that is gone."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        place = "/var/lib/tank"
        taken = ListedSnapshot(
            id="7",
            at="2026-11-22T06:00:33Z",
            generation=7,
            path=f"{place}/snapshots/web/data/7",
            size=1_500_000,
            in_use=True,
        )
        failed = DataPutAside(
            name="data.failed-7",
            at="2026-11-22T06:00:33Z",
            path=f"{place}/volumes/web/data.failed-7",
            size=1_600_000,
        )
        by_hand = msgspec.structs.replace(taken, id="manual-3", generation=3, by_hand=True, in_use=False)
        self.known = ManagedVolume(
            pod="web",
            name="data",
            path=f"{place}/volumes/web/data",
            in_use=True,
            snapshots=(taken, by_hand),
            put_aside=(failed,),
        )
        self.gone = ManagedVolume(
            pod="web", name="old", path=f"{place}/volumes/web/old", in_use=False, gone=True
        )

    def list(self) -> Sequence[ManagedVolume]:
        shared = ManagedVolume(
            pod="",
            name="media",
            path="/var/lib/tank/volumes-shared/media",
            in_use=True,
            shared=True,
            pods=("backup", "web"),
        )
        return [self.known, self.gone, shared]

    def remove_shared(self, name: str, by: str) -> RemovedVolume:
        if name == "media":
            raise VolumeInUse("shared volume media is in use: pod web has it (api)")
        return RemovedVolume(deleted=True)

    def remove(self, pod: str, name: str, by: str) -> RemovedVolume:
        if (pod, name) == ("web", "data"):
            raise VolumeInUse("volume web/data is in use: pod web has it (api)", hint="remove the pod first")
        return RemovedVolume(deleted=name == "old", snapshots=("5", "6") if name == "old" else ())

    def take(self, pod: str, name: str, ended: Callable[[], bool], *, by: str, force: bool) -> ListedSnapshot:
        self.calls.append(("snapshot", pod, name, force))
        return self.known.snapshots[1]

    def restore(
        self, pod: str, name: str, identifier: str, ended: Callable[[], bool], by: str
    ) -> RestoredVolume:
        self.calls.append(("restore", pod, name, identifier))
        return RestoredVolume(pod=pod, name=name, snapshot=identifier, put_aside=f"{name}.replaced-3")


class FakeNotices:
    """Answers about notifications; the receivers are `tested`."""

    def __init__(self, service: FakeService) -> None:
        self.service = service
        self.tested = [TestedReceiver(name="webhook"), TestedReceiver(name="ntfy (line 1)")]

    def report(self) -> NotifyReport:
        return NotifyReport(on=True, receivers=tuple(NotifyReceiver(name=one.name) for one in self.tested))

    def test(self, by: str) -> list[TestedReceiver]:
        self.service.calls.append(("test", by))
        return self.tested


class FakeService:
    """Takes a text whose every line is a pod's name; a line "bad" is a problem, "owned" is another's."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.pods: dict[str, ListedPod] = {}
        self.statuses: dict[str, PodReport] = {}
        self.log: list[ListedEvent] = []
        self.calls: list[tuple[Any, ...]] = []
        self.report = PlanReport(pods=())
        self.verdicts: dict[int, ListedVerdict] = {}
        self.explained: dict[str, WhyReport] = {}
        self.failure: Exception | None = None
        self.waited = threading.Event()
        self.phase = "running"
        self.images = FakeImages()
        self.storage = FakeStorage()
        self.sources = FakeSources(self)
        self.notices = FakeNotices(self)

    def add(self, name: str, phase: str = "running", owner: str = "api", **fields: Any) -> None:
        with self.condition:
            generation = self.pods[name].generation + 1 if name in self.pods else 1
            self.pods[name] = desired(name, generation, owner)
            container = {
                "name": "app",
                "phase": phase,
                "pid": 4711 if phase == "running" else None,
                "restarts": 2,
                "image": "oci:/srv/busybox",
                "exit": fields.pop("exit", None),
                "progress": fields.pop("progress", None),
            }
            status = {
                "name": name,
                "phase": phase,
                "owner": owner,
                "revision": f"rev{generation}",
                "generation": generation,
                "containers": [container],
            } | fields
            self.statuses[name] = msgspec.convert(status, PodReport)
            self.condition.notify_all()

    def say(self, pod: str, message: str = "it began", type: str = "started", by: str = "") -> None:
        with self.condition:
            seq = len(self.log) + 1
            self.log.append(
                ListedEvent(
                    seq=seq,
                    at="2026-11-22T06:00:33Z",
                    pod=pod,
                    container="app",
                    type=type,
                    message=message,
                    revision="rev1",
                    cause="apply",
                    by=by,
                )
            )
            self.condition.notify_all()

    def list_pods(self) -> Sequence[ListedPod]:
        if self.failure:
            raise self.failure
        return [self.pods[name] for name in sorted(self.pods)]

    def get(self, name: str) -> ListedPod:
        if name not in self.pods:
            raise PodNotFound(f"there is no pod {name}", hint="see `tank list`")
        return self.pods[name]

    def apply(self, text: str, file: str, beside: object = None, *, by: str = "") -> Sequence[AppliedPod]:
        self.calls.append(("apply", text, file) if beside is None else ("apply", text, file, beside))
        problems = []
        for number, line in enumerate(text.splitlines(), 1):
            if line == "bad":
                problems.append(
                    Problem(file, number, "containers[0].image", "is empty; give an image", "web")
                )
            if line == "owned":
                raise OwnedElsewhere(
                    "web is owned by a file", where="/etc/tank/pods.d/web.toml", hint="edit it"
                )
        if problems:
            raise InvalidSpec(tuple(problems))
        names = [line for line in text.splitlines() if line.replace("-", "").isalnum()]
        for name in names:
            self.add(name, self.phase)
        return [AppliedPod(name=name, change="created", generation=1) for name in names]

    def delete(self, name: str, *, by: str = "") -> bool:
        if name in self.pods and self.pods[name].owner != "api":
            raise OwnedElsewhere(f"{name} is owned by a file", hint="remove the file")
        with self.condition:
            self.statuses.pop(name, None)
            self.condition.notify_all()
            return self.pods.pop(name, None) is not None

    def status(self, name: str | None = None, *, everywhere: bool = False) -> list[PodReport]:
        if name is None:
            found = [self.statuses[key] for key in sorted(self.statuses)]
            return [pod for pod in found if everywhere or pod.phase != "elsewhere"]
        if name in self.statuses and self.statuses[name].phase == "elsewhere":
            return [self.statuses[name]]
        self.get(name)
        return [self.statuses[name]]

    def hint_elsewhere(self, name: str) -> str | None:
        found = self.statuses.get(name)
        return found.elsewhere[0] if found is not None and found.elsewhere else None

    def wait(self, name: str, phase: str, timeout: float) -> PodReport:
        deadline = time.monotonic() + timeout
        self.waited.set()
        with self.condition:
            while True:
                if phase == "deleted" and name not in self.pods:
                    return PodReport(name=name, phase="deleted")
                found = self.status(name)[0]
                left = deadline - time.monotonic()
                if found.phase == phase or (phase == "ready" and found.ready) or left <= 0:
                    return found
                self.condition.wait(left)

    def events(self, after: int, limit: int) -> Sequence[ListedEvent]:
        return self.log[after : after + limit]

    def check_events_of(self, name: str) -> None:
        if not any(event.pod == name for event in self.log):
            raise PodNotFound(f"there is no pod {name}, and no event of one")

    def wait_for_events(self, after: int, timeout: float) -> bool:
        with self.condition:
            return self.condition.wait_for(lambda: len(self.log) > after, timeout)

    def history(self, name: str) -> Sequence[ListedRevision]:
        pod = self.get(name)
        return [
            ListedRevision(
                generation=generation,
                pod=pod.pod,
                owner=pod.owner,
                revision=f"rev{generation}",
                hash=pod.hash,
                changed_at=pod.changed_at,
                verdict=self.verdicts.get(generation),
                outcome=self.verdicts[generation].outcome if generation in self.verdicts else None,
            )
            for generation in range(1, pod.generation + 1)
        ]

    def run(self, name: str, by: str = "") -> StartedRun:
        self.get(name)
        self.calls.append(("run", name))
        return StartedRun(pod=name, number=5)

    @property
    def by_hand(self) -> FakeService:
        return self

    def stop(self, name: str, by: str) -> AskedPod:
        return self._asked("stop", name, "stopped", "stops")

    def start(self, name: str, by: str) -> AskedPod:
        return self._asked("start", name, "started", "runs again", "app")

    def restart(self, name: str, by: str) -> AskedPod:
        return self._asked("restart", name, "restarted", "restarts", "app")

    def _asked(self, verb: str, name: str, change: str, does: str, *containers: str) -> AskedPod:
        pod = name.partition("/")[0]
        self.get(pod)
        self.calls.append((verb, name))
        return AskedPod(name=pod, change=change, message=f"{name} {does}", containers=containers)

    def why(self, name: str) -> WhyReport:
        if name in self.explained:
            return self.explained[name]
        return WhyReport(name=name, summary=f"{name} runs as it should", status=self.status(name)[0])

    def plan(
        self, files: Mapping[str, str] | None, git: str | None = None, beside: object = Sent()
    ) -> PlanReport:
        others = [one for one in (git, beside) if one not in (None, Sent())]
        self.calls.append(("plan", files, *others))
        return self.report

    def sync(
        self, wait: float | None, confirm: str | None = None, within: float | None = None, *, by: str = ""
    ) -> list[PodReport]:
        asked = [part for part in (confirm, within) if part is not None]
        self.calls.append(("sync", wait, *asked))
        return self.status()

    def info(self) -> AgentInfo:
        return AgentInfo(
            version="0.1.0",
            pid=17,
            uptime=65.0,
            data_dir="/var/lib/tank",
            run_dir="/run/tank",
            pods_dir="/etc/tank/pods.d",
            crun="1.28",
            conmon="2.2.1",
        )


CHANGES = PlanReport(
    pods=(
        PlannedPod(name="db", change="update", actions=("restart db/app",), diff=("image: a → b (restart)",)),
        PlannedPod(name="old", change="remove", actions=("stop old",)),
        PlannedPod(name="same", change="none"),
        PlannedPod(
            name="web",
            change="create",
            actions=("pull", "start web/app"),
            notes=("publishes 0.0.0.0:8080→80/tcp",),
        ),
    )
)


@contextmanager
def serving(service: FakeService, socket_path: Path, **options: Any) -> Iterator[ApiServer]:
    """Serve while the block runs; no thread of the server is left after it."""
    routes: Any = {**ROUTES, METRICS: lambda *_: Answer(body=SAMPLES.encode(), content_type="text/plain")}
    # What another test left behind is that one's fault, and must not make all others wait.
    before = set(api_threads())
    server = ApiServer(cast(Service, service), socket_path, **{"routes": routes, **options})
    server.start()
    try:
        yield server
    finally:
        server.stop()
        until(lambda: set(api_threads()) <= before)


def api_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("api")]


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def as_user(uid: int, gid: int, groups: Sequence[int], function: Callable[[], T]) -> T:
    """Run a function as another user: in a thread of its own, since the kernel keeps credentials by thread.

    libc would change all threads, so the system calls are made by number (asm/unistd.h).
    """
    setgroups, setresgid, setresuid = {"x86_64": (116, 119, 117)}.get(platform.machine(), (159, 149, 147))

    def run() -> T:
        syscall(setgroups, len(groups), (ctypes.c_uint32 * len(groups))(*groups))
        syscall(setresgid, gid, gid, gid)
        syscall(setresuid, uid, uid, uid)
        return function()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result(60)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that everybody can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="tank-test-", dir="/dev/shm"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        path.rmdir()
