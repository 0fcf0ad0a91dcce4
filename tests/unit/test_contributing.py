"""CONTRIBUTING.md: each file, command and name in it exists."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.unit.test_layers import ROOMS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
KINDS = [
    "a key of a pod file",
    "a setting",
    "a verb",
    "a source",
    "an action",
    "a kind of health check",
    "another fact of a run",
]
CHECKLISTS = dict(re.findall(r"^### To add (.+?)\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
PATH = re.compile(r"`((?:tank_agent|tests|docs|packaging)/[\w./-]+)`")


def test_every_checklist_is_there() -> None:
    assert list(CHECKLISTS) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_a_checklist_names_files_that_exist(kind: str) -> None:
    paths = PATH.findall(CHECKLISTS[kind])
    assert any(path.startswith("tank_agent/") for path in paths)
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("another fact")])
def test_a_checklist_names_its_test(kind: str) -> None:
    assert any(path.startswith("tests/unit/") for path in PATH.findall(CHECKLISTS[kind]))


def test_every_other_path_exists_too() -> None:
    rooms = "|".join(sorted(ROOMS, key=len, reverse=True))
    found = [f"tank_agent/{path}" for path in re.findall(rf"`((?:{rooms})/[\w./]+)`", TEXT)]
    assert [path for path in [*PATH.findall(TEXT), *found] if not (ROOT / path).exists()] == []


def test_every_name_that_a_checklist_gives_is_in_one_of_its_files() -> None:
    missing = []
    for kind, text in CHECKLISTS.items():
        files = [ROOT / path for path in PATH.findall(text) if (ROOT / path).is_file()]
        sources = "\n".join(path.read_text() for path in files)
        for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?|sentence)`", text):
            if not re.search(rf"\b{name.rpartition('.')[2]}\b", sources):
                missing.append((kind, name))
    assert missing == []


def test_every_room_has_a_layer() -> None:
    rows = TEXT.split("| layer |")[1].split("\n\n")[0]
    named = {name for row in rows.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[2])}
    assert named == {room for room in ROOMS if not room.startswith("__")}


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0] for block in blocks for line in block.splitlines()]
    comments = [part for block in blocks for part in re.findall(r"; (\./dev .*)", block)]
    inline = re.findall(r"`([^`\n]*(?:\./dev|python3 )[^`\n]*)`", TEXT)
    return [line.strip() for line in [*lines, *comments, *inline] if line.strip()]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one(command: str) -> None:
    first = command.split("; ", maxsplit=1)[0].removesuffix(" for some")
    words = [word for word in shlex.split(first) if "=" not in word]
    if words[0] == "python3":
        assert (ROOT / words[1]).is_file()
        return
    assert words[0] == "./dev"
    known = subprocess.run(
        [ROOT / "dev", "help"], check=True, capture_output=True, text=True, timeout=10
    ).stdout
    assert len(words) == 1 or re.search(rf"^  {words[1]} ", known, re.MULTILINE)
    assert [word for word in words if "/" in word and not (ROOT / word).exists()] == []


def test_the_test_that_an_example_selects_exists() -> None:
    path, word = re.search(r"\./dev test (\S+) -k (\w+)", TEXT).groups()  # type: ignore[union-attr]
    assert re.search(rf"def test_\w*{word}", (ROOT / path).read_text())
