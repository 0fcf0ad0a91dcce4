"""The kind of a cgroup host and the agent's groups, on directory trees that look like each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from tank_agent.runtime.limits.cgroup import CgroupHost, detect

RUN = Path("/run/tank")


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    return root


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "own"
    file.write_text(text)
    return file


def test_unified(tmp_path: Path) -> None:
    root = make(tmp_path / "cg", "cgroup.controllers")
    host = detect(RUN, root=root, own=own(tmp_path, "0::/user.slice/session-1.scope\n"))
    assert (host.mode, host.hierarchies, host.base) == ("unified", (root,), "/tank")
    assert host.path("web", "web-app-1") == "/tank/web/web-app-1"


@pytest.mark.parametrize(
    "own_group",
    [
        "/tank.slice/tank-agent.service",
        "/tank.slice/tank-pods.service/.control",
        "/tank.slice/tank-pods.service",
    ],
)
def test_what_the_package_runs_uses_the_group_of_the_pods_unit(tmp_path: Path, own_group: str) -> None:
    root = make(tmp_path / "cg", "cgroup.controllers", "tank.slice/tank-pods.service/")
    host = detect(RUN, root=root, own=own(tmp_path, f"0::{own_group}\n"))
    assert host.base == "/tank.slice/tank-pods.service/tank"
    assert host.monitors == "/tank.slice/tank-pods.service/tank-monitors"


def test_without_the_pods_unit_the_group_is_at_the_top(tmp_path: Path) -> None:
    root = make(tmp_path / "cg", "cgroup.controllers", "system.slice/tank-agent.service/")
    host = detect(RUN, root=root, own=own(tmp_path, "0::/system.slice/tank-agent.service\n"))
    assert (host.base, host.monitors) == ("/tank", None)
    host.place_monitor(1)


def test_a_monitor_is_moved_to_the_group_of_monitors(tmp_path: Path) -> None:
    root = make(tmp_path / "cg", "tank-pods.service/tank-monitors/cgroup.procs")
    host = CgroupHost(
        mode="unified",
        hierarchies=(root,),
        base="/tank-pods.service/tank",
        monitors="/tank-pods.service/tank-monitors",
    )
    host.place_monitor(4711)
    assert (root / "tank-pods.service/tank-monitors/cgroup.procs").read_text() == "4711"


def test_hybrid_uses_the_v1_controllers_only(tmp_path: Path) -> None:
    root = make(tmp_path / "cg", "memory/", "cpu/", "systemd/", "unified/cgroup.controllers")
    (root / "cpuacct").symlink_to("cpu")
    host = detect(RUN, root=root, own=own(tmp_path, "4:memory:/x\n0::/\n"))
    assert host.mode == "split"
    assert host.hierarchies == (root / "cpu", root / "memory", root / "systemd")


def test_each_run_dir_has_a_group_of_its_own(tmp_path: Path) -> None:
    root = make(tmp_path / "cg", "cgroup.controllers")
    group = own(tmp_path, "0::/\n")
    bases = {detect(Path(run), root=root, own=group).base for run in ("/run/tank", "/run/other", "/srv/run")}
    assert len(bases) == 3
    assert "/tank" in bases


def test_sweep_removes_what_is_not_kept_in_every_hierarchy(tmp_path: Path) -> None:
    hierarchies = tuple(tmp_path / name for name in ("memory", "pids"))
    host = CgroupHost(mode="split", hierarchies=hierarchies, base="/tank")
    for hierarchy in hierarchies:
        make(hierarchy, "tank/web/web-1/", "tank/web/web-2/sub/", "tank/db/db-1/", "tank/empty/", "other/x/")
    assert host.sweep({"/tank/web/web-1"}) == ()
    left = sorted(str(path.relative_to(hierarchies[1])) for path in hierarchies[1].rglob("*"))
    assert left == ["other", "other/x", "tank", "tank/web", "tank/web/web-1"]
    assert [path.name for path in (hierarchies[0] / "tank").rglob("*")] == ["web", "web-1"]


def test_thawing_reaches_the_groups_below(tmp_path: Path) -> None:
    for mode, name, value in (("split", "freezer.state", "THAWED"), ("unified", "cgroup.freeze", "0")):
        root = make(tmp_path / mode, f"tank/web/web-1/{name}", f"tank/web/web-1/sub/{name}", f"tank/{name}")
        host = CgroupHost(mode=mode, hierarchies=(root,), base="/tank")  # type: ignore[arg-type]
        host.thaw("/tank/web/web-1")
        found = {str(file.relative_to(root / "tank")): file.read_text() for file in root.rglob(name)}
        assert found == {f"web/web-1/{name}": value, f"web/web-1/sub/{name}": value, name: ""}
        host.thaw("/tank/gone/web-2")


@pytest.mark.parametrize(
    ("mode", "name", "content", "frozen"),
    [
        ("split", "freezer.state", "THAWED\n", False),
        ("split", "freezer.state", "FREEZING\n", True),
        ("split", "freezer.state", "FROZEN\n", True),
        ("unified", "cgroup.events", "populated 1\nfrozen 0\n", False),
        ("unified", "cgroup.events", "populated 1\nfrozen 1\n", True),
    ],
)
def test_a_frozen_group(
    tmp_path: Path, mode: Literal["split", "unified"], name: str, content: str, *, frozen: bool
) -> None:
    other, root = tmp_path / "cpu", make(tmp_path / "freezer", f"tank/web/web-1/{name}")
    (root / "tank/web/web-1" / name).write_text(content)
    hierarchies = (other, root) if mode == "split" else (root,)
    host = CgroupHost(mode=mode, hierarchies=hierarchies, base="/tank")
    assert host.frozen("/tank/web/web-1") is frozen
    assert not host.frozen("/tank/gone/web-2")


def test_the_processes_of_one_hierarchy(tmp_path: Path) -> None:
    root = make(tmp_path / "cpu", "tank/web/web-1/cgroup.procs", "tank/web/web-1/sub/cgroup.procs")
    (root / "tank/web/web-1/cgroup.procs").write_text("1\n2\n")
    (root / "tank/web/web-1/sub/cgroup.procs").write_text("3\n")
    host = CgroupHost(mode="split", hierarchies=(root, tmp_path / "pids"), base="/tank")
    assert host.processes_of_one("/tank/web/web-1") == {1, 2, 3}
    assert host.processes_of_one("/tank/gone/web-2") == frozenset()
