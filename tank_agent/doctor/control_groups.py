"""Which control groups there are, and whether the limits of pods can work with them (cgroups(7))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from tank_agent.doctor.check import Check, fail, ok, warn

ROOT = Path("/sys/fs/cgroup")
# What `[containers.limits]` is made of.
_LIMITS = ("cpu", "memory", "pids")
# crun needs these as well where controllers are separate hierarchies.
_SPLIT = ("devices", "freezer")
_ENABLE_MEMORY = "boot with the kernel option cgroup_enable=memory"


def control_groups(root: Path = ROOT) -> Check:
    """Say whether the host is v2, hybrid or v1, with which controllers, and whether they can be written."""
    name = "control groups"
    unified = root / "cgroup.controllers"
    if unified.exists():
        kind, there = "v2", set(unified.read_text().split())
        missing = [controller for controller in _LIMITS if controller not in there]
        writable = _writable(root)
    else:
        there = set(_controllers(root))
        if not there:
            return fail(
                name, f"none at {root}", "mount them: `mount -t cgroup2 none /sys/fs/cgroup`, or use systemd"
            )
        kind = "hybrid" if (root / "unified" / "cgroup.controllers").exists() else "v1"
        missing = [controller for controller in (*_LIMITS, *_SPLIT) if controller not in there]
        writable = all(_writable(root / controller) for controller in there)
    found = f"{kind} with {', '.join(sorted(there))}"
    if not writable:
        return fail(
            name, f"{found}; read-only", "remount /sys/fs/cgroup writable; a container needs to be privileged"
        )
    if missing:
        fix = (
            _ENABLE_MEMORY
            if "memory" in missing
            else "enable them in the kernel, or delegate them to this group"
        )
        result = warn if kind == "v2" else fail
        return result(name, f"{found}; without {', '.join(missing)}", fix)
    return ok(name, found)


def _controllers(root: Path) -> Iterator[str]:
    """Yield the v1 controllers; a hierarchy of several is one directory with links, or one per controller."""
    for controller in ("blkio", "cpu", "cpuacct", "cpuset", *_SPLIT, "memory", "pids"):
        # An empty directory is a mount point with nothing on it.
        if (root / controller / "cgroup.procs").exists():
            yield controller


def _writable(directory: Path) -> bool:
    return not os.statvfs(directory).f_flag & os.ST_RDONLY
