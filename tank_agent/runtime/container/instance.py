"""One run of one container, as it stands on disk: `run_dir/containers/<id>/`.

The record is written before anything else is made, so that whatever a dead agent left behind is found by it.
The directory is also the OCI bundle and conmon's own directory.
"""

from __future__ import annotations

import enum
import os
import secrets
import signal
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.linux.fault import point
from tank_agent.linux.trees import remove_tree
from tank_agent.linux.user_namespaces import IdRange
from tank_agent.retry import Failure
from tank_agent.spec.model import Limits

RECORD = "record.json"
STOPPING = "stopping.json"


class Record(Struct, frozen=True, kw_only=True):
    """What is fixed when a run begins. `hash` is the hash of the container's part of the spec.

    `cgroup` is the OCI cgroupsPath, `image` what `tank status` shows, `stop_grace` is in seconds.
    `terminal` tells whether the main process runs on a pseudo-terminal. `limits`, `stop_signal` and
    `stop_grace` change while it runs; `settings` is the hash of that part of the spec. `image_stop_signal`
    is what holds where the spec says none. `ids` are its own in a user namespace of its own. `volumes` are
    the paths at which it has some, parents first. `root` is the device and inode of its root directory, by
    which it is told from any other directory that its programs may call "/".
    """

    id: str
    pod: str
    container: str
    hash: str
    revision: str
    cgroup: str
    image: str
    stop_signal: int
    stop_grace: float
    terminal: bool
    created_at: float
    settings: str = ""
    limits: Limits = msgspec.field(default_factory=Limits)
    image_stop_signal: int = signal.SIGTERM
    ids: IdRange | None = None
    volumes: tuple[str, ...] = ()
    root: tuple[int, int] | None = None


class Stopping(Struct, frozen=True, kw_only=True):
    """That we asked a run to end; `deadline` is on the monotonic clock of this boot, in seconds."""

    deadline: float
    killed: bool = False


class ChangeFailure(Failure, frozen=True, kw_only=True):
    """A change of a run to some settings that failed."""

    settings: str


class Unmounted(Failure, frozen=True, kw_only=True):
    """Paths of a run at which a mount was taken away, and how mounting them again failed."""

    paths: tuple[str, ...]


class State(enum.StrEnum):
    """How far a run is.

    PARTIAL never began (the agent died while making it, or the runtime refused). ORPHANED runs, but its
    conmon is gone, so its output and exit code are lost. EXITED is over.
    """

    PARTIAL = "partial"
    RUNNING = "running"
    ORPHANED = "orphaned"
    EXITED = "exited"


def new_id(pod: str, container: str) -> str:
    """Return a fresh id for a run: readable in `crun list`, unique, and at most 63 characters."""
    return f"{pod[:24].strip('-')}-{container[:24].strip('-')}-{secrets.token_hex(5)}"


def write(directory: Path, name: str, value: Struct) -> None:
    """Write a small file so that it is there whole or not at all."""
    # Somebody may have removed it under a container that runs.
    directory.mkdir(mode=0o700, exist_ok=True)
    temporary = directory / f".{name}.new"
    temporary.write_bytes(msgspec.json.encode(value))
    point(f"runtime:{name}")
    temporary.replace(directory / name)


def read_record(directory: Path) -> Record | None:
    """Return an instance's record; None if the agent died before it was written, or somebody removed it."""
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def read_stopping(directory: Path) -> Stopping | None:
    """Return whether and until when the run was asked to end."""
    try:
        return msgspec.json.decode((directory / STOPPING).read_bytes(), type=Stopping)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def remove(directory: Path) -> None:
    """Remove an instance's directory, if it is there. The record goes last.

    As long as that is there, the next agent knows what to remove.
    """
    for entry in directory.iterdir() if directory.exists() else ():
        if entry.name != RECORD:
            remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    remove_tree(directory)


def read_number(path: Path) -> int | None:
    """Return the number in a file that conmon writes (pid, exit code); None if there is none yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd) as file:
        text = file.read(32).strip()
    return int(text) if text.lstrip("-").isdigit() else None
