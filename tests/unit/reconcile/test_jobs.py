"""A job in the real loop, on a simulated machine: never two runs, none lost without a word, no busy loop."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.errors import Stalled
from tank_agent.journal.records import Event, JobRun, JobStatus, PodStatus
from tank_agent.journal.store import Table, Write
from tank_agent.reconcile.core.phase import Phase
from tank_agent.reconcile.core.plan import plan
from tank_agent.reconcile.machine import Work
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.run import LiveRun, RunState
from tank_agent.spec.model import Container, Pod, RestartPolicy, Schedule
from tests.unit.journal.builders import snapshot
from tests.unit.reconcile.simulated import NAME, World

DAY = 86400.0
# By kind: seconds that a program runs, and its exit code.
PROGRAMS = {"ok": (20.0, 0), "bad": (5.0, 3), "long": (2.5 * 3600, 0), "stay": (math.inf, 0)}
ENDS = re.compile(r"run (\d+) (succeeded|failed|timed out)")
NIGHT, OFTEN = Schedule(cron="0 3 * * *", time_zone="UTC"), Schedule(cron="*/7 * * * *", time_zone="UTC")
SCHEDULES = (
    NIGHT,
    OFTEN,
    replace(NIGHT, catch_up=True),
    replace(OFTEN, timeout=600.0),
    Schedule(cron="30 * * * *", time_zone="Europe/Berlin", timeout=3600.0, catch_up=True),
)


def job(*words: str, schedule: Schedule | None = NIGHT, restart: str = "never", init: str = "") -> Pod:
    """Return a job of programs, each after the one before, and of one that prepares for them."""
    names = [f"c{number}" for number in range(len(words))]
    own = [
        Container(name=name, rootfs="/r", command=(word,), after=tuple(names[:number]))
        for number, (name, word) in enumerate(zip(names, words, strict=True))
    ]
    before = [Container(name="init", rootfs="/r", command=(init,), init=True)] if init else []
    policy = RestartPolicy.ALWAYS if schedule is None else RestartPolicy(restart)
    return Pod(name=NAME, containers=(*before, *own), schedule=schedule, restart=policy)


class JobWorld(World):
    """A machine on which each write of the journal is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.runs_seen: dict[int, JobRun] = {}
        self.begun: list[tuple[int, str, float]] = []
        self.epoch = 0
        self.latest = self.clock.wall()
        self.looks = 0
        write = self.store.write

        def checked(writes: Sequence[Write]) -> None:
            self._check(writes)
            write(writes)

        self.store.write = checked  # type: ignore[method-assign]

    def _check(self, writes: Sequence[Write]) -> None:
        before = self.journal.status(NAME).job or JobStatus()
        events = [
            msgspec.json.decode(one.value, type=Event)
            for one in writes
            if one.table is Table.EVENTS and one.value is not None
        ]
        for one in writes:
            if one.table is not Table.STATUS or one.value is None:
                continue
            after = msgspec.json.decode(one.value, type=PodStatus).job or JobStatus()
            moved = after.next_due != before.next_due and after.schedule == before.schedule
            told = any(event.type.startswith("job-") for event in events)
            assert told or not moved or before.next_due is None or after.since < before.since, events
            assert all(run.ended is not None for run in after.runs[:-1]), "two runs at once"
            for run in after.runs:
                if run.number not in self.runs_seen:
                    self.begun.append((self.epoch, run.cause, run.due))
                self.runs_seen[run.number] = run

    def create(self, launch: Launch) -> LiveRun:
        current = self.status.job.current if self.status.job is not None else None
        is_job = self.desired is not None and self.desired.pod.schedule is not None
        if is_job:
            assert current is not None and current.outcome is None, "a container starts between runs"
        assert launch.job_run == (current.number if current is not None else 0)
        assert {run.record.job_run for run in self.live.values()} <= {launch.job_run}, "two runs at once"
        return super().create(launch)

    def _ends_at(self, run: LiveRun) -> float:
        if run.stopping is not None:
            return super()._ends_at(run)
        return self.started[run.record.id] + PROGRAMS[self._kind(run)][0]

    def end(self, run: LiveRun, code: int = 3) -> None:
        super().end(run, PROGRAMS[self._kind(run)][1])

    def _advance(self, to: float) -> None:
        self.looks += 1
        super()._advance(to)
        self.latest = max(self.latest, self.clock.wall())

    def jump(self, seconds: float) -> None:
        """Set the clock of the wall; a resync follows."""
        self.clock.offset += seconds
        if self.clock.wall() < self.latest - 3 * 3600:
            self.epoch += 1
            self.latest = self.clock.wall()
        self.guarded(self.loop.resync)
        self.pass_time(0)

    def push(self, text: Pod) -> None:
        if self.text is None or self.text.schedule != text.schedule:
            self.epoch += 1
        super().push(text)

    def ask(self) -> None:
        self.verb(lambda: self.journal.ask_run(NAME))

    def until(self, condition: Callable[[], object], within: float = 100.0) -> None:
        end = self.clock.now + within
        while not condition():
            assert self.clock.now < end, self.events()[-10:]
            self.pass_time(0.5)

    @property
    def job_status(self) -> JobStatus:
        assert self.status.job is not None
        return self.status.job

    def told(self, kind: str) -> list[str]:
        return [text for type_, text in self.events() if type_ == kind]

    def at(self, hour: float) -> None:
        """Let time pass until an hour of the day, UTC."""
        self.pass_time((hour * 3600 - self.clock.wall()) % DAY)

    def check_history(self) -> None:
        """Check that each time had one run at most, and each run one end."""
        for epoch, of in itertools.groupby(self.begun, key=lambda one: one[0]):
            times = [due for _, cause, due in of if cause != "manual"]
            assert times == sorted(set(times)), (epoch, times)
        ends = [int(found[1]) for text in self._ends() if (found := ENDS.match(text))]
        assert len(ends) == len(set(ends)), "an end was told twice"
        over = {number for number, run in self.runs_seen.items() if run.ended is not None}
        assert set(ends) == over
        assert all(run.outcome is not None for run in self.runs_seen.values() if run.ended is not None)

    def _ends(self) -> list[str]:
        return [*self.told("job-succeeded"), *self.told("job-failed")]


