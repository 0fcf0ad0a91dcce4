"""Limits in the files of both kinds of hosts, as far as plain files can stand for a cgroup's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.limits import limits
from tank_agent.runtime.limits.cgroup import CgroupHost
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


POSSIBLE = Path("/sys/devices/system/cpu/possible").read_text().strip()
RARE = Limits(memory=64 << 20, memory_reservation=32 << 20, swap=8 << 20, cpu_weight=50, cpus="0")


def add(host: CgroupHost, controller: str, **files: str) -> None:
    top = host.hierarchies[0] if host.mode == "unified" else host.hierarchies[0].parent / controller
    for group in (GROUP, "/tank/web"):
        (top / group.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (top / group.lstrip("/") / name.replace("__", ".")).write_text(f"{text}\n")


def test_further_limits_of_v2_and_the_groups_above(unified: CgroupHost) -> None:
    files = {"memory__low": "0", "cpu__weight": "100", "cpuset__cpus": ""}
    add(unified, "", **files)
    (unified.hierarchies[0] / "tank/memory.low").write_text("0\n")
    limits.write(unified, GROUP, RARE)
    names = ("memory.swap.max", "memory.low", "cpu.weight", "cpuset.cpus")
    assert [content(unified, name) for name in names] == [str(8 << 20), str(32 << 20), "50", "0"]
    # A group's reservation counts as far as those above it have one.
    for above in ("tank/web", "tank"):
        assert (unified.hierarchies[0] / above / "memory.low").read_text() == str(32 << 20)
    assert limits.lost(unified, GROUP, RARE) is None
    (unified.hierarchies[0] / "tank/memory.low").write_text("0")
    assert "above" in str(limits.lost(unified, GROUP, RARE))
    limits.write(unified, GROUP, Limits(), RARE)
    assert [content(unified, name) for name in names] == ["max", "0", "100", POSSIBLE]
    assert (unified.hierarchies[0] / "tank/memory.low").read_text() == "0"


def test_a_lost_one_of_them_is_found(unified: CgroupHost) -> None:
    add(unified, "", memory__low="0", cpu__weight="100", cpuset__cpus="0-1", pids__max="2048")
    assert (
        limits.lost(unified, GROUP, Limits(cpu_weight=50)) == "the limit of cpu_weight is 100 instead of 50"
    )
    assert limits.lost(unified, GROUP, Limits(cpus="0")) == "the limit of cpus is 0-1 instead of 0"
    (unified.hierarchies[0] / GROUP.lstrip("/") / "cpuset.cpus").write_text("")
    assert limits.lost(unified, GROUP, Limits(cpus="0")) == "the limit of cpus is none instead of 0"
    # The kernel writes a list in its own way.
    (unified.hierarchies[0] / GROUP.lstrip("/") / "cpuset.cpus").write_text("0-1\n")
    assert limits.lost(unified, GROUP, Limits(cpus="1,0")) is None
    # Nothing is looked at that was not asked for.
    assert limits.lost(unified, GROUP, Limits(memory=None)) is None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Limits(cpu_weight=50), "cpu_weight: this machine has no cgroup controller"),
        (Limits(cpus="0"), "cpus: this machine has no cgroup controller"),
        (Limits(memory_reservation=5 << 20), "memory_reservation: this machine has no"),
        (Limits(cpus="0,9999"), "there is no CPU 9999"),
    ],
)
def test_what_this_machine_lacks_is_said(unified: CgroupHost, wanted: Limits, words: str) -> None:
    with pytest.raises(Stalled, match=words):
        limits.write(unified, GROUP, wanted)


def test_swap_that_is_not_counted_is_said_only_where_it_is_asked_for(
    unified: CgroupHost, split: CgroupHost
) -> None:
    (unified.hierarchies[0] / GROUP.lstrip("/") / "memory.swap.max").unlink()
    for host in (unified, split):
        limits.write(host, GROUP, Limits(memory=64 << 20))
        with pytest.raises(Stalled, match="does not count it"):
            limits.write(host, GROUP, Limits(memory=64 << 20, swap=0))
    with pytest.raises(Stalled, match="only together with memory"):
        limits.write(split, GROUP, Limits(swap=0))


def test_v1_has_shares_and_a_sum_of_memory_and_swap(split: CgroupHost) -> None:
    add(split, "memory", memory__memsw__limit_in_bytes="-1", memory__soft_limit_in_bytes="-1")
    add(split, "cpu,cpuacct", cpu__shares="1024")
    wanted = Limits(memory=64 << 20, memory_reservation=32 << 20, swap=8 << 20, cpu_weight=200)
    limits.write(split, GROUP, wanted)
    names = ("memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes", "cpu.shares")
    assert [content(split, name) for name in names] == [str(72 << 20), str(32 << 20), "2048"]
    limits.write(split, GROUP, Limits(), wanted)
    assert [content(split, name) for name in names] == ["-1", "-1", "1024"]


def test_a_weight_as_the_kernel_converts_it() -> None:
    assert [limits.cpu_shares(weight) for weight in (1, 2, 100, 150, 10_000)] == [10, 20, 1024, 1536, 102_400]


def test_lists_of_cpus() -> None:
    assert limits.cpu_numbers("0-2,5\n") == {0, 1, 2, 5}
    assert limits.cpu_numbers("") == frozenset()
