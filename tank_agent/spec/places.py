"""The line of a pod file where a field of a pod is written, for those who ask why it is as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from tank_agent.spec.document import read_toml
from tank_agent.spec.findings import KeyPath
from tank_agent.spec.lines import find_lines

_PART = re.compile(r"([^.\[\]]+)(?:\[([^]]*)\])?")


class PodPlace:
    """A pod's table in the text of its file.

    Args:
        text: of the file.
        file: its name, which names a single pod.
        pod: the pod's name.
    """

    def __init__(self, text: str, file: str, pod: str) -> None:
        document, _ = read_toml(text, file)
        self._lines: Mapping[KeyPath, int] = {}
        self._table, self._path = _table(document or {}, PurePath(file).name.removesuffix(".toml"), pod)
        if self._table is not None:
            self._lines = find_lines(text)

    @property
    def line(self) -> int:
        """Return the line where the pod's table begins; 0 if the text does not declare it."""
        return self._lines.get(self._path, 1) if self._table is not None else 0

    def line_of(self, key: str) -> int:
        """Return the line of a key such as "containers[app].limits.memory", or of the table around it.

        0 if the text does not declare the pod.
        """
        found, path, here = self.line, self._path, self._table
        for name, element in _PART.findall(key):
            path, here = (*path, name), _item(here, name)
            found = self._lines.get(path, found)
            if element:
                index = _index(here, element)
                if index is None:
                    break
                path, here = (*path, index), here[index]
                found = self._lines.get(path, found)
        return found


def _table(document: dict[str, Any], stem: str, pod: str) -> tuple[Any, KeyPath]:
    """Return the table of a pod, and where it is in the document; None if it is not there."""
    tables = document.get("pods")
    if not isinstance(tables, list):
        return (document if document.get("name", stem) == pod and document else None), ()
    index = _index(tables, pod)
    return (None, ()) if index is None else (tables[index], ("pods", index))


def _item(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None


def _index(tables: Any, name: str) -> int | None:
    """Return the position of the table of that name."""
    if not isinstance(tables, list):
        return None
    return next((at for at, table in enumerate(tables) if _item(table, "name") == name), None)
