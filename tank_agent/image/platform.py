"""Platforms of images and of this machine: system, architecture and variant (OCI image-index.md)."""

from __future__ import annotations

import itertools
import platform as host
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.errors import Stalled

# Names of architectures in `uname -m` and in distributions → GOARCH and the variant.
_ALIASES = {
    **dict.fromkeys(("x86_64", "x86-64", "x64"), ("amd64", "")),
    **dict.fromkeys(("i386", "i486", "i586", "i686", "x86"), ("386", "")),
    **dict.fromkeys(("aarch64", "armv8"), ("arm64", "v8")),
    **dict.fromkeys(("armhf", "armv7", "armv7l"), ("arm", "v7")),
    **dict.fromkeys(("armel", "armv6l"), ("arm", "v6")),
    "armv5l": ("arm", "v5"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
    "ppc64el": ("ppc64le", ""),
}
# The default variants (containerd/platforms, database.go).
_DEFAULT_VARIANT = {"arm": "v7", "arm64": "v8", "amd64": "v1"}
# x86-64 psABI levels; flags as /proc/cpuinfo writes them.
_LEVELS = (
    ("v2", ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")),
    ("v3", ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")),
    ("v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
)


class Platform(Struct, frozen=True, kw_only=True):
    """The platform of an image. Prints as "linux/arm64/v8"."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def normal_platform(os: str, architecture: str, variant: str) -> Platform:
    """Return a platform in Go's words, however an image spells it; the default system is linux."""
    architecture, _, tail = architecture.strip().lower().partition("/")
    architecture, usual = _ALIASES.get(architecture, (architecture, ""))
    variant = (variant or tail).strip().lower() or usual
    if variant[:1].isdigit():
        variant = f"v{variant}"
    system = os.strip().lower() or ("linux" if architecture else "")
    return Platform(os=system, architecture=architecture, variant=variant)


def host_platform() -> Platform:
    """Return this machine's platform, with the highest x86-64 level of its processor."""
    found = normal_platform("linux", host.machine(), "")
    return replace(found, variant=_amd64_level()) if found.architecture == "amd64" else found


def parse_platform(text: str) -> Platform:
    """Read "linux/arm64/v8", as agent.toml writes it; Stalled if it has another form."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise Stalled(f"platform {text!r} is not of the form os/architecture/variant")
    return normal_platform(parts[0], parts[1], "".join(parts[2:]))


def runs_on(wanted: Platform, found: Platform) -> bool:
    """Return whether an image for `found` runs on `wanted`: same system, same or a lower variant."""
    same = (found.os, found.architecture) == (wanted.os, wanted.architecture)
    return same and _rank(found) <= _rank(wanted)


def best(wanted: Platform, offered: Iterable[Platform]) -> Platform | None:
    """Return the first with the highest variant of the platforms that run here."""
    return max((platform for platform in offered if runs_on(wanted, platform)), key=_rank, default=None)


def _rank(platform: Platform) -> int:
    variant = platform.variant or _DEFAULT_VARIANT.get(platform.architecture, "")
    number = re.match(r"v?([0-9]{1,3})", variant)
    return int(number[1]) if number else 0


def _amd64_level() -> str:
    with Path("/proc/cpuinfo").open() as file:
        line = next((line for line in file if line.startswith("flags")), "")
    reached = itertools.takewhile(lambda level: set(line.split()).issuperset(level[1]), _LEVELS)
    return ["v1", *(name for name, _ in reached)][-1]
