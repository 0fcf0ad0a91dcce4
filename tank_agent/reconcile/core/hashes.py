"""Hashes of the parts of a pod, to find what a change touches; remembered, since a resync asks for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, PodStatus
from tank_agent.reconcile.core.changes import LIVE_FIELDS, RESTARTING_FIELDS
from tank_agent.spec.model import Container, Pod, Volume, content_hash

_PLAIN = Container(name="")


class Memory:
    """Remembers the answers of a pure function about objects that never change, by their identity.

    Keeps the objects alive, so that their id() can't be reused. May be used by many threads: at worst one of
    them asks again.
    """

    def __init__(self) -> None:
        self._recent: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}
        self._former: dict[tuple[int, ...], tuple[str, tuple[object, ...]]] = {}

    def get(self, function: Callable[..., str], *about: object) -> str:
        """Return what the function returns for the objects; one memory is for one function."""
        key = tuple(map(id, about))
        found = self._recent.get(key)
        if found is None:
            found = self._former.get(key) or (function(*about), about)
            self._recent[key] = found
        return found[0]

    def age(self) -> None:
        """Forget what nobody asked for since the last call."""
        self._former, self._recent = self._recent, {}


# Half of a resync's work otherwise.
_CONTAINERS, _SETTINGS, _NETWORKS = Memory(), Memory(), Memory()


class _Identity(Struct, frozen=True):
    """The parts of a pod that make a container another one when they change."""

    container: dict[str, Any]
    volumes: tuple[Volume, ...]
    network: str


class _Settings(Struct, frozen=True):
    """The parts of a container that can change while it runs."""

    container: dict[str, Any]


def container_hash(pod: Pod, container: Container) -> str:
    """Return the hash of everything whose change means that this container must be started anew.

    The change table lists it. The restart policy is not in it, nor are other containers: a change of theirs
    must not touch this one.
    """
    return _CONTAINERS.get(_container_hash, pod, container)


def settings_hash(container: Container) -> str:
    """Return the hash of what is changed while a container runs."""
    return _SETTINGS.get(_settings_hash, container)


def network_hash(pod: Pod) -> str:
    """Return the hash of a pod's network, which can change under what runs in it."""
    return _NETWORKS.get(content_hash, pod.network)


def forget_hashes() -> None:
    """Let go of the hashes that nobody asked for since the last call; for each resync."""
    for memory in (_CONTAINERS, _SETTINGS, _NETWORKS):
        memory.age()


def container_status(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return what is remembered of a container as it is specified *now*: of a changed one, nothing.

    More memory is a reason to try again at once what ran out of it, and another network for what failed for
    want of one; a run that goes on keeps its counts.
    """
    hash_, settings = container_hash(pod, container), settings_hash(container)
    known = status.containers.get(container.name)
    if known is not None and known.hash == hash_:
        if known.instance:
            return known
        if known.settings in ("", settings) and (not known.network or known.network == network_hash(pod)):
            return known
    return ContainerStatus(hash=hash_, settings=settings)


def status_to_start(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return what is remembered of a container that is to start now, with the network that it gets."""
    return replace(container_status(status, pod, container), network=network_hash(pod))


def _container_hash(pod: Pod, container: Container) -> str:
    used = {mount.volume for mount in container.mounts}
    volumes = tuple(volume for volume in pod.volumes if volume.name in used)
    network = "host" if pod.network.mode == "host" else "own"
    return content_hash(_Identity(_fields(container, RESTARTING_FIELDS), volumes, network))


def _settings_hash(container: Container) -> str:
    return content_hash(_Settings(_fields(container, LIVE_FIELDS)))


def _fields(container: Container, names: Iterable[str]) -> dict[str, Any]:
    # Without what is at its default: a field that a newer version adds must restart nothing.
    found = {name: getattr(container, name) for name in names}
    return {name: value for name, value in found.items() if value != getattr(_PLAIN, name)}
