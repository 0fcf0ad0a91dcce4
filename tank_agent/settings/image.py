"""What agent.toml says about images: the tables [image] and [registry."HOST"].

[image]
pull = "missing"                          # missing | always | never
auth_files = ["/etc/tank/auth.json", "/root/.docker/config.json"]
parallel = 3
[registry."docker.io"]
mirrors = ["mirror.lan:5000"]
[registry."old.lan:5000"]
insecure = true
[registry."evil.example"]
blocked = true
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

PullPolicy = Literal["missing", "always", "never"]

_GIB = 1 << 30


class RegistrySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One registry host.

    `mirrors` are hosts, with an optional port and path prefix, asked in this order before the registry
    itself. `insecure` allows plain http and certificates that nobody signed; loopback needs no leave for
    plain http. `blocked` refuses every image of the registry. `ca` is a PEM file trusted for this registry
    instead of the system's authorities.
    """

    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    blocked: bool = False
    ca: str | None = None


class UnpackLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one layer may cost. Sizes are bytes of the uncompressed archive; times are seconds.

    `file_size` also bounds what a sparse file claims to hold. `headers` bounds what is told about one entry:
    its name, its link's target and its extended attributes. `stall` is how long unpacking may make no
    progress.
    """

    size: int = 32 * _GIB
    file_size: int = 32 * _GIB
    entries: int = 2_000_000
    depth: int = 256
    headers: int = 1 << 20
    cpu_seconds: int = 1800
    stall: float = 120.0
    memory: int = _GIB


class ImageSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that images take from agent.toml.

    `registries` are by host as a reference names it ("docker.io", "old.lan:5000"). `auth_files` have the
    form of Docker's config.json, the first with an answer wins. `platform` overrides the host's
    ("linux/arm64/v8"). `parallel` layers are fetched and unpacked at once from one registry. `attempts` is
    per request. Time-outs are seconds: `connect_timeout` and `read_timeout` for the network's silence,
    `minimum_rate` in bytes per second for a body that drips. `image_size` bounds the compressed layers of
    one image.
    """

    pull: PullPolicy = "missing"
    platform: str = ""
    registries: dict[str, RegistrySettings] = msgspec.field(default_factory=dict)
    auth_files: tuple[str, ...] = ("/etc/tank/auth.json", "/root/.docker/config.json")
    parallel: int = 3
    attempts: int = 5
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    minimum_rate: int = 1024
    image_size: int = 64 * _GIB
    limits: UnpackLimits = msgspec.field(default_factory=UnpackLimits)

    def registry(self, host: str) -> RegistrySettings:
        """Return the settings of a registry, or the defaults."""
        return self.registries.get(host, RegistrySettings())
