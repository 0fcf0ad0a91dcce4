"""Every row of the decision table of updates that a machine shows, in the order of the table.

The others: `reboot` in the watch and while quarantined, and the upgrade of the package, are in
tests/system/test_power.py; a kill of the agent at every step is in test_update_crashes.py; jumps of the clock
are in tests/unit/reconcile/core/, where time is injected; "image tag moved" with `update.image = "digest"` is
in test_image_updates.py.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.support.agent import Agent, wait_for
from tests.support.images import busybox_layout
from tests.support.registry import FakeRegistry, Request, fake_registry
from tests.support.services import digest_of
from tests.support.updates import (
    HEALTH,
    agent_with_bystander,
    events_of,
    generation,
    keeping_pod,
    make_sick,
    outcomes,
    pids,
    program,
    push,
    rollout,
    root_of,
    untouched,
    update_table,
    wait_state,
    why,
    word_pod,
)

_NUMBERS = count(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent_with_bystander(tmp_path_factory.mktemp("table")) as started:
        yield started


@pytest.fixture
def agent(shared: Agent) -> Iterator[Agent]:
    """Return the agent of all tests here; each declares pods of its own, which are removed after it."""
    with untouched(shared, "bystander"):
        yield shared
        for file in shared.pods.iterdir():
            if file.stem != "bystander":
                file.unlink()
                shared.wait_gone(file.stem)


@pytest.fixture
def web() -> str:
    """Return the name of a pod that is this test's own, and so has no history."""
    return f"web-{next(_NUMBERS)}"


def data(agent: Agent, name: str) -> Path:
    """Return the managed volume `data` of a pod."""
    return agent.data / "volumes" / name / "data"


# --- good ---------------------------------------------------------------------------------------------------


