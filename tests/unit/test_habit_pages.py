"""docs/coming-from.md, docs/not-running.md, docs/not-for.md: the words in them are the program's."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from tank_agent.api.types import PHASES
from tank_agent.cli.main import parsed
from tank_agent.cli.parser import verbs
from tank_agent.spec.parse import parse_pod_file

ROOT = Path(__file__).parents[2]
PAGES = ("coming-from", "not-running", "not-for")
_WORDS = re.compile(r"`(tank [^`]+)`|^(tank .+)$", re.MULTILINE)


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one(page: str) -> None:
    found = [one or other for one, other in _WORDS.findall(text_of(page))]
    commands = [
        shlex.split(command, comments=True)[1:]
        for command in found
        # Those that the page says there are not, verbs alone, and all of them.
        if command not in ("tank ps", "tank up", "tank import compose", "tank export kubernetes")
        and "…" not in command
    ]
    assert {words[0] for words in commands} <= set(verbs())
    for words in commands:
        # A verb alone is about what it does.
        if len(words) > 1:
            parsed(words)
    assert len(commands) > {"coming-from": 40, "not-running": 15, "not-for": -1}[page]


@pytest.mark.parametrize("page", PAGES)
def test_every_pod_file_is_valid(page: str) -> None:
    blocks = re.findall(r"```toml\n(# (\w+\.toml).*?)```", text_of(page), re.DOTALL)
    for text, name in blocks:
        assert parse_pod_file(text, name).problems == ()
    assert bool(blocks) == (page == "coming-from")


@cache
def sentences() -> str:
    """Return every text of the package, a line each, with "…" for what is filled in."""
    found = []
    for path in (ROOT / "tank_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(one.value) if isinstance(one, ast.Constant) else "…" for one in node.values)
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def is_said(message: str) -> bool:
    pieces = message.strip("…").split("…")
    return re.search("[^\n]*?".join(map(re.escape, pieces)), sentences()) is not None


def messages() -> list[str]:
    """Return the first cells of all tables whose first column is what something says."""
    tables = text_of("not-running").split("\n\n")
    rows = [row for table in tables if re.match(r"\| [^|]*says \|", table) for row in table.splitlines()]
    return [found[1] for row in rows if (found := re.match(r"\| `([^`]+)` \|", row))]


def test_every_message_is_one_that_is_said() -> None:
    assert len(messages()) > 25
    assert [message for message in messages() if not is_said(message)] == []


def test_every_phase_has_a_row() -> None:
    section = text_of("not-running").partition("## By its phase")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == set(PHASES) | {"elsewhere"}


@pytest.mark.parametrize("page", [*PAGES, "guide", "README"])
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)?(#[\w-]+)?\)", text_of(page)):
        file = ROOT / "docs" / (target or f"{page}.md")
        assert file.is_file(), target
        heads = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor[1:] in anchors, (target, anchor)
