from __future__ import annotations

import time
from pathlib import Path

from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.source.seed import read_seeds
from tests.unit.journal.builders import pod
from tests.unit.source.test_directory import text


def test_seeds_come_from_a_directory_and_from_the_agents_file(tmp_path: Path) -> None:
    (tmp_path / "db.toml").write_text(text("db"))
    (tmp_path / ".hidden.toml").write_text(text())
    snapshot = read_seeds(tmp_path, pods=(pod(),), config_file="/etc/tank/agent.toml")
    assert [(one.pod.name, one.owner, one.file) for one in snapshot.pods] == [
        ("web", "seed", "/etc/tank/agent.toml"),
        ("db", "seed", f"{tmp_path}/db.toml"),
    ]
    assert (snapshot.source, snapshot.available, snapshot.problems) == ("seed", True, ())
    assert all(len(one.revision) == 12 for one in snapshot.pods)


def test_a_missing_directory_is_no_problem(tmp_path: Path) -> None:
    assert read_seeds(tmp_path / "none").problems == ()
    assert read_seeds(None).pods == ()


def test_a_bad_seed_is_told_and_holds_up_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("x\n")
    (tmp_path / "web.toml").write_text(text())
    (tmp_path / "dir.toml").mkdir()
    snapshot = read_seeds(tmp_path)
    assert [one.pod.name for one in snapshot.pods] == ["web"]
    assert {problem.file for problem in snapshot.problems} == {f"{tmp_path}/bad.toml", f"{tmp_path}/dir.toml"}
    (tmp_path / "file").write_text("")
    (problem,) = read_seeds(tmp_path / "file").problems
    assert "Not a directory" in problem.message


def test_a_seed_is_a_starting_point(tmp_path: Path) -> None:
    journal = Journal(MemoryStore(), clock=time.time)
    (tmp_path / "web.toml").write_text(text())
    journal.merge(read_seeds(tmp_path))
    (tmp_path / "web.toml").write_text(text("sleep 2"))
    journal.merge(read_seeds(tmp_path))
    found = journal.get("web")
    assert found is not None and found.generation == 1
    assert journal.delete("web") is True
    journal.merge(read_seeds(tmp_path))
    assert journal.get("web") is None
