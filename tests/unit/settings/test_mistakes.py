"""What people type into agent.toml, and what they are told: the table mistakes/agent_toml.txt."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tank_agent.errors import InvalidSpec
from tank_agent.settings.settings import load_settings
from tests.support.mistakes import Row, read_rows, with_present_words

TABLE = Path(__file__).parent / "mistakes/agent_toml.txt"
MISTAKES = read_rows(TABLE)


def told(_part: str, typed: str) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name, "agent.toml")
        file.write_text(f"{typed}\n")
        with pytest.raises(InvalidSpec) as caught:
            load_settings(file, environ={})
        return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_told_in_these_words(mistake: Row) -> None:
    assert told(mistake.part, mistake.typed) == mistake.told


if __name__ == "__main__":
    TABLE.write_text(with_present_words(TABLE, told))
