"""Limits in the files of both kinds of hosts, as far as plain files can stand for a cgroup's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.limits import limits
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.limits.limits import Usage
from tank_agent.spec.model import CpuLimit, Limits

GROUP = "/tank/web/run"
ALL = Limits(memory=64 << 20, pids=10, cpu=CpuLimit(quota=50_000))


@pytest.fixture
def unified(tmp_path: Path) -> CgroupHost:
    group = tmp_path / GROUP.lstrip("/")
    group.mkdir(parents=True)
    for name, content in {
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.current": "4096",
        "pids.max": "max",
        "pids.current": "3",
        "cpu.max": "max 100000",
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000",
    }.items():
        (group / name).write_text(f"{content}\n")
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return CgroupHost(mode="unified", hierarchies=(tmp_path,), base="/tank")


@pytest.fixture
def split(tmp_path: Path) -> CgroupHost:
    files = {
        "memory": {"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "8192"},
        "pids": {"pids.max": "max", "pids.current": "2"},
        "cpu,cpuacct": {
            "cpu.cfs_quota_us": "-1",
            "cpu.cfs_period_us": "100000",
            "cpuacct.usage": "2500000000",
        },
    }
    for controller, contents in files.items():
        group = tmp_path / controller / GROUP.lstrip("/")
        group.mkdir(parents=True)
        for name, content in contents.items():
            (group / name).write_text(f"{content}\n")
    return CgroupHost(mode="split", hierarchies=tuple(tmp_path / name for name in files), base="/tank")


def content(host: CgroupHost, name: str) -> str:
    (file,) = [path for top in host.hierarchies for path in top.glob(f"tank/web/run/{name}")]
    return file.read_text().strip()


def test_cgroup_v2(unified: CgroupHost) -> None:
    assert limits.lost(unified, GROUP, Limits()) == "the limit of processes is max instead of 2048"
    assert "memory" in str(limits.lost(unified, GROUP, ALL))
    limits.write(unified, GROUP, ALL)
    names = ("memory.max", "memory.swap.max", "pids.max", "cpu.max")
    assert [content(unified, name) for name in names] == [str(64 << 20), "0", "10", "50000 100000"]
    assert limits.lost(unified, GROUP, ALL) is None
    limits.write(unified, GROUP, Limits())
    assert [content(unified, name) for name in names] == ["max", "max", "2048", "max 100000"]
    assert limits.lost(unified, GROUP, Limits()) is None
    assert limits.usage(unified, GROUP) == Usage(memory=4096, cpu=1.5, pids=3)


def test_cgroup_v1_without_swap_accounting(split: CgroupHost) -> None:
    assert limits.lost(split, GROUP, Limits()) == "the limit of processes is max instead of 2048"
    limits.write(split, GROUP, ALL)
    names = ("memory.limit_in_bytes", "pids.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    assert [content(split, name) for name in names] == [str(64 << 20), "10", "50000", "100000"]
    assert limits.lost(split, GROUP, ALL) is None
    assert limits.lost(split, GROUP, Limits(pids=11)) is not None
    limits.write(split, GROUP, Limits())
    assert [content(split, name) for name in names[:3]] == ["-1", "2048", "-1"]
    assert limits.lost(split, GROUP, Limits()) is None
    assert limits.usage(split, GROUP) == Usage(memory=8192, cpu=2.5, pids=2)
    assert not limits.has_swap_limit(split)


def test_the_kernel_rounds_memory_down_to_pages(unified: CgroupHost) -> None:
    odd = Limits(memory=(64 << 20) + 5)
    assert limits.lost(unified, GROUP, odd) is not None
    (unified.hierarchies[0] / GROUP.lstrip("/") / "memory.max").write_text(str(64 << 20))
    (unified.hierarchies[0] / GROUP.lstrip("/") / "memory.swap.max").write_text("0")
    (unified.hierarchies[0] / GROUP.lstrip("/") / "pids.max").write_text("2048")
    assert limits.lost(unified, GROUP, odd) is None


def test_a_controller_that_is_missing(split: CgroupHost) -> None:
    without = CgroupHost(mode="split", hierarchies=split.hierarchies[:1], base="/tank")
    limits.write(without, GROUP, Limits(memory=64 << 20))
    assert limits.effective(without, Limits()) == Limits()
    with pytest.raises(Stalled, match="processes"):
        limits.write(without, GROUP, ALL)
    assert limits.lost(without, GROUP, ALL) is None


def test_a_missing_controller_that_nothing_asks_for_is_no_reason_to_fail(unified: CgroupHost) -> None:
    group = unified.hierarchies[0] / GROUP.lstrip("/")
    names = ("cpu.max", "pids.max", "memory.max", "memory.swap.max")
    for name in names:
        (group / name).unlink()
    limits.write(unified, GROUP, Limits())
    assert not any((group / name).exists() for name in names)
    with pytest.raises(Stalled, match="CPU"):
        limits.write(unified, GROUP, Limits(cpu=CpuLimit(quota=50_000)))


def test_a_group_that_is_gone_uses_nothing(unified: CgroupHost, split: CgroupHost) -> None:
    assert limits.usage(unified, "/tank/web/other") is None
    assert limits.usage(split, "/tank/web/other") is None
