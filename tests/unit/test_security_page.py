"""The threat model in docs/security.md names a test for each thing that is stopped; each of them is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "security.md"
FORM = r"`((?:unit|integration|system)/(?:\w+/)*test_\w+\.py::[\w:]+)`"
NAMED = sorted(set(re.findall(FORM, PAGE.read_text())))


@cache
def names_of(file: str) -> frozenset[str]:
    """Return the tests of a file, those of classes as CLASS::TEST."""
    found = set()
    for node in ast.parse((TESTS / file).read_bytes()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return frozenset(name for name in found if name.rpartition("::")[2].startswith("test_"))


@pytest.mark.parametrize("name", NAMED)
def test_the_test_is_there(name: str) -> None:
    file, _, test = name.partition("::")
    assert test in names_of(file)


def test_no_test_is_named_in_a_form_that_is_not_looked_at() -> None:
    assert len(re.findall(r"::\w*test_", PAGE.read_text())) >= len(NAMED) > 40
    assert set(re.findall(r"`([^`]*\.py::[^`]*)`", PAGE.read_text())) == set(NAMED)


def test_every_row_that_something_stops_names_a_test() -> None:
    table = PAGE.read_text().partition("## Threat model")[2].partition("### Not defended against")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")][2:]
    assert rows
    for who, reaches, stopped_by, shown_by in rows:
        assert "::" in shown_by or stopped_by.strip().startswith("nothing"), (who, reaches)
