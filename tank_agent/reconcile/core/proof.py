"""The proof of a change: a hash over what it does to a pod, the same when planned and when done.

Only what follows from the two specs counts: containers that start anew, change or stop, snapshots, removal.
Pulls, networks, runs and records depend on the machine. So does whether the old container still ran, which is
why the stop of a container that starts again is no step of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec.structs import asdict, replace

from tank_agent.journal.records import Rollout
from tank_agent.reconcile.core.actions import Action, Forget

_DIGITS = 16


def step_word(action: Action) -> str | None:
    """Return an action in the words of a proof; None if it is no part of one."""
    if action.word is None:
        return None
    fields = asdict(action)
    volumes = fields.get("volumes", ())
    return action.word.format_map({**fields, "volumes": ", ".join(sorted(volumes))})


def step_words(actions: Iterable[Action]) -> tuple[str, ...]:
    """Return those of the actions that are part of a proof, in its words."""
    return tuple(word for action in actions if (word := step_word(action)) is not None)


def with_step(rollout: Rollout, step: Action) -> Rollout:
    """Return a rollout that took a step, for its proof."""
    word = step_word(step)
    return (
        rollout if word is None or word in rollout.steps else replace(rollout, steps=(*rollout.steps, word))
    )


def proof(pod: str, before: str, after: str, steps: Iterable[str]) -> str:
    """Return the hash of a change from one spec to another; a spec that is not there has the hash ""."""
    return _hash([pod, before, after, *_essential(steps)])


def proof_of_all(proofs: Mapping[str, str]) -> str:
    """Return the hash of the changes of several pods, given the proof of each; empty without any."""
    if not proofs:
        return ""
    return _hash([f"{pod} {found}" for pod, found in sorted(proofs.items())])


def _essential(steps: Iterable[str]) -> Sequence[str]:
    """Return each step once, without the stops that another step implies."""
    done = set(steps)
    if Forget.word in done:
        return [Forget.word]
    started = {word.removeprefix("start ") for word in done if word.startswith("start ")}
    return sorted(done - {f"stop {name}" for name in started})


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:_DIGITS]
