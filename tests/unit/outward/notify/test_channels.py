"""What receivers get, and what is shown of what they say: no control characters, no mentions, no secrets."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.outward.notify.channels import body_of, harmless, without_address
from tank_agent.outward.notify.memory import Message, Note
from tank_agent.outward.notify.webhook import payload

URL = "ntfys://user:p4ssw0rd@ntfy.example:8443/s3cret-topic?auth=tok3n%2Bx"
EVIL = "a\x1b[31m\u202eb <!channel> @everyone @HERE\x00"


def message(text: str = EVIL, dropped: int = 0) -> Message:
    note = Note(
        at=1_800_000_000.25, kind="failing", state="bad", title=text, message=text, pod="web", revision="r"
    )
    return Message(id=1, queued=0.0, note=note, dropped=dropped)


def test_a_body_names_the_machine_and_steers_nobody() -> None:
    body = body_of(message(), "edge-1")
    assert body.title == "edge-1: a\\x1b[31m\\u202eb <!channel> @\u200beveryone @\u200bHERE\\x00"
    assert body.at == "2027-01-15T08:00:00.250Z"
    assert body.text == f"{body.title}\n{body.message}"


def test_what_was_dropped_is_counted() -> None:
    assert body_of(message("x", 7), "edge-1").message == (
        "x\n7 older notifications could not be sent, and were dropped"
    )


def test_the_json_has_the_text_in_the_form_of_slack() -> None:
    found = json.loads(payload(body_of(message("a < b & <!channel>"), "edge-1")))
    assert found["text"] == "edge-1: a &lt; b &amp; &lt;!channel&gt;\na &lt; b &amp; &lt;!channel&gt;"
    assert found["message"] == "a < b & <!channel>"
    about = {"host", "pod", "container", "kind", "event", "state", "revision", "file", "at"}
    assert set(found) == {"text", "title", "message", *about}


@given(st.text(st.characters(max_codepoint=0x9F)))
def test_no_text_has_control_characters(text: str) -> None:
    assert all(char.isprintable() or char in "\n\u200b" for char in harmless(text))


@pytest.mark.parametrize("part", ["user", "p4ssw0rd", "ntfy.example", "s3cret-topic", "tok3n%2Bx", "tok3n+x"])
def test_what_a_receiver_says_is_shown_without_its_address(part: str) -> None:
    shown = without_address(f"Failed for {part}:\n  {URL} (403)", [URL])
    assert part not in shown and "403" in shown and "\n" not in shown


def test_what_a_receiver_says_is_cut() -> None:
    assert len(without_address("x " * 1000, [URL])) == 300
