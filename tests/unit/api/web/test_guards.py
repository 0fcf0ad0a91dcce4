"""The guard of the web, by tables: names, methods, foreign pages, tokens and those who guess them."""

from __future__ import annotations

from email.message import Message

import pytest

from tank_agent.api.request import Head, Peer, Refused
from tank_agent.api.web.guards import Guard
from tank_agent.retry import RateLimit

TOKEN = "0123456789abcdef"


def peer(address: str = "192.0.2.7", local: str = "192.0.2.1") -> Peer:
    return Peer(pid=0, uid=65534, gid=65534, address=address, local=local)


def head(path: str = "/v1/status", method: str = "GET", **headers: str | None) -> Head:
    message = Message()
    for name, value in {"Host": "localhost", **headers}.items():
        if value is not None:
            message[name.replace("_", "-")] = value
    return Head(method=method, path=path, headers=message)


def status(guard: Guard, asked: Head, caller: Peer | None = None) -> int:
    try:
        guard.check(caller or peer(), asked)
    except Refused as error:
        return error.status
    return 200


OPEN = Guard(["edge-1", "status.example"], None)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", 200),
        ("LOCALHOST:9470", 200),
        ("localhost.", 200),
        ("127.0.0.1:9470", 200),
        ("127.3.2.1", 200),
        ("[::1]:9470", 200),
        ("edge-1", 200),
        ("Edge-1:80", 200),
        ("status.example", 200),
        # The address that was called, and no other.
        ("192.0.2.1:9470", 200),
        ("192.0.2.2:9470", 421),
        # A name that somebody else made lead here.
        ("rebind.attacker.example:9470", 421),
        ("edge-1.attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("attacker.example@localhost", 421),
        ("localhost@attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("127.1", 421),
        ("2130706433", 421),
        ("0.0.0.0", 421),
        ("[::ffff:10.0.0.1]", 421),
        ("", 421),
        ("localhost, attacker.example", 421),
        ("localhost/", 421),
        ("xn--\u00e4", 421),
        (None, 400),
    ],
)
@pytest.mark.parametrize("path", ["/", "/v1/status"])
def test_a_host_is_one_of_our_names(host: str | None, expected: int, path: str) -> None:
    assert status(OPEN, head(path, Host=host)) == expected


def test_two_hosts_are_refused_even_if_both_are_right() -> None:
    asked = head()
    asked.headers["Host"] = "localhost"
    assert status(OPEN, asked) == 400


def test_the_refusal_of_a_name_says_where_to_write_it() -> None:
    with pytest.raises(Refused, match=r'this machine is not called "nas\.lan:9470"') as caught:
        OPEN.check(peer(), head(Host="nas.lan:9470"))
    assert 'hosts = ["nas.lan"] in [web]' in (caught.value.hint or "")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get"])
def test_only_reading_is_possible(method: str) -> None:
    with pytest.raises(Refused) as caught:
        OPEN.check(peer(), head(method=method))
    assert (caught.value.status, caught.value.headers["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("target", ["http://localhost/v1/status", "localhost:80", "*", ""])
def test_a_target_for_a_proxy_is_refused(target: str) -> None:
    assert status(OPEN, head(target)) == 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://localhost:9470", "Host": "localhost:9470"}, 200),
        ({"Origin": "https://localhost", "Host": "localhost"}, 200),
        ({"Origin": "http://localhost:3000", "Host": "localhost:9470"}, 403),
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_read_nothing(headers: dict[str, str], expected: int) -> None:
    assert status(OPEN, head(**headers)) == expected
    # A link from elsewhere to the page itself is none of their business.
    assert status(OPEN, head("/", **headers)) == 200


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (None, 401),
        ("", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        (f"Bearer {TOKEN}0", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer \u00fc\xff", 401),
    ],
)
def test_a_token_is_right_or_wrong(sent: str | None, expected: int) -> None:
    guard = Guard([], TOKEN.encode())
    asked = head()
    if sent is not None:
        # As the base class decodes heads.
        asked.headers.add_header("Authorization", sent)
    assert status(guard, asked) == expected
    assert status(guard, head("/")) == 200


def test_two_tokens_are_refused() -> None:
    asked = head(Authorization=f"Bearer {TOKEN}")
    asked.headers["Authorization"] = f"Bearer {TOKEN}"
    assert status(Guard([], TOKEN.encode()), asked) == 401


def guarded(now: list[float]) -> Guard:
    return Guard([], TOKEN.encode(), RateLimit(burst=3, rate=1, clock=lambda: now[0]))


RIGHT, WRONG = head(Authorization=f"Bearer {TOKEN}"), head(Authorization="Bearer wrong")


def test_who_guesses_has_to_wait_even_with_the_right_one() -> None:
    now = [0.0]
    guard = guarded(now)
    assert [status(guard, WRONG) for _ in range(5)] == [401, 401, 401, 429, 429]
    assert status(guard, RIGHT) == 429
    # Whoever is elsewhere does not.
    assert status(guard, RIGHT, peer("192.0.2.8")) == 200
    now[0] = 1.0
    assert status(guard, RIGHT) == 200


def test_who_has_proved_it_is_locked_out_by_nobody_with_the_same_address() -> None:
    guard = guarded([0.0])
    assert status(guard, RIGHT) == 200
    assert [status(guard, WRONG) for _ in range(4)] == [401, 401, 401, 429]
    assert status(guard, RIGHT) == 200


def test_a_missing_token_is_no_guess() -> None:
    guard = guarded([0.0])
    assert {status(guard, head()) for _ in range(20)} == {401}
    assert status(guard, RIGHT) == 200


def test_all_addresses_of_a_network_of_ipv6_are_one_caller() -> None:
    guard = guarded([0.0])
    found = [status(guard, WRONG, peer(f"2001:db8::{number}")) for number in range(1, 6)]
    assert found == [401, 401, 401, 429, 429]
    assert status(guard, WRONG, peer("2001:db8:0:1::1")) == 401
    assert status(guard, WRONG, peer("fe80::1%eth0")) == 401
