"""The owner of a pod, and the changes that a snapshot makes: pure rules (DESIGN section 4).

- A pod has one owner, and keeps it; another source that declares its name gets a problem.
- `dir` and `git` are mirrors: pods that they no longer declare are removed, unless that is uncertain (the
  source not available, the owner unreadable, or a problem with that pod).
- A seed is written once per name, if the name is free, and never again.
- A pinned or quarantined pod keeps its older spec until its file declares another one; a suspended pod stays
  as it is, even if its file changes or is removed.
- A declaration by whose `after` pods would wait for each other counts as one with a problem.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import InvalidSpec, OwnedElsewhere, PodNotFound, Problem, Stalled
from tank_agent.journal.records import Bad, DesiredPod, Hold, PodStatus, Revision
from tank_agent.source.kinds import API, BY_NAME, MIRRORS, describe, is_mirrored
from tank_agent.source.snapshot import Declared, Snapshot, place_of, source_of
from tank_agent.spec import order
from tank_agent.spec.model import Pod, content_hash

# An update that failed so often, within so many seconds, is tried again only when a person asks for it.
_MOST_ATTEMPTS, _ATTEMPTS_WITHIN = 3, 86_400.0
MOST_BAD = 16


class Known(Struct, frozen=True, kw_only=True):
    """The part of the journal's state that the rules look at.

    `generations` holds the last generation of every name that ever was, for a pod that comes back.
    `spent` are names that no seed may write: they were seeded once, or deleted.
    """

    desired: Mapping[str, DesiredPod] = msgspec.field(default_factory=dict)
    statuses: Mapping[str, PodStatus] = msgspec.field(default_factory=dict)
    generations: Mapping[str, int] = msgspec.field(default_factory=dict)
    spent: frozenset[str] = frozenset()


class Merged(Struct, frozen=True, kw_only=True):
    """The changes that a snapshot makes.

    `changed` are pods with a new spec, or another owner, file or revision. `problems` are the snapshot's own
    and one for every declaration that did not get its name.
    """

    changed: tuple[DesiredPod, ...] = ()
    removed: tuple[str, ...] = ()
    seeded: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


def merge(known: Known, snapshot: Snapshot, now: float) -> Merged:
    """Return the changes that a snapshot makes; `now` is their Unix time in seconds."""
    if not snapshot.available:
        return Merged(problems=snapshot.problems)
    winners, conflicts = _contest(known, snapshot)
    successors = {name: _successor(known, declared, now) for name, declared in winners.items()}
    removed = tuple(_no_longer_declared(known, snapshot, winners))
    new = {name: pod.pod.after for name, pod in successors.items() if pod is not known.desired.get(name)}
    for name, circle in _closed_by(known, new, frozenset(removed)).items():
        of = winners[name]
        del successors[name]
        message = order.in_a_circle(circle)
        conflicts.append(Problem(of.file, of.after_line or of.line, "after", message, name))
    return Merged(
        changed=tuple(pod for name, pod in successors.items() if known.desired.get(name) is not pod),
        removed=removed,
        seeded=frozenset(successors) if snapshot.source not in MIRRORS else frozenset(),
        problems=_relevant_problems(known, snapshot) + tuple(conflicts),
    )


def put(known: Known, pod: Pod, revision: str, now: float) -> DesiredPod:
    """Return the pod as `tank apply` makes it; the present record itself if nothing changes.

    Raises:
        OwnedElsewhere: a file or git owns the name.
        Stalled: it failed as an update, and is quarantined.
    """
    current = known.desired.get(pod.name)
    if current is not None and is_mirrored(current.owner):
        raise OwnedElsewhere(
            f"cannot apply pod {pod.name}: it belongs to {describe(current.owner)}",
            hint=f"edit {_where_to_edit(current.owner)} instead",
        )
    successor = _successor(known, Declared(pod=pod, owner=API.name, revision=revision, file=""), now)
    if is_quarantined(successor):
        raise Stalled(
            f"pod {pod.name} is quarantined: this spec failed as an update",
            hint=f"`tank why {pod.name}` shows the reason; `tank resume {pod.name}` tries it again",
        )
    return successor


def check_order(known: Known, pods: Iterable[Pod]) -> None:
    """Check the `after` of pods that are applied together.

    Raises:
        InvalidSpec: with them, pods would wait for each other.
    """
    found = _closed_by(known, {pod.name: pod.after for pod in pods})
    if found:
        raise InvalidSpec(
            tuple(
                Problem("<pod>", 0, "after", order.in_a_circle(found[name]), name) for name in sorted(found)
            )
        )


def suspend(known: Known, name: str, now: float) -> DesiredPod:
    """Return the pod suspended, so that it no longer follows its file.

    Raises:
        PodNotFound: there is none of that name.
        Stalled: it follows no file.
    """
    pod = _find(known, name)
    if not is_mirrored(pod.owner):
        raise Stalled(
            f"pod {name} follows no file: it belongs to {describe(pod.owner)}",
            hint="only what follows files or git can be suspended",
        )
    if is_suspended(pod):
        return pod
    return replace(pod, hold=Hold(kind="suspended", since=now))


def job(known: Known, name: str) -> DesiredPod:
    """Return a pod that is a job.

    Raises:
        PodNotFound: there is none of that name.
        Stalled: it is no job.
    """
    pod = _find(known, name)
    if pod.pod.schedule is None:
        raise Stalled(
            f"pod {name} is no job: it has no schedule, so there is nothing to run",
            hint=f"`tank status {name}` shows how it is, and `tank exec` runs a program in it",
        )
    return pod


def roll_back(known: Known, name: str, to: Revision, now: float) -> DesiredPod:
    """Return the pod with an older spec; one that follows a file is pinned to it.

    Raises:
        PodNotFound: there is none of that name.
        Stalled: the pod has that spec now, or would wait for itself with it.
    """
    pod = _find(known, name)
    if pod.pod == to.pod:
        raise Stalled(f"pod {name} is at that revision already", hint=f"`tank history {name}` shows all")
    circle = _closed_by(known, {name: to.pod.after}).get(name)
    if circle is not None:
        raise Stalled(f"with that revision none would start: {circle}", hint="change `after` of another one")
    hold = pod.hold
    if is_mirrored(pod.owner) and not is_suspended(pod):
        declared = hold.declared if hold is not None else pod.hash
        hold = Hold(kind="pinned", since=now, generation=to.generation, declared=declared)
    return _with_spec_of(known, pod, to, now, hold)


def quarantine(known: Known, pod: DesiredPod, to: Revision, now: float) -> DesiredPod:
    """Return a pod whose update failed, with the spec and the images of a good revision.

    A failed image behind the same spec needs no hold: its digest is not tried again, but the next one is. Nor
    does a spec that a person asked for, if the good one is what the file declares.
    """
    hold = pod.hold
    if to.hash != pod.hash:
        declared = hold.declared if hold is not None else pod.hash
        hold = Hold(
            kind="quarantined", since=now, generation=to.generation, declared=declared, failed=pod.generation
        )
        hold = None if declared == to.hash else hold
    return _with_spec_of(known, pod, to, now, hold)


def _with_spec_of(known: Known, pod: DesiredPod, to: Revision, now: float, hold: Hold | None) -> DesiredPod:
    """Return a new generation of a pod, with the spec and the images of a revision."""
    return replace(
        pod,
        pod=to.pod,
        revision=to.revision,
        author=to.author,
        subject=to.subject,
        generation=known.generations.get(pod.name, 0) + 1,
        # That of a commit which never ran here has no hash yet.
        hash=to.hash or content_hash(to.pod),
        changed_at=now,
        hold=hold,
        images=to.ran,
    )


def move_images(
    known: Known, name: str, images: Mapping[str, str], generation: int, now: float
) -> DesiredPod:
    """Return the pod with other digests for some of its containers; the record itself if it has them.

    The digests are of images that the spec of `generation` names: after another change, they mean nothing.

    Raises:
        PodNotFound: there is none of that name.
        Stalled: it is held, so its images stay as they are.
    """
    pod = _find(known, name)
    if pod.hold is not None:
        raise Stalled(f"pod {name} is {pod.hold.kind}", hint=f"`tank resume {name}` lets it change again")
    moved = {**pod.images, **images}
    if moved == pod.images or pod.generation != generation:
        return pod
    return replace(pod, images=moved, generation=known.generations.get(name, 0) + 1, changed_at=now)


def resume(known: Known, name: str, failed: Revision | None, now: float) -> DesiredPod:
    """Return the pod without its hold, so that it follows its file from the next snapshot on.

    `failed` is the revision for which a pod is quarantined: one that follows no file has it again at once.

    Raises:
        PodNotFound: there is none of that name.
    """
    pod = _find(known, name)
    if pod.hold is None:
        return pod
    if failed is None or is_mirrored(pod.owner):
        return replace(pod, hold=None)
    return replace(
        pod,
        pod=failed.pod,
        revision=failed.revision,
        generation=known.generations.get(name, 0) + 1,
        hash=failed.hash,
        changed_at=now,
        hold=None,
        images={},
    )


def is_suspended(pod: DesiredPod) -> bool:
    """Return whether the pod ignores its file."""
    return pod.hold is not None and pod.hold.kind == "suspended"


def is_quarantined(pod: DesiredPod) -> bool:
    """Return whether the pod has a good spec because its update failed."""
    return pod.hold is not None and pod.hold.kind == "quarantined"


def refuse_deletion(pod: DesiredPod, owner_exists: bool) -> None:
    """Raise OwnedElsewhere if `tank delete` may not remove the pod.

    `owner_exists`: its file, or the repository, is there, so that the pod can be removed there.
    """
    if is_mirrored(pod.owner) and owner_exists:
        raise OwnedElsewhere(
            f"cannot delete pod {pod.name}: it belongs to {describe(pod.owner)}",
            hint=f"edit {_where_to_edit(pod.owner)}, or {BY_NAME[source_of(pod.owner)].removal}",
        )


def with_errors(
    desired: Mapping[str, DesiredPod], problems: Iterable[Problem], read: Container[str]
) -> list[DesiredPod]:
    """Return the pods whose `error` changes with these problems, with their new error.

    A problem belongs to the pod that it names, or else to all pods of its file or directory. `read` are the
    mirrors that were read since the agent started; pods of other mirrors keep an error, which may still hold.
    """
    by_pod: dict[str, list[str]] = {}
    by_file: dict[str, list[str]] = {}
    for problem in problems:
        if problem.pod is not None:
            by_pod.setdefault(problem.pod, []).append(str(problem))
        else:
            by_file.setdefault(problem.file, []).append(str(problem))
    stale: list[DesiredPod] = []
    for pod in desired.values():
        lines = list(by_pod.get(pod.name, ()))
        if pod.file:
            lines += (*by_file.get(pod.file, ()), *by_file.get(os.path.dirname(pod.file), ()))  # noqa: PTH120
        error = "\n".join(lines) or None
        source = source_of(pod.owner)
        if error is None and source in MIRRORS and source not in read:
            continue
        if error != pod.error:
            stale.append(replace(pod, error=error))
    return stale


def _closed_by(
    known: Known, new: Mapping[str, Collection[str]], removed: Collection[str] = ()
) -> dict[str, str]:
    """Return the pods that can't have their new `after`, each with the circle that it would close."""
    if not any(new.values()):
        return {}
    old = {name: pod.pod.after for name, pod in known.desired.items()}
    rows = {name: row for name, row in {**old, **new}.items() if name not in removed}
    refused: dict[str, str] = {}
    # A pod that keeps its spec keeps its `after`, which may close another circle.
    while found := order.closed_by(old, rows):
        refused |= found
        rows |= {name: old.get(name, ()) for name in found}
    return refused


