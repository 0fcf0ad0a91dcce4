"""The failed steps of each pod, with their errors and retry times, and the pods that never come to rest.

A failed step waits by itself, so that it delays no other step. A pod whose plans never end waits as a whole,
even if it is woken. Another spec ends both waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from tank_agent.errors import TankError, shortage
from tank_agent.reconcile.core.actions import Action
from tank_agent.retry import Failure, Pace, spread

# No longer than a resync, which finds what has healed.
PACE = Pace(base=0.5, cap=10.0)
# A step that succeeds at the next try needs no event.
_REPORTED_FROM = 3
# No pod needs more passes, within so many seconds, from nothing to running.
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
    """The number of plans since the pod's runs last changed."""

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
    """Keeps the troubles of all pods; waits are measured with the clock `monotonic`, in seconds.

    One thread at a time works on a pod; any thread may call `of` and `held`.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pods: dict[str, _Pod] = {}

    def of(self, pod: str) -> tuple[Failure, ...]:
        """Return the present troubles of a pod."""
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return ()
            found = [*(failed.trouble for failed in known.steps.values()), known.pace.trouble]
            return tuple(trouble for trouble in found if trouble is not None)

    def begin(self, pod: str, generation: int, runs: frozenset[str] = frozenset()) -> None:
        """Set the generation of the pod's spec, and the ids of its runs.

        Another spec ends all troubles; other runs show that the plans make progress.
        """
        with self._lock:
            known = self._pod(pod)
            if known.generation != generation:
                known = self._pods[pod] = self._new(generation)
            if known.pace.runs != runs:
                known.pace = _Pace(since=self._monotonic(), runs=runs)

    def due(self, pod: str, actions: Sequence[Action]) -> tuple[tuple[Action, ...], float | None]:
        """Return the steps that may be tried now, and the seconds until the next of the others.

        Steps that are no longer planned have no trouble any more.
        """
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return tuple(actions), None
            known.steps = {step: known.steps[step] for step in actions if step in known.steps}
            waits = self._waits(known)
        return tuple(step for step in actions if step not in waits), min(waits.values(), default=None)

    def held(self, pod: str, actions: Sequence[Action]) -> bool:
        """Return whether none of the steps may be tried now."""
        with self._lock:
            known = self._pods.get(pod)
            if known is None:
                return not actions
            if known.pace.trouble is not None and self._monotonic() < known.pace.trouble.retry_at:
                return True
            return self._waits(known).keys() >= {*actions}

    def rest(self, pod: str) -> tuple[float, bool]:
        """Count a plan that has steps.

        Returns the seconds for which a pod that never comes to rest must wait, and whether that is new.
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
        """Keep the failure of a step; None is the look at the pod.

        Returns the trouble, and whether to record an event: once, for a bug or a repeated failure.
        """
        with self._lock:
            known = self._pod(pod)
            former = known.steps.get(step)
            before = former.trouble if former is not None else Failure()
            trouble = before.again(describe_failure(step, error), PACE, self._monotonic(), spread(pod))
            reported = former is not None and former.reported
            due = is_bug(error) or trouble.count >= _REPORTED_FROM
            known.steps[step] = _Failed(trouble, reported or due)
            return trouble, due and not reported

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

    def _waits(self, known: _Pod) -> dict[Action | None, float]:
        """Return the seconds until each step that must wait."""
        now = self._monotonic()
        waits = {step: failed.trouble.retry_at - now for step, failed in known.steps.items()}
        return {step: wait for step, wait in waits.items() if wait > 0}

    def _pod(self, pod: str) -> _Pod:
        return self._pods.get(pod) or self._pods.setdefault(pod, self._new(0))

    def _new(self, generation: int) -> _Pod:
        return _Pod(generation=generation, pace=_Pace(since=self._monotonic()))


def is_bug(error: Exception) -> bool:
    """Return whether an error is none that the code foresees."""
    return not isinstance(error, TankError)


def foreseen(error: Exception) -> Exception:
    """Return a shortage of the machine as an error with a hint, and any other error as it is."""
    return error if isinstance(error, TankError) else shortage(error) or error


def describe_failure(step: Action | None, error: Exception) -> str:
    """Return the words for users about a failed step; None is the look at the pod."""
    if not is_bug(error):
        return str(error)
    what = "look at the pod" if step is None else step.describe()
    return (
        f"cannot {what}: {type(error).__name__}: {error}\n"
        "  this is a bug of tank-agent; the agent's log has its trace, please report it"
    )
