"""Questions about the programs that the agent calls, and their versions."""

from __future__ import annotations

import re
import shutil

from tank_agent.doctor import Check, fail, note, ok, warn
from tank_agent.errors import Retry, Stalled
from tank_agent.linux.process import ENVIRONMENT, run

_TIMEOUT = 5.0
# Debian 13 has none of these versions, so nothing is wrong with a machine that is as it should be.
_NEWER = "nothing to do: Debian mends its own version by security updates, which `apt upgrade` brings"

# Without these no container runs: the first good version, and what is wrong with older ones.
_CRUN = (
    "older ones trust links in an image's /dev, which the agent hides, and open descriptors, which it has not"
)
_CONMON = "with older ones, a terminal that stops reading can stall the container that it is attached to"
NEEDED = {"crun": ((1, 28), _CRUN), "conmon": ((2, 2, 1), _CONMON)}
# The programs that check signatures, and the packages that they come in.
_SIGNATURE_TOOLS = {"gpgv": "gpgv", "ssh-keygen": "openssh-client"}


def output_of(*argv: str) -> str | None:
    """Return what a program prints; None if it is not installed, or does not work."""
    try:
        done = run(argv, timeout=_TIMEOUT)
    except (Stalled, Retry):
        return None
    return done.stdout if done.code == 0 else None


def needed_tool(name: str, output: str | None, floor: tuple[int, ...], reason: str) -> Check:
    """Say whether a program without which no container runs is there, and new enough."""
    if output is None:
        return fail(name, "not installed, or it does not run", f"apt install {name}")
    match = re.search(r"\d+(?:\.\d+)+", output)
    wanted = ".".join(map(str, floor))
    if match is None:
        return warn(name, f"of an unknown version: {output[:60]!r}", f"use version {wanted} or newer")
    found = f"version {match[0]}"
    if tuple(map(int, match[0].split("."))) < floor:
        return note(name, f"{found}, which works; {reason}", _NEWER)
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


def signatures() -> Check:
    """Say whether the programs that check signatures are there, for those who have `[git.verify]`."""
    missing = [name for name in _SIGNATURE_TOOLS if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    if missing:
        packages = " ".join(_SIGNATURE_TOOLS[name] for name in missing)
        found = f"{' and '.join(missing)} not installed"
        return warn("signatures", found, f"apt install {packages}, for [git.verify]")
    return ok("signatures", " and ".join(_SIGNATURE_TOOLS))
