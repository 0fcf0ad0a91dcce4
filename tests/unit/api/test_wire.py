"""Errors keep their class, their words and their problems on the way from the agent to the client."""

from __future__ import annotations

import pytest

from tank_agent.api.types import ErrorBody
from tank_agent.api.wire import decode_error, decode_text, encode_error, error_body, http_status
from tank_agent.errors import (
    AgentUnreachable,
    ImageInUse,
    InvalidSpec,
    OwnedElsewhere,
    PodNotFound,
    Problem,
    Retry,
    Stalled,
    TankError,
)

PROBLEMS = (Problem("/x.toml", 3, "restart", "is odd", "web"), Problem("/x.toml", 0, "", "is empty"))


@pytest.mark.parametrize(
    "error",
    [
        TankError("odd"),
        PodNotFound("there is no pod web", hint="see `tank list`"),
        OwnedElsewhere("is owned", where="/x.toml", hint="edit it"),
        Stalled("no uplink"),
        Retry("later"),
        InvalidSpec(PROBLEMS),
        ImageInUse("is needed by pod web"),
    ],
)
def test_an_error_arrives_as_it_was_raised(error: TankError) -> None:
    arrived = decode_error(http_status(error), encode_error(error_body(error)))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    if isinstance(error, InvalidSpec):
        assert isinstance(arrived, InvalidSpec)
        assert arrived.problems == PROBLEMS


@pytest.mark.parametrize(
    ("status", "kind"), [(403, AgentUnreachable), (503, Retry), (418, TankError), (500, TankError)]
)
def test_a_reason_that_this_version_does_not_know_goes_by_its_status(
    status: int, kind: type[TankError]
) -> None:
    arrived = decode_error(status, encode_error(ErrorBody(reason="from-the-future", message="so it is")))
    assert type(arrived) is kind
    assert arrived.message == "so it is"


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", b'{"error": 3}', b"\xff"])
def test_an_answer_without_a_reason_is_still_an_error(content: bytes) -> None:
    assert "502" in decode_error(502, content).message


def test_text_that_is_not_utf8_says_where() -> None:
    assert decode_text("ä\n".encode(), "/x") == "ä\n"
    with pytest.raises(InvalidSpec) as caught:
        decode_text(b"a = 1\nb = '\xe4'\n", "/x")
    assert caught.value.problems[0].line == 2
    assert "0xe4" in caught.value.problems[0].message
