"""Mounts are found, whatever users, who may mount with FUSE, call theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.doctor import kernel, places
from tank_agent.linux import mounts


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a\rb", "one"),
        ("none", "a\rb"),
        ("none", "ü b"),
        ("none", "\udcff c"),
        ("none", "\\040"),
        ("\udcff", "d"),
    ],
)
@pytest.mark.machine
def test_mounts_are_found_whatever_users_call_theirs(tmp_path: Path, source: str, name: str) -> None:
    point = tmp_path / name
    point.mkdir()

    mounts.mount(source, point, "tmpfs")
    try:
        mounts.mount(source, point, "ramfs")
        mount_info = kernel.read("/proc/self/mountinfo")
        found = mounts.mount_points(tmp_path)
    finally:
        mounts.unmount_all(point)
    assert mount_info is not None
    assert (found, places.file_system(mount_info, point)) == ({point}, "ramfs")
