"""Failed steps of each pod: their errors and retry times; also keeps a pod from spinning.

A step that failed waits by itself, so that it keeps no other from being done. A pod whose plans don't come to
an end waits as a whole, whatever wakes it. Both begin anew with another spec.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from tank_agent.errors import TankError, shortage
from tank_agent.reconcile.core.actions import Action
from tank_agent.retry import Failure, Pace, spread

# No longer than a resync: whatever heals is then seen as soon as if nothing had been wrong before.
PACE = Pace(base=0.5, cap=10.0)
# A step that works at the next try is nobody's concern.
_REPORTED_FROM = 3
# More steps within so many seconds than any pod needs from nothing to running; beyond it, something makes
# work for itself.
_MOST_PASSES, _MOST_PASSES_AFTER, _WINDOW = 200, 10, 60.0
_REST = Pace(base=10.0, cap=300.0)
_RESTLESS = (
    "the pod does not come to rest: the same steps are done again and again\n"
    "  this is a bug of tank-agent; the agent's log shows which steps, please report it"
)


class _Failed(Struct, frozen=True):
    trouble: Failure
    reported: bool = False


class _Pace(Struct):
    """How many plans there were since one of them led to another run, or ended one."""

    since: float
    runs: frozenset[str] = frozenset()
    passes: int = 0
    holds: int = 0
    trouble: Failure | None = None


class _Pod(Struct):
    generation: int
    pace: _Pace
    steps: dict[Action | None, _Failed] = msgspec.field(default_factory=dict)


class Troubles:
    """Remembers troubles of all pods. Calls for one pod come from one thread at a time; any may ask `of` it.

    Args:
        monotonic: the clock that waits are measured with, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}

    def of(self, pod: str) -> tuple[Failure, ...]:
        """Return what is wrong with the work on a pod now."""
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return ()
            found = [failed.trouble for failed in known.steps.values()]
            return (*found, known.pace.trouble) if known.pace.trouble is not None else tuple(found)

    def begin(self, pod: str, generation: int, runs: frozenset[str] = frozenset()) -> None:
        """Set the generation of the spec that is worked on, and the ids of its runs.

        What was wrong with another spec is forgotten; another run means that its plans lead somewhere.
        """
        with self._lock:
            known = self._pod(pod)
            if known.generation != generation:
                known = self._pods[pod] = self._new(generation)
            if known.pace.runs != runs:
                known.pace = _Pace(since=self._monotonic(), runs=runs)

    def due(self, pod: str, actions: Sequence[Action]) -> tuple[tuple[Action, ...], float | None]:
        """Return which steps may be tried now, and in how many seconds the next of the others may.

        Of steps that are no longer planned, nothing is wrong any more.
        """
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return tuple(actions), None
            known.steps = {step: known.steps[step] for step in actions if step in known.steps}
            now = self._monotonic()
            waits = {step: failed.trouble.retry_at - now for step, failed in known.steps.items()}
        held = {step for step, wait in waits.items() if wait > 0}
        return (
            tuple(step for step in actions if step not in held),
            min((waits[step] for step in held if step is not None), default=None),
        )

    def held(self, pod: str, actions: Sequence[Action]) -> bool:
        """Return whether none of the steps may be tried now."""
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return not actions
            now = self._monotonic()
            if known.pace.trouble is not None and now < known.pace.trouble.retry_at:
                return True
            waiting = {step for step, failed in known.steps.items() if failed.trouble.retry_at > now}
            return all(step in waiting for step in actions)

    def rest(self, pod: str) -> tuple[float, bool]:
        """Count a plan that has steps.

        Returns for how many seconds nothing is to be done, because the pod does not come to rest, and whether
        that is new.
        """
        now = self._monotonic()
        with self._lock:
            pace = self._pod(pod).pace
            if pace.trouble is not None and now < pace.trouble.retry_at:
                return pace.trouble.retry_at - now, False
            if now - pace.since > _WINDOW:
                pace.since, pace.passes, pace.holds, pace.trouble = now, 0, 0, None
            pace.passes += 1
            if pace.passes <= (_MOST_PASSES_AFTER if pace.holds else _MOST_PASSES):
                return 0.0, False
            wait = _REST.delay(pace.holds)
            pace.holds += 1
            pace.passes, pace.since = 0, now + wait
            pace.trouble = Failure(error=_RESTLESS, retry_at=now + wait, count=pace.holds)
            return wait, pace.holds == 1

    def failing(self, pod: str, step: Action) -> bool:
        """Return whether a step failed at its last try."""
        with self._lock:
            known = self._pods.get(pod)
            return known is not None and step in known.steps

    def failed(self, pod: str, step: Action | None, error: Exception) -> tuple[Failure, bool]:
        """Remember that a step failed; None is the look at the pod.

        Returns the trouble, and whether it is worth an event: once, of what is a bug or failed repeatedly.
        """
        with self._lock:
            known = self._pod(pod)
            former = known.steps.get(step)
            before = former.trouble if former is not None else Failure()
            trouble = before.again(describe_failure(step, error), PACE, self._monotonic(), spread(pod))
            reported = former is not None and former.reported
            report = not reported and (is_bug(error) or trouble.count >= _REPORTED_FROM)
            known.steps[step] = _Failed(trouble, reported or report)
            return trouble, report

    def done(self, pod: str, step: Action | None) -> None:
        """Forget that a step failed."""
        with self._lock:
            known = self._pods.get(pod)
            if known is not None:
                known.steps.pop(step, None)

    def forget(self, pod: str) -> None:
        """Forget a pod that is gone."""
        with self._lock:
            self._pods.pop(pod, None)

    def _pod(self, pod: str) -> _Pod:
        return self._pods.get(pod) or self._pods.setdefault(pod, self._new(0))

    def _new(self, generation: int) -> _Pod:
        return _Pod(generation=generation, pace=_Pace(since=self._monotonic()))


def is_bug(error: Exception) -> bool:
    """Return whether nobody foresaw an error."""
    return not isinstance(error, TankError)


def foreseen(error: Exception) -> Exception:
    """Return what the machine lacks as an error with a hint; any other error as it is."""
    return error if isinstance(error, TankError) else shortage(error) or error


def describe_failure(step: Action | None, error: Exception) -> str:
    """Return what a user reads of a step that failed; None is the look at the pod."""
    if not is_bug(error):
        return str(error)
    what = "look at the pod" if step is None else step.describe()
    return (
        f"cannot {what}: {type(error).__name__}: {error}\n"
        "  this is a bug of tank-agent; the agent's log has its trace, please report it"
    )
