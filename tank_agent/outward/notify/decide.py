"""Decide what is told: pure functions from events, and the state of the machine, to notes on transitions.

Events begin topics and end them. Whether something lasts that events only hint at (a pod fails, a repository
can't be followed, a file has errors, a disk is full) is asked of the state of the machine, as it is when the
time has come: so nothing is told that an event was lost of, nor what is over by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import GOING_BACK, Event
from tank_agent.outward.notify.memory import TEXT_MAX, WAITING_MAX, Facts, Note, Remembered, Topic
from tank_agent.outward.notify.rules import RULES, TopicRule
from tank_agent.spec.quantities import format_duration

# What is older is no news: an agent that was off, or without [notify], for days.
_NEWS = 86_400.0
# What turns bad a fourth time within `_FLAPS_WITHIN` comes and goes: it is told so, and then when it has
# stayed as it is for `_CALM`.
_FLAPS, _FLAPS_WITHIN, _CALM = 3, 3600.0, 1800.0
# Seconds after which a rollback that has not ended is told.
_BACK_WITHIN = 900.0
# Seconds for which a file may be wrong while somebody is at it.
_AT_WORK = 30.0
_MOST_TOPICS = 1000
_PROOF = re.compile(r" \([0-9a-f]{16}\)$")
_BACK = "back"
# They stay, whether or not a pod runs: the errors of its file, and what concerns the machine.
_NOT_OF_A_RUN = frozenset({"source", "git", "disk", "agent"})


class Wants(Struct, frozen=True, kw_only=True):
    """What is to be told: the kinds, and after how many seconds what may pass by itself."""

    kinds: frozenset[str]
    after: float


def moment(text: str) -> float:
    """Return the Unix time of a time in the form of RFC 3339."""
    return datetime.fromisoformat(text).timestamp()


def take(memory: Remembered, event: Event, wants: Wants, now: float) -> Remembered:
    """Return the memory after an event, with a note if it is to be told."""
    memory = replace(memory, cursor=event.seq)
    rule = RULES.get(event.type)
    if rule is None:
        return memory
    if rule.effect == "gone":
        return _without(memory, event, rule)
    if rule.kind not in wants.kinds or rule.effect == "look":
        return memory
    at = moment(event.at)
    topic = Topic(
        kind=rule.kind,
        pod=event.pod,
        name=rule.name,
        since=at,
        mark=event.message if rule.name else event.revision,
        text=_cut(_PROOF.sub("", event.message)),
        event=event.type,
        container=event.container,
        revision=event.revision,
        changed=at,
    )
    return _EFFECTS[rule.effect](memory, topic, wants, now)


def _without(memory: Remembered, event: Event, rule: TopicRule) -> Remembered:
    """Forget what could be told about a pod, or about one thing of the machine."""
    key = f"{rule.kind}/{event.pod}/{rule.name}"
    kept = {
        name: topic
        for name, topic in memory.topics.items()
        if (name != key if rule.name else topic.pod != event.pod or topic.kind in _NOT_OF_A_RUN)
    }
    return replace(memory, topics=kept) if len(kept) < len(memory.topics) else memory


def _wait(memory: Remembered, topic: Topic, wants: Wants, now: float) -> Remembered:
    known = memory.topics.get(topic.key)
    if known is None:
        return _with(memory, topic)
    if known.told:
        return memory
    if not known.bad:
        return _with(memory, replace(topic, bads=known.bads))
    topic = replace(topic, since=known.since, bads=known.bads)
    lasts = topic.kind == "unhealthy" and topic.changed - topic.since >= wants.after
    if lasts and not _is_covered(memory, topic):
        # It was not healthy in between, though it may have had a fresh run.
        return _tell(memory, topic, topic.changed, now)
    return _with(memory, topic)


def _bad(memory: Remembered, topic: Topic, _: Wants, now: float) -> Remembered:
    stays = topic.kind == "update"
    before = memory.topics.get(_back_key(topic)) if stays else None
    if before is not None:
        text = _cut(f"{before.text}\n{topic.text}")
        topic = replace(topic, mark=before.mark, revision=before.revision, text=text)
    return _tell(_drop(memory, _back_key(topic)), replace(topic, stays=stays), topic.changed, now)


def _failed(memory: Remembered, topic: Topic, wants: Wants, now: float) -> Remembered:
    if GOING_BACK not in topic.text:
        return _bad(memory, topic, wants, now)
    return _with(memory, replace(topic, name=_BACK, text=topic.text.partition(f"; {GOING_BACK}")[0]))


def _back(memory: Remembered, topic: Topic, _: Wants, now: float) -> Remembered:
    before = memory.topics.get(_back_key(topic))
    if before is None:
        # A person went back.
        return memory
    text = _cut(f"{before.text}\n{topic.text}")
    told = replace(topic, mark=before.mark, revision=before.revision, text=text, since=before.since)
    return _tell(_drop(memory, before.key), told, topic.changed, now)


def _good(memory: Remembered, topic: Topic, _: Wants, now: float) -> Remembered:
    known = memory.topics.get(topic.key)
    return _settle(memory, replace(known, text=topic.text), topic, now) if known is not None else memory


def _again(memory: Remembered, topic: Topic, _: Wants, __: float) -> Remembered:
    known = memory.topics.get(topic.key)
    return memory if known is None else _with(memory, replace(known, mark=""))


_EFFECTS = {"wait": _wait, "bad": _bad, "failed": _failed, "back": _back, "good": _good, "again": _again}


def look(memory: Remembered, facts: Facts, wants: Wants, now: float) -> Remembered:
    """Return the memory after a look at the machine, with notes about what has lasted, or is over."""
    memory = _look_at_sources(memory, facts, wants, now)
    memory = _look_at_disk(memory, facts, wants, now)
    for topic in tuple(memory.topics.values()):
        if topic.flapping and now - topic.changed >= _CALM:
            memory = _calm(memory, topic, now)
        elif topic.name == _BACK:
            if now - topic.since >= _BACK_WITHIN:
                told = replace(topic, name="", event="update-failed", stays=True)
                memory = _tell(_drop(memory, topic.key), told, now, now)
        elif topic.kind in ("failing", "unhealthy"):
            memory = _look_at_pod(memory, topic, facts, wants, now)
        elif topic.kind == "git" and not topic.name and facts.git is not None:
            memory = _judge(memory, topic, bad=facts.git, well=not facts.git, wants=wants, now=now)
        elif not topic.told and not topic.bad and now - topic.changed >= _FLAPS_WITHIN:
            memory = _drop(memory, topic.key)
    return memory


def needs_look(memory: Remembered) -> bool:
    """Return whether a topic depends on the state of the machine, or on time."""
    return any(topic.bad or topic.flapping or topic.told for topic in memory.topics.values())


def _look_at_pod(memory: Remembered, topic: Topic, facts: Facts, wants: Wants, now: float) -> Remembered:
    pod = facts.pods.get(topic.pod)
    if pod is None or pod.excused:
        return _drop(memory, topic.key)
    if topic.kind == "unhealthy":
        bad, well = pod.health == "unhealthy", pod.health == "healthy" or (pod.health == "none" and pod.well)
        why = topic.text
    else:
        bad, well, why = pod.bad, pod.well, pod.error or topic.text
        if bad and not topic.told:
            topic = replace(topic, container=pod.container, revision=pod.revision)
        wants = replace(wants, after=0.0) if pod.final else wants
    covered = not topic.told and _is_covered(memory, topic)
    return _judge(memory, topic, bad=why if bad and not covered else "", well=well, wants=wants, now=now)


def _is_covered(memory: Remembered, topic: Topic) -> bool:
    """Return whether another topic of its pod told, or will tell, the same trouble."""
    update = memory.topics.get(f"update/{topic.pod}/")
    if _back_key(topic) in memory.topics or (update is not None and update.told and update.stays):
        return True
    kind = "failing" if topic.kind == "unhealthy" else "unhealthy"
    other = memory.topics.get(f"{kind}/{topic.pod}/")
    return other is not None and other.told and other.bad


def _judge(memory: Remembered, topic: Topic, *, bad: str, well: bool, wants: Wants, now: float) -> Remembered:
    """Tell that a topic has lasted, or is over; `bad` is why it lasts, empty if it may be over."""
    if well:
        return _settle(memory, topic, replace(topic, event=""), now)
    if topic.told or not topic.bad:
        if topic.flapping and bad and not topic.bad:
            return _with(memory, replace(topic, bad=True, changed=now))
        # It was quiet, and is bad again: an event says so.
        return memory
    if bad and now - topic.since >= wants.after:
        return _tell(memory, replace(topic, text=_cut(bad), mark=""), now, now)
    return memory


def _look_at_sources(memory: Remembered, facts: Facts, wants: Wants, now: float) -> Remembered:
    if "source" not in wants.kinds:
        return memory
    known = {topic.name: topic for topic in memory.topics.values() if topic.kind == "source"}
    for place, found in facts.sources.items():
        topic = known.get(place)
        fresh = Topic(kind="source", pod=found.pod, name=place, since=now, text=_cut(found.text), changed=now)
        if topic is None:
            memory = _with(memory, replace(fresh, event="source-error"))
        elif not topic.bad and not topic.told:
            memory = _with(_drop(memory, topic.key), replace(fresh, event="source-error", bads=topic.bads))
        else:
            quick = replace(wants, after=min(wants.after, _AT_WORK))
            memory = _judge(memory, topic, bad=found.text, well=False, wants=quick, now=now)
    for place, topic in known.items() if facts.sources_read else ():
        if place not in facts.sources and topic.bad:
            memory = _settle(memory, topic, replace(topic, event="source-recovered", changed=now), now)
    return memory


def _look_at_disk(memory: Remembered, facts: Facts, wants: Wants, now: float) -> Remembered:
    known = memory.topics.get("disk//")
    if "disk" not in wants.kinds or facts.no_room is None:
        return memory
    if facts.no_room and (known is None or not known.bad):
        before = known.bads if known is not None else ()
        topic = Topic(kind="disk", pod="", since=now, text=_cut(facts.no_room), changed=now, bads=before)
        return _tell(memory, topic, now, now)
    if not facts.no_room and known is not None and known.bad:
        return _settle(memory, known, replace(known, changed=now), now)
    return memory


def _tell(memory: Remembered, topic: Topic, at: float, now: float) -> Remembered:
    """Add the note that something is bad, unless that was told."""
    known = memory.topics.get(topic.key) or topic
    if known.told and known.flapping:
        return _with(memory, replace(topic, told=True, flapping=True, changed=at, bads=known.bads))
    if known.told and known.bad and known.mark == topic.mark:
        return memory
    bads = (*(one for one in known.bads if at - one < _FLAPS_WITHIN), at)
    flapping = len(bads) > _FLAPS
    topic = replace(topic, told=True, bad=True, flapping=flapping, changed=at, bads=bads[-_FLAPS - 1 :])
    title = _title(topic, "bad")
    message = topic.text
    lasted = round(at - topic.since)
    if topic.kind in ("unhealthy", "failing", "git") and not topic.name and lasted > 0:
        message = f"for {format_duration(lasted)}: {message}"
    if flapping:
        calm = format_duration(round(_CALM))
        title = f"{title}, again and again"
        message = f"it comes and goes, and is told again once it has stayed as it is for {calm}\n{message}"
    return _noted(_with(memory, topic), _note(topic, "bad", at, title, message), now)


def _settle(memory: Remembered, topic: Topic, how: Topic, now: float) -> Remembered:
    """Add the note that something is well again, if it was told that it was not."""
    at = how.changed if how.event else now
    if topic.flapping:
        return _with(memory, replace(topic, bad=False, changed=at)) if topic.bad else memory
    if not topic.told:
        quiet = topic.bads and at - topic.bads[-1] < _FLAPS_WITHIN
        if not quiet:
            return _drop(memory, topic.key)
        return _with(memory, replace(topic, bad=False, changed=at)) if topic.bad else memory
    after = replace(topic, told=False, bad=False, stays=False, mark="", changed=at)
    note = _note(replace(topic, event=how.event, revision=how.revision or topic.revision), "good", at, "", "")
    lasted = format_duration(max(1, round(at - topic.since)))
    text = topic.text if topic.kind in ("update", "job") else f"after {lasted}"
    return _noted(_with(memory, after), replace(note, title=_title(topic, "good"), message=text), now)


def _calm(memory: Remembered, topic: Topic, now: float) -> Remembered:
    """End the silence about what came and went: it has stayed as it is."""
    topic = replace(topic, flapping=False, bads=())
    if topic.bad:
        return _with(memory, topic)
    return _settle(memory, topic, replace(topic, event=""), now)


_TITLES = {
    "unhealthy": ("{pod} is unhealthy", "{pod} is healthy again"),
    "failing": ("{pod} is failing", "{pod} runs again"),
    "job": ("{pod}: a run failed", "{pod}: its runs succeed again"),
    "git": ("the git repository can't be followed", "the git repository is followed again"),
    "source": ("{name} has errors", "{name} has no errors any more"),
    "disk": ("there is no room left", "there is room again"),
}
_UPDATES = {
    "rolled-back": "{pod}: its update failed, and was rolled back",
    "rollback-failed": "{pod}: its update failed, and so did going back",
}


def _title(topic: Topic, state: str) -> str:
    if topic.kind == "update":
        words = "{pod}: it is good again"
        if state == "bad":
            words = _UPDATES.get(topic.event, "{pod}: its update failed")
    elif (topic.kind, topic.name) == ("git", "held"):
        words = "a commit is held until a person confirms it"
    elif (topic.kind, topic.name) == ("git", "status"):
        verb = "is written again" if state == "good" else "can't be written"
        words = f"the status of the commit {verb}"
    else:
        words = _TITLES[topic.kind][state == "good"]
    return words.format(pod=topic.pod, name=topic.name)


def _note(topic: Topic, state: Any, at: float, title: str, message: str) -> Note:
    return Note(
        at=at,
        kind=topic.kind,
        state=state,
        title=title,
        message=_cut(message),
        event=topic.event,
        pod=topic.pod,
        container=topic.container,
        revision=topic.revision,
        file=topic.name if topic.kind == "source" else "",
    )


def _noted(memory: Remembered, note: Note, now: float) -> Remembered:
    if now - note.at > _NEWS:
        return memory
    notes = (*memory.notes, note)
    lost = max(0, len(notes) - WAITING_MAX)
    return replace(memory, notes=notes[lost:], dropped=memory.dropped + lost)


def _with(memory: Remembered, topic: Topic) -> Remembered:
    topics = {**memory.topics, topic.key: topic}
    if len(topics) > _MOST_TOPICS:
        topics.pop(min(_forgettable(topics), default=(0.0, topic.key))[1])
    return replace(memory, topics=topics)


def _forgettable(topics: dict[str, Topic]) -> Iterator[tuple[float, str]]:
    return ((topic.changed, key) for key, topic in topics.items())


def _drop(memory: Remembered, key: str) -> Remembered:
    if key not in memory.topics:
        return memory
    return replace(memory, topics={name: one for name, one in memory.topics.items() if name != key})


def _back_key(topic: Topic) -> str:
    return f"update/{topic.pod}/{_BACK}"


def _cut(text: str) -> str:
    return f"{text[: TEXT_MAX - 1]}…" if len(text) > TEXT_MAX else text
