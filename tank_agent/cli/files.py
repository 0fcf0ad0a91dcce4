"""Which files of a directory are pod files: the same rule as the agent's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tank_agent.errors import TankError
from tank_agent.spec.document import is_pod_file_name


def pod_files(path: Path) -> Sequence[Path]:
    """Return the pod files of a directory by name, or the file itself.

    Raises:
        TankError: the directory can't be read, or something in it can't be a pod file.
    """
    if not path.is_dir():
        return [path]
    try:
        found = sorted(file for file in path.iterdir() if is_pod_file_name(file.name))
    except OSError as error:
        raise TankError(f"cannot read: {error.strerror}", where=os.fspath(path)) from error
    for file in found:
        # Opening a fifo would wait for ever.
        if not file.is_file():
            raise TankError("is not a regular file, so it can't be a pod file", where=os.fspath(file))
    return found
