"""What people type after `tank`, and what they are told: the table mistakes/commands.txt.

All of it is told by the parser, without an agent.
"""

from __future__ import annotations

import contextlib
import io
import shlex
from pathlib import Path

import pytest

from tank_agent.cli.main import main
from tests.support.mistakes import Row, read_rows, with_present_words

TABLE = Path(__file__).parent / "mistakes/commands.txt"
MISTAKES = read_rows(TABLE)


def told(_part: str, typed: str) -> list[str]:
    """Return what `tank` says, without the usage, whose width is the terminal's."""
    words, said = shlex.split(typed)[1:], io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    assert code == 2, (typed, code, said.getvalue())
    lines = said.getvalue().splitlines()
    return [line for line in lines if line.startswith(("tank: ", f"tank {words[0]}: "))]


@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_mistake_is_told_in_these_words(mistake: Row) -> None:
    assert told(mistake.part, mistake.typed) == mistake.told


if __name__ == "__main__":
    TABLE.write_text(with_present_words(TABLE, told))
