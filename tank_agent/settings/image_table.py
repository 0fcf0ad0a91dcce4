"""`[image]` and `[registry."HOST"]` of agent.toml, key for key, in the words that the reference prints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, TypeVar

from tank_agent.errors import Stalled
from tank_agent.image.platform import parse_platform
from tank_agent.image.registry.url import parse_url
from tank_agent.settings.image import ImageSettings, RegistrySettings, UnpackLimits
from tank_agent.spec.file import Duration, FileStruct, Memory, about
from tank_agent.spec.findings import Finding, KeyPath, show
from tank_agent.spec.quantities import parse_duration, parse_size
from tank_agent.spec.reference import check_path

_T = TypeVar("_T")

_KIB, _MIB, _GIB, _TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:.]+\])(?::[0-9]{{1,5}})?"
_REGISTRY = re.compile(_HOST)
_MIRROR = re.compile(rf"{_HOST}(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")
_HUB_NAMES = ("index.docker.io", "registry-1.docker.io", "hub.docker.com")


class ImageLimitsTable(FileStruct):
    """What one layer of an image may cost."""

    size: Annotated[Memory, about("Of the unpacked layer, 1M to 64T.", "32G")] = "32G"
    file_size: Annotated[Memory, about("Of one file, also of a sparse one, 1M to 64T.", "32G")] = "32G"
    entries: Annotated[int, about("Files, directories, links and devices, up to 100000000.", 2_000_000)] = (
        2_000_000
    )
    depth: Annotated[int, about("Directories in directories, up to 4096.", 256)] = 256
    headers: Annotated[Memory, about("Of names and extended attributes of one entry, 4K to 64M.", "1M")] = (
        "1M"
    )
    cpu_time: Annotated[Duration, about("CPU time for unpacking it, 1s to 24h.", "30m")] = "30m"
    memory: Annotated[Memory, about("Memory for unpacking it, 128M to 64G.", "1G")] = "1G"
    stall: Annotated[Duration, about("How long unpacking may make no progress, 1s to 1h.", "2m")] = "2m"


class ImageTable(FileStruct):
    """How images are fetched and unpacked."""

    pull: Annotated[
        Literal["missing", "always", "never"],
        about("When the registry is asked, for containers that don't say.", "missing"),
    ] = "missing"
    platform: Annotated[
        str, about("Instead of this machine's: os/architecture[/variant].", "linux/arm64/v8")
    ] = ""
    auth_files: Annotated[
        tuple[str, ...],
        about("Credentials in the form of Docker's config.json; the first that knows the registry counts."),
    ] = ("/etc/tank/auth.json", "/root/.docker/config.json")
    parallel: Annotated[
        int, about("Layers that are fetched and unpacked at once from one registry, 1 to 64.", 3)
    ] = 3
    attempts: Annotated[int, about("How often a request is tried, 1 to 100.", 5)] = 5
    connect_timeout: Annotated[
        Duration, about("How long a registry may take to be reached, 100ms to 10m.", "10s")
    ] = "10s"
    read_timeout: Annotated[Duration, about("How long a registry may be silent, 100ms to 10m.", "30s")] = (
        "30s"
    )
    minimum_rate: Annotated[
        Memory, about("Bytes a second below which a transfer is broken off, 1 to 1G.", "1K")
    ] = "1K"
    image_size: Annotated[Memory, about("Of all compressed layers of an image, 1M to 64T.", "64G")] = "64G"
    limits: Annotated[ImageLimitsTable | None, about("What one layer may cost.")] = None


class RegistryTable(FileStruct):
    """How one registry is spoken to."""

    mirrors: Annotated[
        tuple[str, ...],
        about(
            "Hosts to ask before the registry itself, with an optional port and path.", ["mirror.lan:5000"]
        ),
    ] = ()
    insecure: Annotated[
        bool, about("Whether plain http, and certificates that nobody signed, will do.", True)
    ] = False
    blocked: Annotated[bool, about("Whether its images are refused.", True)] = False
    ca: Annotated[
        str | None,
        about("A file of certificates to trust instead of the system's, in PEM.", "/etc/ssl/lan-ca.pem"),
    ] = None


def read_images(
    table: ImageTable | None, registries: Mapping[str, RegistryTable] | None
) -> tuple[ImageSettings, tuple[Finding, ...]]:
    """Return what the tables mean, and everything that is wrong with them."""
    checks = _Checks()
    return checks.images(table or ImageTable(), registries or {}), tuple(checks.findings)


class _Checks:
    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def images(self, table: ImageTable, registries: Mapping[str, RegistryTable]) -> ImageSettings:
        limits = table.limits or ImageLimitsTable()
        self._platform(table.platform)
        for index, path in enumerate(table.auth_files):
            self._add(("image", "auth_files", index), check_path(path))
        return ImageSettings(
            pull=table.pull,
            platform=table.platform,
            registries={host: self._registry(host, found) for host, found in registries.items()},
            auth_files=table.auth_files,
            parallel=self._count(("image", "parallel"), table.parallel, 64),
            attempts=self._count(("image", "attempts"), table.attempts, 100),
            connect_timeout=self._seconds(("image", "connect_timeout"), table.connect_timeout, 0.1, 600.0),
            read_timeout=self._seconds(("image", "read_timeout"), table.read_timeout, 0.1, 600.0),
            minimum_rate=self._size(("image", "minimum_rate"), table.minimum_rate, 1, _GIB),
            image_size=self._size(("image", "image_size"), table.image_size, _MIB, 64 * _TIB),
            limits=self._limits(limits),
        )

    def _limits(self, table: ImageLimitsTable) -> UnpackLimits:
        def path(key: str) -> KeyPath:
            return ("image", "limits", key)

        return UnpackLimits(
            size=self._size(path("size"), table.size, _MIB, 64 * _TIB),
            file_size=self._size(path("file_size"), table.file_size, _MIB, 64 * _TIB),
            entries=self._count(path("entries"), table.entries, 100_000_000),
            depth=self._count(path("depth"), table.depth, 4096),
            headers=self._size(path("headers"), table.headers, 4 * _KIB, 64 * _MIB),
            # The kernel counts whole seconds (setrlimit(2)).
            cpu_seconds=round(self._seconds(path("cpu_time"), table.cpu_time, 1.0, 86_400.0)),
            stall=self._seconds(path("stall"), table.stall, 1.0, 3_600.0),
            memory=self._size(path("memory"), table.memory, 128 * _MIB, 64 * _GIB),
        )

    def _registry(self, host: str, table: RegistryTable) -> RegistrySettings:
        path: KeyPath = ("registry", host)
        if host in _HUB_NAMES:
            self._add(path, 'is called "docker.io" in references; write [registry."docker.io"]')
        elif not _REGISTRY.fullmatch(host) or not _is_reachable(host):
            self._add(path, f'{show(host)} is not a host; write one such as "registry.lan:5000"')
        for index, mirror in enumerate(table.mirrors):
            if not _MIRROR.fullmatch(mirror) or not _is_reachable(mirror):
                wrong = (
                    f'{show(mirror)} is not a host; write one such as "mirror.lan:5000" or "cache.lan/hub"'
                )
                self._add((*path, "mirrors", index), wrong)
        if table.ca is not None:
            self._add((*path, "ca"), check_path(table.ca))
        return RegistrySettings(
            mirrors=table.mirrors, insecure=table.insecure, blocked=table.blocked, ca=table.ca
        )

    def _platform(self, text: str) -> None:
        try:
            if text:
                parse_platform(text)
        except Stalled:
            self._add(
                ("image", "platform"), f'{show(text)} is not a platform; write one such as "linux/arm64/v8"'
            )

    def _count(self, path: KeyPath, value: int, high: int) -> int:
        self._add(path, None if 1 <= value <= high else f"must be from 1 to {high}")
        return value

    def _size(self, path: KeyPath, value: int | str, low: int, high: int) -> int:
        return self._attempt(path, lambda: parse_size(value, low=low, high=high), low)

    def _seconds(self, path: KeyPath, value: float | str, low: float, high: float) -> float:
        return self._attempt(path, lambda: parse_duration(value, low=low, high=high), low)

    def _attempt(self, path: KeyPath, parse: Callable[[], _T], instead: _T) -> _T:
        try:
            return parse()
        except ValueError as error:
            self._add(path, str(error))
            return instead

    def _add(self, path: KeyPath, message: str | None) -> None:
        if message:
            self.findings.append(Finding(path, message))


def _is_reachable(address: str) -> bool:
    try:
        parse_url(f"https://{address}")
    except Stalled:
        return False
    return True
