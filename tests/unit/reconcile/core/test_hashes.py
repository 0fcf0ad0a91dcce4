"""What is remembered of specs is right, asked for once, and let go when nobody asks any more."""

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

    memory, kept = Memory(), Spec("kept")
    for number in range(1000):
        # Nobody else holds it, so that its number would be used again.
        assert memory.get(word, Spec(str(number))) == str(number)
        assert memory.get(word, kept) == "kept"
    assert asked.count("kept") == 1


def test_what_is_used_stays_and_the_rest_goes() -> None:
    asked = []

    def word(spec: Spec) -> str:
        asked.append(spec.word)
        return spec.word

    memory, used, unused = Memory(), Spec("used"), Spec("unused")
    for spec in (used, unused):
        memory.get(word, spec)
    for _ in range(3):
        memory.age()
        memory.get(word, used)
    memory.get(word, unused)
    assert asked == ["used", "unused", "unused"]