def test_a_new_revision_that_shows_its_health_is_good(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    first = agent.pid(web)
    status = push(agent, web, word_pod(agent, "second"), "good")
    assert status["generation"] == 2
    assert agent.pid(web) != first
    assert outcomes(agent, web) == ["good", "good"]
    assert events_of(agent, web).count("update-good") == 2
    assert rollout(agent, web)["reason"] is None


def test_a_first_generation_that_fails_goes_on_by_its_restart_policy(agent: Agent, web: str) -> None:
    status = push(
        agent, web, word_pod(agent, "first", well=False, update=update_table(deadline="3s")), "failed"
    )
    assert status["generation"] == 1
    assert status["phase"] in ("running", "degraded", "starting")
    assert any("nothing to go back to" in event.message for event in agent.client.events(pod=web))
    pid = agent.pid(web)
    # It is not held: what its file says next is tried.
    status = push(agent, web, word_pod(agent, "second"), "good")
    assert status["generation"] == 2
    assert agent.pid(web) != pid


def test_a_failed_probe_begins_the_proof_anew(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    before = generation(agent, web)
    update = update_table(min_healthy="3s", deadline="60s")
    begun = time.monotonic()
    agent.write(web, word_pod(agent, "second", update=update))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: agent.output(web)[-1:] == ["second"], "it runs")
    _wait_health(agent, web, "healthy")
    make_well = make_sick(agent, web)
    _wait_health(agent, web, "unhealthy")
    assert rollout(agent, web)["state"] == "updating"
    make_well()
    well = time.monotonic()
    wait_state(agent, web, "good", after=before)
    assert time.monotonic() - well > 2.5
    assert time.monotonic() - begun < 60
    assert (agent.status(web) or {})["containers"][0]["restarts"] == 0


def _wait_health(agent: Agent, name: str, state: str) -> None:
    def shown() -> bool:
        status = agent.status(name)
        return status is not None and status["containers"][0]["health"]["state"] == state

    wait_for(shown, f"{name} is {state}")


# --- failed -------------------------------------------------------------------------------------------------


def test_ends_in_the_wait_are_counted_and_one_too_many_fails_at_once(agent: Agent, web: str) -> None:
    update = update_table(deadline="60s", max_restarts=1)
    push(agent, web, word_pod(agent, "first", update=update), "good")
    begun = time.monotonic()
    bad = word_pod(agent, "second", before="echo boom; exit 3; ", update=update)
    push(agent, web, bad, "rolled-back")
    # Not by the deadline.
    assert time.monotonic() - begun < 55
    assert agent.output(web).count("boom") == 2
    assert agent.output(web)[-1] == "first"
    reason = rollout(agent, web)["reason"]
    assert "exit code 3" in reason
    assert "boom" in why(agent, web)
    assert outcomes(agent, web)[:2] == ["good", "failed"]


def test_a_job_that_ends_with_0_is_good_at_once(agent: Agent, web: str) -> None:
    update = update_table(min_healthy="1h", deadline="2h")
    job = agent.pod_text(command=["/bin/sh", "-c", "echo done"], head=f'restart = "never"\n{update}')
    push(agent, web, job, "good")
    assert outcomes(agent, web) == ["good"]


def test_the_deadline_fails_what_never_gets_healthy(agent: Agent, web: str) -> None:
    good = push(agent, web, word_pod(agent, "first"), "good")
    begun = time.monotonic()
    # Time enough for one probe at least, which says why.
    bad = word_pod(agent, "second", well=False, update=update_table(deadline="10s"))
    status = push(agent, web, bad, "rolled-back")
    assert time.monotonic() - begun > 10
    assert agent.output(web)[-1] == "first"
    assert status["generation"] == 3
    # Loud until somebody pushes something else: it does not run what is asked for.
    found = status["rollout"]
    assert (found["outcome"], found["running"]) == ("failed", good["revision"])
    assert "second is sick" in found["reason"]
    told = why(agent, web)
    assert "second is sick" in told
    assert f"tank resume {web}" in told
    assert str(agent.pods / f"{web}.toml") in told
    assert "update-failed" in events_of(agent, web)
    assert "rolled-back" in events_of(agent, web)


def test_without_rollback_it_stays_on_the_new_one(agent: Agent, web: str) -> None:
    update = update_table(deadline="3s", more="rollback = false")
    push(agent, web, word_pod(agent, "first"), "good")
    status = push(agent, web, word_pod(agent, "second", well=False, update=update), "failed")
    assert status["generation"] == 2
    pid = agent.pid(web)
    assert agent.output(web)[-1] == "second"
    agent.tank("sync")
    assert agent.pid(web) == pid
    assert outcomes(agent, web) == ["good", "failed"]


def test_a_way_back_that_fails_asks_for_a_person_and_is_not_reverted_again(agent: Agent, web: str) -> None:
    broken = agent.home / "broken"
    broken.mkdir(exist_ok=True)
    host = f'[[volumes]]\nname = "host"\nhost = "{broken}"\n'
    health = HEALTH.replace("/tmp/sick", "/host/sick")
    mount = '[[containers.mounts]]\nvolume = "host"\npath = "/host"\n'

    def pod(word: str) -> str:
        # The first and the third have to show their health in it.
        table = update_table(deadline="8s")
        return agent.pod_text(command=program(word), head=f"{table}{host}", extra=f"{health}{mount}")

    push(agent, web, pod("first"), "good")
    (broken / "sick").write_text("the world is broken\n")
    status = push(agent, web, pod("second"), "failed", deadline=60)
    assert status["generation"] == 3
    assert agent.output(web)[-1] == "first"
    assert "rollback-failed" in events_of(agent, web)
    pid = agent.pid(web)
    agent.tank("sync")
    wait_state(agent, web, "failed")
    assert (generation(agent, web), agent.pid(web)) == (3, pid)
    # Once the world is whole, the next push goes through.
    (broken / "sick").unlink()
    push(agent, web, pod("third"), "good")


# --- a newer revision ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeRegistry]:
    layout = busybox_layout(tmp_path_factory.mktemp("registry") / "layout")
    with fake_registry(layout) as served:
        yield served


def image_text(agent: Agent, word: str, image: str, *, update: str | None = None) -> str:
    """Return a pod of an image."""
    return word_pod(agent, word, update=update).replace(f'rootfs = "{agent.rootfs}"', f'image = "{image}"')


def test_a_new_revision_while_the_last_is_pulled_cancels_that(
    agent: Agent, web: str, registry: FakeRegistry
) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    pid = agent.pid(web)

    def hold(request: Request) -> None:
        registry.stop.wait(30)
        request.answer(503)

    registry.rule("/blobs/", hold, times=1)
    before = generation(agent, web)
    agent.write(web, image_text(agent, "second", f"{registry.address}/image:latest"))
    wait_for(lambda: registry.count("/blobs/"), "it is pulled")
    # Pulls don't count: nothing is stopped, and no deadline runs.
    assert agent.pid(web) == pid
    assert rollout(agent, web)["state"] == "updating"
    third = push(agent, web, word_pod(agent, "third"), "good")
    assert third["generation"] == before + 2
    assert "second" not in agent.output(web)
    assert outcomes(agent, web) == ["good", "superseded", "good"]


def test_a_new_revision_in_the_wait_supersedes_it_and_keeps_the_last_good_data(
    agent: Agent, web: str
) -> None:
    push(agent, web, keeping_pod(agent, "first"), "good")
    before = generation(agent, web)
    slow = update_table(min_healthy="1h", deadline="2h")
    agent.write(web, keeping_pod(agent, "second", update=slow))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: (data(agent, web) / "last").read_text() == "second\n", "the second has written")
    # Its data is nobody's to go back to: the failed third gives back what the first one had.
    push(
        agent, web, keeping_pod(agent, "third", well=False, update=update_table(deadline="3s")), "rolled-back"
    )
    wait_for(lambda: (data(agent, web) / "last").read_text() == "first\n", "the first has its data")
    assert outcomes(agent, web)[:3] == ["good", "superseded", "failed"]
    assert agent.output(web)[-1] == "first"