def _contest(known: Known, snapshot: Snapshot) -> tuple[dict[str, Declared], list[Problem]]:
    """Return the declaration that gets each name, and a problem for every other one."""
    claims: dict[str, list[Declared]] = {}
    for declared in snapshot.pods:
        claims.setdefault(declared.pod.name, []).append(declared)
    broken = {(problem.pod, problem.file) for problem in snapshot.problems if problem.pod is not None}
    winners: dict[str, Declared] = {}
    conflicts: list[Problem] = []
    for name, claimants in claims.items():
        current = known.desired.get(name)
        if snapshot.source not in MIRRORS and _seed_is_spent(known, name):
            continue
        if current is not None and is_suspended(current) and source_of(current.owner) == snapshot.source:
            continue
        held = current is not None and (
            current.owner in snapshot.unreadable or (name, current.file) in broken
        )
        winner = _winner(current, claimants, snapshot.source, held=held)
        if winner is not None:
            winners[name] = winner
        owner = winner.owner if winner is not None else current.owner if current is not None else ""
        for loser in claimants:
            if loser is not winner:
                conflicts.append(_conflict(loser, owner, unreadable=winner is None and held))
    return winners, conflicts


def _winner(
    current: DesiredPod | None, claimants: list[Declared], source: str, *, held: bool
) -> Declared | None:
    if current is not None and source_of(current.owner) != source:
        return None
    ordered = sorted(claimants, key=lambda declared: (declared.owner, declared.file, declared.line))
    if current is None:
        return ordered[0]
    incumbent = next((declared for declared in ordered if declared.owner == current.owner), None)
    if incumbent is not None or held:
        return incumbent
    return ordered[0]


