"""The sentences of `tank why`: the first thing that is wrong, and what would change it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tank_agent.api.reports import ContainerReport, PodReport
from tank_agent.control.explain import cause_of, last_lines, summary, unblock, unblock_broken
from tank_agent.journal.records import Revision
from tank_agent.spec.model import Container, Pod

FILE = "/etc/tank/pods.d/web.toml"


def report(phase: str = "running", **fields: Any) -> PodReport:
    update = fields.pop("update", None)
    if update is not None:
        told = {"outcome": None, "wanted": "w" * 40, "running": "r" * 40, "reason": None, **update}
        fields["rollout"] = told
    container = {"name": "app", "phase": phase, "pid": 1, "restarts": 0, "image": "nginx"}
    container |= fields.pop("container", {})
    given = {
        "name": "web",
        "phase": phase,
        "owner": f"dir:{FILE}",
        "generation": 3,
        "containers": [container],
    }
    return msgspec.convert(given | fields, PodReport)


SICK = {"health": {"state": "unhealthy", "since": None, "message": "http 500", "failing": 3}}
HELD = {"kind": "quarantined", "since": "2026-01-01T00:00:00Z", "generation": 2}


@pytest.mark.parametrize(
    ("pod", "sentence"),
    [
        (report(), f"web runs as {FILE} says"),
        (report("completed"), f"web completed as {FILE} says"),
        (report(update={"state": "good"}), f"web runs as {FILE} says"),
        (report(update={"state": "updating"}), f"web runs as {FILE} says, and has to prove itself still"),
        (
            report(update={"state": "rolled-back", "reason": "exit code 3"}, hold=HELD),
            f"web runs {'r' * 12}, since the update to {'w' * 12} failed: exit code 3",
        ),
        (
            report("starting", update={"state": "rolling-back", "reason": "exit code 3"}, hold=HELD),
            f"web goes back to {'r' * 12}, since the update to {'w' * 12} failed: exit code 3",
        ),
        (
            report(update={"state": "blocked", "reason": "no room"}),
            f"web runs {'r' * 12}, since the update to {'w' * 12} cannot begin: no room",
        ),
        (
            report("backing-off", update={"state": "failed", "reason": "it ended too often"}),
            f"web is at {'w' * 12}, which failed to prove itself: it ended too often",
        ),
        (report("pending", waits=("waits for pod db: starting",)), "web waits for pod db: starting"),
        (
            report("pending", waits=("app waits for init container migrate: starting",)),
            "web: app waits for init container migrate: starting",
        ),
        (
            report("degraded", health="unhealthy", container=SICK),
            "web is unhealthy: the probe of app fails: http 500",
        ),
        (report("backing-off", error="exit code 3\n  a hint"), "web is backing-off: exit code 3"),
        (report("pulling", error="429"), "web waits for its image, which is being pulled: 429"),
        (
            report(error=f"{FILE}:3: image: is empty"),
            f"web is running, and something is wrong: {FILE}:3: image: is empty",
        ),
        (
            report(hold={**HELD, "kind": "pinned"}),
            f"web is running, and pinned: it does not follow {FILE}",
        ),
        (report("failed", generation=0, error=f"{FILE}:1: no"), f"web does not run: {FILE}:1: no"),
    ],
)
def test_the_summary_is_the_first_thing_that_is_wrong(pod: PodReport, sentence: str) -> None:
    assert summary(pod, FILE) == sentence


EDIT = f"edit {FILE}"


@pytest.mark.parametrize(
    ("pod", "sentences"),
    [
        (report(), []),
        (
            report(update={"state": "rolled-back"}, hold=HELD),
            [
                f"{EDIT}: another text is tried at once, the same one never again by itself",
                "`tank resume web` tries the failed update again",
            ],
        ),
        # Only the image was bad.
        (
            report(update={"state": "rolled-back"}),
            [
                f"{EDIT}: another text is tried at once, the same one never again by itself",
                "a newer image is tried by itself; `tank image update web` looks for one now",
            ],
        ),
        (
            report("backing-off", update={"state": "failed"}, owner="api", container={"restarts": 1}),
            [
                "`tank apply` another spec, or `tank rollback web REV` to one of `tank history web`",
                "`tank logs web` shows what it printed",
                "`tank logs web/app` shows what it printed",
            ],
        ),
        (
            report(update={"state": "failed"}, generation=1),
            [EDIT, "`tank logs web` shows what it printed"],
        ),
        (
            report(update={"state": "blocked"}),
            ["make room, or whatever the reason names: it is tried again by itself"],
        ),
        (report(hold={**HELD, "kind": "pinned"}), ["`tank resume web` follows its file again"]),
        (
            report(hold={"kind": "suspended", "since": None, "generation": None}),
            ["`tank resume` follows files and git again"],
        ),
        (
            report(
                "pending", waits=("waits for pod db: starting", "app waits for init container cache: fails")
            ),
            [
                "`tank why db` shows why pod db is not ready",
                "`tank logs web/cache` shows what container cache does",
            ],
        ),
        (report(error=f"{FILE}:3: image: is empty"), [f"mend {FILE} where the error says"]),
        (
            report("failed"),
            ["`tank logs web/app` shows what it printed", f"{EDIT}: it stays down until its spec changes"],
        ),
        # It never ran, so it printed nothing.
        (report("backing-off", error="device /dev/x: No such file or directory"), []),
        (
            report("degraded", health="unhealthy", container=SICK),
            ["`tank logs web/app` shows what it printed"],
        ),
        (
            report(
                owner="git:web.toml",
                git={
                    "state": "held",
                    "error": "too many removals",
                    "commit": "c",
                    "author": "",
                    "subject": "",
                    "file": "web.toml",
                },
            ),
            ["`tank sync --confirm` lets the commit through"],
        ),
    ],
)
def test_what_would_change_it(pod: PodReport, sentences: list[str]) -> None:
    assert list(unblock(pod, FILE)) == sentences


def revision(owner: str, image: str = "nginx", **fields: Any) -> Revision:
    spec = Pod(name="web", containers=(Container(name="app", image=image),))
    given = {"revision": "c" * 40, "hash": "h", "changed_at": 0.0, **fields}
    return Revision(generation=2, pod=spec, owner=owner, **given)


@pytest.mark.parametrize(
    ("now", "before", "cause"),
    [
        (revision("api"), None, "`tank apply`"),
        (revision("seed"), None, "a seed"),
        (revision(f"dir:{FILE}"), revision(f"dir:{FILE}", "old"), "its file changed"),
        (
            revision("git:web.toml", author="Ann", subject="More memory"),
            None,
            f"commit {'c' * 12} More memory (Ann)",
        ),
        (revision("git:web.toml"), None, f"commit {'c' * 12}"),
        (revision("api", restored=1), None, "back to generation 1"),
        (revision("api", images={"app": "sha256:1"}), revision("api"), "another image behind the same name"),
    ],
)
def test_the_cause_of_a_change(now: Revision, before: Revision | None, cause: str) -> None:
    assert cause_of(now, before) == cause


def test_log_lines_are_bounded_in_number_and_size() -> None:
    assert last_lines([str(number) for number in range(20)], 3, 100) == ("17", "18", "19")
    assert last_lines(["a" * 50, "b" * 10], 9, 20) == ("a" * 8 + "…", "b" * 10)
    assert last_lines(["a" * 50, "b" * 30], 9, 20) == ("b" * 19 + "…",)
    assert last_lines([], 9, 20) == ()


def test_every_container_report_has_a_health() -> None:
    plain = ContainerReport(name="app", phase="running", pid=1, restarts=0, image="nginx")
    assert plain.health.state == "none"


def of_job(*outcomes: str | None, phase: str = "scheduled", **fields: Any) -> PodReport:
    """Return a job with runs of these outcomes; None is one under way."""
    runs = [
        {
            "number": number,
            "cause": "schedule",
            "due": None,
            "begun": "2026-01-01T02:00:00Z",
            "ended": None if outcome is None else "2026-01-01T02:06:00Z",
            "outcome": outcome,
            "reason": "container app ended with exit code 3" if outcome == "failed" else None,
        }
        for number, outcome in enumerate(outcomes, 1)
    ]
    told = {
        "schedule": "0 3 * * *",
        "time_zone": "",
        "next_run": "2026-01-02T02:00:00Z",
        "run": runs[-1] if runs and runs[-1]["ended"] is None else None,
        "runs": runs,
    }
    return report(phase, job=told, **fields)


@pytest.mark.parametrize(
    ("pod", "sentence"),
    [
        (of_job(), "web waits for its next run, 2026-01-02T02:00:00Z"),
        (of_job("failed", "succeeded"), "web waits for its next run, 2026-01-02T02:00:00Z; run 2 succeeded"),
        (
            of_job("failed", error="run 1 failed: …"),
            "run 1 of web failed: container app ended with exit code 3; its next run is 2026-01-02T02:00:00Z",
        ),
        (
            of_job("timed-out"),
            "run 1 of web timed out: no reason is known; its next run is 2026-01-02T02:00:00Z",
        ),
        (
            of_job("failed", None, phase="running", error="run 1 failed: …"),
            "web is running: run 2 goes on since 2026-01-01T02:00:00Z",
        ),
        (
            of_job(None, phase="pending", waits=["waits for pod db: starting"]),
            "web is pending: run 1 goes on since 2026-01-01T02:00:00Z; it waits for pod db: starting",
        ),
    ],
)
def test_a_job_is_told_by_its_runs(pod: PodReport, sentence: str) -> None:
    assert summary(pod, FILE) == sentence


def test_what_a_person_can_do_about_a_job() -> None:
    assert unblock(of_job("succeeded"), FILE) == ("`tank run web` runs it now",)
    logs = "`tank logs web --run 1` shows what it printed"
    assert unblock(of_job("failed"), FILE) == (logs, "`tank run web` runs it now")
    # What its containers ended with is of that run, and the next one comes whatever its spec is.
    ended = report("failed").containers
    assert unblock(replace(of_job("failed"), containers=ended), FILE) == (logs, "`tank run web` runs it now")
    assert unblock(of_job(None, phase="running"), FILE) == ("`tank logs web -f` follows the run",)


def test_a_pod_that_no_key_opens_is_tried_again_without_a_new_file() -> None:
    mend = f"mend {FILE}: it is looked at again once it is saved"
    assert unblock_broken(report("failed", error="x is empty"), FILE) == (mend,)
    wrong = report("failed", error=f"{FILE}:1: secrets: secret a: no key of this machine opens it (tried /k)")
    key = "or give this machine a key that opens it: it is tried again at each resync"
    assert unblock_broken(wrong, FILE) == (mend, key)
