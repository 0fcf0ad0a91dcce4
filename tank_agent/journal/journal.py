"""The seam between the agent and whatever stores its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.journal.records import DesiredPod, Event, NewEvent, PodStatus, Revision
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Pod


class Applied(Struct, frozen=True, kw_only=True):
    """What one merge changed: names of pods that are new or changed, and that are no longer desired.

    `updated` are pods whose spec is the same but whose owner, file, revision or error is not: nothing to do
    for them but to show it.
    """

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()


class Preview(Struct, frozen=True, kw_only=True):
    """What a merge would do: the desired pods after it, what would change, and all problems then."""

    desired: Mapping[str, DesiredPod]
    applied: Applied
    problems: tuple[Problem, ...]


class Journal(Protocol):
    """Desired pods, their revisions, their status, and the events; one writer, durable when a call returns.

    Reads come from memory and never block on a write in progress for longer than a commit.
    Every method may be called from any thread.
    """

    def desired(self) -> Mapping[str, DesiredPod]:
        """Return all desired pods by name; an immutable snapshot, cheap enough to call in every pass."""
        ...

    def get(self, name: str) -> DesiredPod | None:
        """Return one desired pod."""
        ...

    def merge(self, snapshot: Snapshot) -> Applied:
        """Merge a source's snapshot by the ownership rules of DESIGN section 4, in one transaction."""
        ...

    def preview(self, snapshot: Snapshot) -> Preview:
        """Return what `merge` would do with the snapshot, and do nothing."""
        ...

    def put(self, pod: Pod, revision: str) -> DesiredPod:
        """Create or replace a pod for `tank apply`.

        Raises:
            OwnedElsewhere: a file or git owns that name.
        """
        ...

    def put_all(self, pods: Sequence[Pod], revision: str) -> Sequence[DesiredPod]:
        """Create or replace several pods in one transaction: all of them, or none.

        Raises:
            OwnedElsewhere: a file or git owns one of the names.
        """
        ...

    def delete(self, name: str) -> bool:
        """Remove a pod for `tank delete`; False if there was none. A deleted seed stays deleted.

        Raises:
            OwnedElsewhere: a file that still exists, or a repository that is followed, owns that name.
        """
        ...

    def suspend(self, name: str) -> Applied:
        """Let a pod stay as it is, whatever its file says, until `resume`.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: it follows no file.
        """
        ...

    def roll_back(self, name: str, to: Revision) -> Applied:
        """Give a pod an older spec; one that follows a file is pinned until `resume`, or until that changes.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: that is what it has.
        """
        ...

    def resume(self, name: str) -> Applied:
        """Let a suspended or pinned pod follow its file again; nothing changes for any other.

        Raises:
            PodNotFound: there is none of that name.
        """
        ...

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong in the sources now, over all sources, in file order."""
        ...

    def history(self, name: str) -> Sequence[Revision]:
        """Return the kept revisions of a pod, oldest first; also of a pod that is gone."""
        ...

    def status(self, name: str) -> PodStatus:
        """Return a pod's status; an empty one if nothing was recorded."""
        ...

    def statuses(self) -> Mapping[str, PodStatus]:
        """Return every recorded status by pod name."""
        ...

    def record(self, name: str, status: PodStatus | None, events: Iterable[NewEvent] = ()) -> None:
        """Store a pod's status (None forgets it) and append events, in one transaction."""
        ...

    def events(self, after: int = 0, limit: int = 1000) -> Sequence[Event]:
        """Return up to `limit` events with a number above `after`, oldest first."""
        ...

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event with a number above `after`, at most `timeout` seconds."""
        ...

    def remember(self, key: str, value: bytes) -> None:
        """Keep a small fact of another room over restarts; empty forgets it."""
        ...

    def recall(self, key: str) -> bytes:
        """Return what was remembered; empty if nothing was."""
        ...

    def close(self) -> None:
        """Close the store; later calls raise."""
        ...
