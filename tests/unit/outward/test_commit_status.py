"""What is said of a commit, and when it is sent: tables, and properties of any sequence of states."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tank_agent.journal.records import (
    Bad,
    Blocked,
    DesiredPod,
    Exit,
    Good,
    Health,
    Hold,
    JobStatus,
    PodStatus,
)
from tank_agent.outward.commit_status import (
    DESCRIPTION_MAX,
    PATIENCE,
    SETTLE,
    CommitStatus,
    Outbox,
    Standing,
    lose_patience,
    of_commit,
    shortened,
    standing,
)
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, PendingChange, Situation, Upcoming
from tank_agent.reconcile.core.rollout import judge
from tank_agent.retry import Failure
from tank_agent.source.git.objects import CommitInfo
from tank_agent.source.git.status import GitStatus, StepStatus
from tank_agent.spec.model import HealthCheck, HttpProbe, Schedule, Update
from tests.unit.reconcile.core.builders import (
    container,
    good,
    known,
    pod,
    probed,
    rollout,
    run_of,
    updating,
    wanted,
    watching,
)

A, B = "a" * 40, "b" * 40
NEW = wanted()
BAD = Bad(hash="bad", generation=3, revision=B, at=2.0, reason="container app exited with code 3")
QUARANTINED = Hold(kind="quarantined", since=2.0, generation=1, declared="bad", failed=3)
PROVEN = Good(generation=2, hash=NEW.hash, at=1.0)
FAILED = "it did not become healthy within 5m: container app is unhealthy: exit code 1: db-password=hunter2"


def never() -> Situation:
    raise AssertionError("it has a verdict: nobody needs to look")


def stands(desired: DesiredPod, status: PodStatus) -> tuple[str, str]:
    found = standing(desired, status, never)
    return found.state, found.why


@pytest.mark.parametrize(
    ("desired", "status", "expected"),
    [
        (NEW, PodStatus(good=PROVEN, rollout=rollout(outcome="good")), ("good", "")),
        # It crashes now, or a person stopped it: the status is of the update.
        (NEW, PodStatus(good=PROVEN, rollout=rollout(outcome="good"), stopped=5.0), ("good", "")),
        (NEW, PodStatus(good=PROVEN), ("good", "")),
        (
            NEW,
            PodStatus(rollout=rollout(kind="first", outcome="failed", reason="x")),
            ("failed", "failed: x"),
        ),
        (
            NEW,
            PodStatus(good=good(), rollout=rollout(outcome="failed", reason=FAILED)),
            ("failed", "failed: it did not become healthy within 5m: container app is unhealthy"),
        ),
        (
            replace(NEW, hold=QUARANTINED, generation=4),
            PodStatus(bad=(BAD,), good=good()),
            ("failed", "rolled back: container app exited with code 3"),
        ),
        # The way back proved itself: what is wanted has failed all the same.
        (
            replace(NEW, hold=QUARANTINED),
            PodStatus(bad=(BAD,), good=PROVEN, rollout=rollout(kind="rollback", outcome="good")),
            ("failed", "rolled back: container app exited with code 3"),
        ),
        (
            replace(NEW, hold=Hold(kind="pinned", since=1.0, generation=1)),
            PodStatus(good=PROVEN),
            ("waiting", "pinned by a person"),
        ),
        (
            replace(NEW, hold=Hold(kind="suspended", since=1.0)),
            PodStatus(good=PROVEN),
            ("waiting", "suspended by a person"),
        ),
        (NEW, PodStatus(good=good(), stopped=5.0), ("waiting", "stopped by a person")),
        (
            NEW,
            PodStatus(good=good(), blocked=Blocked(generation=2, error="no room", retry_at=9.0)),
            ("stuck", "its update cannot begin: no room"),
        ),
        # A newer image of the same tag: the commit was good, and its text runs with the older image.
        (
            replace(NEW, generation=3, images={"app": "sha256:1"}),
            PodStatus(good=PROVEN, rollout=rollout(generation=3)),
            ("good", ""),
        ),
        (
            replace(NEW, generation=4),
            PodStatus(
                good=replace(PROVEN, generation=4),
                rollout=rollout(generation=4, kind="rollback", replaced=3, outcome="good"),
                bad=(replace(BAD, hash=NEW.hash),),
            ),
            ("good", ""),
        ),
        # No way back from it: what runs is bad.
        (
            replace(NEW, generation=3, images={"app": "sha256:1"}),
            PodStatus(good=PROVEN, rollout=rollout(generation=3, outcome="failed", reason="y")),
            ("failed", "failed: y"),
        ),
    ],
)
def test_a_verdict_is_the_standing(desired: DesiredPod, status: PodStatus, expected: tuple[str, str]) -> None:
    assert stands(desired, status) == expected


def image(state: ImageState, error: str | None = None) -> dict[str, ObservedImage]:
    return {"app": ObservedImage(state=state, error=error)}


def seen(situation: Situation) -> tuple[str, str]:
    assert situation.desired is not None
    desired = situation.upcoming.desired if situation.upcoming is not None else situation.desired
    found = standing(desired, situation.status, lambda: situation)
    return found.state, found.why


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (watching(), ("waiting", "starting")),
        (updating(), ("waiting", "starting")),
        (updating(images=image(ImageState.PULLING)), ("waiting", "fetching its image")),
        (updating(images=image(ImageState.FAILED, "no such tag\n  see it")), ("stuck", "no such tag")),
        (updating(images=image(ImageState.PULLING, "no such tag")), ("stuck", "no such tag")),
        (
            updating(
                wanted(generation=1), upcoming=Upcoming(desired=NEW, images=image(ImageState.FAILED, "gone"))
            ),
            ("stuck", "gone"),
        ),
        (
            updating(troubles=(Failure(error="cannot make a bridge", count=4, retry_at=1.0),)),
            ("stuck", "cannot make a bridge"),
        ),
        (
            updating(network_change=PendingChange(reason="x", error="eno1 is gone")),
            ("stuck", "eno1 is gone"),
        ),
        # Its wait has begun, and gives the verdict.
        (watching(troubles=(Failure(error="cannot write", count=4, retry_at=1.0),)), ("waiting", "starting")),
    ],
)
def test_without_a_verdict_it_waits_or_is_stuck(situation: Situation, expected: tuple[str, str]) -> None:
    assert seen(situation) == expected


def test_a_job_is_good_when_its_images_are_here() -> None:
    job = wanted(pod(schedule=Schedule(cron="0 3 * * *")))
    status = {"rollout": None, "good": None, "job": JobStatus(fetched=1)}
    assert seen(updating(job, **status)) == ("good", "")
    assert seen(updating(job, images=image(ImageState.PULLING), **status)) == (
        "waiting",
        "fetching its image",
    )
    assert seen(updating(job, images=image(ImageState.FAILED, "no"), **status)) == ("stuck", "no")


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (HealthCheck(exec=("check",)), False),
        # The image's own check may be any program.
        (None, False),
        (HealthCheck(http=HttpProbe(port=80)), True),
        (HealthCheck(tcp=80), True),
    ],
)
@pytest.mark.parametrize("state", ["starting", "unhealthy"])
def test_words_of_programs_stay_here(check: HealthCheck | None, told: bool, state: str) -> None:
    """A rollout's reason ends with what the probe said, which may be a secret."""
    spec = pod(container(health=check), update=Update(deadline=60.0))
    desired = wanted(spec)
    run = replace(run_of(desired), probed=probed(state, message="HUNTER2\nHUNTER3"))
    verdict = judge(watching(desired, after=61.0, runs=(run,)))
    assert verdict.outcome == "failed" and "HUNTER2" in verdict.reason
    failed = PodStatus(good=good(), rollout=rollout(outcome="failed", reason=verdict.reason))
    _, why = stands(desired, failed)
    assert "HUNTER3" not in why
    assert ("HUNTER2" in why) is told
    assert f"is {state}" in why


