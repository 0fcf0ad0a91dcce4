"""What people read: tables, durations, colors, and texts that must not steer a terminal."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import time

import pytest

from tank_agent.api.reports import ExitReport
from tank_agent.cli import output
from tank_agent.cli.arguments import duration, whole_number
from tank_agent.cli.output import (
    ago,
    colored,
    colored_phase,
    escape,
    print_error,
    print_table,
    seconds_of,
    shortened,
    span,
    until,
)
from tank_agent.cli.parser import build, help_of, module_of, verbs
from tank_agent.cli.verbs.logs import since
from tank_agent.cli.verbs.status import ending
from tank_agent.errors import InvalidSpec, Problem, TankError
from tank_agent.linux.clock import rfc3339
from tank_agent.spec.keys import DURATION_PATTERN
from tank_agent.spec.quantities import parse_duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("größer → 東京 👍", "größer → 東京 👍"),
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("a\nb\tc\r\x00\x7f", r"a\nb\tc\r\x00\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("\udcff", r"\udcff"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_control_characters_are_shown_not_sent(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_a_message_keeps_its_lines() -> None:
    assert escape("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (-5, "0s"), (0.6, "1s"), (59.4, "59s"), (60, "1m"), (3725, "1h 2m"), (90061, "1d 1h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("90s", 90.0),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("250ms", 0.25),
        ("1d", 86400.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-5s", "5x", "5s ", "1e3", "inf", "nan", "5 s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90s"):
        duration(text)


@pytest.mark.parametrize("text", ["", "-1", "1.5", "x", "²", "٣"])
def test_what_is_no_whole_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="whole number"):
        whole_number(text)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> float:
    """Let the time stand still, which on a busy machine goes on between two looks at it."""
    at = 1_700_000_000.0
    monkeypatch.setattr(output.time, "time", lambda: at)
    return at


def test_times_come_in_both_forms(now: float) -> None:
    assert seconds_of("1970-01-01T00:01:00Z") == seconds_of(60) == 60
    assert seconds_of(None) is None
    assert ago(None) == "-"
    assert ago(now - 65) == "1m 5s ago"
    assert until(now + 65.4) == "in 1m 5s"
    assert until(now - 1) == "now"


def test_less_than_a_second_is_not_rounded_to_nothing_or_one(now: float) -> None:
    assert until(now + 0.7) == "in 0.7s"
    assert ago(now - 0.44) == "0.4s ago"


def test_columns_are_as_wide_as_what_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "PHASE"), [("東京", "running"), ("e\u0301", "odd\x1b"), ("long-name", "")])
    assert capsys.readouterr().out.splitlines() == [
        "NAME       PHASE",
        "東京       running",
        "e\u0301          odd\\x1b",
        "long-name",
    ]


def test_a_narrow_terminal_does_without_some_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers, row = ("NAME", "OWNER", "PIDS", "REVISION"), ("web", "o" * 20, "17", "r" * 12)

    def printed(room: int | None) -> list[str]:
        monkeypatch.setattr(output, "columns", lambda: room)
        print_table(headers, [row], spare=("REVISION", "OWNER", "GIT"))
        return capsys.readouterr().out.splitlines()[0].split()

    assert printed(None) == printed(46) == [*headers]
    assert printed(45) == printed(32) == ["NAME", "OWNER", "PIDS"]
    assert printed(31) == printed(1) == ["NAME", "PIDS"]


def fitted(room: int, *rows: tuple[str, ...], headers: tuple[str, ...]) -> tuple[list[str], list[str]]:
    page = output.Page(room)
    with contextlib.redirect_stdout(page):
        dropped = print_table(headers, rows, spare=("REVISION", "OWNER"), cut=("OWNER", "IMAGE"))
    return re.sub(r"\x1b\[[0-9;]*m", "", page.getvalue()).splitlines(), dropped


def test_a_narrow_terminal_shortens_before_it_does_without() -> None:
    headers, row = ("NAME", "OWNER", "REVISION"), ("web", "dir:/etc/tank/pods.d/web.toml", "r" * 12)
    assert fitted(49, row, headers=headers) == (
        ["NAME  OWNER                          REVISION", f"web   dir:/etc/tank/pods.d/web.toml  {'r' * 12}"],
        [],
    )
    assert fitted(40, row, headers=headers)[0][1] == "web   dir:/etc/t…/web.toml  " + "r" * 12
    assert fitted(36, row, headers=headers)[0][1] == "web   dir:/etc…eb.toml  " + "r" * 12
    assert fitted(35, row, headers=headers) == (
        ["NAME  OWNER", "web   dir:/etc/tank/pods.d/web.toml"],
        ["REVISION"],
    )
    assert fitted(21, row, headers=headers) == (["NAME", "web"], ["REVISION", "OWNER"])
    long = ("w" * 63, *row[1:])
    assert [len(line) for line in fitted(30, long, headers=headers)[0]] == [4, 30]


def test_a_digest_is_cut_at_its_end() -> None:
    image = f"docker.io/library/nginx:1.27@sha256:{'0123456789abcdef' * 4}"
    assert shortened(image, 200) == image
    assert shortened(image, 50) == "docker.io/library/nginx:1.27@sha256:0123456789abc…"
    assert shortened(image, 20) == "docker.io/…789abcdef"
    assert shortened("東京" * 10, 9) == "東京…東京"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (45, "45s"),
        (65, "1m5s"),
        (600, "10m"),
        (11_100, "3h5m"),
        (90_000, "1d1h"),
        (900_000, "10d"),
    ],
)
def test_uptimes_are_one_word(monkeypatch: pytest.MonkeyPatch, seconds: int, text: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert output.uptime(1_000_000.0 - seconds) == text
    assert output.uptime(None) == "-"


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0K"), (4096, "4K"), (57 << 20, "57.0M"), (256 << 20, "256.0M"), (3 << 29, "1.5G")]
)
def test_memory_is_written_as_in_pod_files(size: int, text: str) -> None:
    assert output.memory(size) == text


def test_colors_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert colored("x", "31", Terminal()) == "\x1b[31mx\x1b[0m"
    assert colored("x", "31", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert colored("x", "31", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert colored("x", "31", Terminal()) == "x"


def test_colors_do_not_move_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    print_table(("PHASE", "X"), [("failed", 1), ("odd", 2)])
    assert colored_phase("failed") == "\x1b[31mfailed\x1b[0m"
    assert terminal.getvalue().splitlines()[1:] == ["\x1b[31mfailed\x1b[0m  1", "odd     2"]


def test_findings_stand_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(InvalidSpec((Problem("x.toml", 3, "name", "is \x1bodd"),)))
    print_error(TankError("odd", where="x", hint="look"))
    assert capsys.readouterr().err == "x.toml:3: name: is \\x1bodd\ntank: x: odd\n  look\n"


def test_every_line_of_an_error_has_its_priority_if_the_journal_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # pytest has replaced sys.stderr; the agent's own descriptor is what systemd compares.
    found = os.fstat(2)
    for inode, expected in ((found.st_ino, "<3>tank: x: odd\n<3>  look\n"), (1, "tank: x: odd\n  look\n")):
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{inode}")
        print_error(TankError("odd", where="x", hint="look"))
        assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("code", "signal", "oom", "text"),
    [
        (3, None, False, "code 3"),
        (0, None, False, "code 0"),
        (None, 9, False, "killed by SIGKILL"),
        (None, 64, False, "killed by SIGRTMAX"),
        (None, 99, False, "killed by signal 99"),
        (None, 9, True, "out of memory"),
        (None, None, False, "unknown"),
    ],
)
def test_how_a_run_ended(code: int | None, signal: int | None, oom: bool, text: str) -> None:
    end = ExitReport(code=code, signal=signal, oom=oom, at=rfc3339(time.time()))
    assert ending(end) == f"{text}, 0s ago"
    assert ending(None) == "-"


def test_every_verb_is_a_module_with_a_help_text(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in verbs():
        with pytest.raises(SystemExit) as end:
            build([]).parse_args([verb, "--help"])
        assert end.value.code == 0
        out = capsys.readouterr().out
        assert f"usage: tank {verb}" in out
        assert 0 < len(help_of(verb)) < 80
        assert help_of(verb) == module_of(verb).HELP


@pytest.mark.parametrize("text", ["30m1h", "5m5m", "1h 30m", "1s1d"])
def test_the_command_line_refuses_what_files_refuse(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)
    with pytest.raises(ValueError, match="is not a length of time"):
        parse_duration(text)
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time"):
        since(text)


@pytest.mark.parametrize("text", ["1d", "1d2h3m4s5ms", "1.5h", "90s", "250ms", "0s"])
def test_one_grammar_of_durations(text: str) -> None:
    assert duration(text) == parse_duration(text)
    assert time.time() - since(text) == pytest.approx(duration(text), abs=60)
    assert re.fullmatch(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.44, "0.4s"), (0.96, "1s"), (10.2, "10s"), (65.2, "1m 5s")]
)
def test_what_is_near_is_told_in_tenths(monkeypatch: pytest.MonkeyPatch, seconds: float, text: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert ago(1_000_000.0 - seconds) == f"{text} ago"
    assert until(1_000_000.0 + seconds) == (f"in {text}" if seconds else "now")
