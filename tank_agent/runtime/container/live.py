"""One run while the agent lives: what is known of it, and the descriptors that tell more."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from tank_agent.journal.records import Exit
from tank_agent.runtime.container.instance import ChangeFailure, Record, State, Stopping, Unmounted


class Live(Struct, kw_only=True):
    """One run, with the descriptors that tell whether it lives. Only `Containers` writes to it.

    `drift` says which of its limits was lost; `failure` is of the last change of its settings. `unmounted` is
    what it lost of its mounts, as far as they were `looked` at since the last change.

    `lost` is set once its monitor went while it was alive. `ended_at` (monotonic) is when its process was
    found to have ended, though its monitor goes on.
    """

    record: Record
    directory: Path
    started: bool = False
    pid: int | None = None
    process: int | None = None
    monitor: int | None = None
    stopping: Stopping | None = None
    exit: Exit | None = None
    lost: bool = False
    ended_at: float | None = None
    drift: str | None = None
    failure: ChangeFailure | None = None
    unmounted: Unmounted | None = None
    looked: bool = False
    out_of_memory: bool = False

    @property
    def state(self) -> State:
        """Return how far the run is."""
        if not self.started:
            return State.PARTIAL
        if self.exit is not None:
            return State.EXITED
        return State.RUNNING if self.monitor is not None else State.ORPHANED

    def close(self) -> None:
        """Let its processes go; they go on."""
        for descriptor in (self.monitor, self.process):
            if descriptor is not None:
                os.close(descriptor)
        self.monitor = self.process = None
