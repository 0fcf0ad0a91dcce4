"""The probe of a container: what its file says, else the HEALTHCHECK of its image, else the defaults."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from tank_agent.image.config import ImageHealthcheck
from tank_agent.spec.model import Container, HealthCheck, HttpProbe

OnFailure = Literal["restart", "none"]

INTERVAL, INTERVAL_EXEC = 10.0, 30.0
# kubelet's 1 s and Docker's 30 s are both complained of.
TIMEOUT = 5.0
RETRIES = 3
START_PERIOD, START_INTERVAL = 60.0, 1.0


class Probe(Struct, frozen=True, kw_only=True):
    """A health check with all its values: one of `http`, `tcp` (a port) and `exec`; times are in seconds."""

    http: HttpProbe | None = None
    tcp: int | None = None
    exec: tuple[str, ...] | None = None
    interval: float
    timeout: float
    retries: int
    start_period: float
    start_interval: float
    on_failure: OnFailure


def probe_of(container: Container, image: ImageHealthcheck | None) -> Probe | None:
    """Return the probe of a container whose image has this HEALTHCHECK; None if it has no probe."""
    check = container.health or HealthCheck()
    own = check.http is not None or check.tcp is not None or check.exec is not None
    # In Docker's sense, an image's check shows the health, and restarts nothing by itself.
    on_failure: OnFailure = "restart" if own else "none"
    command = check.exec
    if not own:
        if image is None or not check.image:
            return None
        command = image.command
    given = image if image is not None and not own else ImageHealthcheck(command=())
    return Probe(
        http=check.http,
        tcp=check.tcp,
        exec=command,
        interval=check.interval or given.interval or (INTERVAL if command is None else INTERVAL_EXEC),
        timeout=check.timeout or given.timeout or TIMEOUT,
        retries=check.retries or given.retries or RETRIES,
        start_period=_first(check.start_period, given.start_period, START_PERIOD),
        start_interval=check.start_interval or given.start_interval or START_INTERVAL,
        on_failure=check.on_failure or on_failure,
    )


def _first(*values: float | None) -> float:
    """Return the first that is given: a time may be 0."""
    return next(value for value in values if value is not None)
