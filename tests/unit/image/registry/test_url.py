"""Addresses that other hosts name: read in one way, or refused."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
import urllib3.util
from hypothesis import given, settings

from tank_agent.errors import Stalled
from tank_agent.image.registry.url import parse_url
from tests.support.wire import HOSTILE


@settings(max_examples=200, deadline=None)
@given(text=HOSTILE)
def test_every_parser_reads_an_address_as_we_do(text: str) -> None:
    try:
        url = parse_url(text)
    except Stalled:
        return
    ours = (url.scheme, url.host, url.port)
    split, parsed = urlsplit(str(url)), urllib3.util.parse_url(str(url))
    usual = {"http": 80, "https": 443}[url.scheme]
    assert ours == (split.scheme, _bracketed(split.hostname), split.port or usual)
    assert ours == (parsed.scheme, parsed.host, parsed.port or usual)
    assert split.username is None and parsed.auth is None
    assert str(url).isascii() and str(url).isprintable() and " " not in str(url) and "\\" not in str(url)
    assert parse_url(str(url)) == url


def _bracketed(host: str | None) -> str | None:
    return f"[{host}]" if host and ":" in host else host


@pytest.mark.parametrize(
    ("location", "leads_to"),
    [
        ("/other?sig=a%2Fb+c", "https://r.io/other?sig=a%2Fb+c"),
        ("//CDN.example:8443/x", "https://cdn.example:8443/x"),
        ("?again=1", "https://r.io/v2/a?again=1"),
        ("b/../c", "https://r.io/v2/c"),
        ("https://r.io:443/x#part", "https://r.io/x"),
        (" https://cdn.example/a b ", "https://cdn.example/a%20b"),
        ("https://cdn.example/\xc3\xa4", "https://cdn.example/%C3%A4"),
        ("https://my_bucket.example./x", "https://my_bucket.example./x"),
        ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ],
)
def test_honest_locations_are_followed(location: str, leads_to: str) -> None:
    assert str(parse_url("https://r.io/v2/a").to(location)) == leads_to


@pytest.mark.parametrize(
    "location",
    [
        *("file:///etc/passwd", "https:", "https://", "https:///x", "http://[::1/", "http://[1.2.3]/"),
        *("https://h:99999999/", "https://h:0/", "https://h:/", "https://h:80:80/", "https://a..b/"),
        *(
            "https://user@h/",
            "https://user:hunter2@h/",
            "https://@h/",
            "https://127.1/",
            "https://0x7f000001/",
        ),
        *("https://h\\x/", "/a\\b", "https://h\x00/", "https://ä.example/", "https://h h/", "https://h%41/"),
        *(
            "https://[fe80::1%25eth0]/",
            "https://h/" + "a" * 20_000,
            "https://-h/",
            "https://" + "a" * 64 + "/",
        ),
    ],
)
def test_odd_locations_are_refused_by_a_sentence(location: str) -> None:
    with pytest.raises(Stalled, match="not an address that we follow") as caught:
        parse_url("https://r.io/v2/a").to(location)
    assert "hunter2" not in str(caught.value) and "\x00" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("address", ["http\u017f://evil.example/", "https://to\u212aen.example/"])
def test_letters_that_only_fold_to_ours_are_no_letters_of_an_address(address: str) -> None:
    with pytest.raises(Stalled, match="not an address that we follow"):
        parse_url(address)