def _seed_is_spent(known: Known, name: str) -> bool:
    return name in known.spent or name in known.desired


def _relevant_problems(known: Known, snapshot: Snapshot) -> tuple[Problem, ...]:
    """Return a snapshot's problems, except of seeds whose names are taken: these seeds are not needed."""
    if snapshot.source in MIRRORS:
        return snapshot.problems
    return tuple(
        problem
        for problem in snapshot.problems
        if problem.pod is None or not _seed_is_spent(known, problem.pod)
    )


def _conflict(loser: Declared, owner: str, *, unreadable: bool) -> Problem:
    name = loser.pod.name
    if unreadable:
        message = (
            f"pod {name} still belongs to {describe(owner)}, which can't be read as a whole; mend that first"
        )
    elif not is_mirrored(owner):
        message = (
            f"pod {name} already belongs to {describe(owner)}; `tank delete {name}` lets this file have it"
        )
    else:
        message = f"pod {name} already belongs to {describe(owner)}; rename or remove one of the two"
    return Problem(file=loser.file, line=loser.line, key="name", message=message, pod=name)


def _where_to_edit(owner: str) -> str:
    return describe(owner) if place_of(owner) else owner


def _successor(known: Known, declared: Declared, now: float) -> DesiredPod:
    pod = declared.pod
    current = known.desired.get(pod.name)
    origin = {name: getattr(declared, name) for name in ("owner", "revision", "file", "author", "subject")}
    if current is not None and current.hold is not None and current.hold.declared == content_hash(pod):
        if (current.owner, current.file) == (declared.owner, declared.file):
            return current
        return replace(current, owner=declared.owner, file=declared.file)
    # Equal structs have equal hashes (spec/model.py), and comparing costs a hundredth of hashing.
    if current is not None and (current.pod is pod or current.pod == pod):
        place = (current.owner, current.revision, current.file)
        same = place == (declared.owner, declared.revision, declared.file) and current.hold is None
        return current if same else replace(current, **origin, hold=None)
    hash_ = content_hash(pod)
    status = known.statuses.get(pod.name, PodStatus())
    is_good = status.good is not None and status.good.hash == hash_
    bad = next((bad for bad in status.bad if bad.hash == hash_ and is_stuck(bad, now)), None)
    if current is not None and bad is not None and not is_good:
        hold = Hold(
            kind="quarantined",
            since=now,
            generation=current.generation,
            declared=hash_,
            failed=bad.generation,
        )
        return replace(current, owner=declared.owner, file=declared.file, hold=hold)
    return DesiredPod(
        name=pod.name,
        pod=pod,
        generation=known.generations.get(pod.name, 0) + 1,
        hash=hash_,
        changed_at=now,
        error=current.error if current is not None else None,
        # The text of the last good revision means the images, too, that it was good with.
        images=status.good.images if status.good is not None and is_good else {},
        **origin,
    )