def test_words_of_a_last_probe_stay_here() -> None:
    desired = wanted(pod(container(health=HealthCheck(exec=("check",)))))
    ended = replace(
        known(desired),
        instance="",
        exit=Exit(at=1.0, code=3),
        health=Health(state="unhealthy", since=1.0, message="HUNTER2 (and so on)"),
    )
    verdict = judge(watching(desired, containers={"app": ended}, runs=(), rollout=rollout(ends=9)))
    assert verdict.outcome == "failed" and "HUNTER2" in verdict.reason
    _, why = stands(desired, PodStatus(good=good(), rollout=rollout(outcome="failed", reason=verdict.reason)))
    assert why == "failed: container app ended with exit code 3"


def test_what_is_stuck_for_long_has_failed() -> None:
    stuck = Standing(name="web", state="stuck", why="no such tag")
    fine = Standing(name="db", state="good")
    found, since = lose_patience((stuck, fine), {}, 100.0)
    assert [one.state for one in found] == ["waiting", "good"] and since == {"web": 100.0}
    found, since = lose_patience((stuck, fine), since, 100.0 + PATIENCE - 0.1)
    assert found[0].state == "waiting"
    found, since = lose_patience((stuck, fine), since, 100.0 + PATIENCE)
    assert found[0].state == "failed" and found[0].why == "no such tag"
    # It went on in between, so that it begins anew.
    _, since = lose_patience((replace(stuck, state="waiting"),), since, 200.0)
    assert since == {}


