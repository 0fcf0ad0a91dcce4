"""Answers about specs that are asked for again and again, as the hashes of a thousand pods in each resync."""

from __future__ import annotations

from collections.abc import Callable


class Memory:
    """Remembers what a pure function said of objects that never change, by their identity.

    They are held as long as the answer is, lest their number become another's. May be used by many threads:
    at worst one of them asks again.
    """

    def __init__(self) -> None:
        self._recent: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}
        self._former: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}

    def get(self, function: Callable[..., str], *about: object) -> str:
        """Return what the function says of the objects; one memory is for one function."""
        key = tuple(map(id, about))
        found = self._recent.get(key)
        if found is None:
            found = self._former.get(key) or (function(*about), about)
            self._recent[key] = found
        return found[0]

    def age(self) -> None:
        """Forget what nobody asked for since the last call."""
        self._former, self._recent = self._recent, {}
