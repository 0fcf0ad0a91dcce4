"""Logins: the challenges of registries, and passwords that go to whom they are for, whatever a realm says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tank_agent.errors import Stalled, TankError
from tank_agent.image.registry import endpoint as endpoint_module
from tank_agent.image.registry.credentials import Credentials
from tank_agent.image.registry.endpoint import Endpoint, parse_challenge
from tank_agent.image.registry.http import Http
from tank_agent.image.registry.url import parse_url
from tank_agent.settings.image import ImageSettings
from tests.support.wire import HOSTILE, KNOWN, REGISTRY, Wire, answer, fits_a_header, has_secret, http

PASSWORD = Credentials(username="alice", password="hunter2")


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


@settings(max_examples=100, deadline=None)
@given(realm=HOSTILE)
@example(realm=KNOWN[0])
@example(realm="http://127.0.0.1:5601@127.0.0.3:5603/token")
def test_a_password_goes_to_the_realm_that_is_read_in_one_way(wire: Wire, realm: str) -> None:
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    if not fits_a_header(quoted):
        return
    challenge = f'Bearer realm="{quoted}",service="x"'
    wire.answers = [b"", answer(401, WWW_Authenticate=challenge), answer(307, Location="http://127.0.0.9/")]
    with http() as client:
        endpoint = _endpoint(client)
        try:
            with endpoint.get("/blobs/x", {}):
                pass
        except TankError:
            pass
    try:
        named = parse_url(realm.encode(errors="surrogatepass").decode("latin-1"))
        allowed = {(named.host.strip("[]"), named.port)}
    except Stalled:
        allowed = set()
    for address, sent in wire.sent():
        assert not has_secret(sent) or (address[0].strip("[]"), address[1]) in allowed | {REGISTRY}


@pytest.fixture(autouse=True)
def password() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endpoint_module, "find_credentials", lambda *_: PASSWORD)
        yield


def _endpoint(client: Http) -> Endpoint:
    return Endpoint(client, f"{REGISTRY[0]}:{REGISTRY[1]}", "image", ImageSettings())


def test_a_challenge_of_a_foreign_host_gets_no_password(wire: Wire) -> None:
    challenge = 'Bearer realm="http://127.0.0.3:5603/token",service="x"'
    wire.answers = [
        b"",
        answer(307, Location="http://127.0.0.3:5603/blob"),
        answer(401, WWW_Authenticate=challenge),
        b'HTTP/1.1 200 x\r\nContent-Length: 13\r\n\r\n{"token":"t"}',
        b"HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n",
    ]
    with http() as client, _endpoint(client).get("/blobs/x", {}) as found:
        assert found.status == 200
    sent = wire.sent()
    assert [b"Bearer t" in data for _, data in sent] == [False, False, False, False, True]
    assert not any(b"Basic" in data for _, data in sent)
