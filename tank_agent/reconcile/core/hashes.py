"""Hashes of the parts of a pod, to find what a change touches; cached, since each resync asks for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVarTuple

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, PodStatus
from tank_agent.reconcile.core.changes import LIVE_FIELDS, RESTARTING_FIELDS
from tank_agent.spec.model import Container, Pod, Volume, content_hash

_PLAIN = Container(name="")


Objects = TypeVarTuple("Objects")


class Memory(Generic[*Objects]):
    """Caches the results of a pure function for immutable objects, by their identity.

    Keeps the objects alive, so that their id() can't be reused. Many threads may use it: at worst, one of
    them calls the function again.
    """

    def __init__(self, function: Callable[[*Objects], str]) -> None:
        self._function = function
        self._recent: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}
        self._former: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}

    def __call__(self, *about: *Objects) -> str:
        """Return the function's result for the objects."""
        key = tuple(map(id, about))
        found = self._recent.get(key)
        if found is None:
            found = self._former.get(key) or (self._function(*about), about)
            self._recent[key] = found
        return found[0]

    def age(self) -> None:
        """Forget results that were not used since the last call."""
        self._former, self._recent = self._recent, {}


class _Identity(Struct, frozen=True):
    """The parts of a pod whose change replaces a container."""

    container: dict[str, Any]
    volumes: tuple[Volume, ...]
    network: str


class _Settings(Struct, frozen=True):
    """The parts of a container that can change while it runs."""

    container: dict[str, Any]


# Without a Memory, hashes are half of a resync's work.
@Memory
def container_hash(pod: Pod, container: Container) -> str:
    """Return the hash of everything whose change restarts this container, as the change table has it.

    Changes of the restart policy and of other containers must not touch this one.
    """
    used = {mount.volume for mount in container.mounts}
    volumes = tuple(volume for volume in pod.volumes if volume.name in used)
    network = "host" if pod.network.mode == "host" else "own"
    return content_hash(_Identity(_fields(container, RESTARTING_FIELDS), volumes, network))


@Memory
def settings_hash(container: Container) -> str:
    """Return the hash of the fields that can change while a container runs."""
    return content_hash(_Settings(_fields(container, LIVE_FIELDS)))


_hash_of_network = Memory(content_hash)


def network_hash(pod: Pod) -> str:
    """Return the hash of a pod's network, which can change while containers run in it."""
    return _hash_of_network(pod.network)


def forget_hashes() -> None:
    """Forget hashes that were not used since the last call; once per resync."""
    container_hash.age()
    settings_hash.age()
    _hash_of_network.age()


def container_status(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return the status of a container as it is specified *now*: an empty one after a change.

    More memory, or another network, is a reason to try a container again at once that failed without it; a
    container that runs keeps its counts.
    """
    hash_, settings = container_hash(pod, container), settings_hash(container)
    known = status.containers.get(container.name)
    if known is not None and known.hash == hash_:
        same_network = not known.network or known.network == network_hash(pod)
        if known.instance or (same_network and known.settings in ("", settings)):
            return known
    return ContainerStatus(hash=hash_, settings=settings)


def status_to_start(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return the status of a container that is to start now, with its network."""
    return replace(container_status(status, pod, container), network=network_hash(pod))


def _fields(container: Container, names: Iterable[str]) -> dict[str, Any]:
    # Without values at their default: a field that a newer version adds must restart nothing.
    found = {name: getattr(container, name) for name in names}
    return {name: value for name, value in found.items() if value != getattr(_PLAIN, name)}
