"""The error of a wait for a pod that has ended without it."""

from __future__ import annotations

from tank_agent.api.reports import PodReport
from tank_agent.errors import TankError


class NotReached(TankError):
    """A wait has ended and the pod, with this `status`, is in another phase.

    `timeout` is how many seconds the wait took; None if the pod can't reach the phase at all.
    """

    reason = "not-reached"

    def __init__(self, status: PodReport, phase: str, timeout: float | None) -> None:
        message = f"{status.name} is {status.phase}, not {phase}"
        if timeout is not None:
            message += f", after {timeout:g} s"
        if status.error:
            message += f": {status.error}"
        said = next((one for one in status.containers if one.last_line), None)
        if said is not None:
            message += f"; {said.name} printed last: {said.last_line}"
        elif status.elsewhere:
            message += f": {status.elsewhere[0]}"
        hint = f"see `tank status {status.name}` and `tank events --pod {status.name}`"
        super().__init__(message, hint=hint)
        self.status = status
