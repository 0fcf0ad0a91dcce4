"""How the logs of a pod's containers are joined, on files as conmon writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tank_agent.control.sessions import LogQuery, Sessions
from tank_agent.spec.model import Container, Pod


def line(second: int, text: str) -> bytes:
    return f"2026-11-22T06:00:{second:02}.000000000+00:00 stdout F {text}\n".encode()


class Machine:
    """A pod of two containers; `look` is called whenever somebody looks whether it runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.look: Callable[[], None] = lambda: None
        containers = tuple(Container(name=name, image="oci:/srv/x") for name in ("one", "two"))
        self.declared = Pod(name="web", containers=containers)

    def get(self, name: str) -> Any:
        return type("Desired", (), {"pod": self.declared})

    def log(self, pod: str, container: str) -> Path:
        return self.directory / f"{container}.log"

    def runs(self, pod: str) -> list[str]:
        self.look()
        return ["one run"]


def test_when_nobody_waits_any_more_reading_stops(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    # Some 10 MB of lines that are all too old to be shown.
    for name in ("one", "two"):
        machine.log("web", name).write_bytes(line(1, "x" * 1000) * 5000)
    asked = []

    def ended() -> bool:
        asked.append(True)
        return len(asked) > 2

    _, lines = interactive(machine).logs("web", None, LogQuery(since="2027"), ended)
    assert list(lines) == []
    # Once for each megabyte or so, and once more by each of the two files when it is over.
    assert 3 <= len(asked) <= 6


def test_lines_that_are_followed_come_in_the_order_of_time(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    over = []

    def print_both() -> None:
        # All of it between two looks at the logs.
        if not over:
            for second in range(10):
                with machine.log("web", "one" if second % 3 else "two").open("ab") as file:
                    file.write(line(second, str(second)))
        over.append(True)

    machine.look = print_both
    _, pieces = interactive(machine).logs("web", None, LogQuery(follow=True), lambda: len(over) > 1)
    printed = b"".join(pieces).decode().splitlines()
    assert [text.split()[-1] for text in printed] == [str(number) for number in range(10)]


def interactive(machine: Machine) -> Sessions:
    part = cast("Any", machine)
    return Sessions(part, part, part, part)
