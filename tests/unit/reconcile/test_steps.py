"""Steps: what each asks of the machine, what the journal remembers of it, and in which order."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.errors import Retry, Stalled, TankError, one_line
from tank_agent.image.config import Image, ImageConfig, ImageHealthcheck
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Exit, NewEvent, PodStatus
from tank_agent.journal.store import MemoryStore
from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.hashes import container_hash, network_hash, settings_hash
from tank_agent.reconcile.core.observed import Moment, Observed, Situation
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.machine import Work
from tank_agent.reconcile.steps import Steps
from tank_agent.retry import Failure
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.runtime.run import ChangeFailure, LiveRun, Stopping, Unmounted
from tank_agent.spec.model import Container, Limits, Pod, RestartPolicy, Volume
from tests.support.fake_runtime import fake_machine
from tests.unit.reconcile.test_troubles import StillClock, live

IMAGE = "registry.lan/app:1"


class World:
    """A machine that notes in `did` what is asked of it, and the journal's writes between."""

    def __init__(self, *containers: Container, restart: RestartPolicy = RestartPolicy.ALWAYS) -> None:
        self.clock = StillClock()
        self.did: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.answers: dict[str, Any] = {"files": Path("/files"), "namespace": Path("/netns/web")}
        self.found: tuple[LiveRun, ...] = ()
        self.logs = Path("/nowhere")
        world = self

        def noted(events: Any) -> list[NewEvent]:
            kept = list[NewEvent](events)
            world.did += [f"record {event.type}" for event in kept] or ["record"]
            return kept

        class Watched(Journal):
            def record(self, name: str, status: PodStatus | None, events: Any = (), _: Any = None) -> None:
                super().record(name, status, noted(events))

            def revise(self, name: str, change: Any, events: Any = (), _: Any = None) -> bool:
                kept = noted(events) if events or change(self.status(name)) != self.status(name) else ()
                return super().revise(name, change, kept)

        self.journal = Watched(MemoryStore(), clock=self.clock.wall)
        self.spec = Pod(
            name="web",
            restart=restart,
            containers=containers or (Container(name="app", rootfs="/r", command=("x",)),),
            volumes=(Volume(name="data"),),
        )
        self.desired = self.journal.put(self.spec, "r1")
        backoff = Backoff(base=10.0, cap=300.0, jitter=0.0)
        self.machine = fake_machine(self.journal, self, self.clock, backoff=backoff)
        self.steps = Steps(self.machine)

    def __getattr__(self, name: str) -> Any:
        def called(*given: Any) -> Any:
            self.did.append(name)
            if name in self.fails:
                raise self.fails[name]
            return self.answers.get(name)

        return called

    def runs(self, pod: str) -> tuple[LiveRun, ...]:
        return self.found

    def lease(self, pod: Pod) -> dict[str, tuple[str, ...]]:
        return {}

    def failure(self, pod: str) -> Failure | None:
        return None

    def directory(self, pod: str) -> Path:
        return Path("/files")

    def need(self, pod: str, container: Container, digest: str = "") -> str:
        return container.name

    def create(self, launch: Any) -> LiveRun:
        self.did.append("create")
        self.launch = launch
        return live(self.spec, 7, pid=42)

    def remembers(self, **changes: Any) -> None:
        known = ContainerStatus(hash=container_hash(self.spec, self.spec.containers[0]), instance="web-1")
        known = replace(known, boot_id="boot", started_at=self.clock.wall() - 5)
        self.journal.record("web", PodStatus(containers={"app": replace(known, **changes)}))
        self.did.clear()

    def do(self, action: Action, *, gone: bool = False, cut_short: bool = False) -> None:
        situation = Situation(
            desired=None if gone else self.desired,
            status=self.journal.status("web"),
            observed=Observed(),
            now=Moment(wall=self.clock.wall(), monotonic=self.clock.now, boot_id="boot"),
            backoff=self.machine.backoff,
            cut_short=cut_short,
        )
        self.steps.do(action, Work(name="web", cause="test", situation=situation))

    @property
    def status(self) -> ContainerStatus:
        return self.journal.status("web").containers["app"]

    def events(self) -> list[tuple[str, str, str, str]]:
        """Return the events of steps: that the test applied a pod is none."""
        found = (event for event in self.journal.events() if event.type != "applied")
        return [(e.type, e.container, e.message, e.revision) for e in found]


