"""The ids of a container with userns = "auto", and the error where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import namespaces
from tank_agent.linux.namespaces import IdRange
from tank_agent.runtime.security.user_namespace import free_range, mapping_of

FIRST, SIZE, COUNT = 0x7000_0000, 0x1_0000, 0x1000


def test_ranges_do_not_meet_and_are_used_again() -> None:
    used: list[IdRange] = []
    for _ in range(3):
        used.append(free_range(used))
    assert [ids.base for ids in used] == [FIRST, FIRST + SIZE, FIRST + 2 * SIZE]
    assert free_range([used[0], None, used[2]]) == used[1]


def test_there_is_an_end_of_them() -> None:
    every = [IdRange(FIRST + index * SIZE, SIZE) for index in range(COUNT)]
    assert free_range(every[:-1]) == every[-1]
    with pytest.raises(Retry, match="4096 containers"):
        free_range(every)


def test_a_machine_that_makes_no_user_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho unshare failed: No space left on device >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(namespaces, "_UNSHARE", str(refusing))
    with (
        pytest.raises(Stalled, match="cannot make a user namespace") as raised,
        mapping_of(IdRange(FIRST, SIZE)),
    ):
        pass
    assert "tank doctor" in str(raised.value.hint)
