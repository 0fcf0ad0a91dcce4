"""The formats of the journal: an older agent must refuse one in which it would overlook what a pod asks for.

It skips fields that it does not know: a job would run all the time, a database start without its password.
So the format goes up, for good, as the first pod that needs a newer one is stored, and not before: until
then, the older version can be installed again.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from tank_agent.spec.model import Container, Limits, Mount, Network, Pod, Security, Volume, defaults_of

OLDEST = 1
# What this agent reads and writes.
NEWEST = 2

# The fields that an agent of an older format overlooks.
ADDED: dict[int, dict[type[Struct], tuple[str, ...]]] = {
    2: {
        Pod: ("schedule", "files", "secrets", "sysctls", "hostname"),
        Network: ("aliases",),
        Volume: ("shared",),
        Container: ("shm_size", "ulimits", "groups"),
        Limits: ("memory_reservation", "swap", "cpu_weight", "cpus"),
        Mount: ("file", "secret", "tmpfs", "subpath", "from_image", "on_change", "mode", "owner"),
    }
}
_DEFAULTS = {
    format_: {kind: [one for one in defaults_of(kind) if one[0] in names] for kind, names in kinds.items()}
    for format_, kinds in ADDED.items()
}


def format_of(pod: Pod) -> int:
    """Return the oldest format whose agents understand all of a pod."""
    parts = list(_parts(pod))
    for format_ in range(NEWEST, OLDEST, -1):
        found = _DEFAULTS[format_]
        if any(
            getattr(part, name) != default for part in parts for name, default in found.get(type(part), ())
        ):
            return format_
    return 2 if any(_is_mapped(part) for part in parts if isinstance(part, Security)) else OLDEST


def _parts(pod: Pod) -> Iterator[Struct]:
    yield pod
    yield pod.network
    yield from pod.volumes
    for container in pod.containers:
        yield container
        yield from container.mounts
        yield container.limits
        yield container.security


def _is_mapped(security: Security) -> bool:
    """Return whether a device has another path in the container, or a CDI name."""
    return any(":" in device or "=" in device for device in security.devices)
