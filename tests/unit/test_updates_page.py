"""docs/updates.md: its examples are valid, and its tables have the words that the agent uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from tank_agent.api.reports import HealthReport
from tank_agent.reconcile.core.rollout_view import RolloutState
from tank_agent.spec.parse import parse_pod_file

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/updates.md").read_text()
EXAMPLES = re.findall(r"```toml\n# (\S+\.toml)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_every_example_says_its_file() -> None:
    assert len(EXAMPLES) == PAGE.count("```toml") >= 5


@pytest.mark.parametrize(("file", "text"), EXAMPLES)
def test_an_example_is_valid(file: str, text: str) -> None:
    parsed = parse_pod_file(text, file)
    assert parsed.problems == ()
    assert [one.pod.name for one in parsed.pods] == [file.removesuffix(".toml")]


def words(header: str) -> list[str]:
    """Return the words in the first column of the table with that header."""
    _, _, table = PAGE.partition(f"| {header} |")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    return [word for row in rows for word in re.findall(r"`([a-z][a-z-]*)`", row.split("|")[1])]


def test_every_state_of_an_update_has_its_row() -> None:
    assert words("UPDATE") == [str(state) for state in RolloutState]


def test_every_state_of_health_has_its_row() -> None:
    assert words("HEALTH") == list(get_args(get_type_hints(HealthReport)["state"]))


# The rooms of updates and health, which all have their events on the page.
ROOMS = ("reconcile/updates.py", "reconcile/probes.py", "journal/transitions.py")
EVENT = re.compile(
    r'"((?:update|rollback|snapshot|data|image|probe|health)-[a-z]+|rolled-back|recovered|(?:un)?healthy)"'
)


def test_every_event_of_updates_has_its_row_and_every_row_its_event() -> None:
    texts = [(ROOT / "tank_agent" / room).read_text() for room in ROOMS]
    known = {word for text in texts for word in EVENT.findall(text)}
    assert set(words("event")) == known | {"resumed"}
    assert '"resumed"' in texts[2]
