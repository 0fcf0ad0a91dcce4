"""A network of one process, in the place of registries, and addresses that parsers disagree about."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import strategies as st

from tank_agent.image.registry.http import Http
from tank_agent.settings.image import ImageSettings

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


@contextmanager
def http() -> Iterator[Http]:
    made = Http(ImageSettings(connect_timeout=30.0, read_timeout=30.0), lambda: False)
    try:
        yield made
    finally:
        made.close()


def has_secret(sent: bytes) -> bool:
    return b"authorization:" in sent.lower()


def fits_a_header(text: str) -> bool:
    return "\r" not in text and "\n" not in text
