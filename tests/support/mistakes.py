"""Tables of what people type and what they are told, in files that read like prose.

A section begins with "== PART: words". A row is what is typed, after "> ", and then what is told, indented.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HEADING = re.compile(r"== (\w+): .+")


class Row(NamedTuple):
    """One mistake: the part of its section, what is typed, and what is told."""

    part: str
    typed: str
    told: list[str]

    def __str__(self) -> str:
        return f"{self.part}:{self.typed[:40]}"


def read_rows(table: Path) -> list[Row]:
    """Return the rows of a table."""
    rows, part = [], ""
    for block in table.read_text().split("\n\n"):
        lines = block.strip("\n").splitlines()
        heading = HEADING.fullmatch(lines[0]) if lines else None
        if heading:
            part = heading[1]
            continue
        typed = "\n".join(line[2:] for line in lines if line.startswith("> "))
        rows.append(Row(part, typed, [line[2:] for line in lines if not line.startswith("> ")]))
    return rows


def with_present_words(table: Path, told: Callable[[str, str], list[str]]) -> str:
    """Return the text of a table with what is told now; `told` takes the part and what is typed."""
    blocks, rows = [], iter(read_rows(table))
    for block in table.read_text().split("\n\n"):
        if HEADING.fullmatch(block.strip()):
            blocks.append(block.strip("\n"))
            continue
        row = next(rows)
        typed = [f"> {line}" for line in row.typed.split("\n")]
        blocks.append("\n".join([*typed, *(f"  {line}" for line in told(row.part, row.typed))]))
    return "\n\n".join(blocks) + "\n"
