"""Addresses that other hosts tell us: a secret goes to whom it is for, whatever Location and realm say."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import urllib3.util
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tank_agent.errors import Stalled, TankError
from tank_agent.image.registry.credentials import Credentials
from tank_agent.image.registry.endpoint import Endpoint
from tank_agent.image.registry.http import Http, Trust
from tank_agent.image.registry.url import parse_url
from tank_agent.settings.image import ImageSettings

PASSWORD = Credentials(username="alice", password="hunter2")
REGISTRY = ("127.0.0.1", 5601)
BASE = f"http://{REGISTRY[0]}:{REGISTRY[1]}"
HOME = f"{BASE}/v2/image/blobs/x"

# What parsers were ever at odds about, to be put together at random.
PARTS = st.sampled_from(
    [
        *(
            "http:",
            "https:",
            "HTTP:",
            "ftp:",
            "file:",
            "//",
            "/",
            "///",
            "\\",
            "\\\\",
            "@",
            ":",
            "?",
            "#",
            ";",
        ),
        *("127.0.0.1", "127.0.0.1:5601", "127.0.0.3:5603", "evil.example", "localhost", "[::1]", "[::1]:80"),
        *("[", "]", "%5c", "%40", "%2f", "%00", "%", "\t", "\r\n", "\n", " ", "\x00", "\x7f", "\x0b", "\xa0"),
        *("user:password@", "0x7f.1", "2130706433", "127.1", ":0", ":5601", ":05601", ":65536", "..", "."),
        *(
            "\uff0e",
            "\u3002",
            "\uff0f",
            "\uff20",
            "\xe4",
            "\u2028",
            "\ud800",
            "xn--",
            "a" * 70,
            "v2",
            "x=1",
            "&",
        ),
    ]
)
HOSTILE = st.one_of(
    st.lists(PARTS, max_size=9).map("".join),
    st.lists(PARTS, max_size=7).map(lambda parts: "http://" + "".join(parts)),
    st.text(max_size=30).map(lambda text: "http://" + text),
)
KNOWN = (
    "http://127.0.0.3:5603\\@127.0.0.1:5601/v2/image/blobs/x",
    "http://127.0.0.1:5601@127.0.0.3:5603/",
    "http://127.0.0.3:5603#@127.0.0.1:5601/",
    "http://127.0.0.3:5603?@127.0.0.1:5601/",
    "//127.0.0.3:5603/",
    "/\\127.0.0.3:5603/",
    "http:/\\127.0.0.3:5603/",
    "http://127.0.0.1:5601\t@127.0.0.3/",
)


class Wire:
    """Takes the place of the network: each connection gets the next answer, and what was sent is kept."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.peers: list[tuple[tuple[str, int], socket.socket]] = []

    def connect(self, address: tuple[str, int], *args: object, **kwargs: object) -> socket.socket:
        ours, theirs = socket.socketpair()
        answer = self.answers.pop(0) if self.answers else b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        self.peers.append((address, theirs))
        return ours

    def sent(self) -> list[tuple[tuple[str, int], bytes]]:
        """Return whom we connected to, and all that we sent there."""
        found = []
        for address, peer in self.peers:
            peer.setblocking(False)
            try:
                found.append((address, peer.recv(1 << 20)))
            except BlockingIOError:
                found.append((address, b""))
            peer.close()
        self.peers.clear()
        return found


def answer(status: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} x", "Content-Length: 0", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", errors="surrogatepass")


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with pytest.MonkeyPatch.context() as patch:
        found = Wire()
        patch.setattr(urllib3.util.connection, "create_connection", found.connect)
        # It takes longer to make than all the rest of an example.
        context = Trust().context()
        patch.setattr(Trust, "context", lambda trust: context)
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            patch.delenv(name, raising=False)
        yield found


@contextmanager
def http() -> Iterator[Http]:
    made = Http(ImageSettings(connect_timeout=2.0, read_timeout=2.0), lambda: False)
    try:
        yield made
    finally:
        made.close()


def has_secret(sent: bytes) -> bool:
    return b"authorization:" in sent.lower()


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


@settings(max_examples=150, deadline=None)
@given(first=HOSTILE, second=HOSTILE)
@example(first=KNOWN[0], second="")
@example(first="http://127.0.0.2:1/", second=KNOWN[0])
@example(first="http://127.0.0.2:1/", second=HOME)
@example(first="//127.0.0.1:5601/x", second="http://127.0.0.3:5603/")
def test_no_redirect_takes_a_secret_to_another_host(wire: Wire, first: str, second: str) -> None:
    wire.answers = [answer(307, Location=hop) for hop in (first, second) if _fits_a_header(hop)]
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


def _fits_a_header(text: str) -> bool:
    return "\r" not in text and "\n" not in text


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


@settings(max_examples=100, deadline=None)
@given(realm=HOSTILE)
@example(realm=KNOWN[0])
@example(realm="http://127.0.0.1:5601@127.0.0.3:5603/token")
def test_a_password_goes_to_the_realm_that_is_read_in_one_way(wire: Wire, realm: str) -> None:
    quoted = realm.replace("\\", "\\\\").replace('"', '\\"')
    if not _fits_a_header(quoted):
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


def _endpoint(client: Http) -> Endpoint:
    return Endpoint(
        client,
        name="registry",
        address=f"{REGISTRY[0]}:{REGISTRY[1]}",
        repository="image",
        trust=Trust(),
        credentials=lambda problem: PASSWORD,
    )


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
