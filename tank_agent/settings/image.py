"""The tables [image] and [registry."HOST"] of agent.toml. Times are in seconds, sizes in bytes."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from tank_agent.errors import Stalled
from tank_agent.image.platform import parse_platform
from tank_agent.image.registry.url import parse_url
from tank_agent.settings.declaration import count, seconds, size
from tank_agent.spec.findings import show
from tank_agent.spec.keys import DURATION_PATTERN, Duration, declare
from tank_agent.spec.other_tools.advice import of_pull
from tank_agent.spec.paths import absolute
from tank_agent.spec.quantities import format_duration, parse_duration

PullPolicy = Literal["missing", "always", "never"]

_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?"
_REGISTRY = re.compile(_HOST)
_MIRROR = re.compile(rf"{_HOST}(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "hub.docker.com")


def registry_host(item: tuple[str, object]) -> None:
    """Check the host of a [registry."HOST"]."""
    host = item[0]
    if host in _HUB_NAMES:
        raise ValueError('is called "docker.io" in references; write [registry."docker.io"]')
    if not _REGISTRY.fullmatch(host) or not _is_reachable(host):
        raise ValueError(f'{show(host)} is not a host; write one such as "registry.lan:5000"')


def _mirror(value: str) -> str:
    if not _MIRROR.fullmatch(value) or not _is_reachable(value):
        host = re.sub("^https?://|/$", "", value)
        right = 'one such as "mirror.lan:5000" or "cache.lan/hub"'
        right = show(host) if host != value and _MIRROR.fullmatch(host) else right
        raise ValueError(f"{show(value)} is not a host; write {right}")
    return value


def _is_reachable(address: str) -> bool:
    with suppress(Stalled):
        parse_url(f"https://{address}")
        return True
    return False


def _whole_seconds(value: float | str) -> int:
    # The kernel counts no others (setrlimit(2)).
    return round(parse_duration(value, low=1.0, high=86_400.0))


_OFF = "off"
_Interval = Annotated[str, Meta(extra_json_schema={"pattern": f"^{_OFF}$|{DURATION_PATTERN}"})] | int | float


def _interval(value: float | str) -> float:
    """Check a time between two looks; 0 is none."""
    return 0.0 if value in (_OFF, "0s", 0) else parse_duration(value, low=1.0, high=30 * 86_400.0)


def _platform(value: str) -> str:
    try:
        if value:
            parse_platform(value)
    except Stalled:
        raise ValueError(f'{show(value)} is not a platform; write one such as "linux/arm64/v8"') from None
    return value


# A key stays on as few lines as its words need.
# fmt: off
class RegistrySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The access to one registry."""

    mirrors: Annotated[tuple[str, ...], declare(
        "Hosts to ask before the registry itself, with an optional port and path.", ["mirror.lan:5000"],
        each=_mirror)] = ()
    # Loopback needs no leave for plain http.
    insecure: Annotated[bool, declare(
        "Whether plain http, and certificates that nobody signed, will do.", True)] = False
    blocked: Annotated[bool, declare("Whether its images are refused.", True)] = False
    ca: Annotated[str | None, declare(
        "A file of certificates to trust instead of the system's, in PEM.", "/etc/ssl/lan-ca.pem",
        check=absolute)] = None


class UnpackLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of what one layer may cost."""

    size: Annotated[int, size("Of the unpacked layer, 1M to 64T.", "32G", _MIB, 64 * _TIB)] = 32 * _GIB
    file_size: Annotated[int, size(
        "Of one file, also of a sparse one, 1M to 64T.", "32G", _MIB, 64 * _TIB)] = 32 * _GIB
    entries: Annotated[int, count(
        "Files, directories, links and devices, up to 100000000.", 2_000_000, 1, 100_000_000)] = 2_000_000
    depth: Annotated[int, count("Directories in directories, up to 4096.", 256, 1, 4096)] = 256
    headers: Annotated[int, size(
        "Of names and extended attributes of one entry, 4K to 64M.", "1M", 4 * _KIB, 64 * _MIB)] = 1 << 20
    cpu_time: Annotated[int, declare(
        "CPU time for unpacking it, 1s to 24h.", "30m", check=_whole_seconds, form=Duration,
        written=format_duration)] = 1800
    memory: Annotated[int, size("Memory for unpacking it, 128M to 64G.", "1G", 128 * _MIB, 64 * _GIB)] = _GIB
    stall: Annotated[float, seconds(
        "How long unpacking may make no progress, 1s to 1h.", "2m", 1, 3600)] = 120.0


class ImageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fetching and unpacking of images.

    `registries` are by host as a reference names it ("docker.io", "old.lan:5000"); in the file they are
    tables of their own, [registry."HOST"].
    """

    pull: Annotated[PullPolicy, declare(
        "When the registry is asked, for containers that don't say.", "missing", advice=of_pull)] = "missing"
    platform: Annotated[str, declare(
        "Instead of this machine's: os/architecture[/variant].", "linux/arm64/v8", check=_platform)] = ""
    auth_files: Annotated[tuple[str, ...], declare(
        "Credentials in the form of Docker's config.json; the first that knows the registry counts.",
        each=absolute)] = ("/etc/tank/auth.json", "/root/.docker/config.json")
    parallel: Annotated[int, count(
        "Layers that are fetched and unpacked at once from one registry, 1 to 64.", 3, 1, 64)] = 3
    attempts: Annotated[int, count("How often a request is tried, 1 to 100.", 5, 1, 100)] = 5
    connect_timeout: Annotated[float, seconds(
        "How long a registry may take to be reached, 100ms to 10m.", "10s", 0.1, 600)] = 10.0
    read_timeout: Annotated[float, seconds(
        "How long a registry may be silent, 100ms to 10m.", "30s", 0.1, 600)] = 30.0
    minimum_rate: Annotated[int, size(
        "Bytes a second below which a transfer is broken off, 1 to 1G.", "1K", 1, _GIB)] = 1024
    image_size: Annotated[int, size(
        "Of all compressed layers of an image, 1M to 64T.", "64G", _MIB, 64 * _TIB)] = 64 * _GIB
    limits: Annotated[UnpackLimits, declare("What one layer may cost.")] = UnpackLimits()
    check: Annotated[float, declare(
        "How often newer images are looked for, for pods with update.image = \"digest\", 1s to 720h, or "
        "\"off\".", "6h", check=_interval, form=_Interval, live=True,
        written=lambda value: format_duration(value) if value else _OFF)] = 6 * 3600.0
    registries: dict[str, RegistrySettings] = msgspec.field(default_factory=dict)

    def registry(self, host: str) -> RegistrySettings:
        """Return the settings of a registry, or the defaults."""
        return self.registries.get(host, RegistrySettings())
