"""Names that pods, containers, volumes and bridges may have, made of those that other tools take."""

from __future__ import annotations

from collections.abc import Container

from tank_agent.spec.values import NAME_MAX, nearest_name


def valid(text: str, otherwise: str = "app") -> str:
    """Return the name nearest to a text: a-z, 0-9 and -, beginning and ending with a letter or a digit."""
    return nearest_name(text) or otherwise


def free(text: str, taken: Container[str]) -> str:
    """Return a name that is not taken, with a number behind it if need be."""
    name, number = text, 1
    while name in taken:
        number += 1
        name = f"{text[: NAME_MAX - len(str(number)) - 1].rstrip('-')}-{number}"
    return name
