"""The text of a result: it steers no terminal, and has a bound."""

from __future__ import annotations

import pytest

from tank_agent.runtime.health.result import MESSAGE_SIZE, bad, ours, printable, printable_end


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is", "as it is"),
        ("two\nlines\ttab", "two\\nlines\\ttab"),
        ("\x1b[2Jgone\x07", "\\x1b[2Jgone\\x07"),
        ("\u202eright to left", "\\u202eright to left"),
        ("half \udc80", "half \\udc80"),
        ("naïve €", "naïve €"),
    ],
)
def test_a_text_is_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert bad(text).message == ours(text).message == shown


@pytest.mark.parametrize("text", ["x" * 10_000, "\x00" * 10_000, "€" * 4000, "a" * 4095 + "€", "\n" * 4096])
def test_a_text_is_bounded(text: str) -> None:
    shown = printable(text)
    assert len(shown.encode()) <= MESSAGE_SIZE
    assert shown.endswith("…")
    assert shown.isprintable()


def test_only_one_of_the_two_says_something_about_the_container() -> None:
    assert (bad("x").good, bad("x").ours) == (False, False)
    assert (ours("x").good, ours("x").ours) == (False, True)


@pytest.mark.parametrize("text", ["x" * 500, "\x00" * 500, "€" * 400, "\x1b" + "a" * 400])
def test_the_end_of_a_text(text: str) -> None:
    shown = printable_end(f"{text}end", 100)
    assert len(shown.encode()) <= 100
    assert shown.startswith("…")
    assert shown.endswith("end")
    assert shown.isprintable()
    assert printable_end("all\n", 100) == "all\\n"
