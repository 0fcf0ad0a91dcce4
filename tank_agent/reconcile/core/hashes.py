"""Hashes of the parts of a pod, to find what a change touches; cached, since each resync asks for all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, TypeVarTuple

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.journal.records import ContainerStatus, PodStatus
from tank_agent.reconcile.core.changes import LIVE_FIELDS, RESTARTING_FIELDS, init_of
from tank_agent.spec.model import Container, Pod, Volume, content_hash

if TYPE_CHECKING:
    from tank_agent.reconcile.core.observed import Run

_PLAIN = Container(name="")


Objects = TypeVarTuple("Objects")
Result = TypeVar("Result")


class Memory(Generic[Result, *Objects]):
    """Caches the results of a pure function for immutable objects, by their identity.

    Keeps the objects alive, so that their id() can't be reused. Many threads may use it: at worst, one of
    them calls the function again.
    """

    def __init__(self, function: Callable[[*Objects], Result]) -> None:
        self._function = function
        self._recent: dict[tuple[int, ...], tuple[Result, tuple[object, ...]]] = {}
        self._former: dict[tuple[int, ...], tuple[Result, tuple[object, ...]]] = {}

    def __call__(self, *about: *Objects) -> Result:
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
    # The hash of all that must have run before this one starts.
    init: str = ""
    sysctls: dict[str, str] = {}
    # The path of each file and secret that it restarts for, and the digest of what is there.
    contents: tuple[tuple[str, str], ...] = ()
    hostname: str = ""


class _Settings(Struct, frozen=True):
    """The parts of a container that can change while it runs."""

    container: dict[str, Any]


# Without a Memory, hashes are half of a resync's work.
@Memory
def container_hash(pod: Pod, container: Container) -> str:
    """Return the hash of everything whose change restarts this container, as the change table has it.

    Changes of the restart policy and of other containers must not touch this one, except those of init
    containers, which run before it.
    """
    used = {mount.volume for mount in container.mounts}
    volumes = tuple(_identity_of(volume) for volume in pod.volumes if volume.name in used)
    network = "host" if pod.network.mode == "host" else "own"
    init = "" if container.init else _hash_of_init(pod)
    contents = tuple(_digests(pod, container, live=False).items()) if pod.files or pod.secrets else ()
    fields = _fields(container, RESTARTING_FIELDS)
    return content_hash(_Identity(fields, volumes, network, init, pod.sysctls, contents, pod.hostname))


_NO_DIGESTS: dict[str, str] = {}


@Memory
def live_contents(pod: Pod) -> dict[str, dict[str, str]]:
    """Return the digests of what containers get while they run, by their names and by path; do not change it.

    A secret of the host whose file can't be read now has none.
    """
    if not (pod.files or pod.secrets):
        return {}
    found = {container.name: _digests(pod, container, live=True) for container in pod.containers}
    return {name: digests for name, digests in found.items() if digests}


def outdated_contents(run: Run, pod: Pod) -> dict[str, str]:
    """Return the digests of what a run is to get while it goes on, by path."""
    wanted = live_contents(pod).get(run.container, _NO_DIGESTS)
    return {path: digest for path, digest in wanted.items() if digest and run.contents.get(path) != digest}


def _digests(pod: Pod, container: Container, *, live: bool) -> dict[str, str]:
    wanted = [mount for mount in container.mounts if live == (mount.on_change != "restart")]
    files = {one.name: one for one in pod.files}
    secrets = {one.name: one for one in pod.secrets}
    found = {}
    for mount in wanted:
        if mount.file is not None:
            found[mount.path] = files[mount.file].digest
        elif mount.secret is not None:
            secret = secrets[mount.secret]
            # Where there are no keys, another ciphertext may be another secret.
            text = hashlib.sha256(secret.age.encode()).hexdigest() if secret.age else ""
            # A job reads a file of the host at each start, and its run is not ended for a change of it.
            keeps = pod.schedule is not None and secret.host is not None and not live
            found[mount.path] = "" if keeps else secret.digest or text
    return found


@Memory
def container_hashes(pod: Pod) -> dict[str, str]:
    """Return the hash of each container of a pod by its name; do not change it."""
    return {container.name: container_hash(pod, container) for container in pod.containers}


@Memory
def lasting_settings(pod: Pod) -> dict[str, str]:
    """Return the `settings_hash` of each container that is not init, by its name; do not change it."""
    return {container.name: settings_hash(container) for container in pod.containers if not container.init}


@Memory
def by_name(pod: Pod) -> dict[str, Container]:
    """Return the containers of a pod by their names; do not change it."""
    return {container.name: container for container in pod.containers}


# For each of many containers that wait, the plan asks for those before them.
init_containers = Memory(init_of)


class _Init(Struct, frozen=True):
    """The name and the hash of each init container, in their order."""

    containers: tuple[tuple[str, str], ...]


@Memory
def _hash_of_init(pod: Pod) -> str:
    found = tuple((one.name, container_hash(pod, one)) for one in init_of(pod))
    return content_hash(_Init(found)) if found else ""


@Memory
def settings_hash(container: Container) -> str:
    """Return the hash of the fields that can change while a container runs."""
    return content_hash(_Settings(_fields(container, LIVE_FIELDS)))


_hash_of_network = Memory(content_hash)
schedule_hash = Memory(content_hash)


def network_hash(pod: Pod) -> str:
    """Return the hash of a pod's network, which can change while containers run in it."""
    return _hash_of_network(pod.network)


def forget_hashes() -> None:
    """Forget hashes that were not used since the last call; once per resync."""
    container_hash.age()
    container_hashes.age()
    live_contents.age()
    lasting_settings.age()
    settings_hash.age()
    by_name.age()
    init_containers.age()
    _hash_of_init.age()
    _hash_of_network.age()
    schedule_hash.age()


def container_status(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return the status of a container as it is specified *now*: an empty one after a change.

    More memory, or another network, is a reason to try a container again at once that failed without it; a
    container that runs keeps its counts, and an init container that ended well has done its work.
    """
    hash_, settings = container_hash(pod, container), settings_hash(container)
    known = status.containers.get(container.name)
    if known is not None and known.hash == hash_:
        same_network = not known.network or known.network == network_hash(pod)
        done = container.init and known.exit is not None and known.exit.clean
        if known.instance or done or (same_network and known.settings in ("", settings)):
            return known
    return ContainerStatus(hash=hash_, settings=settings)


def status_to_start(status: PodStatus, pod: Pod, container: Container) -> ContainerStatus:
    """Return the status of a container that is to start now, with its network."""
    return replace(container_status(status, pod, container), network=network_hash(pod))


def _identity_of(volume: Volume) -> Volume:
    # Whether it is copied before an update is nothing that a container sees.
    return replace(volume, snapshot=False) if volume.snapshot else volume


def _fields(container: Container, names: Iterable[str]) -> dict[str, Any]:
    # Without values at their default: a field that a newer version adds must restart nothing.
    found = {name: getattr(container, name) for name in names}
    if any(mount.from_image for mount in found.get("mounts", ())):
        # What a volume begins with is nothing to one that is there.
        found["mounts"] = tuple(replace(mount, from_image=False) for mount in found["mounts"])
    return {name: value for name, value in found.items() if value != getattr(_PLAIN, name)}
