"""The table of nftables: written by one thread at a time, from what is wanted by then."""

from __future__ import annotations

import threading

import pytest

from tank_agent.linux import nftables
from tank_agent.network.firewall import Firewall, script

DEADLINE = 5.0


class Kernel:
    """Stands for nftables: keeps what was written last, and can hold up whoever writes."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.number = 1
        self.proceed, self.held = threading.Event(), threading.Event()
        self.proceed.set()

    def run(self, commands: str) -> str:
        if commands.startswith("list"):
            return self.written[-1]
        self.held.set()
        assert self.proceed.wait(DEADLINE)
        self.written.append(commands)
        self.number += 1
        return ""

    def generation(self) -> int:
        return self.number

    def has_table(self, name: str) -> bool:
        assert name == "tank"
        return bool(self.written)

    def change(self, *written: str) -> None:
        self.written = [*written]
        self.number += 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(nftables, "PacketFilter", lambda: made)
    return made


def test_what_is_written_last_is_what_is_wanted_last(kernel: Kernel) -> None:
    ports = ["web"]
    firewall = Firewall(lambda: " ".join(ports))
    kernel.proceed.clear()
    writers = [threading.Thread(target=firewall.write, daemon=True) for _ in range(4)]
    writers[0].start()
    assert kernel.held.wait(DEADLINE)
    # Those who come meanwhile wait for the first, and then write once for all of them.
    for number, writer in enumerate(writers[1:]):
        ports.append(f"db-{number}")
        writer.start()
    kernel.proceed.set()
    for writer in writers:
        writer.join(DEADLINE)
    assert kernel.written == ["web", "web db-0 db-1 db-2"]


def test_only_what_differs_is_written(kernel: Kernel) -> None:
    firewall = Firewall(lambda: "web")
    assert not firewall.write(), "nobody else changed it"
    assert kernel.written == ["web"]
    assert not firewall.write()
    assert kernel.written == ["web"]
    kernel.change("web")
    assert not firewall.write(), "somebody changed another table"
    kernel.change()
    assert firewall.write(), "somebody removed the table"
    kernel.change("web, and a rule more")
    assert firewall.write()
    assert kernel.written[-1] == "web"


def test_without_bridges_nothing_is_written_but_what_was_left_is_removed(kernel: Kernel) -> None:
    nothing = script([], [])
    assert not Firewall(lambda: nothing).write()
    assert kernel.written == []
    kernel.change("of an agent that was killed")
    assert not Firewall(lambda: nothing).write()
    assert kernel.written[-1] == nothing
