"""The frames of a session, and what a terminal must be told when a session is cut off."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies

from tank_agent.api import frames
from tank_agent.client.fast.terminal import Modes
from tank_agent.runtime.session.attach import last_output
from tank_agent.runtime.session.exec import ExecRequest, merge_environment

FRAMES = strategies.lists(strategies.tuples(strategies.integers(0, 255), strategies.binary(max_size=300)))


@given(sent=FRAMES, cuts=strategies.lists(strategies.integers(1, 400)))
def test_frames_arrive_whole_whatever_the_pieces(sent: list[tuple[int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(frames.frame(kind, payload) for kind, payload in sent)
    decoder = frames.Decoder()
    received = []
    for cut in cuts:
        received += decoder.feed(stream[:cut])
        stream = stream[cut:]
    assert received + decoder.feed(stream) == sent


def test_a_frame_that_is_too_long_is_refused() -> None:
    longest = frames.frame(frames.STDIN, b"x" * frames.MAX_PAYLOAD)
    assert frames.Decoder().feed(longest) == [(frames.STDIN, b"x" * frames.MAX_PAYLOAD)]
    with pytest.raises(frames.BadFrameError):
        frames.Decoder().feed(frames.head(frames.STDIN, frames.MAX_PAYLOAD + 1))


def test_payloads() -> None:
    assert frames.read_size(frames.size_payload(24, 80)) == (24, 80)
    assert frames.read_size(frames.size_payload(100_000, 80)) == (65_535, 80)
    assert frames.read_size(b"x") == (0, 0)
    assert frames.read_exit(frames.exit_payload(frames.EXITED, 255)) == (frames.EXITED, 255)
    assert frames.read_exit(frames.exit_payload(frames.SIGNALED, 9)) == (frames.SIGNALED, 9)
    with pytest.raises(frames.BadFrameError):
        frames.read_exit(b"")
    assert frames.read_count(frames.count_payload(1 << 30)) == 1 << 30
    with pytest.raises(frames.BadFrameError):
        frames.read_count(b"x")


@pytest.mark.parametrize(
    ("printed", "undo"),
    [
        ([b"plain text\r\n"], b""),
        ([b"\x1b[?1049h\x1b[?25l"], b"\x1b[?25h\x1b[?1049l\x1b[0m"),
        ([b"\x1b[?1049h", b"\x1b[?1049l"], b""),
        ([b"\x1b[?25l...\x1b[?25h"], b""),
        ([b"\x1b[?10", b"00;1006h"], b"\x1b[?1006l\x1b[?1000l\x1b[0m"),
        ([b"\x1b[?2004h$ "], b"\x1b[?2004l\x1b[0m"),
        ([b"\x1b[?7l"], b"\x1b[?7h\x1b[0m"),
    ],
)
def test_modes_that_were_left_on_are_undone(printed: list[bytes], undo: bytes) -> None:
    modes = Modes()
    for piece in printed:
        modes.feed(piece)
    assert modes.undo() == undo


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[c",
        b"\x1b[>c",
        b"\x1b[0c",
        b"\x1b[18t",
        b"\x1b[?u",
        b"\x1b[>0q",
        b"\x1b[?2026$p",
        b"\x1bZ",
        b"\x05",
        b"\x07",
        b"\x1b]11;?\x07",
        b"\x1b]4;1;?\x1b\\",
        b"\x1bP+q544e\x1b\\",
    ],
)
def test_questions_to_a_terminal_are_left_out_when_output_is_shown_again(question: bytes) -> None:
    assert last_output(b"before" + question + b"after") == b"beforeafter"


def test_what_is_shown_again_begins_with_a_line() -> None:
    kept = b"\x1b[31mcut " * 4000 + b"\r\n" + b"whole\r\n" * 10
    assert last_output(kept) == b"whole\r\n" * 10
    assert (
        last_output(b"\x1b[1mkept\x1b[0m\x1b[2J\x1b]0;title\x1b\\")
        == b"\x1b[1mkept\x1b[0m\x1b[2J\x1b]0;title\x1b\\"
    )


def test_variables_are_merged_in_the_order_that_counts() -> None:
    own = ["PATH=/bin", "A=1", "EMPTY="]
    wanted = ExecRequest(argv=("x",), env=("A=2", "B=x=y", "A=3"), term="screen")
    assert merge_environment(own, wanted) == ["PATH=/bin", "A=3", "EMPTY=", "TERM=screen", "B=x=y"]
    assert "TERM=xterm" in merge_environment([], ExecRequest(argv=("x",)))
    assert merge_environment(["TERM=linux"], ExecRequest(argv=("x",), term="screen")) == ["TERM=linux"]