@pytest.fixture
def world() -> JobWorld:
    return JobWorld()


def test_a_job_runs_at_its_time_and_not_before(world: JobWorld) -> None:
    world.push(job("ok-1", init="ok-0"))
    world.pass_time(1)
    assert world.loop.view(NAME).phase is Phase.SCHEDULED
    assert not world.live
    world.at(2.99)
    assert not world.runs_seen
    world.at(3.0)
    world.until(lambda: world.live)
    assert world.network == "used"
    world.pass_time(60)
    (run,) = world.runs_seen.values()
    assert (run.outcome, run.due % DAY, set(run.exits)) == ("succeeded", 3 * 3600, {"init", "c0"})
    assert (world.live, world.network) == ({}, "absent")
    assert [text.partition(":")[0] for text in world.told("job-started")] == ["run 1 begins"]
    assert world.told("job-succeeded") == ["run 1 succeeded after 40s"]
    assert world.status.rollout is None
    world.pass_time(10 * DAY)
    assert list(world.runs_seen) == list(range(1, 12))
    assert len(world.job_status.runs) == 10


def test_a_job_at_rest_is_looked_at_for_nothing_but_its_time(world: JobWorld) -> None:
    world.push(job("ok-1"))
    world.at(4.0)
    looks = world.looks
    world.pass_time(20 * 3600)
    assert world.looks - looks <= 3


def test_a_time_in_a_run_is_skipped_and_said(world: JobWorld) -> None:
    world.push(job("long-1", schedule=OFTEN))
    world.until(lambda: world.live, within=500)
    world.pass_time(3600)
    assert len(world.runs_seen) == 1
    assert all("run 1 still goes on since" in text for text in world.told("job-skipped"))
    assert len(world.told("job-skipped")) == 9


def test_a_person_asks_for_runs(world: JobWorld) -> None:
    world.push(job("ok-1"))
    world.at(12.0)
    assert world.journal.ask_run(NAME) == 1
    assert world.journal.ask_run(NAME) == 1
    world.wake()
    world.until(lambda: world.live)
    assert world.journal.ask_run(NAME) == 2
    world.pass_time(15)
    assert list(world.runs_seen) == [1]
    world.pass_time(60)
    assert [run.outcome for run in world.runs_seen.values()] == ["succeeded"] * 2
    assert [run.cause for run in world.runs_seen.values()] == ["manual"] * 2
    assert world.job_status.next_due is not None and world.job_status.next_due % DAY == 3 * 3600


@pytest.mark.parametrize(("hours", "times"), [(1, 1), (2.9, 1), (3.2, 2), (20, 2)])
def test_a_clock_that_goes_back_after_a_run(world: JobWorld, hours: float, times: int) -> None:
    world.push(job("ok-1"))
    world.at(3.01)
    world.pass_time(60)
    world.jump(-hours * 3600)
    world.pass_time((hours + 0.5) * 3600)
    assert len(world.runs_seen) == times


