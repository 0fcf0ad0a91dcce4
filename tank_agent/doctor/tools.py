"""Questions about the programs that the agent calls, and their versions."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence

from tank_agent.doctor import Check, fail, ok, warn
from tank_agent.errors import Retry, Stalled
from tank_agent.linux.process import ENVIRONMENT, run

_TIMEOUT = 5.0
# Debian has no packages of this version yet, so this names what a user can do today.
_NEWER = "install a newer one where your distribution has it; until then the agent works around what is known"

# Without these no container runs: the version from which on one is good, and what is wrong with older ones.
NEEDED = {
    "crun": (
        (1, 28),
        "older ones follow an image's /dev links (CVE-2026-47766), and leak descriptors (CVE-2024-21626)",
    ),
    "conmon": (
        (2, 2, 1),
        "older ones stall a container whose attached terminal stops reading, and mishandle resizes",
    ),
}
# What checks signatures, and the package that it comes in.
SIGNATURE_TOOLS = {"gpgv": "gpgv", "ssh-keygen": "openssh-client"}


def output_of(*argv: str) -> str | None:
    """Return what a program prints; None if it is not installed, or does not work."""
    try:
        done = run(argv, timeout=_TIMEOUT)
    except (Stalled, Retry):
        return None
    return done.stdout if done.code == 0 else None


def version_of(output: str | None) -> tuple[int, ...] | None:
    """Return the first version number in a program's output: "crun version 1.8.1" → (1, 8, 1)."""
    match = re.search(r"\d+(?:\.\d+)+", output or "")
    return tuple(map(int, match[0].split("."))) if match else None


def needed_tool(name: str, output: str | None, floor: tuple[int, ...], reason: str) -> Check:
    """Say whether a program without which no container runs is there, and new enough."""
    if output is None:
        return fail(name, "not installed, or it does not run", f"apt install {name}")
    version = version_of(output)
    if version is None:
        return warn(name, f"of an unknown version: {output[:60]!r}", f"use version {_dotted(floor)} or newer")
    found = f"version {_dotted(version)}"
    if version < floor:
        return warn(name, f"{found}, older than {_dotted(floor)}: {reason}", _NEWER)
    return ok(name, found)


def tar(output: str | None) -> Check:
    """Say whether GNU tar is there, which unpacks image layers."""
    if output is None:
        return fail("tar", "not installed", "apt install tar")
    first = output.partition("\n")[0]
    if "GNU tar" not in first:
        return fail("tar", f"not GNU tar: {first[:60]}", "apt install tar, and have it first on the PATH")
    return ok("tar", first)


def git(output: str | None) -> Check:
    """Say whether git is there, which people use to push; the agent itself fetches without it."""
    if output is None:
        return warn("git", "not installed", "apt install git, if pods come from a repository on this machine")
    return ok("git", output.strip())


def signatures(missing: Sequence[str]) -> Check:
    """Say whether what checks the signatures of commits is there, for those who have `[git.verify]`."""
    if missing:
        packages = " ".join(SIGNATURE_TOOLS[name] for name in missing)
        found = f"{' and '.join(missing)} not installed"
        return warn("signatures", found, f"apt install {packages}, for [git.verify]")
    return ok("signatures", " and ".join(SIGNATURE_TOOLS))


def missing_of(names: Iterable[str]) -> tuple[str, ...]:
    """Return those programs that are not installed."""
    return tuple(name for name in names if shutil.which(name, path=ENVIRONMENT["PATH"]) is None)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
