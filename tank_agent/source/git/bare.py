"""A repository on this machine: made ready for pushes, and asked for a ref without starting anything."""

from __future__ import annotations

import os
from pathlib import Path

from tank_agent.errors import Stalled
from tank_agent.linux import fault
from tank_agent.source.git.objects import ID
from tank_agent.source.git.repository import make_bare

_LIMIT = 16 << 20
# What an interrupted call may have left.
_OURS = frozenset(("objects", "refs", "config", "HEAD"))
# git-config(1). A machine that follows this repository refuses rewritten history, so a push of it is refused
# first.
_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[receive]
\tdenyNonFastForwards = true
\tdenyDeletes = true
\tfsckObjects = true
[uploadpack]
\tallowAnySHA1InWant = true
"""


def init_bare(path: Path, *, branch: str = "main", owner: tuple[int, int] | None = None) -> bool:
    """Make a bare repository that takes pushes, as `tank git init PATH` does; False if it is one already.

    owner: the (uid, gid) that pushes over ssh; as root, the agent reads the repository as that user.

    Raises:
        Stalled: something else is there.
    """
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return False
    try:
        if path.exists() and not _OURS.issuperset(entry.name for entry in path.iterdir()):
            raise Stalled(f"{path} is there and is no git repository", hint="name a new or empty directory")
        # HEAD is written after the directories, and makes it a repository: an interrupted call is just
        # repeated.
        path.mkdir(parents=True, exist_ok=True)
        make_bare(path, branch, _CONFIG)
        fault.point("git:bare-made")
        if owner is not None:
            for directory, _, files in os.walk(path):
                for entry in (directory, *(os.path.join(directory, file) for file in files)):
                    os.chown(entry, *owner, follow_symlinks=False)
    except OSError as error:
        raise Stalled(f"cannot make {path}: {error.strerror}") from error
    return True


def read_local_ref(repository: int, name: str) -> str | None:
    """Return the object that a ref of an open bare repository names, where plain files say so.

    None if there is none, or if finding out needs more than a look (another ref storage, a work tree): the
    helper then looks properly.
    """
    for _ in range(5):
        text = _read(repository, name)
        if text is None:
            return _packed(repository, name)
        text = text.strip()
        if not text.startswith("ref: "):
            return text if ID.fullmatch(text) else None
        name = text[5:].strip()
    return None


def _packed(repository: int, name: str) -> str | None:
    for line in (_read(repository, "packed-refs") or "").splitlines():
        value, _, ref = line.partition(" ")
        if ref == name and ID.fullmatch(value):
            return value
    return None


def _read(directory: int, name: str) -> str | None:
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return None
    opened: list[int] = []
    try:
        for part in parts[:-1]:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            opened.append(os.open(part, flags, dir_fd=opened[-1] if opened else directory))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(parts[-1], flags, dir_fd=opened[-1] if opened else directory)
        with open(fd, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError:
        return None
    finally:
        for fd in opened:
            os.close(fd)
    return data.decode("utf-8", "replace") if len(data) <= _LIMIT else None
