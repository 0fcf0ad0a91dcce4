"""Of every type of event that the agent writes it is decided whether somebody is told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import tank_agent
from tank_agent.outward.notify.rules import RULES, SILENT
from tank_agent.settings.notify import KINDS

PACKAGE = Path(tank_agent.__file__).parent
ROOMS = ("api", "control", "intake", "journal", "outward", "reconcile", "source")
# The functions that make events of a type, which is one of their arguments.
MAKERS = {
    "event", "_event", "_tell", "_record", "NewEvent", "_try", "_report", "record_event", "Recorded",
    "_in_container",
}  # fmt: skip
# Arguments of such functions of other things.
OTHERS = {"bad", "good", "event", "pods", "sources", "usage"}
TYPE = re.compile(r"[a-z]+(-[a-z]+)*")


@cache
def made() -> dict[str, str]:
    """Return the types that are written as they are in the code, each with its place."""
    return {kind: place for kind, place in _made() if kind not in OTHERS}


def _made() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for path in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_bytes())):
                if isinstance(node, ast.Call) and _name(node.func) in MAKERS:
                    values = [*node.args, *(one.value for one in node.keywords if one.arg == "type")]
                    for value in values:
                        if isinstance(value, ast.Constant) and TYPE.fullmatch(str(value.value)):
                            yield str(value.value), f"{path.name}:{node.lineno}"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_the_types_are_found() -> None:
    assert {
        "update-failed",
        "exited",
        "source-error",
        "unhealthy",
        "stop-asked",
        "notify-failed",
    } <= made().keys()


def test_every_type_that_is_written_is_told_of_or_silent() -> None:
    assert {kind: place for kind, place in made().items() if kind not in RULES and kind not in SILENT} == {}
    assert not RULES.keys() & SILENT


@pytest.mark.parametrize("kind", sorted({*RULES, *SILENT}))
def test_every_type_of_the_table_is_written_somewhere(kind: str) -> None:
    texts = [
        path.read_text()
        for room in ROOMS
        for path in (PACKAGE / room).rglob("*.py")
        if path.name != "rules.py"
    ]
    # Those of runs of jobs that did not begin are made of two parts.
    words = [f'"{kind}"', f'"{kind.removeprefix("job-")}"']
    assert any(word in text for text in texts for word in words)


def test_every_kind_is_told_of_something() -> None:
    # A disk is asked, and an agent that can't start has no events.
    assert {rule.kind for rule in RULES.values()} | {"disk", "agent"} == set(KINDS)
    assert {rule.effect for rule in RULES.values()} == {
        "bad", "good", "wait", "look", "failed", "back", "again", "gone"
    }  # fmt: skip


def test_nothing_about_notifications_is_told() -> None:
    assert not any(kind.startswith("notify-") for kind in RULES)
