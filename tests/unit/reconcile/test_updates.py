"""Each step of a rollout against a real journal: what it stores in one transaction, tells and asks for."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.errors import Retry
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Exit, PodStatus, Rollout
from tank_agent.journal.store import MemoryStore
from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core import rollout as core
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.observed import Moment, Observed, Situation, SnapshotJob
from tank_agent.reconcile.core.proof import proof
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.machine import Work
from tank_agent.reconcile.steps import Steps
from tank_agent.runtime.container.crun import StartFailed
from tank_agent.spec.model import Container, Mount, Pod, RestartPolicy, Update, Volume
from tests.support.fake_runtime import fake_machine
from tests.unit.journal.builders import declared, snapshot
from tests.unit.reconcile.core.builders import UPDATE
from tests.unit.reconcile.test_troubles import StillClock, live

A = "sha256:" + "a" * 64


def pod(word: str, **changes: Any) -> Pod:
    app = Container(name="app", rootfs="/r", command=(word,), mounts=(Mount(volume="data", path="/data"),))
    volumes = (Volume(name="data", snapshot=True),)
    return replace(Pod(name="web", containers=(app,), volumes=volumes, update=UPDATE), **changes)


class World:
    """The steps with a real journal, and a machine that notes in `did` what is asked of it."""

    def __init__(self, *words: str, owner: str = "dir") -> None:
        self.clock = StillClock()
        self.store = MemoryStore()
        self.journal = Journal(self.store, clock=self.clock.wall)
        self.did: list[tuple[Any, ...]] = []
        self.fails: dict[str, Exception] = {}
        self.copying: SnapshotJob | None = None
        self.owner = owner
        backoff = Backoff(base=10.0, cap=300.0, jitter=0.0)
        self.machine = fake_machine(self.journal, self, self.clock, backoff=backoff, snapshots=self)
        self.steps = Steps(self.machine)
        for word in words:
            self.push(pod(word))

    def __getattr__(self, name: str) -> Any:
        def called(*given: Any) -> Any:
            self.did.append((name, *given))
            if name in self.fails:
                raise self.fails[name]

        return called

    def create(self, _: Any) -> Any:
        if "create" in self.fails:
            raise self.fails["create"]
        return live(self.desired.pod, 7, pid=42)

    def runs(self, _: str) -> tuple[()]:
        return ()

    def push(self, spec: Pod) -> None:
        """Let the file of the pod, or `tank apply`, say this."""
        if self.owner == "dir":
            self.journal.merge(snapshot(declared(spec)))
        else:
            self.journal.put(spec, "r")

    @property
    def desired(self) -> Any:
        return self.journal.get("web")

    @property
    def status(self) -> PodStatus:
        return self.journal.status("web")

    @property
    def rollout(self) -> Rollout:
        found = self.status.rollout
        assert found is not None
        return found

    def look(self) -> Situation:
        desired, found = self.journal.get("web"), self.status.rollout
        former = None
        if desired is not None and found is not None and found.generation != desired.generation:
            former = self.journal.revision("web", found.generation)
        return Situation(
            desired=desired,
            status=self.status,
            observed=Observed(copying=self.copying),
            now=Moment(wall=self.clock.wall(), monotonic=self.clock.now, boot_id="boot"),
            backoff=self.machine.backoff,
            former=former,
        )

    def do(self, action: Action, situation: Situation | None = None) -> None:
        work = Work(name="web", cause="test", situation=situation or self.look())
        self.steps.do(action, work)

    def begin(self) -> None:
        """Start the only container of the desired generation, as its first step."""
        if self.status.rollout is not None and self.rollout.generation != self.desired.generation:
            self.do(actions.Follow(generation=self.desired.generation))
        self.do(actions.Start(container="app"))

    def good(self) -> None:
        """Let the desired generation begin and be good."""
        self.begin()
        self.do(actions.Decide(outcome="good", reason="it is healthy"))

    def events(self) -> list[str]:
        return [event.type for event in self.journal.events()]

    def verdict(self, generation: int) -> Any:
        found = self.journal.revision("web", generation)
        assert found is not None
        return found.verdict

    def again(self) -> Journal:
        """Return the journal as the next agent finds it."""
        return Journal(self.store, clock=self.clock.wall)


def updated() -> World:
    """Return a world whose generation 1 is good, and whose generation 2 is in its watch."""
    world = World("old")
    world.good()
    world.push(pod("new"))
    world.begin()
    return world


def test_the_first_start_begins_the_rollout_in_the_transaction_of_the_start() -> None:
    world = World("old")
    world.begin()
    found = world.rollout
    assert (found.kind, found.generation, found.begun, found.steps) == (
        "first",
        1,
        world.clock.now,
        ("start app",),
    )
    assert world.status.released == "boot"
    # A second start, such as after a crash, begins nothing.
    world.clock.now += 5
    world.do(actions.Start(container="app"))
    assert world.rollout.begun == world.clock.now - 5


def test_two_containers_that_start_in_one_pass_begin_one_wait() -> None:
    world = World("old")
    world.good()
    app = pod("new").containers[0]
    world.push(pod("new", containers=(app, replace(app, name="side"))))
    world.do(actions.Follow(generation=2))
    seen = world.look()
    world.do(actions.Start(container="app"), seen)
    world.fails["create"] = StartFailed("no such file: /x")
    with pytest.raises(StartFailed):
        world.do(actions.Start(container="side"), seen)
    found = world.rollout
    assert (found.begun, found.steps, found.ends) == (world.clock.now, ("start app", "start side"), 1)


def test_every_first_start_of_a_boot_releases_the_pod_also_long_after_its_verdict() -> None:
    """Else each crash after a reboot would wait for the pods that it starts after."""
    world = World("old")
    world.good()
    world.journal.record("web", replace(world.status, released="former boot"))
    world.do(actions.Start(container="app"))
    assert (world.status.released, world.rollout.outcome) == ("boot", "good")


def test_a_verdict_of_good_is_one_transaction_with_the_revision_to_go_back_to() -> None:
    world = World("old")
    world.good()
    found, status = world.again().history("web")[0], world.again().status("web")
    assert status.good is not None
    assert (status.good.generation, status.good.hash) == (1, world.desired.hash)
    assert found.verdict is not None
    assert (found.verdict.outcome, found.verdict.reason) == ("good", "it is healthy")
    assert found.verdict.proof == proof("web", "", world.desired.hash, ("start app",))
    assert world.events()[-1] == "update-good"
    assert ("keep", "web", frozenset()) in world.did


def test_a_failure_without_a_target_is_recorded_and_told_once_with_why_it_stays() -> None:
    world = World("old")
    world.begin()
    world.do(actions.Decide(outcome="failed", reason="container app ended with exit code 3"))
    last = world.journal.events()[-1]
    assert (last.type, world.rollout.outcome, world.status.good) == ("update-failed", "failed", None)
    assert "there is nothing to go back to" in last.message
    world.do(actions.Decide(outcome="good", reason="it is healthy"))
    assert (world.events()[-1], world.verdict(1).outcome) == ("recovered", "good")


@pytest.mark.parametrize(
    ("hold", "kind", "why"),
    [
        (True, "update", "since the pod is suspended"),
        (False, "update", "must not be rolled back"),
        (False, "rollback", "a person must look"),
    ],
)
def test_a_failure_that_stays_says_why(hold: bool, kind: Any, why: str) -> None:
    world = updated()
    if hold:
        world.journal.suspend("web")
    status = world.status
    assert status.good is not None
    saved = replace(status.good, snapshots={"data": "2"})
    world.journal.record("web", replace(status, rollout=replace(world.rollout, kind=kind), good=saved))
    world.do(actions.Decide(outcome="failed", reason="x"))
    last = world.journal.events()[-1]
    assert last.type == ("rollback-failed" if kind == "rollback" else "update-failed")
    assert why in last.message
    assert world.status.good is not None
    assert (world.status.good.generation, world.status.good.snapshots) == (1, {})


def test_a_new_revision_in_the_watch_supersedes_it_with_its_own_proof() -> None:
    world = updated()
    world.push(pod("third"))
    world.do(actions.Follow(generation=3))
    verdict = world.verdict(2)
    old, new = (found.hash for found in world.journal.history("web")[:2])
    assert (verdict.outcome, verdict.reason) == ("superseded", "generation 3 came before its verdict")
    assert verdict.proof == proof("web", old, new, ("start app",))
    assert world.events()[-2:] == ["update-superseded", "update-started"]
    assert (world.rollout.generation, world.rollout.replaced, world.rollout.steps) == (3, 2, ())
    # All in one transaction: a new agent sees all of it, and nothing is to be followed again.
    assert world.again().status("web").rollout == world.rollout
    assert core.follow(world.look()) is None


def test_the_keys_of_an_update_that_change_in_its_wait_are_no_new_update() -> None:
    world = updated()
    before = world.events()
    world.push(pod("new", update=Update(min_healthy=1.0)))
    world.do(actions.Follow(generation=3))
    assert (world.rollout.generation, world.rollout.begun) == (3, world.clock.now)
    assert world.events() == before
    assert (world.verdict(2).outcome, world.verdict(3)) == ("superseded", None)


@pytest.mark.parametrize("outcome", ["good", "failed"])
def test_what_concerns_no_container_is_as_good_as_the_one_before(outcome: Any) -> None:
    world = updated()
    world.do(actions.Decide(outcome=outcome, reason="x"))
    before = world.events()
    world.push(pod("new", after=("db",)))
    world.do(actions.Follow(generation=3))
    assert (world.verdict(3).outcome, world.rollout.outcome) == (outcome, outcome)
    assert world.events() == before
    assert world.status.good is not None
    is_good = (3, world.desired.hash) if outcome == "good" else (1, world.journal.history("web")[0].hash)
    assert (world.status.good.generation, world.status.good.hash) == is_good


def test_a_failed_update_goes_back_in_one_transaction() -> None:
    world = updated()
    assert world.status.good is not None
    saved = replace(world.status.good, snapshots={"data": "2"}, images={"app": A})
    world.journal.record("web", replace(world.status, good=saved))
    writes = len(world.events())
    world.do(actions.RollBack(reason="container app ended with exit code 3"))
    next_agent = world.again()
    desired, status = next_agent.get("web"), next_agent.status("web")
    good, bad, back = next_agent.history("web")
    assert desired is not None and desired.hold is not None and status.rollout is not None
    assert (desired.generation, desired.pod, desired.images) == (3, good.pod, {"app": A})
    hold = desired.hold
    assert (hold.kind, hold.failed, hold.generation, hold.declared) == ("quarantined", 2, 1, bad.hash)
    assert (back.restored, back.images) == (1, {"app": A})
    found = status.rollout
    assert (found.kind, found.generation, found.replaced, found.restore, found.begun) == (
        "rollback",
        3,
        2,
        {"data": "2"},
        None,
    )
    assert [(one.hash, one.generation, one.attempts) for one in status.bad] == [(bad.hash, 2, 1)]
    assert bad.verdict is not None
    assert (bad.verdict.outcome, bad.verdict.proof) == (
        "failed",
        proof("web", good.hash, bad.hash, ("start app",)),
    )
    assert [event.type for event in next_agent.events()][writes:] == ["update-failed"]
    # Once: for what was said about an older generation, nothing happens.
    next_agent.quarantine("web", 2, bad.verdict, good)
    assert next_agent.get("web") == desired


def counted(world: World) -> dict[str, int]:
    found = world.steps._machine.counters.of("web")
    return {} if found is None else {outcome: count for outcome, count in found.updates.items() if count}


def test_each_verdict_is_counted_once_with_its_time() -> None:
    world = updated()
    counters = world.steps._machine.counters
    assert (counted(world), sum(counters.rollouts().counts)) == ({"good": 1}, 1)
    world.clock.now += 7.0
    world.do(actions.RollBack(reason="x"))
    assert counted(world) == {"good": 1, "failed": 1}
    before = counters.rollouts().sum
    world.begin()
    world.clock.now += 20.0
    world.do(actions.Decide(outcome="good", reason="it is healthy"))
    assert counted(world) == {"good": 1, "failed": 1, "rolled-back": 1}
    assert counters.rollouts().sum == before + 20.0


def test_a_way_back_that_fails_and_what_recovers_later() -> None:
    world = updated()
    world.do(actions.RollBack(reason="x"))
    world.begin()
    world.do(actions.Decide(outcome="failed", reason="y"))
    counters = world.steps._machine.counters
    assert (counted(world)["rollback-failed"], sum(counters.rollouts().counts)) == (1, 3)
    world.clock.now += 500.0
    world.do(actions.Decide(outcome="good", reason="it is healthy"))
    # Its time to a verdict was counted with the first one.
    assert (counted(world)["rolled-back"], sum(counters.rollouts().counts)) == (1, 3)


def test_what_was_superseded_and_what_changes_nothing_are_counted_without_a_time() -> None:
    world = updated()
    counters = world.steps._machine.counters
    before = sum(counters.rollouts().counts)
    world.push(pod("third"))
    world.do(actions.Follow(generation=3))
    assert (counted(world)["superseded"], sum(counters.rollouts().counts)) == (1, before)


def test_the_way_back_is_told_when_it_is_healthy_and_the_quarantine_stays() -> None:
    world = updated()
    world.do(actions.RollBack(reason="x"))
    world.begin()
    assert (world.rollout.kind, world.rollout.begun) == ("rollback", world.clock.now)
    world.do(actions.Decide(outcome="good", reason="it is healthy"))
    assert world.events()[-1] == "rolled-back"
    assert world.desired.hold.kind == "quarantined"
    assert world.status.good is not None
    assert world.status.good.generation == 3


def test_without_the_good_revision_a_failure_is_recorded_and_nothing_is_undone() -> None:
    world = updated()
    assert world.status.good is not None
    world.journal.record("web", replace(world.status, good=replace(world.status.good, generation=99)))
    world.do(actions.RollBack(reason="x"))
    assert (world.desired.generation, world.rollout.outcome) == (2, "failed")
    assert "99 is no longer kept" in world.rollout.reason


def test_an_update_that_cannot_begin_is_put_off_for_longer_each_time() -> None:
    world = World("old")
    world.good()
    world.push(pod("new"))
    world.do(actions.Follow(generation=2))
    waits = []
    for _ in range(9):
        world.do(actions.Block(reason="no space left"))
        assert world.status.blocked is not None
        waits.append(world.status.blocked.retry_at - world.clock.wall())
        world.clock.now += waits[-1]
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert world.status.blocked.count == 9
    assert world.events().count("update-blocked") == 9
    assert ("finished", "web") in world.did
    # It says nothing about the next generation.
    world.push(pod("third"))
    assert core.blocked_now(world.desired, world.status, world.clock.wall()) is None
    world.do(actions.Follow(generation=3))
    world.do(actions.Start(container="app"))
    assert world.status.blocked is None


def test_a_snapshot_is_a_step_of_the_proof_and_belongs_to_the_good_revision() -> None:
    world = World("old")
    world.good()
    world.push(pod("new"))
    world.do(actions.Follow(generation=2))
    world.did.clear()
    for action in (actions.CheckRoom(volumes=("data",)), actions.TakeSnapshot(volumes=("data",))):
        world.do(action)
    assert [(name, *rest) for name, *rest in world.did] == [
        ("check", "web", 2, {"data": True}),
        ("take", "web", 2, {"data": True}),
    ]
    assert world.rollout.steps == ("snapshot data",)
    world.copying = SnapshotJob(kind="take", generation=2, state="done", ids={"data": "2"})
    world.do(actions.RecordCopy(volumes=("data",)))
    status = world.again().status("web")
    assert status.good is not None
    assert status.good.snapshots == {"data": "2"}
    assert (world.events()[-1], world.did[-1]) == ("snapshot-taken", ("finished", "web"))
    # A new agent that asks for nothing that is done.
    world.copying = None
    world.do(actions.TakeSnapshot(volumes=("data",)))
    assert world.did[-1][0] == "finished"


def test_data_is_put_back_by_the_name_of_the_generation_that_failed() -> None:
    world = updated()
    assert world.status.good is not None
    saved = replace(world.status.good, snapshots={"data": "2"})
    world.journal.record("web", replace(world.status, good=saved))
    world.do(actions.RollBack(reason="x"))
    world.do(actions.Restore(volumes=("data",)))
    assert world.did[-1] == ("put_back", "web", 3, {"data": "2"}, 2)
    assert world.rollout.steps == ("restore data",)
    world.copying = SnapshotJob(kind="put-back", generation=3, state="done")
    world.do(actions.RecordCopy(volumes=("data",)))
    assert (world.rollout.restore, world.status.good.snapshots) == ({}, {})
    assert world.events()[-1] == "data-restored"


def test_an_exit_that_is_recorded_in_the_pass_of_a_copy_is_not_lost() -> None:
    """The steps of a pass share one situation; each changes the status as it is by then."""
    world = World("old")
    world.good()
    world.push(pod("new"))
    world.do(actions.Follow(generation=2))
    world.copying = SnapshotJob(kind="take", generation=2, state="done", ids={"data": "2"})
    seen = world.look()
    exit_ = Exit(at=world.clock.wall(), code=0)
    world.do(actions.RecordExit(run="web-7", container="app", exit=exit_, stopped=True), seen)
    world.do(actions.RecordCopy(volumes=("data",)), seen)
    assert world.status.containers["app"].instance == ""
    assert world.status.good is not None
    assert world.status.good.snapshots == {"data": "2"}


@pytest.mark.parametrize("owner", ["dir", "api"])
@pytest.mark.parametrize(
    "step",
    [
        actions.Decide(outcome="good", reason="x"),
        actions.Begin(generation=2),
        actions.Start(container="app"),
        actions.Stop(run="web-7", container="app"),
    ],
)
def test_a_rollback_by_hand_between_a_look_and_its_step_is_not_lost(step: Action, owner: str) -> None:
    world = World("old", owner=owner)
    world.good()
    world.push(pod("new"))
    world.begin()
    seen = world.look()
    world.journal.roll_back("web", world.journal.history("web")[0], {"data": "0"})
    world.did.clear()
    world.do(step, seen)
    assert world.rollout.restore == {"data": "0"}
    assert "keep" not in [name for name, *_ in world.did], "what was asked for is still there"
    world.do(actions.Follow(generation=3))
    # It is superseded, whoever owns the pod, and only what was asked for is put back.
    assert world.verdict(2).outcome == "superseded"
    found = world.rollout
    assert (found.kind, found.restore, found.generation, found.outcome) == ("update", {"data": "0"}, 3, None)


@pytest.mark.parametrize("owner", ["dir", "api"])
def test_a_rollback_by_hand_in_the_watch_leaves_the_data_alone(owner: str) -> None:
    world = World("old", owner=owner)
    world.good()
    world.push(pod("new"))
    world.begin()
    assert world.status.good is not None
    saved = replace(world.status.good, snapshots={"data": "2"})
    world.journal.record("web", replace(world.status, good=saved))
    world.journal.roll_back("web", world.journal.history("web")[0])
    world.do(actions.Follow(generation=3))
    assert (world.rollout.kind, world.rollout.restore, world.rollout.replaced) == ("update", {}, 2)
    assert (world.verdict(2).outcome, world.events()[-2:]) == (
        "superseded",
        ["update-superseded", "update-started"],
    )


def test_a_start_that_fails_counts_and_a_machine_that_lacks_something_does_not() -> None:
    world = updated()
    world.fails["create"] = StartFailed("no such file: /x")
    with pytest.raises(StartFailed):
        world.do(actions.Start(container="app"))
    assert world.rollout.ends == 1
    status = world.status.containers["app"]
    assert status.retry_at is not None
    # Soon, within an update's wait, and not after the pace of the configuration.
    assert 0 < status.retry_at - world.clock.wall() <= 1.2
    world.fails["create"] = Retry("the uplink is away")
    with pytest.raises(Retry):
        world.do(actions.Start(container="app"))
    assert world.rollout.ends == 1


@pytest.mark.parametrize(
    ("policy", "code", "stopped", "ends"),
    [
        (RestartPolicy.ALWAYS, 0, False, 1),
        (RestartPolicy.ALWAYS, 0, True, 0),
        (RestartPolicy.ON_FAILURE, 0, False, 0),
        (RestartPolicy.ON_FAILURE, 1, False, 1),
        (RestartPolicy.NEVER, 0, False, 0),
    ],
)
def test_ends_are_counted_that_nobody_asked_for(
    policy: RestartPolicy, code: int, stopped: bool, ends: int
) -> None:
    world = World()
    world.push(pod("old", restart=policy))
    world.good()
    world.push(pod("new", restart=policy))
    world.begin()
    exit_ = Exit(at=world.clock.wall(), code=code)
    world.do(actions.RecordExit(run="web-7", container="app", exit=exit_, stopped=stopped))
    assert world.rollout.ends == ends


def test_a_shutdown_in_the_watch_is_marked_so_that_the_next_boot_does_not_count() -> None:
    world = updated()
    drained = replace(world.look(), desired=None)
    exit_ = Exit(at=world.clock.wall(), code=0)
    world.do(actions.RecordExit(run="web-7", container="app", exit=exit_, stopped=True), drained)
    assert world.rollout.clean
    rebooted = replace(world.look(), now=Moment(wall=world.clock.wall(), monotonic=5.0, boot_id="next"))
    world.do(actions.Follow(generation=2), rebooted)
    assert (world.rollout.boots, world.rollout.clean, world.rollout.begun) == (0, False, None)
    assert world.events()[-1] == "update-waits"


def test_what_an_update_no_longer_declares_is_still_cleaned_up_with_its_verdict() -> None:
    world = World("old")
    world.good()
    assert world.status.good is not None
    saved = replace(world.status.good, snapshots={"data": "2"})
    world.journal.record("web", replace(world.status, good=saved))
    world.push(pod("new", volumes=(Volume(name="data"),)))
    world.did.clear()
    world.good()
    assert ("keep", "web", frozenset()) in world.did
