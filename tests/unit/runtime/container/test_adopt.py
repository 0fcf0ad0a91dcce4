"""Which process is a container's, as the kernel tells."""

from __future__ import annotations

import os
from pathlib import Path

from tank_agent.runtime.container.adopt import _open_member
from tank_agent.runtime.limits.cgroup import CgroupHost


def test_a_process_is_a_member_though_the_agent_sees_only_part_of_the_groups(tmp_path: Path) -> None:
    """As in a container: what a process says of itself begins above of what is mounted at /sys/fs/cgroup."""
    cgroups = CgroupHost(mode="unified", hierarchies=(tmp_path,), base="/tank")
    group = cgroups.path("web", "web-app-1")
    (tmp_path / group.lstrip("/")).mkdir(parents=True)
    procs = tmp_path / group.lstrip("/") / "cgroup.procs"
    procs.write_text(f"{os.getpid()}\n")
    process = _open_member(os.getpid(), group, cgroups)
    assert process is not None
    os.close(process)
    procs.write_text("1\n")
    assert _open_member(os.getpid(), group, cgroups) is None
