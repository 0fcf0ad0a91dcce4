"""The proof of a change: the same for the same change, whatever the machine had to do besides."""

from __future__ import annotations

import pytest

from tank_agent.reconcile.core import actions
from tank_agent.reconcile.core.contents import Deliver
from tank_agent.reconcile.core.proof import proof, proof_of_all, step_word


def test_a_proof_is_short_and_depends_on_all_that_it_names() -> None:
    found = proof("web", "old", "new", ["start app"])
    assert len(found) == 16
    assert int(found, 16) >= 0
    others = [
        proof("db", "old", "new", ["start app"]),
        proof("web", "", "new", ["start app"]),
        proof("web", "old", "other", ["start app"]),
        proof("web", "old", "new", ["change app"]),
        proof("web", "old", "new", ["start app", "snapshot data"]),
        proof("web", "old", "new", []),
    ]
    assert len({found, *others}) == len(others) + 1
    # Nothing can be moved from one part to another.
    assert proof("web", "", "a", ["b"]) != proof("web", "a", "b", [])


@pytest.mark.parametrize(
    "done",
    [
        ["start app", "start side"],
        ["stop side", "stop app", "start side", "start app"],
        # The old container had ended, or was killed; the new one crashed once.
        ["stop side", "start side", "start app", "start app"],
    ],
)
def test_order_repetition_and_the_state_of_the_old_containers_do_not_count(done: list[str]) -> None:
    planned = ["stop app", "stop side", "start app", "start side"]
    assert proof("web", "old", "new", done) == proof("web", "old", "new", planned)


def test_a_container_that_is_stopped_for_good_counts() -> None:
    assert proof("web", "old", "new", ["stop side"]) != proof("web", "old", "new", [])


def test_a_removal_is_the_same_whatever_ran() -> None:
    assert proof("web", "old", "", ["stop app", "remove pod"]) == proof("web", "old", "", ["remove pod"])


def test_the_words_are_of_actions_that_follow_from_the_spec() -> None:
    words = {
        actions.Start(container="app"): "start app",
        actions.Stop(run="1", container="app"): "stop app",
        actions.ChangeLive(run="1", container="app", reason="drift"): "change app",
        Deliver(run="1", container="app", paths=("/conf",), signals=("SIGHUP",)): "deliver app",
        actions.Forget(): "remove pod",
        actions.Kill(run="1", container="app"): None,
        actions.Pull(reference="nginx", containers=("app",)): None,
        actions.MakeNetwork(): None,
        actions.RemoveNetwork(): None,
        actions.ConvergeNetwork(reason="drift"): None,
        actions.RemoveRun(run="1", container="app"): None,
        actions.RecordLost(container="app"): None,
    }
    assert {action: step_word(action) for action in words} == words


def test_volumes_are_named_in_one_order() -> None:
    class Copy(actions.Action, frozen=True, kw_only=True):
        sentence = "copy {volumes}"
        word = "copy {volumes}"
        volumes: tuple[str, ...]

    assert step_word(Copy(volumes=("logs", "data"))) == "copy data, logs"


def test_the_proof_of_all_depends_on_every_pod() -> None:
    found = proof_of_all({"web": "1", "db": "2"})
    assert found == proof_of_all({"db": "2", "web": "1"})
    assert found != proof_of_all({"web": "2", "db": "1"})
    assert found != proof_of_all({"web": "1"})
