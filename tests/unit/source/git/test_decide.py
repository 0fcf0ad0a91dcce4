"""The number of pods that a commit may change."""

from __future__ import annotations

import pytest

from tank_agent.errors import Problem
from tank_agent.source.follower import OwnedPod
from tank_agent.source.git.decide import held
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod, content_hash

BAD = Problem("x", 1, "", "bad", "a")


def pod(name: str, command: str = "true") -> Pod:
    return Pod(name=name, containers=(Container(name="app", image="oci:/x", command=(command,)),))


def desired(*names: str, owner: str = "git") -> list[OwnedPod]:
    return [OwnedPod(name, f"{owner}:{name}.toml", content_hash(pod(name))) for name in names]


def declared(*pods: Pod, problems: tuple[Problem, ...] = (), unreadable: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot(
        source="git",
        revision="r",
        pods=tuple(
            Declared(pod=item, owner=f"git:{item.name}.toml", revision="r", file="f") for item in pods
        ),
        problems=problems,
        unreadable=frozenset(unreadable),
    )


@pytest.mark.parametrize(
    ("current", "new", "budget", "words"),
    [
        (desired(), declared(), None, None),
        (desired("a"), declared(), None, None),
        (desired("a", "b"), declared(), None, "remove 2 (a, b) of 2 pods"),
        (desired("a", "b"), declared(pod("a")), None, None),
        (desired("a", "b"), declared(pod("a", "x"), pod("b", "x")), None, "replace 2 (a, b) of 2 pods"),
        (desired("a", "b"), declared(pod("a", "x")), None, "remove 1 (b) and replace 1 (a) of 2 pods"),
        (desired("a", "b"), declared(pod("a"), pod("b"), pod("c")), 0, None),
        (desired("a", "b", "c"), declared(pod("a")), 1, "remove 2 (b, c) of 3 pods, and the budget is 1"),
        (desired("a", "b", "c", "d"), declared(), None, "remove 4 (a, b, c, …) of 4 pods"),
        # A bad file removes nothing, whether its pods' names are known or not.
        (desired("a", "b"), declared(problems=(BAD,), unreadable=("git:b.toml",)), 0, None),
        # Pods of others are not ours to count.
        (desired("a", "b", owner="dir"), declared(), 0, None),
    ],
)  # fmt: skip
def test_budget(current: list[OwnedPod], new: Snapshot, budget: int | None, words: str | None) -> None:
    sentence = held(current, new, budget)
    assert (sentence is None) == (words is None)
    assert words is None or words in (sentence or "")
