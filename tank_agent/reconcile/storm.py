"""The storm guard: when most pods turn unhealthy at once, the machine is at fault, and restarts are paced."""

from __future__ import annotations

from collections.abc import Collection

# With fewer pods, more than half of them says nothing.
_LEAST_PODS = 4
# Between two restarts in a storm, in seconds.
PACE = 10.0
# A pod that is being restarted has no probe for so long, and counts as probed all the same.
_RESTARTING = 30.0


class StormGuard:
    """Counts the pods that turn unhealthy, and gives each unhealthy run of a storm a time for its restart.

    All times are on one monotonic clock, in seconds. The caller holds a lock.
    """

    def __init__(self) -> None:
        self._turned: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._slots: dict[str, float] = {}
        self._last = float("-inf")
        self.active = False

    def left(self, pod: str, now: float) -> None:
        """Note that a pod has no probe any more, maybe since it is being restarted."""
        self._left[pod] = now

    def turned(self, pod: str, probed: Collection[str], now: float, window: float) -> str | None:
        """Note that a pod turned unhealthy; return a sentence if that begins a storm.

        `probed` are the pods that have probes now, `window` is the longest interval of them.
        """
        self._turned[pod] = now
        self._turned = {name: at for name, at in self._turned.items() if now - at <= window}
        self._left = {name: at for name, at in self._left.items() if now - at <= window + _RESTARTING}
        pods = {*probed, *self._left, pod}
        ill = len(self._turned.keys() & pods)
        if self.active or len(pods) < _LEAST_PODS or 2 * ill <= len(pods):
            return None
        self.active = True
        return (
            f"{ill} of {len(pods)} pods with health checks turned unhealthy within {window:g} s, so the "
            f"machine is likely at fault: they are restarted one by one, {PACE:g} s apart"
        )

    def hold(self, run_id: str, now: float) -> float | None:
        """Return the time before which an unhealthy run may not be restarted; None: it may be now."""
        if not self.active:
            return None
        slot = self._slots.get(run_id)
        if slot is None:
            self._last = slot = max(now, self._last + PACE)
            self._slots[run_id] = slot
        return slot if now < slot else None

    def restarted(self, run_id: str, now: float) -> None:
        """Note that an unhealthy run is being restarted."""
        self._slots.pop(run_id, None)
        self._last = max(self._last, now)

    def gone(self, run_id: str, unhealthy: int) -> None:
        """Note that a run is unhealthy no more, or ended; `unhealthy` others are left to restart."""
        self._slots.pop(run_id, None)
        if unhealthy == 0:
            self.active = False
            self._slots.clear()
