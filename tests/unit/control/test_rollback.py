"""The revision that a rollback means, whether it may run again, and the snapshots with its data."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.control.rollback import data_of, failure_of, older_revision, refuse_failed
from tank_agent.errors import Stalled
from tank_agent.journal.records import Bad, DesiredPod, Good, PodStatus, Revision, Rollout, Verdict
from tank_agent.spec.model import Container, Pod, Volume, content_hash

ROLLOUT = Rollout(generation=4, kind="update", boot_id="b")


def pod(command: str) -> Pod:
    container = Container(name="app", rootfs="/srv", command=(command,))
    return Pod(name="web", containers=(container,), volumes=(Volume(name="data", snapshot=True),))


def revision(generation: int, command: str, outcome: Any = None, **fields: Any) -> Revision:
    spec = pod(command)
    verdict = None if outcome is None else Verdict(outcome=outcome, at=1.0, reason="it broke")
    told = {"owner": "api", "revision": f"rev{generation}", "changed_at": 0.0, **fields}
    return Revision(generation=generation, pod=spec, hash=content_hash(spec), verdict=verdict, **told)


def desired(of: Revision) -> DesiredPod:
    return DesiredPod(
        name="web",
        pod=of.pod,
        owner="api",
        revision=of.revision,
        generation=of.generation,
        hash=of.hash,
        changed_at=0.0,
    )


def bad(of: Revision) -> Bad:
    return Bad(hash=of.hash, generation=of.generation, revision=of.revision, at=1.0, reason="exit code 3")


KEPT = [
    revision(1, "one", "good"),
    revision(2, "two", "failed"),
    revision(3, "three", "superseded"),
    revision(4, "four"),
]


def test_by_default_what_failed_is_passed_over() -> None:
    status = PodStatus(bad=(bad(KEPT[2]),))
    found = older_revision(KEPT, desired(KEPT[3]), PodStatus(), None)
    assert found is not None and found.generation == 3
    found = older_revision(KEPT, desired(KEPT[3]), status, None)
    assert found is not None and found.generation == 1


def test_a_failed_revision_is_found_by_its_name_and_refused() -> None:
    status = PodStatus(bad=(bad(KEPT[1]),))
    found = older_revision(KEPT, desired(KEPT[3]), status, "2")
    assert found is KEPT[1]
    with pytest.raises(Stalled) as refusal:
        refuse_failed("web", KEPT[1], status)
    assert refusal.value.message == "revision rev2 of pod web failed as an update: exit code 3"
    assert "`tank rollback web 2 --force`" in (refusal.value.hint or "")
    refuse_failed("web", KEPT[0], status)


def test_a_spec_of_a_commit_that_never_ran_here_is_known_by_its_hash() -> None:
    of_commit = replace(KEPT[1], generation=0, hash="", verdict=None, revision="c" * 40)
    with pytest.raises(Stalled, match="failed as an update"):
        refuse_failed("web", of_commit, PodStatus(bad=(bad(KEPT[1]),)))
    refuse_failed("web", of_commit, PodStatus())


def test_a_spec_that_failed_once_and_was_good_later_is_good() -> None:
    good = Good(generation=5, hash=KEPT[1].hash, at=2.0)
    assert failure_of(KEPT[1], PodStatus(bad=(bad(KEPT[1]),), good=good)) is None
    assert failure_of(KEPT[1], PodStatus()) == "it broke"


def test_the_snapshot_of_the_last_good_revision_is_the_one_that_its_update_took() -> None:
    good = Good(generation=1, hash=KEPT[0].hash, at=1.0, snapshots={"data": "4"})
    status = PodStatus(good=good, rollout=ROLLOUT)
    assert data_of("web", KEPT[0], KEPT, status, lambda _: {}) == {"data": "4"}


def test_an_older_snapshot_is_that_of_the_good_revision_before_it() -> None:
    status = PodStatus(rollout=ROLLOUT)
    kept = [*KEPT, revision(5, "five", "good"), revision(6, "six")]
    taken = {2: {"data": "2"}, 4: {"data": "4-2", "logs": "4"}, 6: {"data": "6"}}
    # Whatever was tried between, a snapshot is taken of what was good.
    assert data_of("web", kept[0], kept, status, lambda _: taken) == {"data": "4-2"}
    assert data_of("web", kept[4], kept, status, lambda _: taken) == {"data": "6"}
    for unproven in (kept[1], kept[2], kept[5]):
        with pytest.raises(Stalled, match="no snapshot of the data of generation"):
            data_of("web", unproven, kept, status, lambda _: taken)


@pytest.mark.parametrize(
    ("found", "status", "taken", "why"),
    [
        (KEPT[0], PodStatus(rollout=ROLLOUT), {}, "no update has taken one since"),
        # Of another volume.
        (KEPT[0], PodStatus(rollout=ROLLOUT), {2: {"logs": "2"}}, "no update has taken one since"),
        # The pod of that name was removed meanwhile.
        (KEPT[0], PodStatus(), {2: {"data": "2"}}, "no update has taken one since"),
        (
            replace(KEPT[0], pod=replace(KEPT[0].pod, volumes=())),
            PodStatus(rollout=ROLLOUT),
            {2: {"data": "2"}},
            "none of its volumes has `snapshot = true`",
        ),
        (
            replace(KEPT[0], generation=0, revision="c" * 40),
            PodStatus(rollout=ROLLOUT),
            {2: {"data": "2"}},
            "commit cccccccccccc",
        ),
    ],
)
def test_without_a_snapshot_the_data_cannot_go_back(
    found: Revision, status: PodStatus, taken: dict[int, dict[str, str]], why: str
) -> None:
    with pytest.raises(Stalled) as refusal:
        data_of("web", found, KEPT, status, lambda _: taken)
    assert why in refusal.value.message
    assert "without --with-data" in (refusal.value.hint or "")
