"""The challenges with which registries ask for a login."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.image.registry.endpoint import parse_challenge


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="x:y:z"',
            "bearer",
            {"realm": "https://a/t", "service": "s", "scope": "x:y:z"},
        ),
        ('bearer  realm="a\\"b" , service=plain', "bearer", {"realm": 'a"b', "service": "plain"}),
        ('Basic realm="x", Bearer realm="y"', "bearer", {"realm": "y"}),
        ('Basic realm="x"', "basic", {"realm": "x"}),
        ("Negotiate", "", {}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_challenges(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert parse_challenge(header) == (scheme, parameters)


@given(st.text(max_size=200))
def test_any_challenge_is_read(header: str) -> None:
    assert parse_challenge(header)[0] in ("", "basic", "bearer")
