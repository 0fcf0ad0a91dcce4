"""What a path depends on: the names, and the directories that hold them, through every link on the way."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tank_agent.linux.paths import LINKS_MAX

# A directory of links to everywhere must not use up the kernel's watches; the resync sees the rest.
_PLACES_MAX = 64


class Places:
    """Names that matter, by the directory that holds them; every directory is written without links."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}

    def add_path(self, path: str) -> None:
        """Add every name that is looked up on the way to an absolute path; the last may be missing."""
        left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        place, links = "/", 0
        while left:
            name = left.pop()
            if name == "..":
                place = str(Path(place).parent)
                continue
            self.names.setdefault(place, set()).add(name)
            here = os.path.join(place, name)
            try:
                target = str(Path(here).readlink())
            except OSError:
                # No link; or it is not there, and then its directory is where it will come.
                if left and not os.path.isdir(here):
                    return
                place = here
                continue
            links += 1
            if links > LINKS_MAX:
                return
            left += [part for part in reversed(target.split("/")) if part not in ("", ".")]
            place = "/" if target.startswith("/") else place

    def add_files(self, directory: str, names: Iterable[str]) -> None:
        """Add what links of these names in a directory lead through, as far as there is room."""
        for name in names:
            if len(self.names) >= _PLACES_MAX:
                return
            self.add_path(os.path.join(directory, name))