def test_a_new_revision_ends_the_quarantine(agent: Agent, web: str) -> None:
    bad = word_pod(agent, "second", well=False, update=update_table(deadline="3s"))
    push(agent, web, word_pod(agent, "first"), "good")
    push(agent, web, bad, "rolled-back")
    status = push(agent, web, word_pod(agent, "third"), "good")
    assert status["hold"] is None
    assert agent.output(web)[-1] == "third"
    assert rollout(agent, web)["outcome"] == "good"


def test_a_comment_changes_nothing_of_a_quarantine(agent: Agent, web: str) -> None:
    bad = word_pod(agent, "second", well=False, update=update_table(deadline="3s"))
    push(agent, web, word_pod(agent, "first"), "good")
    before = push(agent, web, bad, "rolled-back")
    with untouched(agent, web):
        agent.write(web, f"# Still the same.\n{bad}")
        assert agent.tank("sync").returncode == 0
        after = agent.status(web)
        assert after is not None
        assert after["rollout"] == before["rollout"]
        assert after["hold"] == before["hold"]


def test_the_good_text_again_in_the_wait_brings_the_data_back(agent: Agent, web: str) -> None:
    push(agent, web, keeping_pod(agent, "first", before="cat /data/last; "), "good")
    first = (agent.pods / f"{web}.toml").read_text()
    before = generation(agent, web)
    agent.write(web, keeping_pod(agent, "second", update=update_table(min_healthy="1h", deadline="2h")))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: (data(agent, web) / "last").read_text() == "second\n", "the second has written")
    (data(agent, web) / "ruined").touch()
    push(agent, web, first, "good")
    assert agent.output(web)[-2:] == ["first", "first"]
    assert not (data(agent, web) / "ruined").exists()
    assert outcomes(agent, web) == ["good", "superseded", "good"]


def test_the_good_text_again_while_quarantined_restarts_nothing(agent: Agent, web: str) -> None:
    first = word_pod(agent, "first")
    push(agent, web, first, "good")
    bad = word_pod(agent, "second", well=False, update=update_table(deadline="3s"))
    push(agent, web, bad, "rolled-back")
    with untouched(agent, web):
        agent.write(web, first)
        wait_state(agent, web, "good")
        status = agent.status(web)
        assert status is not None
        assert status["hold"] is None
    assert "recovered" in events_of(agent, web)


def test_a_bad_text_is_tried_again_when_it_is_pushed_again_but_not_for_ever(agent: Agent, web: str) -> None:
    quick = update_table(deadline="3s")
    good, bad = word_pod(agent, "first"), word_pod(agent, "second", well=False, update=quick)
    push(agent, web, good, "good")
    for _ in range(3):
        push(agent, web, bad, "rolled-back")
        agent.write(web, good)
        wait_state(agent, web, "good")
    tried = agent.output(web).count("second")
    assert tried == 3
    with untouched(agent, web):
        agent.write(web, bad)
        wait_state(agent, web, "quarantined", "rolled-back")
        assert agent.tank("sync").returncode == 0
    assert agent.output(web).count("second") == 3
    assert f"tank resume {web}" in why(agent, web)
    # A person can have it tried all the same.
    before = generation(agent, web)
    assert agent.tank("resume", web).returncode == 0
    wait_state(agent, web, "rolled-back", after=before + 1)
    assert agent.output(web).count("second") == 4


# --- what is not the new revision's fault, and what is ------------------------------------------------------


def test_an_image_that_cannot_be_pulled_leaves_the_old_run_alone(
    agent: Agent, web: str, registry: FakeRegistry
) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    before = pids(agent, web)
    update = update_table(deadline="2500ms")
    agent.write(web, image_text(agent, "second", f"{registry.address}/image:absent", update=update))
    wait_for(lambda: "absent" in str((agent.status(web) or {})["error"]), "the error is shown")
    end = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > end, "the deadline would be over")
    assert rollout(agent, web)["state"] == "updating"
    assert (agent.status(web) or {})["hold"] is None
    assert pids(agent, web) == before
    push(agent, web, word_pod(agent, "third"), "good")


