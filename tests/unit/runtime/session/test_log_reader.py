"""Reading and rotating logs, on files as conmon writes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from tank_agent.runtime.session.log_reader import LogEntry, LogReader, last_bytes, log_files
from tank_agent.runtime.session.log_rotation import rotate, trim


def line(number: int, text: str, *, tag: str = "F", stream: str = "stdout") -> bytes:
    return f"2026-11-22T06:00:{number % 60:02}.000000000+00:00 {stream} {tag} {text}\n".encode()


def everything(reader: LogReader) -> list[LogEntry]:
    """Return all that there is now, cut lines included."""
    found: list[LogEntry] = []
    while entries := reader.read():
        found += entries
    return found + reader.rest()


def contents(entries: list[LogEntry]) -> list[bytes]:
    return [entry.content for entry in entries]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "app.log"


def append(log: Path, *lines: bytes) -> None:
    with log.open("ab") as file:
        file.writelines(lines)


def test_no_file_is_no_output_and_it_may_come_later(log: Path) -> None:
    reader = LogReader(log)
    assert reader.read() == []
    append(log, line(1, "first"))
    assert contents(reader.read()) == [b"first"]
    append(log, line(2, "second")[:-3])
    assert reader.read() == []
    append(log, line(2, "second")[-3:])
    assert contents(reader.read()) == [b"second"]
    reader.close()


def test_cut_lines_are_joined_for_each_stream(log: Path) -> None:
    append(
        log,
        line(1, "out ", tag="P"),
        line(2, "err ", tag="P", stream="stderr"),
        line(3, "more", tag="F"),
        line(4, "end", stream="stderr"),
        line(5, "open", tag="P"),
    )
    reader = LogReader(log)
    first, second = reader.read()
    assert (first.content, first.whole, first.stream, first.time[17:19]) == (
        b"out more",
        True,
        b"stdout",
        b"01",
    )
    assert (second.content, second.stream) == (b"err end", b"stderr")
    assert [(entry.content, entry.whole) for entry in reader.rest()] == [(b"open", False)]
    assert reader.rest() == []
    reader.close()


def test_what_is_no_line_is_left_out(log: Path) -> None:
    append(log, b"\n", b"torn\n", b"a b c d\n", b"\0\0\0\n", line(1, "good"), line(2, ""))
    reader = LogReader(log)
    assert contents(everything(reader)) == [b"good", b""]
    reader.close()


def test_a_link_or_a_fifo_is_not_read(log: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(line(1, "secret"))
    os.mkfifo(log)
    assert LogReader(log).read() == []
    log.unlink()
    log.symlink_to("secret")
    with pytest.raises(OSError, match="symbolic links"):
        LogReader(log).read()


def test_rotated_files_are_read_from_the_oldest_on(log: Path) -> None:
    for number in range(12):
        append(log, line(number, str(number)))
        rotate(log, 20)
    append(log, line(12, "12"))
    names = [path.name for path, _ in log_files(log)]
    assert names == [f"app.log.{number}" for number in range(12, 0, -1)] + ["app.log"]
    reader = LogReader(log)
    assert contents(everything(reader)) == [str(number).encode() for number in range(13)]
    reader.close()


def test_a_reader_follows_several_rotations_between_two_looks(log: Path) -> None:
    append(log, line(0, "0"))
    reader = LogReader(log)
    assert contents(reader.read()) == [b"0"]
    append(log, line(1, "1"))
    for number in (2, 3, 4):
        rotate(log, 20)
        append(log, line(number, str(number)))
    found = []
    while entries := reader.read():
        found += contents(entries)
    assert found == [b"1", b"2", b"3", b"4"]
    # Renamed, but conmon has not opened the new one yet, so it goes on with the old one.
    append(log, line(5, "5"))
    rotate(log, 20)
    assert contents(reader.read()) == [b"5"]
    append(log.with_name("app.log.1"), line(6, "6"))
    assert contents(reader.read()) == [b"6"]
    append(log, line(7, "7"))
    assert contents(reader.read()) == [b"7"]
    reader.close()


def test_only_so_many_files_are_kept(log: Path) -> None:
    for number in range(5):
        append(log, line(number, str(number)))
        rotate(log, 3)
    assert [path.name for path, _ in log_files(log)] == ["app.log.2", "app.log.1"]
    append(log, line(5, "5"))
    rotate(log, 1)
    assert log_files(log) == []


def test_a_lower_limit_removes_what_a_higher_one_left(log: Path) -> None:
    other = log.with_name("app.log.txt")
    other.touch()
    for number in range(12):
        append(log, line(number, str(number)))
        rotate(log, 20)
    append(log, line(12, "12"))
    trim(log, 4)
    assert [path.name for path, _ in log_files(log)] == ["app.log.3", "app.log.2", "app.log.1", "app.log"]
    assert contents(LogReader(log, tail=100).read()) == [b"9", b"10", b"11", b"12"]
    rotate(log, 3)
    assert [path.name for path, _ in log_files(log)] == ["app.log.2", "app.log.1"]
    append(log, line(13, "13"))
    trim(log, 1)
    assert contents(LogReader(log).read()) == [b"13"]
    assert other.exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(
    lines=strategies.lists(
        strategies.tuples(strategies.sampled_from("FFFP"), strategies.integers(0, 9000)), max_size=80
    ),
    rotations=strategies.sets(strategies.integers(0, 79), max_size=4),
    tail=strategies.integers(0, 90),
)
def test_the_tail_is_the_end_of_everything(
    tmp_path: Path, lines: list[tuple[str, int]], rotations: set[int], tail: int
) -> None:
    log = tmp_path / "tail" / "app.log"
    log.parent.mkdir(exist_ok=True)
    for path in log.parent.iterdir():
        path.unlink()
    for number, (tag, length) in enumerate(lines):
        append(log, line(number, f"{number}:" + "x" * length, tag=tag))
        if number in rotations:
            rotate(log, 20)
    whole, end = LogReader(log), LogReader(log, tail=tail)
    everything = []
    while entries := whole.read():
        everything += entries
    found = []
    while entries := end.read():
        found += entries
    assert contents(found) == contents(everything[max(0, len(everything) - tail) :])
    assert end.rest() == whole.rest()
    for reader in (whole, end):
        reader.close()


@pytest.mark.parametrize("tail", [None, 5])
def test_the_history_ends_however_fast_there_is_more(log: Path, tail: int | None) -> None:
    for number in range(3):
        append(log, line(number, str(number)))
        rotate(log, 20)
    append(log, line(3, "3"))
    reader = LogReader(log, tail=tail)
    found: list[bytes] = []
    looks = 0
    for entries in reader.history():
        found += contents(entries)
        looks += 1
        # Whenever some of it has been read, there is more to read.
        append(log, line(10 + looks, "later"))
        if looks % 2:
            rotate(log, 20)
        assert looks < 20
    assert found == [b"0", b"1", b"2", b"3"]
    # One who follows goes on from there, and misses nothing.
    assert looks > 3
    found = []
    while entries := reader.read():
        found += contents(entries)
    assert found == [b"later"] * looks
    reader.close()


def test_the_history_ends_when_its_last_file_was_removed_meanwhile(log: Path) -> None:
    for number in range(3):
        append(log, line(number, str(number)))
        rotate(log, 20)
    reader = LogReader(log)
    found: list[bytes] = []
    for entries in reader.history():
        found += contents(entries)
        for path, _ in log_files(log):
            path.unlink()
        append(log, line(10, "later"))
    assert found == [b"0"]
    assert contents(reader.read()) == [b"later"]
    reader.close()
    assert [contents(entries) for entries in LogReader(log.with_name("no.log")).history()] == [[]]


def test_since_leaves_out_what_is_older(log: Path) -> None:
    append(log, *(line(number, str(number)) for number in range(10)))
    reader = LogReader(log, since=b"2026-11-22T06:00:07.000000000+00:00")
    assert contents(everything(reader)) == [b"7", b"8", b"9"]
    reader.close()


def test_the_last_bytes_of_a_terminal(log: Path) -> None:
    assert last_bytes(log, 100) == b""
    append(log, line(1, "one\r"), line(2, "/ # ", tag="P"))
    assert last_bytes(log, 100) == b"one\r\n/ # "
    append(log, *(line(3, "y" * 50) for _ in range(100)))
    assert len(last_bytes(log, 100)) == 100


def test_the_last_bytes_of_a_terminal_go_back_to_the_files_before(log: Path) -> None:
    append(log, line(1, "one\r"), line(2, "two\r"))
    rotate(log, 20)
    assert last_bytes(log, 100) == b"one\r\ntwo\r\n"
    append(log, line(3, "three\r"))
    rotate(log, 20)
    append(log, line(4, "/ # ", tag="P"))
    assert last_bytes(log, 100) == b"one\r\ntwo\r\nthree\r\n/ # "
    assert last_bytes(log, 8) == b"ee\r\n/ # "
    # Nothing is left out in between.
    append(log, *(line(5, "") for _ in range(1000)))
    shown = last_bytes(log, 100)
    assert shown == b"\n" * len(shown)
    assert len(shown) > 30
