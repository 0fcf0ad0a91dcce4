"""The image that a container starts from, and the newer ones that may become updates."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.journal.records import Bad, ContainerStatus, DesiredPod, Good, PodStatus, Rollout
from tank_agent.reconcile.core.newer import Newer, TagLook, tag_of, tags_of
from tank_agent.reconcile.core.observed import Moment, Observed, Situation
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.core.rollout import pin_of
from tank_agent.spec.model import Container, Pod, PullPolicy, Update, content_hash

IMAGE = "nginx:1"
FULL = "docker.io/library/nginx:1"


def desired(pull: PullPolicy | None = None, image: Any = "digest", **changes: Any) -> DesiredPod:
    spec = Pod(
        name="web",
        containers=(Container(name="app", image=IMAGE, pull=pull),),
        update=Update(image=image),
    )
    found = DesiredPod(
        name="web",
        pod=spec,
        owner="api",
        revision="r1",
        generation=3,
        hash=content_hash(spec),
        changed_at=1.0,
    )
    return replace(found, **changes)


def good(generation: int = 3) -> Good:
    return Good(generation=generation, hash="", at=1.0, images={"app": "sha256:good"})


@pytest.mark.parametrize(
    ("pod", "status", "everybody", "expected"),
    [
        (desired(images={"app": "sha256:pin"}), PodStatus(good=good()), "missing", "sha256:pin"),
        (desired(images={"app": "sha256:pin"}, pull="always"), PodStatus(), "missing", "sha256:pin"),
        (desired(), PodStatus(), "missing", ""),
        (desired(), PodStatus(good=good()), "missing", "sha256:good"),
        (desired(), PodStatus(good=good(2)), "missing", ""),
        (desired(pull="always", image="pinned"), PodStatus(good=good()), "missing", ""),
        # As agent.toml says for containers that don't.
        (desired(image="pinned"), PodStatus(good=good()), "always", ""),
        (desired(pull="missing", image="pinned"), PodStatus(good=good()), "always", "sha256:good"),
        # Newer images come as updates, which undo themselves, and not by the way at a restart.
        (desired(pull="always"), PodStatus(good=good()), "always", "sha256:good"),
    ],
)
def test_a_container_starts_from_what_was_good_unless_its_tag_counts_at_each_start(
    pod: DesiredPod, status: PodStatus, everybody: PullPolicy, expected: str
) -> None:
    situation = Situation(
        desired=pod,
        status=status,
        observed=Observed(),
        now=Moment(wall=1.0, monotonic=1.0, boot_id="boot"),
        backoff=Backoff(),
        pull=everybody,
    )
    assert pin_of(situation, "app") == expected


def newer(status: PodStatus, runs: dict[str, str] | None = None, **changes: Any) -> Newer:
    look = TagLook(digest="sha256:new", created=100.0, agreed=1)
    return Newer(desired=desired(**changes), status=status, looks={FULL: look}, runs=runs or {})


@pytest.mark.parametrize(
    ("found", "runs"),
    [
        (newer(PodStatus(), {"app": "sha256:run"}, images={"app": "sha256:pin"}), "sha256:pin"),
        (newer(PodStatus(good=good()), {"app": "sha256:run"}), "sha256:run"),
        (newer(PodStatus(containers={"app": ContainerStatus(hash="", digest="sha256:ran")})), "sha256:ran"),
        (newer(PodStatus(good=replace(good(), hash=desired().hash))), "sha256:good"),
        (newer(PodStatus(good=good())), ""),
    ],
)
def test_what_runs_is_known_from_the_pin_the_run_and_the_records(found: Newer, runs: str) -> None:
    assert found.runs_now("app") == runs
    assert list(found.moved()) == (["app"] if runs else [])


def test_an_update_is_for_a_pod_at_rest() -> None:
    rollout = Rollout(generation=3, kind="update", begun=1.0, boot_id="b", outcome="good")
    assert newer(PodStatus(rollout=rollout)).may_move()
    assert newer(PodStatus(rollout=replace(rollout, outcome="failed"))).may_move()
    assert not newer(PodStatus(rollout=replace(rollout, outcome=None))).may_move()
    assert not newer(PodStatus(rollout=replace(rollout, generation=2))).may_move()
    assert not newer(PodStatus(rollout=rollout, stopped=1.0)).may_move()
    assert not newer(PodStatus()).may_move()
    assert newer(PodStatus(), {"app": "sha256:run"}).may_move()
    assert not newer(PodStatus(rollout=rollout), image="pinned").may_move()


@pytest.mark.parametrize(
    ("former", "built", "agreed", "taken"),
    [
        (50.0, 100.0, 1, True),
        (100.0, 100.0, 1, True),
        (200.0, 100.0, 1, False),
        (200.0, 100.0, 2, True),
        (None, 100.0, 1, True),
        (200.0, None, 1, True),
    ],
)
def test_an_older_image_needs_two_looks(
    former: float | None, built: float | None, agreed: int, taken: bool
) -> None:
    look = TagLook(digest="sha256:new", created=built, agreed=agreed)
    found = replace(newer(PodStatus(), {"app": "sha256:run"}), looks={FULL: look})
    images = found.acceptable(lambda digest: former if digest == "sha256:run" else 0.0, lambda: ())
    assert images == ({"app": "sha256:new"} if taken else {})


def test_an_image_is_bad_for_the_spec_with_which_it_failed() -> None:
    bad = Bad(
        hash=desired().hash, generation=2, revision="r", at=1.0, reason="exit 1", images={"app": "sha256:new"}
    )
    for hash_, expected in ((bad.hash, {}), ("another", {"app": "sha256:new"})):
        found = newer(PodStatus(bad=(replace(bad, hash=hash_),)), {"app": "sha256:run"})
        assert found.acceptable(lambda _: None, lambda: ()) == expected


def test_only_a_tag_can_move() -> None:
    assert str(tag_of("nginx")) == "docker.io/library/nginx:latest"
    assert tag_of(f"nginx@sha256:{'1' * 64}") is None
    assert tag_of(f"nginx:1@sha256:{'1' * 64}") is None
    assert tag_of("no image at all") is None
    assert tag_of(None) is None
    assert str(tag_of("oci:/srv/app:1")) == "oci:/srv/app:1"
    assert tags_of(desired().pod) == {FULL: IMAGE}
