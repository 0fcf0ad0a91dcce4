"""From notes to messages, at a pace that people can bear: pure functions of what waits and the time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from tank_agent.linux.clock import rfc3339
from tank_agent.outward.notify.memory import WAITING_MAX, Message, Note, Remembered, State

# Messages a minute for the machine; what comes beyond that is told together.
MOST_A_MINUTE = 10
_MINUTE = 60.0
# Lines of a message about several things.
_LINES = 20


def release(memory: Remembered, receivers: Sequence[str], pause: float, now: float) -> Remembered:
    """Return the memory with the notes whose pause is over made into messages to all receivers."""
    memory = _forget_old(memory, pause, now)
    if not memory.notes:
        return memory
    groups: dict[str, list[Note]] = {}
    for note in memory.notes:
        groups.setdefault(note.subject, []).append(note)
    ready = {subject: notes for subject, notes in groups.items() if subject not in memory.last}
    room = MOST_A_MINUTE - len(memory.recent)
    if not ready or room <= 0:
        return replace(memory, over=memory.over or bool(ready))
    together = [note for notes in ready.values() for note in notes]
    if memory.over and len(ready) > 1:
        made, done = [_digest(together)], set(ready)
    else:
        first = list(ready)[:room]
        made, done = [_joined(ready[subject]) for subject in first], set(first)
    left = tuple(note for note in memory.notes if note.subject not in done)
    memory = replace(
        memory,
        notes=left,
        last={**memory.last, **dict.fromkeys(done, now)} if pause else {},
        recent=(*memory.recent, *(now for _ in made)),
        over=len(done) < len(ready),
    )
    for note in made:
        memory = enqueue(memory, note, receivers, now)
    return memory


def next_release(memory: Remembered, pause: float) -> float | None:
    """Return when a note that waits may become a message (Unix time); None if none waits."""
    due = [memory.last[note.subject] + pause if note.subject in memory.last else 0.0 for note in memory.notes]
    if not due:
        return None
    full = memory.recent[0] + _MINUTE if len(memory.recent) >= MOST_A_MINUTE else 0.0
    return max(min(due), full)


def enqueue(memory: Remembered, note: Note, receivers: Sequence[str], now: float) -> Remembered:
    """Return the memory with one more message; the oldest goes where there is no room, and is counted."""
    message = Message(id=memory.next_id, queued=now, note=note, left=tuple(receivers), dropped=memory.dropped)
    queue = (*memory.queue, message)
    dropped = 0
    if len(queue) > WAITING_MAX:
        oldest, *rest = queue
        # What it told of older ones is true for the next.
        rest[0] = replace(rest[0], dropped=rest[0].dropped + oldest.dropped + 1)
        queue = tuple(rest)
    return replace(memory, queue=queue, next_id=memory.next_id + 1, dropped=dropped)


def delivered(memory: Remembered, message: int, receiver: str) -> Remembered:
    """Return the memory without a receiver of a message, and without the message if that was the last."""
    queue = (
        replace(one, left=tuple(name for name in one.left if name != receiver)) if one.id == message else one
        for one in memory.queue
    )
    return replace(memory, queue=tuple(one for one in queue if one.left))


def for_receivers(memory: Remembered, receivers: Iterable[str]) -> Remembered:
    """Return the memory without messages to receivers that are there no more."""
    known = set(receivers)
    if all(name in known for one in memory.queue for name in one.left):
        return memory
    queue = (replace(one, left=tuple(name for name in one.left if name in known)) for one in memory.queue)
    return replace(memory, queue=tuple(one for one in queue if one.left))


def _forget_old(memory: Remembered, pause: float, now: float) -> Remembered:
    # A clock that was set back must not make anything wait for longer than usual.
    last = {subject: at for subject, at in memory.last.items() if 0 <= now - at < pause}
    recent = tuple(at for at in memory.recent if 0 <= now - at < _MINUTE)
    if len(last) == len(memory.last) and len(recent) == len(memory.recent):
        return memory
    return replace(memory, last=last, recent=recent)


def _joined(notes: Sequence[Note]) -> Note:
    """Return one note about all that happened to one subject."""
    if len(notes) == 1:
        return notes[0]
    newest = notes[-1]
    subject = newest.pod or newest.kind
    title = f"{subject}: {newest.title.removeprefix(f'{subject}: ')}, and what was before"
    return replace(newest, title=title, message=_lines(notes))


def _digest(notes: Sequence[Note]) -> Note:
    state: State = "bad" if any(note.state == "bad" for note in notes) else notes[-1].state
    subjects = len({note.subject for note in notes})
    title = f"{len(notes)} more notifications about {subjects} pods and other things"
    kinds = {note.kind for note in notes}
    kind = kinds.pop() if len(kinds) == 1 else "digest"
    return Note(at=notes[-1].at, kind=kind, state=state, title=title, message=_lines(notes), event="digest")


def _lines(notes: Sequence[Note]) -> str:
    shown = notes if len(notes) <= _LINES else notes[: _LINES - 1]
    lines = [f"{rfc3339(round(note.at))} {note.title}{_first(note.message)}" for note in shown]
    if len(shown) < len(notes):
        lines.append(f"and {len(notes) - len(shown)} more; `tank events` has all")
    return "\n".join(lines)


def _first(text: str) -> str:
    line = text.partition("\n")[0]
    return f": {line[:120]}{'…' if len(line) > 120 else ''}" if line else ""
