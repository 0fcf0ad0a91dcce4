"""The verbs, where pods have health checks and updates: calm where all is well, and what to do where not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tank_agent.api.reports import (
    ChangeReport,
    HappenedReport,
    PlannedPod,
    PlanReport,
    WantedReport,
    WhyReport,
)
from tank_agent.api.types import AppliedPod, ListedVerdict
from tests.support.fake_service import FakeService
from tests.unit.cli.test_verbs import Tank, rows, service, tank

__all__ = ["service", "tank"]
SINCE = "2026-01-01T00:00:00Z"
HELD = {"kind": "quarantined", "since": SINCE, "generation": 2}


def update(state: str, reason: str | None = None, outcome: str | None = None) -> dict[str, Any]:
    return {"state": state, "outcome": outcome, "wanted": "w" * 40, "running": "r" * 40, "reason": reason}


def unwell(service: FakeService, name: str, **health: Any) -> None:
    found = service.statuses[name]
    told = {"state": "unhealthy", "since": SINCE, "message": "http 500", "failing": 3, **health}
    container = msgspec.convert(
        {**msgspec.to_builtins(found.containers[0]), "health": told}, type(found.containers[0])
    )
    service.statuses[name] = msgspec.structs.replace(found, containers=(container,))


def test_pods_without_checks_and_with_good_updates_need_no_columns(tank: Tank, service: FakeService) -> None:
    service.add("web", rollout=update("good", outcome="good"))
    service.add("db", rollout=update("first"))
    assert rows(tank("status")[1]) == [
        ["NAME", "PHASE", "CONTAINERS", "PIDS", "RESTARTS", "OWNER", "REVISION"],
        ["db", "running", "1/1", "4711", "2", "api", "rev1"],
        ["web", "running", "1/1", "4711", "2", "api", "rev1"],
    ]


def test_a_column_for_health_and_one_for_updates(tank: Tank, service: FakeService) -> None:
    service.add("cache", health="healthy", rollout=update("updating"))
    service.add("db")
    assert [row[:4] for row in rows(tank("status")[1])[:3]] == [
        ["NAME", "PHASE", "HEALTH", "UPDATE"],
        ["cache", "running", "healthy", "updating"],
        ["db", "running", "-", "-"],
    ]
    # An update that is under way is no trouble.
    assert len(rows(tank("status")[1])) == 3


def test_an_unhealthy_container_names_its_log(tank: Tank, service: FakeService) -> None:
    service.add("web", "degraded", health="unhealthy")
    unwell(service, "web")
    told = tank("status")[1].splitlines()[-1]
    assert told.startswith("web: app: unhealthy, ")
    assert told.endswith(": http 500; see `tank logs web/app`")
    one = tank("status", "web")[1]
    assert "health      unhealthy" in one.splitlines()
    assert rows(one)[-2][:3] == ["CONTAINER", "PHASE", "HEALTH"]
    assert rows(one)[-1][2] == "unhealthy"
    health = tank.json("status", "web")["containers"][0]["health"]
    assert health == {"state": "unhealthy", "since": SINCE, "message": "http 500", "failing": 3}


def test_a_container_without_a_probe_has_no_health(tank: Tank, service: FakeService) -> None:
    service.add("web")
    status = tank.json("status", "web")
    assert (status["health"], status["rollout"], status["waits"]) == ("none", None, [])
    assert status["containers"][0]["health"] == {
        "state": "none",
        "since": None,
        "message": None,
        "failing": 0,
    }


def test_an_update_that_was_undone_is_loud(tank: Tank, service: FakeService) -> None:
    service.add("web", rollout=update("rolled-back", "app ended with exit code 3", "failed"), hold=HELD)
    code, stdout, stderr = tank("status")
    assert (code, stderr) == (0, "")
    assert rows(stdout)[1][:4] == ["web", "running", "rolled-back", "quarantined"]
    (line,) = [line for line in stdout.splitlines() if line.startswith("web: ")]
    assert line == (
        "web: the update to wwwwwwwwwwww failed, and rrrrrrrrrrrr runs: app ended with exit code 3; "
        "`tank why web` says more, `tank resume web` tries it again"
    )
    assert line.removeprefix("web: ") in tank("status", "web")[1]


def test_an_update_that_the_error_names_is_said_once(tank: Tank, service: FakeService) -> None:
    error = (
        "generation 3 failed as an update: exit code 3; generation 2 runs again\n  `tank why web` says more"
    )
    service.add(
        "web", "degraded", rollout=update("rolled-back", "exit code 3", "failed"), hold=HELD, error=error
    )
    assert tank("status")[1].splitlines()[-2:] == [
        "web: generation 3 failed as an update: exit code 3; generation 2 runs again",
        "    `tank why web` says more",
    ]


def test_other_updates_that_need_a_look(tank: Tank, service: FakeService) -> None:
    service.add("a", rollout=update("failed", "it ended three times", "failed"))
    service.add("b", rollout=update("blocked", "no room on /var"))
    service.add("c", rollout=update("rolling-back", "unhealthy", "failed"), hold=HELD)
    stdout = tank("status")[1]
    for line in (
        "a: the update failed: it ended three times; see `tank why a` and `tank logs a`",
        "b: the update to wwwwwwwwwwww cannot begin: no room on /var; rrrrrrrrrrrr goes on; see `tank why b`",
        "c: the update to wwwwwwwwwwww failed, and rrrrrrrrrrrr is on its way back: unhealthy; "
        "`tank why c` says more, `tank resume c` tries it again",
    ):
        assert line in stdout.splitlines()


def test_what_waits_says_for_whom(tank: Tank, service: FakeService) -> None:
    service.add(
        "web", "pending", waits=("waits for pod db: starting", "waits for container cache: unhealthy")
    )
    assert tank("status")[1].splitlines()[-2:] == [
        "web: waits for pod db: starting",
        "  waits for container cache: unhealthy",
    ]
    assert "waiting     waits for pod db: starting" in tank("status", "web")[1].splitlines()
    assert tank.json("status", "web")["waits"][0] == "waits for pod db: starting"


def test_a_newer_image_is_a_note(tank: Tank, service: FakeService) -> None:
    service.add("web")
    found = service.statuses["web"]
    container = msgspec.structs.replace(found.containers[0], newer="sha256:" + "b" * 64)
    service.statuses["web"] = msgspec.structs.replace(found, containers=(container,))
    note = "a newer image is there for app; `tank image update web` takes it"
    assert tank("status")[1].splitlines()[-1] == f"web: {note}"
    assert tank("status", "web")[1].splitlines()[-1] == note
    container = msgspec.structs.replace(container, newer_error="registry.lan says\x1b[2J no")
    service.statuses["web"] = msgspec.structs.replace(found, containers=(container,))
    text = tank("status", "web")[1]
    assert "\napp: no newer image could be looked for: registry.lan says" in text
    assert "\x1b" not in text


def test_the_history_has_outcomes_digests_and_proofs(tank: Tank, service: FakeService) -> None:
    for _ in range(3):
        service.add("web")
    good = ListedVerdict(outcome="good", at=1.0, images={"app": f"sha256:{'d' * 64}"}, proof="3f" * 8)
    failed = ListedVerdict(outcome="failed", at=1.0, reason="app ended with exit code 3\x1b[2J")
    service.verdicts = {1: good, 2: failed}
    code, stdout, stderr = tank("history", "web")
    assert (code, stderr) == (0, "")
    found = rows(stdout)
    assert found[0] == ["GENERATION", "CHANGED", "OWNER", "REVISION", "OUTCOME", "PLAN", "WHY", "IMAGES"]
    assert [line[-5:] for line in found[1:4]] == [
        ["rev1", "good", "3f" * 8, "-", "oci:/srv/busybox@dddddddddddd"],
        ["rev2", "failed", "-", "-", "oci:/srv/busybox"],
        ["rev3", "unverified", "-", "-", "oci:/srv/busybox"],
    ]
    assert stdout.splitlines()[-1].startswith("2 failed, ")
    assert stdout.splitlines()[-1].endswith(": app ended with exit code 3\\x1b[2J")
    outcomes = [one["verdict"] and one["verdict"]["outcome"] for one in tank.json("history", "web")]
    assert outcomes == ["good", "failed", None]


def test_a_plan_has_a_hash_for_each_pod_and_one_for_all(tank: Tank, service: FakeService) -> None:
    pods = (
        PlannedPod(name="db", change="update", actions=("start container app",), proof="3f2a" * 4),
        PlannedPod(name="old", change="remove", proof="77" * 8),
        PlannedPod(name="web", change="none"),
    )
    service.report = PlanReport(pods=pods, proof="abcd" * 4)
    code, stdout, stderr = tank("plan")
    assert (code, stderr) == (2, "")
    assert stdout.splitlines() == [
        "~ db: update",
        "  1. start container app",
        f"  plan {'3f2a' * 4}",
        "- old: remove",
        f"  plan {'77' * 8}",
        f"plan {'abcd' * 4}",
        "0 to create, 1 to update, 1 to remove",
    ]
    assert tank.json("plan", code=2)["proof"] == "abcd" * 4


def test_the_plan_of_one_file_hashes_only_that(tank: Tank, service: FakeService) -> None:
    pods = (
        PlannedPod(name="db", change="update", proof="3f2a" * 4),
        PlannedPod(name="old", change="remove", proof="77" * 8),
    )
    service.report = PlanReport(pods=pods, proof="abcd" * 4)
    (tank.directory / "db.toml").write_text("db")
    alone = tank.json("plan", "db.toml", code=2)
    assert [pod["name"] for pod in alone["pods"]] == ["db"]
    assert alone["proof"] not in ("", "abcd" * 4)


def test_a_rollback_can_be_forced_and_take_the_data_along(tank: Tank, service: FakeService) -> None:
    service.add("web")
    assert tank("rollback", "web", "1", "--force")[0] == 0
    code, stdout, _ = tank("rollback", "web", "--with-data")
    assert (code, stdout) == (0, "web goes back to generation 1, rev1, with the data that it had\n")
    assert service.calls == [("rollback", "web", "1", "force"), ("rollback", "web", None, "with_data")]


def test_resume_says_that_the_failed_update_is_tried_again(tank: Tank, service: FakeService) -> None:
    service.add("web", rollout=update("rolled-back", "app ended with exit code 3", "failed"), hold=HELD)
    code, stdout, _ = tank("resume", "web")
    assert code == 0
    assert (
        stdout
        == "web tries the update to wwwwwwwwwwww again, which failed before: app ended with exit code 3\n"
    )
    service.add("web", hold={**HELD, "kind": "pinned"})
    assert tank("resume", "web")[1] == "web follows its file again\n"


WHY = WhyReport(
    name="web",
    summary="web runs rrr, since the update to www failed: container app ended with exit code 3",
    file="/etc/tank/pods.d/web.toml",
    line=1,
    commit="w" * 40,
    wanted=(
        WantedReport(
            key="containers[app].command",
            old='["/bin/good"]',
            new='["/bin/bad\x1b[2J"]',
            effect="restarts",
            file="/etc/tank/pods.d/web.toml",
            line=4,
        ),
        WantedReport(key="restart", old="always", new="never", effect="nothing", file="x"),
    ),
    changes=(
        ChangeReport(generation=1, at=SINCE, revision="r", cause="`tank apply`", outcome="good"),
        ChangeReport(
            generation=2,
            at=SINCE,
            revision="w",
            cause="web.toml changed",
            outcome="failed",
            reason="exit code 3",
        ),
        ChangeReport(generation=3, at=SINCE, revision="r", cause="back to generation 1"),
    ),
    log_of="app",
    log=("about to fail\x1b[2J", "failed"),
    unblock=("edit web.toml", "`tank resume web` tries the failed update again"),
)


def test_why_is_one_screen_from_the_file_to_the_log(tank: Tank, service: FakeService) -> None:
    exit = {"code": None, "signal": 9, "oom": True, "at": SINCE}
    service.add("web", exit=exit, next_retry="2026-01-01T00:00:00Z", error="container app: out of memory")
    unwell(service, "web")
    service.explained["web"] = msgspec.structs.replace(WHY, status=service.statuses["web"])
    code, stdout, stderr = tank("why", "web")
    assert (code, stderr) == (0, "")
    lines = stdout.splitlines()
    assert len(lines) <= 30
    for line in (
        WHY.summary,
        "declared in /etc/tank/pods.d/web.toml:1 (wwwwwwwwwwww)",
        "  container app: out of memory",
        '  /etc/tank/pods.d/web.toml:4: containers[app].command: ["/bin/good"] → ["/bin/bad\\x1b[2J"]',
        "  restart: always → never",
        "last lines of web/app",
        "  about to fail\\x1b[2J",
        "what would change it",
        "  the next try is now",
        "  `tank resume web` tries the failed update again",
    ):
        assert line in lines, line
    found = [line.split() for line in lines]
    assert ["app", "running", "4711", "-", "2", "oci:/srv/busybox", "out", "of", "memory,"] in [
        row[:9] for row in found
    ]
    table = found[found.index(["GENERATION", "WHEN", "OUTCOME", "CAUSE", "REASON"]) + 1 :][:3]
    words = [next(word for word in row if word in ("good", "failed", "unverified")) for row in table]
    assert words == ["good", "failed", "unverified"]
    sick = next(line for line in lines if line.startswith("  app is unhealthy, "))
    assert sick.endswith("3 failures in a row: http 500")
    assert tank.json("why", "web")["wanted"][0]["line"] == 4


def test_why_of_a_pod_that_is_gone(tank: Tank, service: FakeService) -> None:
    happened = HappenedReport(at=SINCE, container="", type="removed", message="the pod is gone")
    service.explained["old"] = WhyReport(
        name="old", summary="there is no pod old any more", events=(happened,), changes=WHY.changes
    )
    code, stdout, _ = tank("why", "old")
    assert code == 0
    assert stdout.splitlines()[0] == "there is no pod old any more"
    assert f"  {SINCE}  removed  the pod is gone" in stdout.splitlines()
    assert tank("why", "nobody")[0] == 1


def test_an_apply_that_waits_ends_when_its_update_is_undone(
    tank: Tank, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def apply(text: str, file: str, *, by: str) -> list[AppliedPod]:
        undone = update("rolled-back", "app ended with exit code 3", "failed")
        service.add("web", "degraded", rollout=undone, error="generation 2 failed as an update")
        return [AppliedPod(name="web", change="changed", generation=2)]

    monkeypatch.setattr(service, "apply", apply)
    (tank.directory / "web.toml").write_text("web")
    code, stdout, stderr = tank("apply", "web.toml", "--wait", "--timeout", "1h")
    assert (code, stdout) == (1, "web changed\n")
    assert stderr.startswith("tank: web is degraded, not running: generation 2 failed as an update")