def test_a_step_that_is_done_again_begins_no_second_run(world: JobWorld) -> None:
    world.push(job("ok-1"))
    world.pass_time(1)
    world.clock.now += DAY - world.clock.wall() % DAY + 3 * 3600
    situation = world.loop.observer.situation(NAME, world.desired)
    (begin,) = plan(situation).actions
    for _ in range(2):
        world.loop._steps.do(begin, Work(name=NAME, cause="test", situation=situation))
    assert [run.number for run in world.job_status.runs] == [1]
    assert len(world.told("job-started")) == 1


def test_a_pod_without_a_schedule_cannot_be_asked(world: JobWorld) -> None:
    world.push(job("stay-1", schedule=None))
    with pytest.raises(Stalled, match="is no job"):
        world.journal.ask_run(NAME)


def test_a_push_does_not_kill_a_run(world: JobWorld) -> None:
    world.push(job("long-1"))
    world.at(3.1)
    (before,) = world.live
    world.push(job("ok-2"))
    # Many more, so that its revision is older than the history keeps.
    for number in range(3, 30):
        world.push(job(f"ok-{number}"))
    world.pass_time(600)
    assert list(world.live) == [before]
    assert world.journal.revision(NAME, 1) is not None
    world.restart_agent()
    world.pass_time(600)
    assert list(world.live) == [before]
    world.at(3.0)
    world.pass_time(100)
    assert [(run.generation, run.outcome) for run in world.runs_seen.values()] == [
        (1, "succeeded"), (29, "succeeded"),
    ]  # fmt: skip
    # It was kept for the run alone.
    assert world.journal.revision(NAME, 1) is None


def test_a_mended_file_helps_a_run_that_crashes(world: JobWorld) -> None:
    world.push(job("bad-1", restart="on-failure"))
    world.at(3.1)
    assert world.job_status.current is not None
    world.push(job("ok-2", restart="on-failure"))
    world.pass_time(400)
    assert world.runs_seen[1].outcome == "succeeded"


def test_a_service_becomes_a_job_and_a_job_a_service(world: JobWorld) -> None:
    world.push(job("stay-1", schedule=None))
    world.pass_time(60)
    assert len(world.live) == 1
    world.push(job("ok-1"))
    world.pass_time(60)
    assert (world.live, world.network, world.loop.view(NAME).phase) == ({}, "absent", Phase.SCHEDULED)
    assert world.status.rollout is None
    world.at(3.1)
    assert world.runs_seen[1].outcome == "succeeded"
    world.push(job("stay-1", schedule=None))
    world.pass_time(60)
    assert len(world.live) == 1
    assert world.job_status.schedule == ""
    # A week later, nothing counts as missed.
    world.pass_time(7 * DAY)
    world.push(job("ok-1"))
    world.pass_time(60)
    assert not world.told("job-missed")


def test_a_service_that_becomes_a_job_in_its_update_has_an_outcome(world: JobWorld) -> None:
    world.push(job("stay-1", schedule=None))
    world.pass_time(1)
    world.push(job("ok-1"))
    world.pass_time(5)
    found = world.journal.revision(NAME, 1)
    assert found is not None and found.outcome == "superseded"


def test_a_run_goes_on_over_an_agent_and_ends_as_its_program_did(world: JobWorld) -> None:
    world.push(job("ok-1"))
    world.at(3.0)
    world.until(lambda: world.live)
    (before,) = world.live
    world.restart_agent()
    world.pass_time(5)
    assert list(world.live) == [before]
    # Its end comes while no agent is there.
    world.clock.now += 60
    for run in world.live.values():
        world.end(run)
    world.restart_agent()
    world.pass_time(5)
    assert world.runs_seen[1].outcome == "succeeded"


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("restart", ["never", "on-failure"])
def test_a_reboot_in_a_run(world: JobWorld, restart: str, clean: bool) -> None:
    world.push(job("long-1", restart=restart))
    world.at(3.1)
    world.reboot(clean=clean)
    world.pass_time(10)
    if restart == "on-failure":
        assert len(world.live) == 1
        world.pass_time(3 * 3600)
        assert world.runs_seen[1].outcome == "succeeded"
    else:
        assert not world.live
        assert world.runs_seen[1].outcome == "failed"
        why = "it was stopped before its end" if clean else "the machine restarted"
        assert why in world.runs_seen[1].reason
    world.check_history()


def test_what_was_missed_while_the_machine_was_off(world: JobWorld) -> None:
    world.push(job("ok-1"))
    world.at(12.0)
    world.clock.offset += 3 * DAY
    world.reboot(clean=False)
    world.pass_time(60)
    assert not world.runs_seen
    assert len(world.told("job-missed")) == 1
    world.push(job("ok-1", schedule=replace(NIGHT, catch_up=True)))
    world.pass_time(60)
    assert not world.runs_seen, "another schedule catches up on nothing"
    world.clock.offset += 3 * DAY
    world.reboot(clean=False)
    world.pass_time(60)
    assert [run.cause for run in world.runs_seen.values()] == ["catch-up"]
    assert len(world.told("job-missed")) == 1


