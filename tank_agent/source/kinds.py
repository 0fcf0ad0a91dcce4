"""The register of source kinds. Followers start in its order; the first mirror to declare a name owns it."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tank_agent.source.snapshot import place_of, source_of

if TYPE_CHECKING:
    from tank_agent.settings.settings import Settings
    from tank_agent.source.follower import Follower, Inbox


class SourceKind(NamedTuple):
    """One kind of source.

    Args:
        name: the owner of its pods is `NAME:PLACE`, or `NAME` alone if it has no places.
        called: the name in messages of all that it declares.
        describe: returns where a pod is declared, in words, from the place.
        mirror: its pods are removed when it no longer declares them; otherwise it writes each pod once.
        removal: the way to remove a pod where it is declared, as a hint.
        is_there: returns whether a pod can be removed at a place, with the settings of the agent's start; if
            not, only `tank delete` can remove it.
        follow: makes the follower that the settings ask for; None: they ask for none.
    """

    name: str
    called: str
    describe: Callable[[str], str]
    mirror: bool = False
    removal: str = ""
    is_there: Callable[[str, Settings], bool] = lambda *_: False
    follow: Callable[[Inbox], Follower | None] = lambda _: None

    def owner(self, place: str) -> str:
        """Return the owner of a pod that is declared at a place."""
        return f"{self.name}:{place}" if self.mirror else self.name


def _made_by(name: str) -> Callable[[Inbox], Follower | None]:
    """Return a function that imports a follower when it is made; verbs without an agent never do."""
    return lambda inbox: pkgutil.resolve_name(f"tank_agent.source.{name}")(inbox)  # noqa: PLW0108


DIRECTORY = SourceKind(
    name="dir",
    called="the files",
    describe=lambda place: place,
    mirror=True,
    removal="remove the file",
    # A dangling link is there, too.
    is_there=lambda place, _: Path(place).is_symlink() or Path(place).exists(),
    follow=_made_by("directory:DirectoryFollower"),
)
SEED = SourceKind(
    name="seed",
    called="the seeds",
    describe=lambda _: "a seed",
    follow=_made_by("seed:SeedFollower"),
)
GIT = SourceKind(
    name="git",
    called="the repository",
    describe=lambda place: f"{place} in the git repository",
    mirror=True,
    removal="remove it there and commit",
    is_there=lambda _, settings: settings.git is not None,
    follow=_made_by("git.follower:follow"),
)
# `tank apply` has no follower: it gets its errors as answers.
API = SourceKind(name="api", called="`tank apply`", describe=lambda _: "`tank apply`")

SOURCES = (DIRECTORY, SEED, GIT, API)
BY_NAME = {kind.name: kind for kind in SOURCES}
MIRRORS = tuple(kind.name for kind in SOURCES if kind.mirror)


def is_mirrored(owner: str) -> bool:
    """Return whether the owner's source is a mirror."""
    return source_of(owner) in MIRRORS


def describe(owner: str) -> str:
    """Return an owner's name in messages; its plain name if a newer version of the agent wrote it."""
    kind = BY_NAME.get(source_of(owner))
    return owner if kind is None else kind.describe(place_of(owner))


def owner_is_there(owner: str, settings: Settings) -> bool:
    """Return whether a pod can be removed where it is declared."""
    kind = BY_NAME.get(source_of(owner))
    return kind is not None and kind.is_there(place_of(owner), settings)