def done(revision: str | None = A, error: str | None = None) -> StepStatus:
    return StepStatus(revision=revision, error=error)


def follows(**changes: Any) -> GitStatus:
    commit = CommitInfo(id=A, author="Ann", subject="change", at=1.0)
    status = GitStatus(
        remote="https://h/x",
        ref="HEAD",
        fetched=done(),
        verified=done(),
        checked=done(),
        applied=done(),
        commit=commit,
        latest=commit,
    )
    return replace(status, **changes)


def pods(**states: Literal["good", "waiting", "stuck", "failed"]) -> list[Standing]:
    return [
        Standing(name=name, state=state, why="" if state == "good" else f"it is {state}")
        for name, state in states.items()
    ]


LATEST = f'commit {A[:12]} ("change" by Ann)'
ERROR = "pods/web.toml:3: image: is missing"


@pytest.mark.parametrize(
    ("git", "problems", "found", "expected"),
    [
        (GitStatus(remote="h", ref="HEAD"), (), [], None),
        # The agent has just started: what another one applied says nothing of errors of files.
        (GitStatus(remote="h", ref="HEAD", applied=done()), (), pods(web="good"), None),
        (GitStatus(remote="h", ref="HEAD", fetched=done(None, "no way"), applied=done()), (), [], None),
        (follows(), (), [], (A, "success", "nothing is declared for this machine")),
        (follows(), (), pods(web="good"), (A, "success", "1 pod good")),
        (follows(), (), pods(web="good", db="good"), (A, "success", "2 pods good")),
        # The remote is away: what is known goes on to be told.
        (follows(fetched=done(A, "no way")), (), pods(web="good"), (A, "success", "1 pod good")),
        (follows(), (), pods(web="waiting", db="good"), (A, "pending", "web: it is waiting")),
        (
            follows(),
            (),
            pods(a="waiting", b="waiting", c="good"),
            (A, "pending", "updating 2 of 3 pods: a, b"),
        ),
        (follows(), (), pods(web="failed", db="waiting"), (A, "failure", "web: it is failed")),
        (
            follows(),
            (),
            pods(web="failed", db="failed", c="good"),
            (A, "failure", "2 of 3 pods failed (web, db); web: it is failed"),
        ),
        (follows(), (ERROR,), pods(web="good"), (A, "failure", ERROR)),
        (follows(), (ERROR,), pods(web="failed"), (A, "failure", ERROR)),
        (
            follows(fetched=done(B), verified=done(A, f"{LATEST} is refused: it is not signed")),
            (),
            [],
            (B, "failure", "refused: it is not signed"),
        ),
        (
            follows(fetched=done(B), held=f"{LATEST} is held: it would remove 2 of 3 pods"),
            (),
            [],
            (B, "pending", "held: it would remove 2 of 3 pods"),
        ),
        (follows(), (ERROR, ERROR), pods(web="waiting"), (A, "failure", f"2 errors in files; {ERROR}")),
        (follows(fetched=done(B)), (), pods(web="failed"), (B, "pending", "being applied")),
        (
            follows(fetched=done(B), held="held: it would remove 3 of 3 pods"),
            (),
            pods(web="good"),
            (B, "pending", "held: it would remove 3 of 3 pods"),
        ),
        (
            follows(fetched=done(B), verified=done(A, "it is not signed")),
            (),
            pods(web="good"),
            (B, "failure", "refused: it is not signed"),
        ),
        (follows(fetched=done(B), checked=done(A, "no path")), (), [], (B, "failure", "refused: no path")),
        (follows(fetched=done(B), applied=done(A, "no room")), (), [], (B, "failure", "refused: no room")),
    ],
)
def test_of_a_commit(
    git: GitStatus, problems: Sequence[str], found: Sequence[Standing], expected: tuple[str, str, str] | None
) -> None:
    status = of_commit(git, problems, found)
    told = (status.sha, status.state, status.description) if status is not None else None
    assert told == expected