def every_action() -> set[type[Action]]:
    found, left = set[type[Action]](), [Action]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if "sentence" in vars(kind):
            found.add(kind)
    return found


def test_every_action_has_a_step() -> None:
    assert World().steps.table.keys() == every_action()


def test_a_start_is_recorded_before_the_program_begins() -> None:
    world = World()
    world.do(actions.Start(container="app"))
    assert world.did == ["namespace", "files", "create", "record started", "start"]
    status = world.status
    assert (status.instance, status.boot_id, status.started_at) == ("web-7", "boot", world.clock.wall())
    assert (status.restarts, status.network) == (0, network_hash(world.spec))
    assert world.events() == [("started", "app", "started as process 42", "r1")]
    launch = world.launch
    assert (launch.hash, launch.settings) == (
        container_hash(world.spec, world.spec.containers[0]),
        settings_hash(world.spec.containers[0]),
    )
    assert (launch.layers, launch.netns, launch.files) == (
        (Path("/r"),),
        Path("/netns/web"),
        Path("/files"),
    )
    assert (launch.revision, launch.volumes) == ("r1", world.spec.volumes)


def test_a_start_uses_the_image_that_was_pulled_for_it_or_waits_for_another_look() -> None:
    world = World(Container(name="app", image=IMAGE))
    world.do(actions.Start(container="app"))
    assert (world.did, world.events()) == (["get"], [])
    check = ImageHealthcheck(command=("/check",))
    config = ImageConfig(entrypoint=("/app",), stop_signal="SIGQUIT", healthcheck=check)
    world.answers["get"] = Image(
        reference=IMAGE, digest="sha256:" + "0" * 64, layers=(Path("/layer"),), config=config
    )
    world.do(actions.Start(container="app"))
    launch = world.launch
    assert (launch.layers, launch.parameters.argv) == ((Path("/layer"),), ("/app",))
    assert (launch.image_stop_signal, launch.image.startswith(IMAGE)) == ("SIGQUIT", True)
    assert (launch.digest, launch.healthcheck) == ("sha256:" + "0" * 64, check)


@pytest.mark.parametrize(
    ("step", "error", "reason", "failures"),
    [
        ("start", StartFailed("exec format error"), "could not be started: exec format error", 3),
        ("namespace", Retry("the pin is lost"), None, 3),
        ("files", OSError(errno.ENOSPC, "No space left on device", "/run/x"), None, 3),
    ],
)
def test_a_start_that_fails_counts_waits_and_is_an_event(
    step: str, error: Exception, reason: str | None, failures: int
) -> None:
    world = World()
    world.remembers(instance="", failures=2)
    world.fails[step] = error
    with pytest.raises(TankError):
        world.do(actions.Start(container="app"))
    status = world.status
    assert (status.failures, status.instance) == (failures, "")
    assert status.retry_at == world.clock.wall() + 40.0
    assert (status.exit.reason if status.exit is not None else None) == reason
    kind, container, message, _ = world.events()[-1]
    assert (kind, container) == ("start-failed", "app")
    assert one_line(reason or status.error or "") == message


def test_a_network_that_cannot_be_made_keeps_every_container_waiting_for_a_moment() -> None:
    world = World(
        Container(name="app", rootfs="/r", command=("x",)), Container(name="b", rootfs="/r", command=("x",))
    )
    world.fails["make"] = Retry("no uplink")
    with pytest.raises(Retry):
        world.do(actions.MakeNetwork())
    found = world.journal.status("web").containers
    assert found.keys() == {"app", "b"}
    for status in found.values():
        # Not the 10 s of a program that fails: an uplink may be back any time.
        assert status.retry_at is not None
        assert 0.8 <= status.retry_at - world.clock.wall() <= 1.0
        assert status.error == "no uplink"


