"""What groups have used, by files as both kinds of hosts have them."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import cast

import msgspec
import pytest

from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.limits.measure import (
    KilledProcesses,
    Measured,
    OpenFiles,
    _highest_kept,
    killed,
    measure,
)
from tank_agent.runtime.run import LiveRun, RunRecord

GROUP = "/tank/web/run"
# As the kernel writes them (6.18 and 6.12), cut.
UNIFIED = {
    "": {
        "memory.current": "10485760",
        "memory.stat": "anon 4194304\nfile 6291456\ninactive_anon 4096\ninactive_file 2097152\nactive_file 4",
        "cpu.stat": "usage_usec 1500001\nuser_usec 1000000\nsystem_usec 500001",
        "pids.current": "3",
        "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 9",
    }
}
SPLIT = {
    "memory": {
        "memory.usage_in_bytes": "10485760",
        "memory.stat": "cache 1\ninactive_file 5\nactive_file 6\ntotal_cache 1\ntotal_inactive_file 2097152\n"
        "total_active_file 4",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1",
    },
    "cpu,cpuacct": {"cpuacct.usage": "1500001000"},
    "pids": {"pids.current": "3"},
}


def host_of(mode: str, root: Path) -> CgroupHost:
    for controller, files in (UNIFIED if mode == "unified" else SPLIT).items():
        group = root / controller / GROUP.lstrip("/")
        group.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (group / name).write_text(f"{text}\n")
    if mode == "unified":
        return CgroupHost(mode="unified", hierarchies=(root,), base="/tank")
    return CgroupHost(mode="split", hierarchies=tuple(root / name for name in SPLIT), base="/tank")


@pytest.fixture(params=["unified", "split"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> CgroupHost:
    return host_of(request.param, tmp_path)


def test_both_kinds_of_hosts_say_the_same(host: CgroupHost) -> None:
    found = measure(host, GROUP)
    assert found == Measured(memory=10 << 20, reclaimable=2 << 20, cpu=1.500001, threads=3)
    assert found.working_set == 8 << 20
    assert killed(host, GROUP) == 1


def test_a_group_that_is_gone_uses_nothing(host: CgroupHost) -> None:
    assert measure(host, "/tank/web/other") is None
    assert killed(host, "/tank/web/other") == 0


def test_a_host_without_some_controllers_says_what_it_can(tmp_path: Path) -> None:
    group = tmp_path / "pids" / GROUP.lstrip("/")
    group.mkdir(parents=True)
    (group / "pids.current").write_text("2\n")
    bare = CgroupHost(mode="split", hierarchies=(tmp_path / "pids",), base="/tank")
    assert measure(bare, GROUP) == Measured(threads=2)


def test_the_working_set_is_never_negative() -> None:
    # The kernel's two files are of two moments.
    assert Measured(memory=4096, reclaimable=8192).working_set == 0


def run(identifier: str, container: str = "app") -> LiveRun:
    record = msgspec.convert(
        {
            **{
                "id": identifier,
                "pod": "web",
                "container": container,
                "hash": "",
                "revision": "",
                "image": "",
            },
            **{"cgroup": f"/tank/web/{identifier}", "stop_signal": 15, "stop_grace": 1.0, "terminal": False},
            "created_at": 0.0,
        },
        RunRecord,
    )
    return LiveRun(record=record, directory=Path("/nowhere"))


def is_open(descriptor: int | None) -> bool:
    assert descriptor is not None
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_open_files_are_kept_by_their_run_and_closed_with_the_last_who_has_them(host: CgroupHost) -> None:
    live = run("run")
    found = OpenFiles.of(host, live)
    assert OpenFiles.of(host, live) is found
    numbers = [*found.descriptors]
    first = host.hierarchies[0] / GROUP.lstrip("/")
    (first / ("memory.current" if host.mode == "unified" else "memory.usage_in_bytes")).write_text("4096\n")
    assert cast(Measured, measure(host, GROUP, found)).memory == 4096
    # The run goes while a scrape reads.
    KilledProcesses(host).keep(live)
    assert live.files is None
    assert all(map(is_open, numbers))
    assert cast(Measured, measure(host, GROUP, found)).threads == 3
    del found
    assert not any(map(is_open, numbers))


def test_files_of_a_group_that_is_still_made_are_not_kept(host: CgroupHost) -> None:
    live = run("other")
    assert measure(host, live.record.cgroup, OpenFiles.of(host, live)) is None
    assert live.files is None


def test_an_agent_with_many_open_files_keeps_none(host: CgroupHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))
    _highest_kept.cache_clear()
    live = run("run")
    measured = measure(host, GROUP, OpenFiles.of(host, live))
    _highest_kept.cache_clear()
    assert (live.files, cast(Measured, measured).threads) == (None, 3)


def test_nothing_stays_open_that_nobody_asked_for_again(host: CgroupHost) -> None:
    before = {*Path("/proc/self/fd").iterdir()}
    for _ in range(3):
        measure(host, GROUP)
    assert {*Path("/proc/self/fd").iterdir()} == before


def test_killed_processes_are_counted_over_runs_and_each_once(tmp_path: Path) -> None:
    host = CgroupHost(mode="unified", hierarchies=(tmp_path,), base="/tank")

    def kernel(identifier: str, count: int) -> None:
        group = tmp_path / "tank/web" / identifier
        group.mkdir(parents=True, exist_ok=True)
        (group / "memory.events").write_text(f"oom_kill {count}\n")

    counts, first, second, other = KilledProcesses(host), run("a"), run("b"), run("c", "db")
    kernel("a", 2)
    counts.look(first)
    assert counts.of("web", [first]) == {"app": 2}
    # Its group goes with its removal, which may be done again after a failure.
    (tmp_path / "tank/web/a/memory.events").unlink()
    counts.look(first)
    counts.keep(first)
    kernel("b", 1)
    kernel("c", 0)
    for live in (second, other):
        counts.look(live)
    assert counts.of("web", [second, other]) == {"app": 3}
    assert counts.of("api", []) == {}
    counts.forget("web")
    assert counts.of("web", []) == {}