def test_the_removal_of_a_job_ends_its_run(world: JobWorld) -> None:
    world.push(job("long-1"))
    world.at(3.1)
    world.text = None
    world.journal.merge(snapshot())
    world.wake()
    world.pass_time(60)
    assert (world.live, world.network) == ({}, "absent")
    assert world.journal.get(NAME) is None


@pytest.mark.parametrize("restart", ["never", "on-failure"])
def test_a_job_that_comes_back_while_its_run_is_stopped_begins_none_for_it(
    world: JobWorld, restart: str
) -> None:
    world.push(job("long-1", restart=restart))
    world.at(3.1)
    world.text = None
    world.journal.merge(snapshot())
    world.wake()
    world.pass_time(0.01)
    assert [run.stopping is not None for run in world.live.values()] == [True]
    world.push(job("ok-2", restart=restart))
    world.pass_time(60)
    assert (world.live, world.network) == ({}, "absent")
    assert [re.sub(r" after \w+:", ":", text).partition(";")[0] for text in world.told("job-failed")] == [
        "run 1 failed: its pod was removed"
    ]
    assert len(world.told("job-started")) == 1
    assert "its pod was removed" in (world.loop.view(NAME).error or "")
    world.at(3.1)
    assert world.runs_seen[2].outcome == "succeeded"
    world.check_history()


def test_a_service_comes_back_while_a_run_of_its_name_is_stopped(world: JobWorld) -> None:
    world.push(job("long-1"))
    world.at(3.1)
    world.text = None
    world.journal.merge(snapshot())
    world.wake()
    world.pass_time(0.01)
    assert [run.stopping is not None for run in world.live.values()] == [True]
    world.push(job("stay-1", schedule=None))
    world.pass_time(60)
    assert len(world.live) == 1
    # The runs of the job are history, and no error of a service.
    assert world.loop.view(NAME).error is None
    world.check_history()


def test_killed_before_and_after_each_write_of_a_run() -> None:
    for count in range(1, 200):
        world = JobWorld()
        world.push(job("ok-1", init="ok-0"))
        world.at(2.99)
        world.kill_in = count
        world.at(3.2)
        survived, world.kill_in = world.kill_in > 0, 0
        world.pass_time(100)
        assert [run.outcome for run in world.runs_seen.values()] == ["succeeded"], count
        world.check_history()
        assert (world.live, world.network) == ({}, "absent")
        if survived:
            assert count > 20
            return
    raise AssertionError("a run never ends")


pods = st.builds(
    job,
    st.sampled_from(("ok-1", "bad-2", "long-3")),
    schedule=st.sampled_from(SCHEDULES),
    restart=st.sampled_from(("never", "on-failure")),
    init=st.sampled_from(("", "ok-0", "bad-0")),
)
services = st.just(job("stay-1", schedule=None))
deeds = st.one_of(
    st.tuples(st.just("pass"), st.sampled_from((5.0, 100.0, 3600.0, 5 * 3600.0, DAY))),
    st.tuples(st.just("jump"), st.sampled_from((-DAY, -4 * 3600.0, -3000.0, -60.0, 60.0, 3000.0, DAY))),
    st.tuples(st.just("kill"), st.integers(1, 30)),
    st.tuples(st.just("reboot"), st.booleans()),
    st.tuples(st.just("push"), st.one_of(pods, pods, pods, services)),
    st.tuples(st.just("ask"), st.none()),
)


@settings(max_examples=80, deadline=None)
@given(pods, st.lists(deeds, max_size=15))
def test_whatever_happens_no_time_runs_twice_and_each_run_has_an_end(
    first: Pod, happening: list[tuple[str, Any]]
) -> None:
    world = JobWorld()
    world.push(first)
    for what, how in happening:
        if what == "pass":
            world.pass_time(how)
        elif what == "jump":
            world.jump(how)
        elif what == "kill":
            world.kill_in = how
            world.pass_time(600)
            world.kill_in = 0
        elif what == "reboot":
            world.reboot(clean=how)
        elif what == "push":
            world.push(how)
        else:
            world.ask()
        world.pass_time(1)
    # A service must not run, and every run must end.
    world.push(job("ok-9", schedule=replace(NIGHT, timeout=3600.0)))
    world.pass_time(2 * DAY)
    world.at(12.0)
    world.check_history()
    assert all(run.ended is not None for run in world.runs_seen.values())
    assert (world.live, world.network) == ({}, "absent")
    looks = world.looks
    world.pass_time(10 * 3600)
    assert world.looks - looks <= 3
    assert all(run.state is not RunState.RUNNING for run in world.live.values())