def test_a_program_that_is_not_there_fails_within_seconds(agent: Agent, web: str) -> None:
    update = update_table(deadline="10m")
    push(agent, web, word_pod(agent, "first", update=update), "good")
    begun = time.monotonic()
    bad = agent.pod_text(command=["/bin/nothing"], head=update)
    push(agent, web, bad, "rolled-back")
    # Not by the deadline.
    assert time.monotonic() - begun < 60
    assert "nothing" in rollout(agent, web)["reason"]
    assert agent.output(web)[-1] == "first"


def test_a_missing_host_volume_is_not_counted(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    place = agent.home / "disk"
    host = f'[[volumes]]\nname = "host"\nhost = "{place}"\n'
    mount = '[[containers.mounts]]\nvolume = "host"\npath = "/host"\n'
    update = update_table(deadline="10s")
    new = agent.pod_text(command=program("second"), head=f"{update}{host}", extra=f"{HEALTH}{mount}")
    before = generation(agent, web)
    agent.write(web, new)
    wait_for(lambda: str(place) in str((agent.status(web) or {})["error"]), "the error names it")
    assert rollout(agent, web)["state"] == "updating"
    place.mkdir()
    status = wait_state(agent, web, "good", after=before)
    assert status["generation"] == before + 1
    place.rmdir() if not any(place.iterdir()) else None


def test_the_agent_restarts_in_the_wait_and_the_wait_goes_on(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    before = generation(agent, web)
    agent.write(web, word_pod(agent, "second", update=update_table(min_healthy="3s", deadline="30s")))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: agent.output(web)[-1] == "second", "it runs")
    pid = agent.pid(web)
    # First as an upgrade of the package ends it, then as a crash does.
    assert agent.stop() == 0
    agent.start()
    assert rollout(agent, web)["state"] == "updating"
    agent.kill()
    # An agent looks at what runs before it answers.
    begun = time.monotonic()
    agent.start()
    status = wait_state(agent, web, "good", after=before)
    # The proof begins anew with each agent.
    assert time.monotonic() - begun > 2.5
    assert (status["generation"], agent.pid(web)) == (before + 1, pid)
    assert status["containers"][0]["restarts"] == 0


# --- verbs --------------------------------------------------------------------------------------------------


def test_a_rollback_by_hand_ends_the_wait(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    before = generation(agent, web)
    agent.write(web, word_pod(agent, "second", update=update_table(min_healthy="1h", deadline="2h")))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: agent.output(web)[-1] == "second", "it runs")
    done = agent.tank("rollback", web)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: agent.output(web)[-1] == "first", "the first runs again")
    wait_state(agent, web, "good", "quarantined", after=before + 1)
    status = agent.status(web)
    assert status is not None
    assert status["hold"]["kind"] == "pinned"
    assert outcomes(agent, web)[:2] == ["good", "superseded"]


def test_a_rollback_to_what_failed_is_refused(agent: Agent, web: str) -> None:
    quick = update_table(deadline="3s")
    push(agent, web, word_pod(agent, "first"), "good")
    push(agent, web, word_pod(agent, "second", well=False, update=quick), "rolled-back")
    done = agent.tank("rollback", web, "2")
    assert done.returncode == 1, done.stdout
    assert "--force" in done.stderr
    before = generation(agent, web)
    assert agent.tank("rollback", web, "2", "--force").returncode == 0
    wait_for(lambda: agent.output(web)[-1] == "second", "it is tried")
    assert generation(agent, web) > before


def test_what_is_suspended_in_the_wait_is_judged_but_not_reverted(agent: Agent, web: str) -> None:
    update = update_table(deadline="3s")
    push(agent, web, word_pod(agent, "first"), "good")
    before = generation(agent, web)
    agent.write(web, word_pod(agent, "second", well=False, update=update))
    wait_state(agent, web, "updating", after=before)
    # Long before the deadline: the command line alone would take a second of a busy machine.
    agent.client.suspend(web)
    status = wait_state(agent, web, "failed", after=before)
    assert status["generation"] == before + 1
    assert agent.output(web)[-1] == "second"
    assert status["hold"]["kind"] == "suspended"
    # As long as it is suspended it stays, even without its file.
    (agent.pods / f"{web}.toml").unlink()
    assert agent.tank("resume", web).returncode == 0
    agent.wait_gone(web)