def is_stuck(bad: Bad, now: float) -> bool:
    """Return whether a spec failed so often that it is tried again only when a person asks for it."""
    return bad.attempts >= _MOST_ATTEMPTS and now - bad.at < _ATTEMPTS_WITHIN


def note_failure(known: Sequence[Bad], failed: Bad) -> tuple[Bad, ...]:
    """Return the failed specs with one more, the last at the end; its attempts count those of a day."""
    former = next((bad for bad in known if bad.hash == failed.hash and bad.images == failed.images), None)
    if former is not None and failed.at - former.at < _ATTEMPTS_WITHIN:
        failed = replace(failed, attempts=former.attempts + 1)
    return (*(bad for bad in known if bad is not former), failed)[-MOST_BAD:]


def _no_longer_declared(known: Known, snapshot: Snapshot, winners: Mapping[str, Declared]) -> Iterable[str]:
    if snapshot.source not in MIRRORS:
        return
    held = {problem.pod for problem in snapshot.problems}
    for name, pod in known.desired.items():
        if (
            name not in winners
            and source_of(pod.owner) == snapshot.source
            and pod.owner not in snapshot.unreadable
            and name not in held
            and not is_suspended(pod)
        ):
            yield name


def _find(known: Known, name: str) -> DesiredPod:
    pod = known.desired.get(name)
    if pod is None:
        raise PodNotFound(f"there is no pod {name}", hint="`tank list` shows all")
    return pod
