"""The record of the journal that notifications remember over restarts. All times are Unix times."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

State = Literal["bad", "good", "info"]
# Characters of a text that comes from files, images and servers.
TEXT_MAX = 600
# How much waits at most: notes for their pause, and messages for a receiver.
WAITING_MAX = 100


class Note(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One transition that is to be told; `at` is when it happened.

    `kind` is what `events` of [notify] names, `event` the type of the journal's event that showed it.
    """

    at: float
    kind: str
    state: State
    title: str
    message: str = ""
    event: str = ""
    pod: str = ""
    container: str = ""
    revision: str = ""
    file: str = ""

    @property
    def subject(self) -> str:
        """Return what a pause is about: the pod, or for the machine itself the kind."""
        return self.pod or f"/{self.kind}"


class Topic(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that is, or may become, wrong; it is forgotten when it is well again.

    `since` is when it began. `told`: somebody was told, so that its end is told, too. `mark` is what a second
    trouble must differ in to be told as well. `stays`: of an update that failed and runs on. `bads` are the
    times at which it was told, for what comes and goes; while `flapping` nothing is told, and `changed` is
    when it last turned bad or good (`bad`).
    """

    kind: str
    pod: str
    name: str = ""
    since: float
    told: bool = False
    mark: str = ""
    text: str = ""
    event: str = ""
    container: str = ""
    revision: str = ""
    stays: bool = False
    bad: bool = True
    flapping: bool = False
    changed: float = 0.0
    bads: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Return the key of this topic among all."""
        return f"{self.kind}/{self.pod}/{self.name}"


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message to all receivers in `left`, made of one note or of several.

    `queued` is when it was made, `dropped` how many older ones were given up for want of room.
    """

    id: int
    queued: float
    note: Note
    left: tuple[str, ...] = ()
    dropped: int = 0


class Remembered(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All of it. `cursor` is the number of the last event that is accounted for.

    `notes` wait for their pause; `last` has, by subject, when a message about it was made. `recent` are the
    times of the messages of the last minute, and `over`: there were too many, so that a digest follows.
    """

    cursor: int = 0
    topics: dict[str, Topic] = msgspec.field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    last: dict[str, float] = msgspec.field(default_factory=dict)
    recent: tuple[float, ...] = ()
    over: bool = False
    dropped: int = 0
    queue: tuple[Message, ...] = ()
    next_id: int = 1

    def differs(self, other: Remembered) -> bool:
        """Return whether one has what the events since the other's cursor would not give again."""

        def kept(memory: Remembered) -> object:
            told = {key: topic for key, topic in memory.topics.items() if topic.told}
            return told, memory.notes, memory.queue, memory.dropped

        return kept(self) != kept(other)


class PodFacts(Struct, frozen=True, kw_only=True):
    """A pod as it is now.

    `bad`: a container of it does not run, or it is not as it should be; `final`: it will not be tried again.
    `well`: all has run for a while. Neither: it is on its way. `excused`: a person stopped it, or it is a
    job, whose runs tell by themselves.
    """

    bad: bool = False
    final: bool = False
    well: bool = False
    excused: bool = False
    health: str = "none"
    error: str = ""
    container: str = ""
    revision: str = ""


class SourceFacts(Struct, frozen=True, kw_only=True):
    """The problems of one file, or place, of a source."""

    text: str
    pod: str = ""


class Facts(Struct, frozen=True, kw_only=True):
    """The machine as it is now; a pod that is not desired is not among `pods`.

    `sources_read`: all sources were read since the agent started, so that a problem that is missing is gone.
    `git` is the error of the repository, None if it could not be looked at yet, and "" if there is none.
    `no_room` says which disk is full, "" if none is, and None that it is neither full nor free.
    """

    pods: dict[str, PodFacts] = msgspec.field(default_factory=dict)
    sources: dict[str, SourceFacts] = msgspec.field(default_factory=dict)
    sources_read: bool = False
    git: str | None = None
    no_room: str | None = None
