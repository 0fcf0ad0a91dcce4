"""The steps that a plan may hold. Each is short, can be repeated, and says in a sentence what it does."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from msgspec import Struct

from tank_agent.journal.records import Exit


class Action(Struct, frozen=True, kw_only=True):
    """One step for one pod."""

    sentence: ClassVar[str]

    def describe(self) -> str:
        """Return the step as `tank plan` prints it."""
        return self.sentence.format_map(msgspec.structs.asdict(self))


class Pull(Action, frozen=True, kw_only=True):
    """Fetch and unpack an image in the background, for the containers that wait for it."""

    sentence: ClassVar[str] = "pull image {reference}"

    reference: str
    containers: tuple[str, ...]


class MakeNetwork(Action, frozen=True, kw_only=True):
    """Make the pod's network namespace."""

    sentence: ClassVar[str] = "make the network namespace"


class ConvergeNetwork(Action, frozen=True, kw_only=True):
    """Change the pod's network, and the files that tell of it, under the containers that run."""

    sentence: ClassVar[str] = "bring the network up to date: {reason}"

    reason: str


class RemoveNetwork(Action, frozen=True, kw_only=True):
    """Remove the pod's network namespace."""

    sentence: ClassVar[str] = "remove the network namespace"


class Start(Action, frozen=True, kw_only=True):
    """Start a container."""

    sentence: ClassVar[str] = "start container {container}"

    container: str


class ChangeLive(Action, frozen=True, kw_only=True):
    """Change the limits of a run, or how it is stopped, while it goes on."""

    sentence: ClassVar[str] = "change container {container} while it runs: {reason}"

    run: str
    container: str
    reason: str


class MountAgain(Action, frozen=True, kw_only=True):
    """Bring back what somebody unmounted in a run, or deleted under it, while it goes on."""

    sentence: ClassVar[str] = "mount again in container {container}: {paths}"

    run: str
    container: str
    paths: str


class RecordOutOfMemory(Action, frozen=True, kw_only=True):
    """Write down that a process of a run that goes on was killed for want of memory."""

    sentence: ClassVar[str] = "record that container {container} ran out of memory"

    run: str
    container: str


class Stop(Action, frozen=True, kw_only=True):
    """Ask a run to end: its stop signal now, SIGKILL after its grace."""

    sentence: ClassVar[str] = "stop container {container}"

    run: str
    container: str


class Kill(Action, frozen=True, kw_only=True):
    """End a run with SIGKILL."""

    sentence: ClassVar[str] = "kill container {container}"

    run: str
    container: str


class RecordExit(Action, frozen=True, kw_only=True):
    """Write down how a run ended, and with that when it may start again. `stopped`: we asked it to end."""

    sentence: ClassVar[str] = "record the end of container {container}"

    run: str
    container: str
    exit: Exit
    stopped: bool = False


class RecordLost(Action, frozen=True, kw_only=True):
    """Write down that a run that the journal knows is no longer there."""

    sentence: ClassVar[str] = "record that container {container} is gone"

    container: str


class RecordUnstarted(Action, frozen=True, kw_only=True):
    """Write down that a run whose start was announced never began, so that it does not count."""

    sentence: ClassVar[str] = "record that container {container} did not start"

    run: str
    container: str


class RemoveRun(Action, frozen=True, kw_only=True):
    """Remove what a run that is over leaves: its mounts, cgroup, files."""

    sentence: ClassVar[str] = "remove what is left of container {container}"

    run: str
    container: str


class Forget(Action, frozen=True, kw_only=True):
    """Forget the status of a pod that is gone."""

    sentence: ClassVar[str] = "forget the pod"
