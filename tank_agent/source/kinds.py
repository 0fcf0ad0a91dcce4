"""The register of source kinds: what is not in this list is no source.

Followers start in this order. The first mirror to declare a free name owns it.
"""

from __future__ import annotations

from tank_agent.settings.settings import Settings
from tank_agent.source.directory import DIRECTORY
from tank_agent.source.follower import SourceKind
from tank_agent.source.git.follower import GIT
from tank_agent.source.seed import SEED
from tank_agent.source.snapshot import place_of, source_of

# `tank apply` follows nothing: its refusals are answers to whoever asked.
API = SourceKind(name="api", called="`tank apply`", describe=lambda _: "`tank apply`")

SOURCES = (DIRECTORY, SEED, GIT, API)
BY_NAME = {kind.name: kind for kind in SOURCES}
# Sources whose pods go when they no longer declare them.
MIRRORS = tuple(kind.name for kind in SOURCES if kind.mirror)


def is_mirrored(owner: str) -> bool:
    """Return whether the owner's source is a mirror."""
    return source_of(owner) in MIRRORS


def describe(owner: str) -> str:
    """Return what messages call an owner; its plain name if a newer version of the agent wrote it."""
    kind = BY_NAME.get(source_of(owner))
    return owner if kind is None else kind.describe(place_of(owner))


def owner_is_there(owner: str, settings: Settings) -> bool:
    """Return whether a pod can be removed where it is declared."""
    kind = BY_NAME.get(source_of(owner))
    return kind is not None and kind.is_there(place_of(owner), settings)