def test_a_stop_and_a_kill_come_before_their_events_and_a_kill_is_recorded_once() -> None:
    world = World()
    world.found = (live(world.spec, 1),)
    world.do(actions.Stop(run="web-1", container="app"))
    world.do(actions.Kill(run="web-1", container="app"))
    assert world.did == ["stop", "record stopping", "kill", "record killing"]
    world.found = (live(world.spec, 1, stopping=Stopping(deadline=0.0, killed=True)),)
    world.do(actions.Kill(run="web-1", container="app"))
    assert world.did[4:] == ["kill"]
    world.do(actions.Stop(run="web-2", container="app"))
    assert world.did[5:] == []


@pytest.mark.parametrize(
    ("stopped", "gone", "cut_short", "kind", "failures", "retry", "over"),
    [
        (False, False, False, "exited", 2, 20.0, True),
        (True, False, False, "stopped", 1, None, False),
        (True, True, False, "stopped", 1, None, False),
        (True, True, True, "stopped", 1, None, True),
    ],
)
def test_an_end_is_remembered_by_who_wanted_it(
    stopped: bool, gone: bool, cut_short: bool, kind: str, failures: int, retry: float | None, over: bool
) -> None:
    world = World()
    world.remembers(failures=1, restarts=4)
    at = world.clock.wall()
    exit_ = Exit(at=at, code=3)
    action = actions.RecordExit(run="web-1", container="app", exit=exit_, stopped=stopped)
    world.do(action, gone=gone, cut_short=cut_short)
    status = world.status
    assert (status.instance, status.boot_id, status.failures, status.restarts) == ("", "", failures, 4)
    assert status.retry_at == (at + retry if retry is not None else None)
    assert (status.exit is not None) == over
    assert world.events() == [(kind, "app", "ended with exit code 3", "" if gone else "r1")]
    assert status.network == ("" if gone else network_hash(world.spec))


@pytest.mark.parametrize(("boot", "failures"), [("boot", 1), ("former", 0)])
def test_a_lost_run_is_a_failure_unless_the_machine_restarted(boot: str, failures: int) -> None:
    world = World()
    world.remembers(boot_id=boot)
    world.do(actions.RecordLost(container="app"))
    assert (world.status.instance, world.status.failures) == ("", failures)
    ((kind, _, message, _),) = world.events()
    assert (kind, "machine restarted" in message) == ("lost", boot == "former")
    assert world.status.exit is not None


def test_a_run_that_never_began_does_not_count() -> None:
    world = World()
    world.remembers(restarts=2, exit=Exit(at=1.0, code=1))
    world.do(actions.RecordUnstarted(run="web-1", container="app"))
    assert (world.status.instance, world.status.restarts, world.events()) == ("", 1, [])


def test_what_is_remembered_of_containers_that_are_neither_wanted_nor_run_goes() -> None:
    world = World()
    gone, runs = ContainerStatus(hash="h"), ContainerStatus(hash="h", instance="web-9")
    world.remembers()
    world.journal.record("web", PodStatus(containers={"app": world.status, "gone": gone, "runs": runs}))
    world.do(actions.RecordUnstarted(run="web-1", container="app"))
    assert world.journal.status("web").containers.keys() == {"app", "runs"}


RUN = {"run": "web-1", "container": "app"}
FAILING = [
    (actions.ConvergeNetwork(reason="x"), "converge", "network-failed", "network-changed", ""),
    (actions.ChangeLive(**RUN, reason="x"), "change", "change-failed", "changed", "app"),
    (actions.MountAgain(**RUN, paths="/d"), "restore_mounts", "mount-failed", "mounted-again", "app"),
]


