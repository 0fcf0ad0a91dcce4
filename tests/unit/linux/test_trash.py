from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tank_agent.linux.trees import Trash

DEADLINE = 60.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class TestTrash:
    def test_a_tree_is_gone_at_once_and_deleted_soon(self, tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / "deep" / "file").touch()
        trash = Trash(tmp_path / "trash")
        trash.throw(tree)
        assert not tree.exists()
        trash.throw(tree)
        until(lambda: not list((tmp_path / "trash").iterdir()))
        trash.close()

    def test_what_a_killed_agent_left_is_deleted(self, tmp_path: Path) -> None:
        (tmp_path / "trash" / "left" / "deep").mkdir(parents=True)
        trash = Trash(tmp_path / "trash")
        until(lambda: not list((tmp_path / "trash").iterdir()))
        trash.close()