def test_resume_tries_what_is_quarantined_again(agent: Agent, web: str) -> None:
    quick = update_table(deadline="3s")
    push(agent, web, word_pod(agent, "first"), "good")
    before = push(agent, web, word_pod(agent, "second", well=False, update=quick), "rolled-back")[
        "generation"
    ]
    assert agent.tank("resume", web).returncode == 0
    wait_state(agent, web, "rolled-back", after=before + 1)
    assert agent.output(web).count("second") == 2


def test_apply_of_what_is_quarantined_names_what_to_do(agent: Agent, web: str) -> None:
    quick = update_table(deadline="3s")
    file = agent.home / "applied.toml"

    def apply(body: str) -> str:
        file.write_text(f'name = "applied"\n{body}')
        done = agent.tank("apply", str(file))
        return done.stderr if done.returncode else ""

    good, bad = word_pod(agent, "first"), word_pod(agent, "second", well=False, update=quick)
    try:
        assert apply(good) == ""
        wait_state(agent, "applied", "good")
        before = generation(agent, "applied")
        assert apply(bad) == ""
        wait_state(agent, "applied", "rolled-back", after=before)
        assert "tank resume applied" in apply(bad)
        assert apply(word_pod(agent, "third")) == ""
        wait_state(agent, "applied", "good", after=before + 2)
    finally:
        agent.tank("delete", "applied")
        agent.wait_gone("applied")


# --- what is no update --------------------------------------------------------------------------------------


def test_a_pod_that_is_removed_takes_what_was_known_of_it_along(agent: Agent, web: str) -> None:
    quick = update_table(deadline="3s")
    push(agent, web, keeping_pod(agent, "first"), "good")
    bad = keeping_pod(agent, "second", well=False, update=quick)
    push(agent, web, bad, "rolled-back")
    (agent.pods / f"{web}.toml").unlink()
    agent.wait_gone(web)
    assert (data(agent, web) / "last").read_text() == "first\n"
    # Its name is new: what failed once is what it begins with, and there is nothing to go back to.
    push(agent, web, bad, "failed")
    assert agent.output(web)[-1] == "second"


def test_what_gets_unhealthy_without_an_update_is_never_rolled_back(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    pid = agent.pid(web)
    # Now that it has shown its health: a busy machine takes longer for that.
    push(agent, web, word_pod(agent, "first", update=update_table(deadline="2500ms")), "good")
    make_sick(agent, web)
    _wait_health(agent, web, "unhealthy")
    end = time.monotonic() + 3
    wait_for(lambda: time.monotonic() > end, "the deadline of an update would be over")
    assert rollout(agent, web)["state"] == "good"
    assert (generation(agent, web), agent.pid(web)) == (2, pid)


def test_the_deadline_decides_over_what_flaps(agent: Agent, web: str) -> None:
    update = update_table(min_healthy="3s", deadline="5s")
    push(agent, web, word_pod(agent, "first"), "good")
    # Each probe finds the opposite of the one before, however far apart they are.
    flap = "if test -e /tmp/flap; then rm /tmp/flap; echo flaps; exit 1; fi; echo > /tmp/flap"
    health = f'exec = ["/bin/sh", "-c", "{flap}"]'
    new = re.sub(r"(?m)^exec = .*$", health, word_pod(agent, "second", update=update))
    begun = time.monotonic()
    push(agent, web, new, "rolled-back")
    assert time.monotonic() - begun > 5
    assert agent.output(web)[-1] == "first"


def test_a_moved_tag_restarts_nothing_where_images_are_pinned(
    agent: Agent, web: str, registry: FakeRegistry
) -> None:
    push(agent, web, image_text(agent, "first", f"{registry.address}/image:latest"), "good")
    digest = digest_of(registry.layout, "latest")
    image = (agent.status(web) or {})["containers"][0]["image"]
    assert digest in image or "latest" in image
    before = registry.count("manifests")
    with untouched(agent, web):
        index = registry.layout / "index.json"
        kept = index.read_text()
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": []}))
        try:
            assert agent.tank("sync").returncode == 0
        finally:
            index.write_text(kept)
    assert registry.count("manifests") == before


def test_the_keys_of_an_update_count_at_once(agent: Agent, web: str) -> None:
    push(agent, web, word_pod(agent, "first"), "good")
    before = generation(agent, web)
    slow, quick = update_table(min_healthy="1h", deadline="2h"), update_table()
    agent.write(web, word_pod(agent, "second", update=slow))
    wait_state(agent, web, "updating", after=before)
    wait_for(lambda: agent.output(web)[-1] == "second", "it runs")
    pid = agent.pid(web)
    agent.write(web, word_pod(agent, "second", update=quick))
    wait_state(agent, web, "good", after=before)
    assert agent.pid(web) == pid
    assert root_of(agent, web).exists()
