"""Cached hashes are right, computed once, and forgotten when they are not used any more."""

from __future__ import annotations

from tank_agent.reconcile.core.hashes import Memory


class Spec:
    def __init__(self, word: str) -> None:
        self.word = word


def test_it_asks_once_and_tells_objects_apart_that_are_equal_in_number_only() -> None:
    asked = []

    def word(spec: Spec) -> str:
        asked.append(spec.word)
        return spec.word

    memory, kept = Memory(word), Spec("kept")
    for number in range(1000):
        # Nobody else holds it, so that its number would be used again.
        assert memory(Spec(str(number))) == str(number)
        assert memory(kept) == "kept"
    assert asked.count("kept") == 1


def test_what_is_used_stays_and_the_rest_goes() -> None:
    asked = []

    def word(spec: Spec) -> str:
        asked.append(spec.word)
        return spec.word

    memory, used, unused = Memory(word), Spec("used"), Spec("unused")
    for spec in (used, unused):
        memory(spec)
    for _ in range(3):
        memory.age()
        memory(used)
    memory(unused)
    assert asked == ["used", "unused", "unused"]
