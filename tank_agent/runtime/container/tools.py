"""What runs are made with, and removed by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct

from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.launch import Seccomp
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.spec.model import Security


class Tools(Struct, frozen=True, kw_only=True):
    """What runs are made with."""

    crun: Crun
    conmon: str
    cgroups: CgroupHost
    root_filesystems: RootFilesystems
    volumes: Volumes
    seccomp: Callable[[Security], Seccomp]
    learn_seccomp: Callable[[dict[str, Any], Path], object]
    apparmor: Callable[[Security], str | None]
