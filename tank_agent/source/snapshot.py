"""Snapshots: all that one source declares at one moment. Sources make them; the journal merges them.

A file that could not be read never counts as removed: it is listed in `unreadable`, and the pods that came
from there stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.spec.model import EVERYWHERE, Pod, Selector

# Git's helper parses no pod files, and starts faster without what does.
if TYPE_CHECKING:
    from tank_agent.spec.parse import ParsedPod
    from tank_agent.spec.selection import Mismatch


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
    The pod's table starts at `file` and `line`, for messages, and its `after` at `after_line`. `author` and
    `subject` are of the commit.
    """

    pod: Pod
    owner: str
    revision: str
    file: str
    line: int = 1
    author: str = ""
    subject: str = ""
    after_line: int = 0


class Elsewhere(Struct, frozen=True, kw_only=True):
    """A pod that a source declares for other machines; without its spec, since a fleet has thousands of them.

    `by` names the keys of `selector` that do not match this machine, and `why` is a sentence on them.
    """

    name: str
    owner: str = ""
    file: str
    line: int
    selector: Selector = EVERYWHERE
    by: str
    why: str

    @classmethod
    def of(cls, pod: ParsedPod, file: str, why: Mismatch, owner: str = "") -> Elsewhere:
        """Return it for a pod of a file; who parsed the file for any owner gives that later."""
        return cls(
            name=pod.pod.name,
            owner=owner,
            file=file,
            line=pod.line,
            selector=pod.selector,
            by=why.by,
            why=why.why,
        )

    @property
    def place(self) -> str:
        """Return where it is declared, as `file:line`."""
        return f"{self.file}:{self.line}" if self.line else self.file

    def __str__(self) -> str:
        """Return where it is declared, and why it is not here."""
        return f"{self.place}: {self.why}"


class Snapshot(Struct, frozen=True, kw_only=True):
    """All that one source declares.

    `available` is False if the source as a whole could not be read (no such directory, unmounted, no
    network); then the snapshot changes no pod, and `problems` has the reason.
    `unreadable` are owners (`dir:<file>`) whose content is not completely known now: their pods are kept as
    they are, unless `pods` has a newer spec from the same owner. No other owner in `pods` gets their names.
    `problems` are all findings; one with `pod` set keeps that pod's last good spec and shows the error there.
    `elsewhere` are pods that are declared for other machines only. `overlooked` are files that look like pod
    files and are none, such as web.yaml.
    """

    source: str
    revision: str
    pods: tuple[Declared, ...] = ()
    problems: tuple[Problem, ...] = ()
    unreadable: frozenset[str] = frozenset()
    available: bool = True
    elsewhere: tuple[Elsewhere, ...] = ()
    overlooked: tuple[str, ...] = ()
