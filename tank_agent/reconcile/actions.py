"""The steps that a plan may hold. Each is short, can be repeated, and says in a sentence what it does."""

from __future__ import annotations

from msgspec import Struct

from tank_agent.journal.records import Exit


class Action(Struct, frozen=True, kw_only=True):
    """One step for one pod."""

    def describe(self) -> str:
        """Return the step as `tank plan` prints it."""
        raise NotImplementedError


class Pull(Action, frozen=True, kw_only=True):
    """Fetch and unpack an image in the background."""

    reference: str

    def describe(self) -> str:
        return f"pull image {self.reference}"


class MakeNetwork(Action, frozen=True, kw_only=True):
    """Make the pod's network namespace."""

    def describe(self) -> str:
        return "make the network namespace"


class RemoveNetwork(Action, frozen=True, kw_only=True):
    """Remove the pod's network namespace."""

    def describe(self) -> str:
        return "remove the network namespace"


class Start(Action, frozen=True, kw_only=True):
    """Start a container."""

    container: str

    def describe(self) -> str:
        return f"start container {self.container}"


class Stop(Action, frozen=True, kw_only=True):
    """Ask a run to end: its stop signal now, SIGKILL after its grace."""

    run: str
    container: str

    def describe(self) -> str:
        return f"stop container {self.container}"


class Kill(Action, frozen=True, kw_only=True):
    """End a run with SIGKILL."""

    run: str
    container: str

    def describe(self) -> str:
        return f"kill container {self.container}"


class RecordExit(Action, frozen=True, kw_only=True):
    """Write down how a run ended, and with that when it may start again. `stopped`: we asked it to end."""

    run: str
    container: str
    exit: Exit
    stopped: bool = False

    def describe(self) -> str:
        return f"record the end of container {self.container}"


class RecordLost(Action, frozen=True, kw_only=True):
    """Write down that a run that the journal knows is no longer there."""

    container: str

    def describe(self) -> str:
        return f"record that container {self.container} is gone"


class RecordUnstarted(Action, frozen=True, kw_only=True):
    """Write down that a run whose start was announced never began, so that it does not count."""

    run: str
    container: str

    def describe(self) -> str:
        return f"record that container {self.container} did not start"


class RemoveRun(Action, frozen=True, kw_only=True):
    """Remove what a run that is over leaves: its mounts, cgroup, files."""

    run: str
    container: str

    def describe(self) -> str:
        return f"remove what is left of container {self.container}"


class Forget(Action, frozen=True, kw_only=True):
    """Forget the status of a pod that is gone."""

    def describe(self) -> str:
        return "forget the pod"
