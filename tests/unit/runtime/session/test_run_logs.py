"""The logs of a job's runs: where they are, which are kept, and what a kill at any point leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.runtime.run import KEPT_RUNS
from tank_agent.runtime.session import run_logs
from tank_agent.runtime.session.run_logs import kept_runs, log_file, logged_containers, make_room


def written(logs: Path, *numbers: int) -> None:
    """Write a line as each of these runs would."""
    for number in numbers:
        make_room(logs, number)
        log_file(logs, "app", number).write_text(f"of run {number}")


def test_a_service_and_a_run_have_files_of_their_own(tmp_path: Path) -> None:
    assert log_file(tmp_path, "app") == tmp_path / "app.log"
    assert log_file(tmp_path, "app", 7) == tmp_path / "runs/7/app.log"


def test_nothing_printed_is_nothing_kept(tmp_path: Path) -> None:
    assert kept_runs(tmp_path) == []
    assert logged_containers(tmp_path, 1) == []


def test_the_last_ones_are_kept_and_others_of_the_pod_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("of a service")
    written(tmp_path, *range(1, KEPT_RUNS + 4))
    assert kept_runs(tmp_path) == list(range(4, KEPT_RUNS + 4))
    assert logged_containers(tmp_path, 5) == ["app"]
    assert (tmp_path / "app.log").read_text() == "of a service"


def test_a_second_container_of_a_run_removes_nothing_of_the_first(tmp_path: Path) -> None:
    written(tmp_path, 1, 2)
    make_room(tmp_path, 2)
    assert log_file(tmp_path, "app", 2).read_text() == "of run 2"


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", range(1, 4))
def test_runs_of_a_pod_that_the_journal_lost_are_no_part_of_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    written(tmp_path, 1, 2, 3)
    left = [after]

    def die(_: str) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(run_logs, "point", die)
    with pytest.raises(Killed):
        make_room(tmp_path, 1)
    make_room(tmp_path, 1)
    assert kept_runs(tmp_path) == [1]
    assert logged_containers(tmp_path, 1) == []
