"""Derive the tables of docs/import.md from the tables of keys that conversions follow.

.venv/bin/python packaging/import_pages.py     # in the root: writes these tables anew
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tank_agent.convert.compose.keys import TABLES  # noqa: E402  (the sources beside this file)
from tank_agent.convert.compose.service import ComposeKey, Table  # noqa: E402

PAGE = ROOT / "docs" / "import.md"
# A comment on the page names the table of keys that follows; its rows are generated.
_MARKED = re.compile(r"(<!-- compose keys: ([^>]+?) -->\n\|[^\n]*\n\|[-|]*\n)((?:\|[^\n]*\n)*)")


def rows(table: Table, above: str = "") -> Iterator[str]:
    """Yield the rows of a table, and of those below its keys; keys with one answer share a row."""
    together: dict[str, list[str]] = {}
    for name, key in table.items():
        if key.below:
            yield from rows(key.below, f"{above}{name}.")
        else:
            together.setdefault(_answer(key), []).append(f"`{above}{name}`")
    yield from (f"| {', '.join(names)} | {answer} |" for answer, names in together.items())


def _answer(key: ComposeKey) -> str:
    return key.becomes if key.kind == "mapped" else f"{key.kind}: {key.becomes}"


def page(text: str) -> str:
    """Return the page with the rows as they are to be."""
    return _MARKED.sub(lambda found: found[1] + "".join(f"{row}\n" for row in rows(TABLES[found[2]])), text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
