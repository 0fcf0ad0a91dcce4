"""A run, which is one execution of a container: its record on disk and its state in the agent.

A run's directory, `run_dir/containers/<id>`, is also the OCI bundle and conmon's directory. The record is
written before anything else is made, so that the next agent finds whatever a killed one left behind.
"""

from __future__ import annotations

import enum
import os
import secrets
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from tank_agent.image.config import ImageHealthcheck
from tank_agent.journal.records import Exit
from tank_agent.linux import atomic
from tank_agent.linux.namespaces import IdRange
from tank_agent.retry import Failure
from tank_agent.spec.model import Limits

RECORD = "record.json"
STOPPING = "stopping.json"
# How many runs of a job are remembered, and their logs kept.
KEPT_RUNS = 10

T = TypeVar("T")


class RunRecord(Struct, frozen=True, kw_only=True):
    """A run on disk; `settings`, `limits`, `stop_signal` and `stop_grace` may change while it goes on.

    Attributes:
        hash: of the container's part of the spec; `settings` is the hash of the part that can change live.
        cgroup: the OCI cgroupsPath.
        image: as `tank status` shows it; `digest` is that of its manifest ("" for a directory).
        stop_grace: in seconds.
        terminal: whether the main process has a pseudo-terminal.
        image_stop_signal: used where the spec has none.
        ids: the host's ids of its own user namespace, if it has one.
        volumes: the paths of its volumes, each before those inside of it.
        shared: the names of those of its volumes that other pods may have, too.
        contents: the digests of the files and secrets that were delivered, by their paths as the spec has
            them; "" while another is on its way.
        after, pods_after: the containers and the other pods that it started after.
        root: device and inode of its root directory, since its programs may make any other directory "/".
        healthcheck: the image's own.
        job_run: the number of the job's run that it is of; 0 for a pod that is no job.
        sysctls: of the pod, with which its namespaces were made.
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
    shared: tuple[str, ...] = ()
    root: tuple[int, int] | None = None
    healthcheck: ImageHealthcheck | None = None
    after: tuple[str, ...] = ()
    pods_after: tuple[str, ...] = ()
    digest: str = ""
    contents: dict[str, str] = msgspec.field(default_factory=dict)
    job_run: int = 0
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return pod and container as messages name them."""
        return f"{self.pod}/{self.container}"


class Stopping(Struct, frozen=True, kw_only=True):
    """A stop in progress; `deadline` is on the monotonic clock of this boot, in seconds.

    `unhealthy` is why a run is stopped that its restart policy starts again; empty for other stops.
    """

    deadline: float
    killed: bool = False
    unhealthy: str = ""


class ChangeFailure(Failure, frozen=True, kw_only=True):
    """A failed change of a run to some settings."""

    settings: str


class Unmounted(Failure, frozen=True, kw_only=True):
    """Paths at which a run lost a mount, and the failure to mount them again."""

    paths: tuple[str, ...]


class RunState(enum.StrEnum):
    """The state of a run.

    PARTIAL never began: the agent died while making it, or the runtime refused. ORPHANED runs without its
    conmon, so its output and exit code are lost.
    """

    PARTIAL = "partial"
    RUNNING = "running"
    ORPHANED = "orphaned"
    EXITED = "exited"


class Undelivered(Failure, frozen=True, kw_only=True):
    """A failure to deliver new content; `contents` are the digests that were wanted, by path."""

    contents: dict[str, str]


class RunFacts(Struct, kw_only=True):
    """The observed facts of a run: the agent keeps them up to date, and the loop decides from a copy.

    Attributes:
        pid: its main process on the host.
        exit: set once it is EXITED.
        lost: its monitor ended before it did.
        drift: a sentence on a limit that is not as it was set.
        failure: of the last change of its settings.
        unmounted: the mounts that it lost.
        undelivered: the failure of the last delivery of new content.
        out_of_memory: a process of it was killed as memory ran out, and the run goes on.
        alive_since: the monotonic time at which this agent first saw its program run, in seconds.
    """

    pid: int | None = None
    stopping: Stopping | None = None
    exit: Exit | None = None
    lost: bool = False
    drift: str | None = None
    failure: ChangeFailure | None = None
    unmounted: Unmounted | None = None
    undelivered: Undelivered | None = None
    out_of_memory: bool = False
    alive_since: float | None = None

    def error(self, settings: str) -> str | None:
        """Return what is wrong with the run though it goes on; `settings` is the hash that it should have."""
        if self.failure is not None and self.failure.settings == settings:
            return self.failure.error
        failed = self.undelivered if self.undelivered is not None else self.unmounted
        return failed.error if failed is not None else None


class LiveRun(RunFacts, kw_only=True):
    """A run that the agent holds, with pidfds of its main process and its monitor (conmon).

    Only `container/` writes to it.

    Attributes:
        ended_at: the monotonic time at which its main process had ended, while its monitor goes on.
        looked: whether `unmounted` is from after the last change of its mounts.
        adopted: an earlier agent started it.
        killed: how many processes of it were killed as memory ran out, when it was last looked.
        files: its group's, open for the next scrape (`OpenFiles`).
    """

    record: RunRecord
    directory: Path
    started: bool = False
    process: int | None = None
    monitor: int | None = None
    ended_at: float | None = None
    looked: bool = False
    adopted: bool = False
    killed: int = 0
    files: object | None = None

    @property
    def state(self) -> RunState:
        """Return the state."""
        if not self.started:
            return RunState.PARTIAL
        if self.exit is not None:
            return RunState.EXITED
        return RunState.RUNNING if self.monitor is not None else RunState.ORPHANED

    def close(self) -> None:
        """Close the descriptors; the processes go on."""
        for descriptor in (self.monitor, self.process):
            if descriptor is not None:
                os.close(descriptor)
        self.monitor = self.process = None


def new_id(pod: str, container: str) -> str:
    """Return a fresh id for a run: readable in `crun list`, unique, and at most 63 characters."""
    return f"{pod[:24].strip('-')}-{container[:24].strip('-')}-{secrets.token_hex(5)}"


def write_file(directory: Path, name: str, value: Struct) -> None:
    """Write RECORD or STOPPING atomically; make the directory again if it was removed."""
    directory.mkdir(mode=0o700, exist_ok=True)
    atomic.write(directory / name, msgspec.json.encode(value), fault_point=f"runtime:{name}")


def read_file(path: Path, kind: type[T]) -> T | None:
    """Return what `write_file` wrote; None if it is absent or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def read_number(path: Path) -> int | None:
    """Return the number in a file that conmon or crun writes; None if there is none yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with os.fdopen(fd) as file:
        text = file.read(32).strip()
    return int(text) if text.lstrip("-").isdigit() else None
