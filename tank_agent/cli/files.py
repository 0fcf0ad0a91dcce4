"""Which files of a directory are pod files: the same rule as the agent's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tank_agent.errors import TankError


def pod_files(path: Path) -> Sequence[Path]:
    """Return the pod files of a directory by name, or the file itself.

    Only `*.toml` counts in a directory, and nothing that starts with a dot; editors leave such behind.

    Raises:
        TankError: the directory can't be read.
    """
    if not path.is_dir():
        return [path]
    try:
        return sorted(
            file for file in path.iterdir() if file.suffix == ".toml" and not file.name.startswith(".")
        )
    except OSError as error:
        raise TankError(f"cannot read: {error.strerror}", where=os.fspath(path)) from error
