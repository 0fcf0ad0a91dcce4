"""The kernel: every question with a good and a bad one, and tried here."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from tank_agent.doctor import kernel
from tank_agent.doctor.kernel import control_groups
from tank_agent.linux.namespaces import leave_network
from tank_agent.linux.wakeups import open_inotify
from tests.unit.doctor import assert_bad


@pytest.mark.parametrize(
    ("release", "result"),
    [("6.12.5-amd64", "ok"), ("5.19.0", "ok"), ("5.15.0-generic", "warn"), ("4.19", "fail"), ("odd", "fail")],
)
def test_kernel_versions(release: str, result: str) -> None:
    assert kernel.kernel_version(release).result == result


def test_kernel_features() -> None:
    assert kernel.root(0).result == "ok"
    assert_bad(kernel.root(1000), "fail", "user 1000")
    assert kernel.overlay("nodev\toverlay\n", None).result == "ok"
    assert_bad(kernel.overlay("nodev\tproc\n", "No such device"), "fail", "not in this kernel")
    assert_bad(kernel.overlay("nodev\toverlay\n", "Operation not permitted"), "fail", "not permitted")
    assert_bad(kernel.network_namespaces("No space left on device"), "fail", "No space")
    assert_bad(kernel.macvlan("Operation not supported"), "warn", "not supported")
    assert kernel.seccomp("Name:\tx\nSeccomp:\t0\n").result == "ok"
    assert_bad(kernel.seccomp("Name:\tx\n"), "fail", "not in this kernel")
    assert kernel.user_namespaces("100\n").result == "ok"
    assert_bad(kernel.user_namespaces("0\n"), "warn", "switched off")
    assert_bad(kernel.user_namespaces(None), "warn", "not in this kernel")
    assert kernel.apparmor(lambda: None).result == "ok"
    assert kernel.apparmor(lambda: {"tank-default": "enforce"}).found == "on; tank-default is loaded"
    assert_bad(kernel.apparmor(lambda: {"other": "enforce"}), "warn", "containers run without a profile")
    assert_bad(kernel.apparmor(lambda: {"tank-default": "complain"}), "warn", "it stops nothing")
    refused = Mock(side_effect=PermissionError(13, "Permission denied"))
    assert_bad(kernel.apparmor(refused), "warn", "can't be read")
    assert kernel.inotify("128\n", "65536\n").result == "ok"
    assert_bad(kernel.inotify("8\n", "65536\n"), "warn", "8 instances")
    assert_bad(kernel.inotify("128\n", "65536\n", "Too many open files"), "warn", "none is left")
    assert kernel.tried(lambda: os.close(open_inotify())) is None


@pytest.mark.machine
def test_the_kernel_is_tried_without_leaving_anything() -> None:
    before = Path("/proc/self/ns/net").readlink()
    assert kernel.try_overlay() is None
    assert kernel.tried(leave_network) is None
    assert kernel.try_macvlan() is None
    assert Path("/proc/self/ns/net").readlink() == before
    assert "tank-doctor" not in Path("/proc/self/mountinfo").read_text(errors="replace")


@pytest.mark.machine
def test_a_kind_of_link_that_no_kernel_has_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = kernel._add_link
    monkeypatch.setattr(kernel, "_add_link", lambda kind, parent: asked("no-such-kind", parent))
    assert kernel.try_macvlan() == "Operation not supported"


def make_hierarchies(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir()
        (root / name / "cgroup.procs").touch()


def test_control_groups_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    check = control_groups(tmp_path)
    assert (check.result, check.found) == ("ok", "v2 with cpu, cpuset, io, memory, pids")
    (tmp_path / "cgroup.controllers").write_text("cpu pids\n")
    assert_bad(control_groups(tmp_path), "warn", "without memory")
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    group = tmp_path / "system.slice"
    group.mkdir()
    (group / "memory.current").touch()
    found = control_groups(tmp_path)
    assert found.result == "ok"
    assert "without cpuset: no pod can have `cpus` and limits of swap" in found.found
    (group / "memory.swap.max").touch()
    assert "swap" not in control_groups(tmp_path).found


def test_control_groups_v1_and_hybrid(tmp_path: Path) -> None:
    assert_bad(control_groups(tmp_path), "fail", "none at")
    make_hierarchies(tmp_path, "cpu", "memory", "pids", "devices", "freezer")
    assert control_groups(tmp_path).found.startswith("v1 with cpu, devices, freezer, memory, pids; without")
    make_hierarchies(tmp_path, "cpuset")
    (tmp_path / "memory" / "memory.memsw.limit_in_bytes").touch()
    assert control_groups(tmp_path).found == "v1 with cpu, cpuset, devices, freezer, memory, pids"
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").touch()
    assert control_groups(tmp_path).result == "ok"
    assert control_groups(tmp_path).found.startswith("hybrid with")
    (tmp_path / "pids" / "cgroup.procs").unlink()
    assert_bad(control_groups(tmp_path), "fail", "without pids")
