"""Tables of what holds at a key of a compose file: `services.*.ports.[]` is one item of a service's ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

Rule = TypeVar("Rule")
ITEM = "[]"


class KeyRules(Generic[Rule]):
    """The rules below one key; `rule` is the one of the key itself."""

    __slots__ = ("_below", "rule")

    def __init__(self, table: Mapping[str, Rule] | None = None) -> None:
        self.rule: Rule | None = None
        self._below: dict[str, KeyRules[Rule]] = {}
        for path, rule in (table or {}).items():
            at = self
            for part in path.split("."):
                at = at._below.setdefault(part, KeyRules())
            at.rule = rule

    def at(self, key: str) -> KeyRules[Rule] | None:
        """Return the rules below a further key, None if there are none."""
        return self._below.get(key) or self._below.get("*")

    def below(self, keys: Iterable[str]) -> KeyRules[Rule] | None:
        """Return the rules below some further keys."""
        at: KeyRules[Rule] | None = self
        for key in keys:
            at = at.at(key) if at is not None else None
        return at
