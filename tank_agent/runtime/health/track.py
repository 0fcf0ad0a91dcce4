"""The health of a run as its probes show it: pure rules, in which each result makes a new state.

All times without a name are on the monotonic clock; only `Health.since` is Unix time.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import Health
from tank_agent.runtime.health.probe import Probe

# Errors of ours in a row after which a person is told.
TROUBLES = 5
# Two failures that are this part of an interval apart count as two, as timers are never quite exact.
_APART = 0.9
# A shorter rest of the start period is not worth a probe of its own.
_SHORT = 0.1


class Track(Struct, frozen=True, kw_only=True):
    """The state of a run's health.

    Attributes:
        health: as it is shown.
        steady_since: since then every probe succeeded, and it is healthy; None while that is not so.
        succeeded: a probe succeeded, so the start period is over.
        confirmed: a probe of this agent found it unhealthy; the journal alone may be out of date.
        counted_at: the time of the last failure that counted.
        troubles: the number of errors of ours in a row.
    """

    health: Health
    steady_since: float | None = None
    succeeded: bool = False
    confirmed: bool = False
    counted_at: float | None = None
    troubles: int = 0

    def differs(self, former: Track) -> bool:
        """Return whether the loop must look at the pod because of the change."""
        return (self.health.state, self.steady_since is None, self.confirmed) != (
            former.health.state,
            former.steady_since is None,
            former.confirmed,
        )


def begin(known: Health | None, wall: float) -> Track:
    """Return the state of a run before its first probe; `known` is what the journal has of this very run."""
    if known is None:
        return Track(health=Health(state="starting", since=wall))
    return Track(health=known, succeeded=known.state != "starting")


def with_another_probe(track: Track) -> Track:
    """Return the state after the probe was changed: what is shown stays until there is a result."""
    return Track(health=replace(track.health, failing=0), succeeded=track.succeeded)


def after_success(track: Track, now: float, wall: float) -> Track:
    """Return the state after a probe that succeeded."""
    former = track.health
    healthy = former.state == "healthy"
    if healthy and former.failing == 0 and former.message is None and track.steady_since is not None:
        # Most of all probes.
        return (
            track if track.troubles == 0 and track.succeeded else replace(track, troubles=0, succeeded=True)
        )
    return Track(
        health=Health(state="healthy", since=former.since if healthy else wall),
        steady_since=now if track.steady_since is None else track.steady_since,
        succeeded=True,
    )


def after_failure(
    track: Track, probe: Probe, message: str, *, alive_since: float, now: float, wall: float
) -> Track:
    """Return the state after a probe that failed.

    Before the first success, failures in the start period do not count. Later, probes may be closer than
    the interval (while starting, and in an update), but failures count once an interval: so many in a row as
    `retries` make it unhealthy, and closer probes only find out sooner that all is well.
    """
    former = track.health
    if not track.succeeded and now < alive_since + probe.start_period:
        health = replace(former, message=message)
        return replace(track, health=health, steady_since=None, troubles=0)
    counts = track.counted_at is None or now - track.counted_at >= _APART * probe.interval
    failing = former.failing + counts
    unhealthy = failing >= probe.retries
    state = "unhealthy" if unhealthy else former.state
    since = former.since if state == former.state else wall
    return Track(
        health=Health(state=state, since=since, message=message, failing=failing),
        succeeded=track.succeeded,
        confirmed=unhealthy,
        counted_at=now if counts else track.counted_at,
    )


def after_trouble(track: Track) -> Track:
    """Return the state after an attempt that came to nothing by an error of ours."""
    return replace(track, troubles=track.troubles + 1)


def delay(track: Track, probe: Probe, *, alive_since: float, now: float, hurry: bool) -> float:
    """Return the time from one probe to the next."""
    quick = min(probe.start_interval, probe.interval)
    if track.health.state == "starting":
        # The verdict is due when the start period is over, not a long start interval later.
        left = alive_since + probe.start_period - now
        return min(quick, left) if left > _SHORT else quick
    return quick if hurry else probe.interval
