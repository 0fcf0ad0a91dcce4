"""The thread that writes names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tank_agent.reconcile import name_writer
from tank_agent.reconcile.name_writer import NameWriter
from tests.support.agent import wait_for


class Names:
    def __init__(self) -> None:
        self.version, self.written, self.passes = 0, 0, 0
        self.may_write = threading.Event()
        self.may_write.set()
        self.fails = False

    def write(self) -> None:
        version = self.version
        self.may_write.wait(10)
        self.passes += 1
        if self.fails:
            raise ValueError("a bug")
        self.written = version


@pytest.fixture
def names() -> Names:
    return Names()


@pytest.fixture
def make(names: Names) -> Iterator[Callable[[], NameWriter]]:
    made: list[NameWriter] = []

    def new() -> NameWriter:
        made.append(NameWriter(lambda: names.version, names.write))
        return made[-1]

    yield new
    names.may_write.set()
    for writer in made:
        writer.close()


def test_without_a_change_there_is_no_thread(make: Callable[[], NameWriter]) -> None:
    threads = threading.active_count()
    assert not make().look()
    assert threading.active_count() == threads


def test_changes_that_come_together_are_written_once(
    names: Names, make: Callable[[], NameWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_writer, "_PAUSE", 0.3)
    writer = make()
    for _ in range(50):
        names.version += 1
        assert writer.look()
    wait_for(lambda: not writer.look(), "they are written")
    assert (names.written, names.passes) == (50, 1)


def test_a_change_during_the_writing_is_written_too(names: Names, make: Callable[[], NameWriter]) -> None:
    writer = make()
    names.may_write.clear()
    names.version = 1
    writer.look()
    names.version = 2
    writer.look()
    names.may_write.set()
    wait_for(lambda: not writer.look(), "all is written")
    assert names.written == 2


def test_a_bug_ends_nothing(names: Names, make: Callable[[], NameWriter]) -> None:
    writer = make()
    names.fails, names.version = True, 1
    writer.look()
    wait_for(lambda: names.passes, "it was tried")
    names.fails, names.version = False, 2
    writer.look()
    wait_for(lambda: names.written == 2, "the next change is written")


def test_after_its_end_nothing_begins(names: Names, make: Callable[[], NameWriter]) -> None:
    writer = make()
    writer.close()
    names.version, threads = 1, threading.active_count()
    writer.look()
    assert threading.active_count() == threads


def test_it_ends_if_it_is_closed_at_the_end_of_a_pause(
    names: Names, make: Callable[[], NameWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = make()
    closed = threading.Thread(target=writer.close)

    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            closed.start()
            wait_for(self.is_set, "somebody closes")
            wait_for(writer._stale.is_set, "the thread is woken")
            return False

    monkeypatch.setattr(writer, "_closing", Late())
    names.version = 1
    assert writer.look()
    wait_for(lambda: not closed.is_alive() and closed.ident is not None, "the thread has ended")