@pytest.mark.parametrize(("action", "step", "failed", "done", "container"), FAILING)
def test_a_change_under_what_runs_that_fails_stops_nothing_and_is_one_event(
    action: Action, step: str, failed: str, done: str, container: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    world.remembers()
    world.found = (live(world.spec, 1),)
    world.fails[step] = Stalled("busy")
    world.do(action)
    assert world.events() == [(failed, container, "busy", "r1")]
    assert world.status.settings == ""
    former = {"error": "busy", "count": 1}
    changes = {"failure": ChangeFailure(settings="s", **former), "unmounted": Unmounted(paths=(), **former)}
    world.found = (live(world.spec, 1, **changes),)
    monkeypatch.setattr(world, "failure", lambda _: Failure(**former), raising=False)
    world.do(action)
    assert len(world.events()) == 1
    world.fails[step] = Stalled("another reason")
    world.do(action)
    assert world.events()[1:] == [(failed, container, "another reason", "r1")]
    world.fails.clear()
    world.do(action)
    assert [kind for kind, *_ in world.events()[2:]] == [done]


def test_new_settings_are_remembered_once_they_are_in_force() -> None:
    world = World(Container(name="app", rootfs="/r", command=("x",), limits=Limits(memory=1 << 20)))
    world.remembers()
    world.found = (live(world.spec, 1),)
    world.do(actions.ChangeLive(run="web-1", container="app", reason="x"))
    assert world.status.settings == settings_hash(world.spec.containers[0])


def test_containers_look_at_their_files_again_after_the_network_changed() -> None:
    world = World()
    for error in (None, Retry("no cable")):
        world.fails = {"converge": error} if error is not None else {}
        world.did.clear()
        world.do(actions.ConvergeNetwork(reason="x"))
        assert world.did[-1] == "look"


def test_a_pull_is_an_event_only_if_one_began() -> None:
    world = World(Container(name="app", image=IMAGE), Container(name="b", image=IMAGE))
    pull = actions.Pull(reference=IMAGE, containers=("app", "b"))
    world.do(pull)
    assert (world.did, world.events()) == (["pull", "pull"], [])
    world.answers["pull"] = True
    world.do(pull)
    assert world.events() == [("pulling", "", f"pulling {IMAGE}", "r1")]


def test_out_of_memory_is_recorded_of_the_run_that_it_was_in() -> None:
    world = World()
    world.found = (live(world.spec, 1),)
    world.do(actions.RecordOutOfMemory(run="web-2", container="app"))
    assert world.did == []
    world.do(actions.RecordOutOfMemory(run="web-1", container="app"))
    assert [kind for kind, *_ in world.events()] == ["out-of-memory"]


def test_what_a_pod_leaves_is_removed_and_then_forgotten(tmp_path: Path) -> None:
    world = World()
    world.remembers()
    world.logs = tmp_path
    (tmp_path / "web").mkdir()
    world.found = (live(world.spec, 1),)
    world.do(actions.RemoveRun(run="web-1", container="app"), gone=True)
    world.do(actions.RemoveNetwork(), gone=True)
    world.do(actions.Forget(), gone=True)
    assert world.did == ["remove", "remove", "forget", "forget", "record removed"]
    assert "web" not in world.journal.statuses()
    assert not (tmp_path / "web").exists()


def test_a_pod_is_recorded_before_its_only_run_goes_since_that_alone_told_of_it() -> None:
    world = World()
    world.found = (live(world.spec, 1),)
    run = world.found[0].record.id
    world.do(actions.RemoveRun(run=run, container="app"), gone=True)
    assert world.did.index("record") < world.did.index("remove")
    assert "web" in world.journal.statuses()
    # Once is enough.
    world.did.clear()
    world.do(actions.RemoveRun(run=run, container="app"), gone=True)
    assert "record" not in world.did


def test_a_run_goes_also_where_the_journal_cannot_record_it() -> None:
    world = World()
    world.found = (live(world.spec, 1),)

    def full(*_: object) -> None:
        raise Retry("the disk is full")

    world.journal.record = full  # type: ignore[method-assign]
    world.do(actions.RemoveRun(run=world.found[0].record.id, container="app"), gone=True)
    assert "remove" in world.did
