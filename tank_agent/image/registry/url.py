"""Addresses that other hosts name, parsed strictly: they decide who is asked, and who gets a secret.

Libraries read "http://a\\@b/" in different ways. This parser refuses what has two readings, and connections
are made to the parts that it finds, never to the text.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urljoin

from msgspec import Struct

from tank_agent.errors import Stalled

_LONGEST = 16 << 10
_PORTS = {"http": 80, "https": 443}
_FORM = re.compile(
    r"(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?", re.I | re.A
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(?P<port>[1-9][0-9]{0,4}))?", re.I | re.A)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
# Unchanged, so that a signature over the text stays valid.
_KEPT = "%!$&'()*+,/:;=?@[]~-._"


class Url(Struct, frozen=True, kw_only=True):
    """An absolute address. `host` is lower case, IPv6 in brackets; `path` and `query` are ASCII."""

    scheme: str
    host: str
    port: int
    path: str
    query: str = ""

    def __str__(self) -> str:
        return f"{self.place}{self.query}"

    @property
    def origin(self) -> str:
        """Return scheme, host and port: the peer of a connection, and the owner of a secret."""
        usual = _PORTS[self.scheme] == self.port
        return f"{self.scheme}://{self.host}{'' if usual else f':{self.port}'}"

    @property
    def place(self) -> str:
        """Return the address without its query, which may hold a signature that opens the content."""
        return f"{self.origin}{self.path}"

    def to(self, location: str) -> Url:
        """Return the target of a Location header; Stalled if it is not allowed."""
        text = _clean(location)
        if text.startswith("//"):
            return parse_url(f"{self.scheme}:{text}")
        return parse_url(text if _SCHEME.match(text) else urljoin(self.place, text))


def parse_url(text: str) -> Url:
    """Take an absolute address apart; Stalled if it has two readings, or holds a name and a password."""
    text = _clean(text)
    found = _FORM.match(text)
    if not found:
        raise _refused(text, "it does not begin with http:// or https:// and a host")
    scheme = found["scheme"].lower()
    if "@" in found["authority"]:
        raise _refused(text, "it has a user name in front of the host")
    authority = _AUTHORITY.fullmatch(found["authority"])
    host = authority["host"].lower() if authority else ""
    port = int((authority and authority["port"]) or _PORTS[scheme])
    if not host or not _is_host(host) or port > 65535:
        raise _refused(text, "its host or port is not one")
    path, query = _quoted(found["path"] or "/"), _quoted(found["query"] or "")
    return Url(scheme=scheme, host=host, port=port, path=path, query=query)


def _is_host(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    try:
        if host.startswith("["):
            ipaddress.IPv6Address(host[1:-1])
        elif re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1]):
            # Resolvers take a last number for an address, also in forms such as 127.1 and 0x7f000001.
            ipaddress.IPv4Address(host)
        else:
            return len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    except ValueError:
        return False
    return True


def _clean(text: str) -> str:
    text = text.strip(" ")
    if len(text) > _LONGEST:
        raise _refused(text, f"it has more than {_LONGEST} characters")
    if "\\" in text or any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):
        raise _refused(text, "it has a backslash or a control character in it")
    return text


def _quoted(text: str) -> str:
    try:
        # http.client reads headers as Latin-1, and most servers send UTF-8.
        return quote(text.encode("latin-1"), safe=_KEPT)
    except UnicodeEncodeError:
        return quote(text, safe=_KEPT, errors="surrogatepass")


def _refused(text: str, why: str) -> Stalled:
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:200])
    # A query may hold a signature, and what stands before an @ a password.
    shown = re.sub(r"//[^/?#]*@", "//…@", shown.partition("?")[0])
    return Stalled(f"{shown!r} is not an address that we follow: {why}")
