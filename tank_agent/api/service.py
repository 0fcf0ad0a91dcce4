"""What the API server asks of the agent. The agent implements it; the tests of the server use a fake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from tank_agent.journal.records import DesiredPod, Event, Revision

if TYPE_CHECKING:
    # The client imports this module, too, and must stay light.
    from tank_agent.control.images import Images
    from tank_agent.control.sessions import Interactive
    from tank_agent.control.sources import GitOps


class AppliedPod(Struct, frozen=True, kw_only=True):
    """What `tank apply` did with one pod: `change` is "created", "changed" or "unchanged"."""

    name: str
    change: str
    generation: int


class PlannedPod(Struct, frozen=True, kw_only=True):
    """What would be done for one pod: `change` is "create", "update", "remove" or "none".

    `actions` are sentences in the order in which they would be done.
    `diff` are lines "key: old → new (effect)".
    """

    name: str
    change: str
    actions: tuple[str, ...] = ()
    diff: tuple[str, ...] = ()


class ManagedVolume(Struct, frozen=True, kw_only=True):
    """A managed volume. `in_use`: its pod is desired with it, or runs."""

    pod: str
    name: str
    path: str
    in_use: bool


class PlanReport(Struct, frozen=True, kw_only=True):
    """The answer to `tank plan`. `problems` are the `file:line: …` lines of files that can't be used."""

    pods: tuple[PlannedPod, ...]
    problems: tuple[str, ...] = ()


class AgentService(Protocol):
    """The agent, as the API sees it. Methods raise `TankError`; the server turns it into an answer."""

    @property
    def interactive(self) -> Interactive:
        """Return what opens containers for `exec`, `attach` and `logs`."""
        ...

    def list_pods(self) -> Sequence[DesiredPod]:
        """Return the desired pods in the order of their names."""
        ...

    def get_pod(self, name: str) -> DesiredPod:
        """Return one desired pod, or raise PodNotFound."""
        ...

    def apply(self, text: str, file: str) -> Sequence[AppliedPod]:
        """Check a pod file's text and store its pods; `file` is only for messages.

        Raises InvalidSpec or OwnedElsewhere; then nothing was stored.
        """
        ...

    def delete(self, name: str) -> bool:
        """Remove a pod from the desired state; False if there was none (which is not an error)."""
        ...

    def status(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the objects of DESIGN section 8, of all pods by name or of one (PodNotFound if none)."""
        ...

    def wait(self, name: str, phase: str, timeout: float) -> dict[str, Any]:
        """Return the pod's status once its *current* generation is in `phase`, or after `timeout` seconds.

        `phase` "deleted" waits until nothing of the pod is left; that answer has only `name` and `phase`.
        """
        ...

    def events(self, after: int, limit: int) -> Sequence[Event]:
        """Return events with a number above `after`, oldest first."""
        ...

    def wait_for_events(self, after: int, timeout: float) -> bool:
        """Block until there is an event above `after`, at most `timeout` seconds."""
        ...

    def history(self, name: str) -> Sequence[Revision]:
        """Return the kept revisions of a pod, oldest first, or raise PodNotFound."""
        ...

    def plan(self, files: Mapping[str, str] | None, git: str | None = None) -> PlanReport:
        """Say what would be done if pods_dir held `files` (absolute path → text).

        With `git`, if the repository were at this branch, tag or commit; without both, what is pending now.
        """
        ...

    def sync(
        self, wait: float | None, confirm: str | None = None, within: float | None = None
    ) -> list[dict[str, Any]]:
        """Look at every source now; with `wait`, until all pods are settled too, at most that many seconds.

        `within` bounds it in seconds where nobody waits for pods. `confirm` lets a commit through that waits
        for a nod: that one, or "" for the one that waits now.
        Returns the status of all pods. Raises Stalled if sources are suspended, or no such commit waits.
        """
        ...

    def volumes(self) -> Sequence[ManagedVolume]:
        """Return every managed volume, in the order of pods and names."""
        ...

    def remove_volume(self, pod: str, name: str) -> bool:
        """Remove a managed volume with what is in it; False if there was none.

        Raises VolumeInUse if its pod is desired with it, or runs.
        """
        ...

    @property
    def images(self) -> Images:
        """Return what lists, pulls and removes images."""
        ...

    @property
    def gitops(self) -> GitOps:
        """Return what knows about sources: how far they are, suspend, resume, roll back."""
        ...

    def info(self) -> dict[str, Any]:
        """Return version, pid, uptime, data_dir, run_dir, pods_dir, and the versions of crun and conmon.

        Uptime is in seconds.
        """
        ...
