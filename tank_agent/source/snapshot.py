"""Snapshots: all that one source declares at one moment. Sources make them; the journal merges them.

A file that could not be read never counts as removed: it is listed in `unreadable`, and the pods that came
from there stay as they are.
"""

from __future__ import annotations

from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.spec.model import Pod


def source_of(owner: str) -> str:
    """Return the name of an owner's kind of source."""
    return owner.partition(":")[0]


def place_of(owner: str) -> str:
    """Return where an owner declares its pod; empty for kinds without places."""
    return owner.partition(":")[2]


class Declared(Struct, frozen=True, kw_only=True):
    """One pod as a source declares it.

    `owner` is the source's kind and the place there: `dir:<absolute file>`, `git:<path>`, or `seed`.
    `revision` is the source's own name for this state: a commit, or the short hash of the file's content.
    The pod's table starts at `file` and `line`, for messages. `author` and `subject` are of the commit.
    """

    pod: Pod
    owner: str
    revision: str
    file: str
    line: int = 1
    author: str = ""
    subject: str = ""


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that one source declares.

    `available` is False if the source as a whole could not be read (no such directory, unmounted, no
    network); then the snapshot changes no pod, and `problems` has the reason.
    `unreadable` are owners (`dir:<file>`) whose content is not completely known now: their pods are kept as
    they are, unless `pods` has a newer spec from the same owner. No other owner in `pods` gets their names.
    `problems` are all findings; one with `pod` set keeps that pod's last good spec and shows the error there.
    """

    source: str
    revision: str
    pods: tuple[Declared, ...] = ()
    problems: tuple[Problem, ...] = ()
    unreadable: frozenset[str] = frozenset()
    available: bool = True
