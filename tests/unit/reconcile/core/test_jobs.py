"""What becomes of the times of a schedule, and of a run under way: the decisions for jobs."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, Exit, JobRun, JobStatus, PodStatus
from tank_agent.reconcile.core import actions, job_records, jobs
from tank_agent.reconcile.core.actions import Action
from tank_agent.reconcile.core.hashes import container_hash, schedule_hash
from tank_agent.reconcile.core.jobs import decide
from tank_agent.reconcile.core.observed import ImageState, Moment, Observed, ObservedImage, Situation
from tank_agent.reconcile.core.order import unready_pod
from tank_agent.reconcile.core.phase import Phase, view_pod
from tank_agent.reconcile.core.plan import plan, simulate
from tank_agent.spec.model import Container, Mount, Pod, RestartPolicy, Schedule, Secret
from tests.unit.reconcile.core.builders import BACKOFF, run_of, wanted

ZONE = "Europe/Berlin"
NIGHT = Schedule(cron="0 3 * * *", time_zone=ZONE)
HOUR = 3600.0
DAY = 24 * HOUR


def at(text: str, zone: str = ZONE) -> float:
    """Return the Unix time of a time on a wall; 29 November 2026 without a date."""
    text = text if " " in text else f"2026-11-29 {text}"
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def known(schedule: Schedule = NIGHT, **changes: Any) -> JobStatus:
    """Return a job whose next time is 03:00, known since the day before."""
    found = JobStatus(schedule=schedule_hash(schedule), next_due=at("03:00"), since=at("03:00") - DAY)
    return replace(found, **changes)


def run(**changes: Any) -> JobRun:
    found = JobRun(
        number=7,
        cause="schedule",
        due=at("03:00") - DAY,
        begun=at("03:00") - DAY,
        generation=2,
        boot_id="this",
        clock=0.0,
    )
    return replace(found, **changes)


GOES_ON = (run(),)
HOURLY = Schedule(cron="0 * * * *", time_zone=ZONE)
OFTEN = Schedule(cron="* * * * *", time_zone=ZONE)
LATE = replace(NIGHT, catch_up=True)
TOMORROW = at("03:00") + DAY


# The schedule, what is known of the job, the clock, and what follows.
TABLE: dict[str, tuple[Schedule, JobStatus, float, tuple[object, ...]]] = {
    "first look": (NIGHT, JobStatus(), at("12:00"), ("arrange", TOMORROW)),
    "first look at its very time": (NIGHT, JobStatus(), at("03:00"), ("arrange", TOMORROW)),
    "another schedule, which is due now": (
        replace(NIGHT, cron="0 2 * * *"),
        known(),
        at("03:00"),
        ("arrange", at("02:00") + DAY),
    ),
    "another schedule, and much was missed": (
        replace(LATE, cron="0 2 * * *"),
        known(),
        at("03:00") + 9 * DAY,
        ("arrange", at("02:00") + 10 * DAY),
    ),
    "before its time": (NIGHT, known(), at("03:00") - 0.5, ()),
    "at its time": (NIGHT, known(), at("03:00"), ("schedule", at("03:00"), TOMORROW, None)),
    "late by ten minutes": (NIGHT, known(), at("03:10"), ("schedule", at("03:00"), TOMORROW, None)),
    "later": (NIGHT, known(), at("03:10") + 1, ("missed", at("03:00"), False, TOMORROW)),
    "missed for a week": (
        NIGHT,
        known(),
        at("12:00") + 7 * DAY,
        ("missed", at("03:00"), True, at("03:00") + 8 * DAY),
    ),
    "missed for a week, catch_up": (
        LATE,
        known(LATE),
        at("12:00") + 7 * DAY,
        ("catch-up", at("03:00"), at("03:00") + 8 * DAY, None),
    ),
    "missed for a week, but today's time is now": (
        NIGHT,
        known(),
        at("03:05") + 7 * DAY,
        ("schedule", at("03:00") + 7 * DAY, at("03:00") + 8 * DAY, at("03:00")),
    ),
    "hourly, missed for a morning": (
        HOURLY,
        known(HOURLY),
        at("12:05"),
        ("schedule", at("12:00"), at("13:00"), at("03:00")),
    ),
    "each minute, late by less than one": (
        OFTEN,
        known(OFTEN),
        at("03:00") + 59,
        ("schedule", at("03:00"), at("03:01"), None),
    ),
    "each minute, late by more": (
        OFTEN,
        known(OFTEN),
        at("03:02") + 1,
        ("schedule", at("03:02"), at("03:03"), at("03:00")),
    ),
    "a run goes on at its time": (
        NIGHT,
        known(runs=GOES_ON),
        at("03:00"),
        ("skipped", at("03:00"), False, TOMORROW),
    ),
    "a run goes on for days, catch_up": (
        LATE,
        known(LATE, runs=GOES_ON),
        at("12:00") + DAY,
        ("skipped", at("03:00"), True, at("03:00") + 2 * DAY),
    ),
    "a run is being stopped at its time": (
        NIGHT,
        known(runs=(run(outcome="timed-out"),)),
        at("03:00"),
        ("skipped", at("03:00"), False, TOMORROW),
    ),
    "a person asks": (
        NIGHT,
        known(asked=at("01:00")),
        at("01:00"),
        ("manual", at("01:00"), at("03:00"), None),
    ),
    "a person asks while a run goes on": (NIGHT, known(asked=at("01:00"), runs=GOES_ON), at("01:00"), ()),
    "a person asks at its time": (
        NIGHT,
        known(asked=at("02:59")),
        at("03:00"),
        ("schedule", at("03:00"), TOMORROW, None),
    ),
    "a person asks, and much was missed": (
        NIGHT,
        known(asked=at("11:00")),
        at("12:00"),
        ("missed", at("03:00"), False, TOMORROW),
    ),
    "the clock went back by an hour after its run": (
        NIGHT,
        known(since=at("03:00"), next_due=TOMORROW),
        at("02:59"),
        (),
    ),
    "the clock went back past its run by less than three hours": (
        NIGHT,
        known(since=at("03:00"), next_due=TOMORROW),
        at("00:30"),
        (),
    ),
    "and its time comes again": (NIGHT, known(since=at("03:00"), next_due=TOMORROW), at("03:00"), ()),
    "the clock went back by three hours": (
        NIGHT,
        known(since=at("03:00"), next_due=TOMORROW),
        at("00:00") - 1,
        ("arrange", at("03:00")),
    ),
    "the clock went back by days": (
        NIGHT,
        known(since=at("03:00"), next_due=TOMORROW),
        at("12:00") - 5 * DAY,
        ("arrange", at("03:00") - 4 * DAY),
    ),
    "the clock went back by hours, long after the last look at the schedule": (
        NIGHT,
        known(since=at("03:00"), next_due=TOMORROW),
        at("12:00"),
        (),
    ),
    "the clock is not set yet": (LATE, known(LATE), 86400.0, ()),
    "the clock is not set yet, but a person asks": (
        LATE,
        known(LATE, asked=86400.0),
        86400.0,
        ("manual", 86400.0, at("03:00"), None),
    ),
    "a schedule that never comes": (
        replace(NIGHT, cron="0 0 30 2 *"),
        JobStatus(),
        at("12:00"),
        ("arrange", None),
    ),
    "the night in which 02:30 does not exist": (
        replace(NIGHT, cron="30 2 * * *"),
        known(replace(NIGHT, cron="30 2 * * *"), next_due=at("2027-03-28 03:00")),
        at("2027-03-28 03:00"),
        ("schedule", at("2027-03-28 03:00"), at("2027-03-29 02:30"), None),
    ),
}  # fmt: skip


def told(found: Action | None) -> tuple[object, ...]:
    if isinstance(found, job_records.BeginRun):
        return (found.cause, found.due, found.next_due, found.missed)
    if isinstance(found, job_records.PassOver):
        return (found.why, found.due, found.several, found.next_due)
    return ("arrange", found.next_due) if isinstance(found, job_records.ArrangeRun) else ()


@pytest.mark.parametrize("name", TABLE)
def test_what_becomes_of_a_time(name: str) -> None:
    schedule, job, wall, expected = TABLE[name]
    assert told(decide(job, schedule, wall)) == expected


def test_a_time_that_comes_twice_at_night_runs_once() -> None:
    # 02:30 comes twice in this night.
    schedule = replace(NIGHT, cron="30 2 * * *")
    job, wall, begun = JobStatus(), at("2026-10-24 12:00"), list[float]()
    while wall < at("2026-10-26 12:00"):
        found = decide(job, schedule, wall)
        if isinstance(found, job_records.ArrangeRun):
            job = replace(job, schedule=found.schedule, next_due=found.next_due, since=wall)
        elif isinstance(found, job_records.BeginRun):
            begun.append(found.due)
            job = replace(job, next_due=found.next_due, since=wall)
        wall += 10.0
    assert begun == [at("2026-10-25 02:30"), at("2026-10-26 02:30")]


# --- a run under way -------------------------------------------------------------------------------------

NOW = Moment(wall=at("12:00"), monotonic=5000.0, boot_id="this")


def job_pod(**changes: Any) -> Pod:
    first = Container(name="dump", rootfs="/r", command=("dump",))
    found = Pod(name="web", containers=(first,), restart=RestartPolicy.NEVER, schedule=NIGHT)
    return replace(found, **changes)


def between(pod: Pod | None = None, **changes: Any) -> Situation:
    """Return a job between two runs; other values are of the job, of the status, or of the situation."""
    pod = pod or job_pod()
    desired = wanted(pod)
    job = known(pod.schedule or NIGHT, next_due=TOMORROW, since=at("03:00"))
    job = replace(job, **{name: changes.pop(name) for name in list(changes) if hasattr(job, name)})
    observed = Observed(
        **{name: changes.pop(name) for name in ("runs_now", "network", "images") if name in changes}
    )
    status = PodStatus(job=job, containers=changes.pop("containers", {}))
    return replace(
        Situation(desired=desired, status=status, observed=observed, now=NOW, backoff=BACKOFF), **changes
    )


def within(pod: Pod | None = None, observed: dict[str, Any] | None = None, **changes: Any) -> Situation:
    """Return a job in the middle of run 7, whose container runs."""
    runs = (run(begun=NOW.wall - 100, due=at("03:00"), clock=NOW.monotonic - 100),)
    found = between(pod, **{"runs": runs, **changes})
    assert found.desired is not None
    alive = run_of(found.desired, "dump")
    status = replace(found.status, containers={"dump": status_of(found.desired.pod, instance="dump-1")})
    return replace(found, status=changes_of(status, changes)).seeing(
        **{"runs": (alive,), "network": "used", **(observed or {})}
    )


def changes_of(status: PodStatus, changes: dict[str, Any]) -> PodStatus:
    return replace(status, containers=changes["containers"]) if "containers" in changes else status


def status_of(pod: Pod, name: str = "dump", **changes: Any) -> ContainerStatus:
    spec = next(found for found in pod.containers if found.name == name)
    return replace(ContainerStatus(hash=container_hash(pod, spec), boot_id="this"), **changes)


def due(situation: Situation) -> list[Action]:
    return list(plan(situation).actions)


def test_between_runs_nothing_is_due_until_the_next_one() -> None:
    found = plan(between())
    assert found.actions == ()
    assert found.look_again == pytest.approx(TOMORROW - NOW.wall)


def test_a_service_that_becomes_a_job_is_stopped_and_waits_for_its_time() -> None:
    situation = within(runs=())
    stop = due(situation)
    assert stop == [actions.Stop(run="dump-1", container="dump")]
    done = simulate(situation)
    assert [type(step) for step in done] == [
        actions.Stop, actions.RecordExit, actions.RemoveRun, actions.RemoveNetwork,
    ]  # fmt: skip
    view = view_pod(situation.seeing(runs=(), network="absent"))
    assert (view.phase, view.error) == (Phase.SCHEDULED, None)


def test_a_run_that_is_due_waits_until_nothing_of_the_service_before_is_left() -> None:
    situation = within(runs=(), next_due=NOW.wall)
    assert due(situation) == [actions.Stop(run="dump-1", container="dump")]
    assert due(situation.seeing(runs=())) == [actions.RecordLost(container="dump")]
    gone = replace(situation, status=replace(situation.status, containers={}))
    assert due(gone.seeing(runs=())) == [actions.RemoveNetwork()]
    (begin,) = due(gone.seeing(runs=(), network="absent"))
    assert isinstance(begin, job_records.BeginRun)


def test_a_run_begins_with_fresh_containers_and_its_network() -> None:
    old = status_of(job_pod(), exit=Exit(at=1.0, code=3), failures=4)
    situation = between(next_due=NOW.wall, containers={"dump": old})
    done = simulate(situation)
    assert [type(step) for step in done] == [job_records.BeginRun, actions.MakeNetwork, actions.Start]
    after = done[0].expected(situation)
    assert after.status.containers == {}
    assert after.status.job is not None and after.status.job.current is not None
    assert (after.status.job.current.number, after.status.job.current.generation) == (1, 2)


def test_only_the_last_ten_runs_are_kept() -> None:
    ended = tuple(run(number=number, ended=1.0, outcome="succeeded") for number in range(3, 13))
    situation = between(next_due=NOW.wall, runs=ended)
    job = due(situation)[0].expected(situation).status.job
    assert job is not None
    assert [found.number for found in job.runs] == list(range(4, 14))


def ended_with(*, restart: RestartPolicy = RestartPolicy.NEVER, **exit_: Any) -> Situation:
    pod = job_pod(restart=restart)
    found = status_of(pod, exit=Exit(at=NOW.wall - 1, **exit_), ended_boot="this")
    return within(pod, {"runs": ()}, containers={"dump": found})


def test_a_run_ends_when_no_container_is_due_any_more() -> None:
    situation = ended_with(code=0)
    (end,) = due(situation)
    assert end == job_records.EndRun(outcome="succeeded", reason="")
    job = end.expected(situation).status.job
    assert job is not None and job.current is None and job.last is not None
    assert (job.last.ended, job.last.exits["dump"].code) == (NOW.wall, 0)
    assert due(end.expected(situation)) == [actions.RemoveNetwork()]


def test_the_last_success_is_known_also_when_ten_runs_have_failed_since() -> None:
    succeeded = ended_with(code=0)
    job = due(succeeded)[0].expected(succeeded).status.job
    assert job is not None and job.succeeded == NOW.wall
    failed = ended_with(code=3)
    known = replace(failed.status, job=replace(failed.status.job or JobStatus(), succeeded=42.0))
    failed = replace(failed, status=known)
    after = due(failed)[0].expected(failed).status.job
    assert after is not None and after.last is not None
    assert (after.last.outcome, after.succeeded) == ("failed", 42.0)
    retired = job_records.RetireJob().changed(after, failed)
    assert (retired.next_due, retired.succeeded) == (None, 42.0)


def test_a_failed_run_is_loud_until_one_succeeds() -> None:
    situation = ended_with(code=3)
    (end,) = due(situation)
    assert end == job_records.EndRun(outcome="failed", reason="container dump ended with exit code 3")
    after = end.expected(situation).seeing(network="absent")
    view = view_pod(after)
    assert (view.phase, view.containers[0].phase) == (Phase.SCHEDULED, Phase.FAILED)
    assert view.error == (
        "run 7 failed: container dump ended with exit code 3\n  see `tank logs web --run 7`"
    )
    assert view.job is not None and view.job.next_due == TOMORROW and view.settled
    # While the next one goes on, too.
    assert after.status.job is not None
    going = replace(after, status=replace(after.status, job=replace(after.status.job, next_due=NOW.wall)))
    started = going
    for step in simulate(going):
        started = step.expected(started)
    view = view_pod(started)
    assert (view.phase, view.error and view.error.split("\n")[0]) == (
        Phase.RUNNING, "run 7 failed: container dump ended with exit code 3",
    )  # fmt: skip


def test_on_failure_starts_it_again_within_the_run() -> None:
    situation = ended_with(restart=RestartPolicy.ON_FAILURE, code=3)
    assert [type(step) for step in simulate(situation)] == [
        actions.RemoveNetwork, actions.MakeNetwork, actions.Start,
    ]  # fmt: skip


def test_a_run_that_takes_too_long_is_stopped_and_has_timed_out() -> None:
    pod = job_pod(schedule=replace(NIGHT, timeout=100.0))
    early = within(pod, now=replace(NOW, monotonic=NOW.monotonic - 1))
    assert plan(early).actions == ()
    assert plan(early).look_again == pytest.approx(1.0)
    # What the clock of the wall says does not count: it may be set in the middle of a run.
    assert plan(replace(early, now=replace(early.now, wall=NOW.wall + HOUR))).actions == ()
    situation = within(pod)
    (give_up,) = due(situation)
    assert give_up == job_records.GiveUpRun(outcome="timed-out", reason="it ran for longer than 1m40s")
    done = simulate(situation)
    assert [type(step) for step in done] == [
        job_records.GiveUpRun, actions.Stop, actions.RecordExit, actions.RemoveRun,
        job_records.EndRun, actions.RemoveNetwork,
    ]  # fmt: skip
    for step in done:
        situation = step.expected(situation)
    assert situation.status.job is not None and situation.status.job.last is not None
    last = situation.status.job.last
    assert (last.outcome, last.exits["dump"].signal) == ("timed-out", 15)
    view = view_pod(situation)
    assert (view.phase, view.error) == (
        Phase.SCHEDULED,
        "run 7 timed out: it ran for longer than 1m40s\n  see `tank logs web --run 7`",
    )


def test_a_run_keeps_its_spec_while_a_container_of_it_runs() -> None:
    newer = wanted(job_pod(containers=(Container(name="dump", rootfs="/r", command=("new",)),)), generation=3)
    situation = within(declared=newer)
    assert due(situation) == []
    view = view_pod(situation)
    assert view.phase is Phase.RUNNING
    assert view.job is not None and view.job.newer


def test_a_run_between_two_tries_takes_the_newest_spec() -> None:
    newer = wanted(job_pod(containers=(Container(name="dump", rootfs="/r", command=("new",)),)), generation=3)
    situation = replace(ended_with(restart=RestartPolicy.ON_FAILURE, code=3), declared=newer)
    done = simulate(situation)
    assert done[0] == job_records.RenewRun(generation=3)
    assert isinstance(done[-1], actions.Start)
    # One that has ended ends with the spec that it had.
    assert due(replace(ended_with(code=3), declared=newer))[0] == job_records.EndRun(
        outcome="failed", reason="container dump ended with exit code 3"
    )


def test_a_job_that_becomes_a_service_starts_when_its_run_has_ended() -> None:
    service = wanted(job_pod(schedule=None, restart=RestartPolicy.ALWAYS), generation=3)
    assert due(within(declared=service)) == []
    done = simulate(replace(ended_with(code=0), declared=service))
    assert isinstance(done[0], job_records.EndRun)
    assert job_records.RetireJob() in done
    assert isinstance(done[-2], actions.Start)
    waiting = replace(ended_with(restart=RestartPolicy.ON_FAILURE, code=3), declared=service)
    done = simulate(waiting)
    assert done[0] == job_records.GiveUpRun(outcome="failed", reason="its file declares no schedule any more")
    assert any(isinstance(step, actions.Start) for step in done)


def test_a_reboot_in_a_run_ends_what_never_restarts() -> None:
    other = replace(NOW, boot_id="next", monotonic=5.0)
    situation = within(observed={"runs": (), "network": "absent"}, now=other)
    done = simulate(situation)
    assert [type(step) for step in done] == [actions.RecordLost, job_records.EndRun]
    assert done[-1] == job_records.EndRun(
        outcome="failed", reason="container dump: the machine restarted while it was running"
    )
    # Nor does one start that waited.
    waiting = within(observed={"runs": (), "network": "absent"}, now=other, containers={})
    done = simulate(waiting)
    assert [type(step) for step in done] == [job_records.GiveUpRun, job_records.EndRun]


def test_a_reboot_in_a_run_continues_what_restarts() -> None:
    other = replace(NOW, boot_id="next", monotonic=5.0)
    pod = job_pod(restart=RestartPolicy.ON_FAILURE)
    situation = within(pod, {"runs": (), "network": "absent"}, now=other)
    assert [type(step) for step in simulate(situation)] == [
        actions.RecordLost, actions.MakeNetwork, actions.Start,
    ]  # fmt: skip
    # Its time goes on as well, by the clock of the wall.
    timed = replace(pod, schedule=replace(NIGHT, timeout=HOUR))
    late = replace(other, wall=NOW.wall + HOUR)
    situation = within(timed, {"runs": (), "network": "absent"}, now=late)
    assert any(isinstance(step, job_records.GiveUpRun) for step in simulate(situation))


def test_images_of_the_next_run_are_pulled_ahead_and_asked_for_once() -> None:
    images = (
        Container(name="dump", image="docker.io/library/x"),
        Container(name="fresh", image="docker.io/library/y", pull="always"),
    )
    situation = between(job_pod(containers=images))
    done = simulate(situation)
    assert done == (
        actions.Pull(reference="docker.io/library/x", containers=("dump",)),
        job_records.NoteImages(generation=2),
    )
    assert jobs.images_wanted(between(job_pod(containers=images), fetched=2)) == ()
    failed = ObservedImage(state=ImageState.FAILED, error="no such image", retry_at=NOW.monotonic + 60)
    situation = between(job_pod(containers=images), images={"dump": failed})
    assert plan(situation).look_again == pytest.approx(60.0)
    view = view_pod(situation)
    assert (view.phase, view.error) == (Phase.SCHEDULED, "no such image")


def test_a_run_that_a_person_asked_for_is_pending() -> None:
    """Who waits for the job to be scheduled again must not be answered before it ran."""
    situation = between()
    assert situation.status.job is not None
    asked = replace(situation.status.job, asked=NOW.wall)
    view = view_pod(replace(situation, status=replace(situation.status, job=asked)))
    assert (view_pod(situation).phase, view.phase) == (Phase.SCHEDULED, Phase.PENDING)


def test_nobody_waits_for_a_job_between_its_runs() -> None:
    assert unready_pod(between()) == ""
    assert unready_pod(within().seeing(runs=())) == "not running"


def test_a_run_is_not_ended_for_a_secret_of_the_host_that_changes() -> None:
    def with_secret(digest: str, **changes: Any) -> Pod:
        mount = Mount(secret="key", path="/run/secrets/key")
        secret = Secret(name="key", host="/etc/keys/key", digest=digest)
        spec = Container(name="dump", rootfs="/r", command=("dump",), mounts=(mount,))
        return job_pod(containers=(spec,), secrets=(secret,), **changes)

    def hash_of(pod: Pod) -> str:
        return container_hash(pod, pod.containers[0])

    assert hash_of(with_secret("1")) == hash_of(with_secret("2"))
    assert hash_of(with_secret("1", schedule=None)) != hash_of(with_secret("2", schedule=None))


def test_plans_of_a_hundred_jobs_at_rest_ask_for_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    situation = between(fetched=2)
    assert plan(situation).actions == ()

    def never(*_: object) -> float:
        raise AssertionError("a time was computed")

    monkeypatch.setattr(jobs, "next_after", never)
    began = time.thread_time()
    for _ in range(100):
        assert plan(situation).actions == ()
    # A hundred at each resync cost some milliseconds.
    assert time.thread_time() - began < 0.1


def test_the_end_of_a_run_is_told_with_how_long_it_took_before_why() -> None:
    run = JobRun(number=1, cause="manual", due=0.0, begun=0.0, ended=15.0, outcome="timed-out", reason="why")
    assert jobs.describe_outcome(run, "15s") == "timed out after 15s: why"
    assert jobs.describe_outcome(run) == "timed out: why"