@given(st.text())
def test_a_description_is_one_short_line_that_steers_nothing(text: str) -> None:
    found = shortened(text)
    assert len(found) <= DESCRIPTION_MAX
    assert found == " ".join(found.split())
    assert not {unicodedata.category(char) for char in found} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    found.encode()


def test_a_description_has_no_secret_of_a_url() -> None:
    told = shortened("cannot pull\x1b[31m https://ann:hunter2@h/x?token=abc and so on")
    assert told == "cannot pull [31m https://h/x?token=… and so on"


PLACE = "https://h/api"
STATES = st.sampled_from(["pending", "success", "failure"])
STEPS = st.lists(st.tuples(st.sampled_from([A, B]), STATES, st.floats(0.0, 3.0)), max_size=30)


def status_of(sha: str, state: Any) -> CommitStatus:
    return CommitStatus(sha=sha, state=state, description="x")


@given(STEPS)
def test_there_is_at_most_one_post_a_change_and_the_last_state_arrives(
    steps: list[tuple[str, Any, float]],
) -> None:
    outbox, now = Outbox(place=PLACE), 100.0
    posts: list[tuple[str, str]] = []
    changes = 0
    for sha, state, pause in [*steps, (steps[-1][0], steps[-1][1], 2 * SETTLE)] if steps else []:
        before = outbox.wanted
        changes += before is None or (before.sha, before.state) != (sha, state)
        outbox = outbox.wanting(status_of(sha, state), now)
        # Between two looks nothing is sent before its time.
        end = now + pause
        while (due := outbox.due_in(now)) is not None and now + due <= end:
            now += due
            assert outbox.wanted is not None
            posts.append((outbox.wanted.sha, outbox.wanted.state))
            outbox = outbox.delivered(outbox.wanted, 1.0)
        now = end
    assert len(posts) <= changes
    assert all(first != second for first, second in pairwise(posts))
    if steps:
        sha, state, _ = steps[-1]
        of_last = [told for commit, told in posts if commit == sha]
        hidden = state == "pending" and of_last and of_last[-1] == "failure"
        assert posts[-1] == (sha, state) or hidden
    assert outbox.due_in(now + 100.0) is None


def test_a_flap_is_not_sent() -> None:
    outbox = Outbox(place=PLACE).wanting(status_of(A, "success"), 0.0)
    assert outbox.due_in(0.0) == SETTLE and outbox.due_in(SETTLE) == 0.0
    outbox = outbox.delivered(status_of(A, "success"), 1.0)
    flap = outbox.wanting(status_of(A, "pending"), 10.0).wanting(status_of(A, "success"), 10.5)
    assert flap.due_in(20.0) is None


def test_failures_wait_and_a_newer_commit_takes_the_place_of_the_older() -> None:
    outbox = Outbox(place=PLACE).wanting(status_of(A, "success"), 0.0).failed(60.0, of_commit=False)
    assert outbox.due_in(10.0) == 50.0
    # The server is away for any commit.
    newer = outbox.wanting(status_of(B, "pending"), 20.0)
    assert newer.due_in(30.0) == 30.0 and newer.wanted == status_of(B, "pending")
    # A commit that the forge did not know is no reason to wait with the next one.
    unknown = Outbox(place=PLACE).wanting(status_of(A, "success"), 0.0).failed(300.0, of_commit=True)
    assert unknown.due_in(10.0) == 290.0
    assert unknown.wanting(status_of(B, "pending"), 10.0).due_in(11.0) == 0.0


def test_a_commit_of_which_no_more_is_taken_is_left_alone_and_another_place_is_told() -> None:
    outbox = Outbox(place=PLACE).delivered(status_of(A, "pending"), 1.0, refused=True)
    assert outbox.wanting(status_of(A, "success"), 0.0).due_in(9.0) is None
    assert outbox.wanting(status_of(B, "success"), 0.0).due_in(9.0) == 0.0
    told = Outbox(place=PLACE).delivered(status_of(A, "success"), 1.0).wanting(status_of(A, "success"), 0.0)
    assert told.due_in(9.0) is None
    assert replace(told, place="https://other/api").due_in(9.0) == 0.0


def test_red_stays_red_until_it_is_green() -> None:
    outbox = Outbox(place=PLACE).delivered(status_of(A, "failure"), 1.0)
    assert outbox.wanting(status_of(A, "pending"), 0.0).due_in(9.0) is None
    assert outbox.wanting(status_of(A, "success"), 0.0).due_in(9.0) == 0.0
    assert outbox.wanting(status_of(B, "pending"), 0.0).due_in(9.0) == 0.0
