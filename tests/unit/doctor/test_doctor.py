"""The doctor: every question with a good and a bad machine, and the verb on this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tank_agent.doctor import kernel, places, tools
from tank_agent.doctor.check import Check
from tank_agent.doctor.examine import examine
from tank_agent.doctor.kernel import control_groups
from tests.support.fake_service import FakeService, serving

TANK = Path(sys.executable).with_name("tank")

ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wlan0\t00000000\t010200C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
ZERO = "0" * 32
ROUTES6 = f"""\
fe800000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 00000002 00000000 00000001     eth0
{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth1
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 00000001 00000000 00200200       lo
"""
MOUNTS = """22 1 8:1 / / rw - ext4 /dev/sda1 rw
23 22 0:5 / /run rw - tmpfs tmpfs rw
24 22 0:6 / /var/lib/my\\040data rw - nfs4 host:/x rw
25 23 0:7 / /run/over rw - overlay overlay rw
"""


def assert_bad(check: Check, result: str, found: str) -> None:
    assert check.result == result
    assert found in check.found
    assert check.fix


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
    assert kernel.apparmor(None).result == "ok"
    assert kernel.apparmor({"tank-default": "enforce"}).found == "on; tank-default is loaded"
    assert_bad(kernel.apparmor({"other": "enforce"}), "warn", "containers run without a profile")
    assert_bad(kernel.apparmor({"tank-default": "complain"}), "warn", "it stops nothing")
    assert_bad(kernel.apparmor(PermissionError(13, "Permission denied")), "warn", "can't be read")
    assert kernel.inotify("128\n", "65536\n").result == "ok"
    assert_bad(kernel.inotify("8\n", "65536\n"), "warn", "8 instances")
    assert_bad(kernel.inotify("128\n", "65536\n", "Too many open files"), "warn", "none is left")
    assert kernel.try_inotify() is None


def test_the_kernel_is_tried_without_leaving_anything() -> None:
    before = Path("/proc/self/ns/net").readlink()
    assert kernel.try_overlay() is None
    assert kernel.try_network_namespace() is None
    assert kernel.try_macvlan() is None
    assert Path("/proc/self/ns/net").readlink() == before
    assert "tank-doctor" not in Path("/proc/self/mountinfo").read_text()


def test_a_kind_of_link_that_no_kernel_has_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = kernel._new_link
    monkeypatch.setattr(kernel, "_new_link", lambda kind, parent: asked("no-such-kind", parent))
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


def test_control_groups_v1_and_hybrid(tmp_path: Path) -> None:
    assert_bad(control_groups(tmp_path), "fail", "none at")
    make_hierarchies(tmp_path, "cpu", "memory", "pids", "devices", "freezer")
    assert control_groups(tmp_path).found == "v1 with cpu, devices, freezer, memory, pids"
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").touch()
    assert control_groups(tmp_path).result == "ok"
    assert control_groups(tmp_path).found.startswith("hybrid with")
    (tmp_path / "pids" / "cgroup.procs").unlink()
    assert_bad(control_groups(tmp_path), "fail", "without pids")


@pytest.mark.parametrize(
    ("output", "result", "found"),
    [
        ("crun version 1.28\ncommit: 1.2\n", "ok", "version 1.28"),
        ("crun version 1.28.1", "ok", "version 1.28.1"),
        ("crun version 1.8.1", "warn", "older than 1.28: it is bad"),
        ("crun from git", "warn", "unknown version"),
        (None, "fail", "not installed"),
    ],
)
def test_a_needed_tool(output: str | None, result: str, found: str) -> None:
    check = tools.needed_tool("crun", output, (1, 28), "it is bad")
    assert check.result == result
    assert found in check.found
    assert (check.fix == "apt install crun") is (output is None)


def test_other_tools() -> None:
    assert tools.tar("tar (GNU tar) 1.34\nCopyright").found == "tar (GNU tar) 1.34"
    assert_bad(tools.tar("tar (busybox) 1.35\n"), "fail", "not GNU tar")
    assert_bad(tools.tar(None), "fail", "not installed")
    assert tools.git("git version 2.47\n").result == "ok"
    assert_bad(tools.git(None), "warn", "not installed")
    assert tools.output_of("no-such-program-anywhere") is None
    assert tools.output_of("false") is None
    assert tools.output_of("echo", "x") == "x\n"


def test_the_uplink_is_the_best_default_route() -> None:
    assert places.uplink(ROUTES, ROUTES6).found == "eth0, wlan0, eth1"
    assert places.uplink("Iface\n", ROUTES6).found == "eth1"
    assert_bad(places.uplink("", ""), "warn", "no default route")


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/run", "tmpfs"),
        ("/run/tank", "tmpfs"),
        ("/runner", "ext4"),
        ("/run/over/x", "overlay"),
        ("/var/lib/my data/x", "nfs4"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert places.file_system(MOUNTS, Path(path)) == kind


def test_directories(tmp_path: Path) -> None:
    root = "1 0 8:1 / / rw - {} x rw\n"
    assert places.data_dir(tmp_path / "not" / "yet", root.format("ext4")).result in ("ok", "warn")
    assert_bad(places.data_dir(tmp_path, root.format("overlay")), "fail", "can't write there")
    assert_bad(places.data_dir(tmp_path, root.format("fuse.sshfs")), "fail", "can't write there")
    assert_bad(places.data_dir(tmp_path, "1 0 8:1 / /proc rw - proc x rw\n"), "fail", "not a mount point")
    assert places.run_dir(tmp_path, root.format("tmpfs")).result == "ok"
    assert_bad(places.run_dir(tmp_path, root.format("ext4")), "warn", "outlives a reboot")
    assert_bad(places.pods_dir(tmp_path / "none"), "warn", "is not there")
    (tmp_path / "web.toml").touch()
    assert places.pods_dir(tmp_path).found.endswith("with 1 pod file")
    assert_bad(places.pods_dir(tmp_path / "web.toml"), "fail", "can't be read")


def test_little_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, result in ((50 << 20, "fail"), (1 << 30, "warn"), (5 << 30, "ok")):
        monkeypatch.setattr(places, "_free", lambda path, free=free: free)
        assert places.data_dir(tmp_path, "1 0 8:1 / / rw - ext4 x rw\n").result == result


def test_everything_is_asked_once(tmp_path: Path) -> None:
    names = [check.name for check in examine(tmp_path, tmp_path, tmp_path)]
    assert len(names) == len(set(names)) == 20


def run_doctor(*argv: str, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [TANK, "doctor", *argv],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_verb(tmp_path: Path) -> None:
    arguments = [f"--{kind}-dir={tmp_path / kind}" for kind in ("data", "run", "pods")]
    with serving(FakeService(), tmp_path / "run" / "tank.sock"):
        code, stdout = run_doctor(*arguments)
    assert code == 0, stdout
    assert "ok    agent               version 0.1.0, pid 17" in stdout.splitlines()
    code, stdout = run_doctor(*arguments, "-o", "json")
    checks = json.loads(stdout)
    assert code == 0
    assert {tuple(check) for check in checks} == {("name", "result", "found", "fix")}
    assert checks[-1]["result"] == "warn"
    assert "not running" in checks[-1]["found"]


def test_the_verb_fails_with_a_failed_check(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text("data_dri = 1\n")
    code, stdout = run_doctor("--config", str(config), TANK_SOCKET=str(tmp_path / "none"))
    assert code == 1
    assert "fail  configuration" in stdout
    assert "data_dri" in stdout


def test_what_cannot_be_deleted_is_told_with_its_reason(tmp_path: Path) -> None:
    assert places.deleted_files(tmp_path / "not" / "yet").result == "ok"
    trash = tmp_path / "trash"
    for name in ("a", "b", "c", "d"):
        (trash / name).mkdir(parents=True)
    assert places.deleted_files(tmp_path).result == "ok"
    for name in ("a", "b", "c", "gone"):
        (trash / f"{name}.why").write_text(f"Operation not permitted: {trash}/{name}/file")
    (tmp_path / "volumes" / "web" / ".data.0123.gone").mkdir(parents=True)
    check = places.deleted_files(tmp_path)
    assert_bad(check, "warn", f"{trash}/a/file")
    assert "and 1 more" in check.found
    assert "gone/file" not in check.found
