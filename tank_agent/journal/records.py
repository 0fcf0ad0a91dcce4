"""Records of the journal. All times are Unix timestamps in seconds (UTC), since they outlive a boot."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from tank_agent.spec.model import Pod, Port


class Hold(Struct, frozen=True, kw_only=True):
    """The reason that a pod does not follow its file for now.

    `pinned`: it runs the older spec of `generation` (0: of a commit that never ran here), until its file
    declares another spec than the one whose hash is `declared`. `suspended`: it ignores its file.
    """

    kind: Literal["pinned", "suspended"]
    since: float
    generation: int = 0
    declared: str = ""


class DesiredPod(Struct, frozen=True, kw_only=True):
    """A pod that should run.

    `hash` is `content_hash(pod)`; `generation` counts its changes from 1; `revision` is the source's name for
    it. `file` is where a person edits it (empty for the API). `error` is what is wrong with the *newer* text
    of its file, whose last good spec this is; or with the file that declares the same name elsewhere.
    `author` and `subject` are of the commit that `revision` names, for pods of git.
    """

    name: str
    pod: Pod
    owner: str
    revision: str
    generation: int
    hash: str
    changed_at: float
    file: str = ""
    error: str | None = None
    author: str = ""
    subject: str = ""
    hold: Hold | None = None


class Revision(Struct, frozen=True, kw_only=True):
    """A past (or the present) spec of a pod; `restored` is the generation that `tank rollback` repeated."""

    generation: int
    pod: Pod
    owner: str
    revision: str
    hash: str
    changed_at: float
    author: str = ""
    subject: str = ""
    restored: int | None = None


class Exit(Struct, frozen=True, kw_only=True):
    """The end of a run of a container.

    `code` is None if a signal ended the run or the code is unknown; `signal` is the signal's number.
    `reason` is a sentence where the numbers are not enough (could not be started, lost at a power cut).
    """

    at: float
    code: int | None = None
    signal: int | None = None
    oom: bool = False
    reason: str | None = None

    @property
    def clean(self) -> bool:
        """Return whether the run ended by itself with exit code 0."""
        return self.code == 0 and self.signal is None


class ContainerStatus(Struct, frozen=True, kw_only=True):
    """The facts of a container that outlive the agent and the machine's boot.

    `hash` is of the container's own part of the spec, which these counts belong to; `settings` is the hash of
    the live-changeable fields, and `network` the hash of the pod's network at the last exit (or "").
    `restarts` counts all starts after the first; `failures` counts ends since the last stable run
    (back-off's n). `instance` is the id of the run that was started last, `boot_id` the boot it belongs
    to; both are empty once its end was recorded. `retry_at` is the earliest next start. A container that
    starts no more is not marked: that follows from `exit` and the pod's restart policy, which can change.
    """

    hash: str
    restarts: int = 0
    failures: int = 0
    instance: str = ""
    boot_id: str = ""
    started_at: float | None = None
    retry_at: float | None = None
    exit: Exit | None = None
    settings: str = ""
    network: str = ""
    error: str | None = None


class PodStatus(Struct, frozen=True, kw_only=True):
    """The facts of a pod that outlive the agent; `error` is the failure of a step of an older agent.

    `leases` are its addresses with prefix in each of its bridges, in their order; `ports` are the machine's
    that are reserved for it.
    """

    containers: dict[str, ContainerStatus] = msgspec.field(default_factory=dict)
    error: str | None = None
    leases: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    ports: tuple[Port, ...] = ()


class NewEvent(Struct, frozen=True, kw_only=True):
    """Something that happened; `container` is empty for the whole pod, `pod` for no single one."""

    pod: str
    type: str
    message: str
    container: str = ""
    revision: str = ""
    cause: str = ""


class Event(NewEvent, frozen=True, kw_only=True):
    """An event with its number in the journal and its time, in the form of RFC 3339 in UTC."""

    seq: int
    at: str
