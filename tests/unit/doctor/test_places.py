"""The directories and the uplink: good and bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.doctor import places
from tests.unit.doctor import assert_bad

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
