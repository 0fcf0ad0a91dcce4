"""Redirects: a secret goes to whom it is for, whatever a Location says."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings

from tank_agent.errors import TankError
from tank_agent.image.registry.url import parse_url
from tests.support.wire import HOME, HOSTILE, KNOWN, REGISTRY, Wire, answer, fits_a_header, has_secret, http


@settings(max_examples=150, deadline=None)
@given(first=HOSTILE, second=HOSTILE)
@example(first=KNOWN[0], second="")
@example(first="http://127.0.0.2:1/", second=KNOWN[0])
@example(first="http://127.0.0.2:1/", second=HOME)
@example(first="//127.0.0.1:5601/x", second="http://127.0.0.3:5603/")
def test_no_redirect_takes_a_secret_to_another_host(wire: Wire, first: str, second: str) -> None:
    wire.answers = [answer(307, Location=hop) for hop in (first, second) if fits_a_header(hop)]
    with http() as client:
        try:
            with client.request(parse_url(HOME), headers={}, authorization="Basic c2VjcmV0"):
                pass
        except TankError:
            pass
    strayed = False
    for address, sent in wire.sent():
        strayed = strayed or address != REGISTRY
        assert has_secret(sent) <= (not strayed), (address, first, second)


@pytest.mark.parametrize("location", KNOWN)
def test_known_tricks_in_a_location(wire: Wire, location: str) -> None:
    wire.answers = [answer(307, Location=location)]
    said = ""
    with http() as client:
        try:
            with client.request(parse_url(HOME), headers={}, authorization="Basic c2VjcmV0"):
                pass
        except TankError as error:
            said = str(error)
    assert "not an address that we follow" in said or "\\" not in location
    assert [address for address, sent in wire.sent() if has_secret(sent)] == [REGISTRY]
