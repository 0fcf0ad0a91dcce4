"""Find and read the pod files that a user names, by the same rules as the agent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tank_agent.client.pod_files import beside
from tank_agent.errors import Problem, TankError
from tank_agent.linux.given_files import read_given
from tank_agent.spec.beside import Beside
from tank_agent.spec.document import TEXT_MAX
from tank_agent.spec.names import is_pod_file_name


def pod_files(path: Path, *, below: bool) -> Iterator[Path]:
    """Yield the pod files of a directory by name, or the file itself; with `below`, as in a repository.

    Raises:
        TankError: a directory can't be read.
    """
    if not path.is_dir():
        yield path
        return
    for directory, directories, names in os.walk(path, onerror=_cannot_read):
        # In pods_dir, a directory that is named like a pod file is a mistake.
        found = sorted(names if below else [*names, *directories])
        directories[:] = sorted(name for name in directories if below and not name.startswith("."))
        yield from (Path(directory, name) for name in found if is_pod_file_name(name))


def what_is_odd(file: Path) -> str | None:
    """Return why a path with the name of a pod file must not be opened as one; None if it may be."""
    if file.is_file() or (file.is_symlink() and not file.exists()):
        return None
    return "is not a regular file; put the pod's text in a file of this name"


def read_tree(path: Path) -> dict[str, bytes | Problem]:
    """Return the pod files of a directory as a repository has them, by their paths from its top.

    Raises:
        TankError: a directory or a file can't be read.
    """
    tree: dict[str, bytes | Problem] = {}
    for file in pod_files(path, below=True):
        name, odd = file.name, None
        if file != path:
            name, odd = os.fspath(file.relative_to(path)), what_is_odd(file)
            if odd is None and file.is_symlink():
                odd = "is a symbolic link, which is never followed in a repository"
        # The parser says which file is too large.
        tree[name] = read_given(file, TEXT_MAX) if odd is None else Problem(name, 0, "", odd)
    return tree


def beside_tree(path: Path) -> Callable[[str], Beside]:
    """Return a function that returns the reader of the files beside a file of `read_tree`, by its name."""
    top = path if path.is_dir() else path.parent
    return lambda name: beside(top / name)


def _cannot_read(error: OSError) -> None:
    raise TankError(f"cannot read: {error.strerror}", where=error.filename) from error
