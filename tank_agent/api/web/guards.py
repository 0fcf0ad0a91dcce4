"""The guard of the web: it checks a request's Host, the page that sent it, and its token.

The Host keeps a foreign page from reading us by DNS rebinding, for which it must call us by its own name. The
kind of fetch keeps it from opening streams that it could not read.
"""

from __future__ import annotations

import hmac
import ipaddress
import threading
from collections import OrderedDict
from collections.abc import Iterable

from tank_agent.api.request import Head, Peer, Refused
from tank_agent.retry import RateLimit
from tank_agent.settings.web import host_name
from tank_agent.spec.findings import show
from tank_agent.spec.network_values import is_loopback

# Addresses from which the right token came; the last ones are remembered.
_KNOWN = 1024
# The page holds no data, and can't send a token before it is there.
OPEN_PATHS = ("/",)
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tank"'}
_ONLY_READING = "only GET and HEAD are possible here: nothing can be changed from the web"


class Guard:
    """Decides whether a request may come in. All methods may be called from many threads.

    Args:
        names: by which this machine may be called, besides localhost and the address that was called.
        token: which callers must send; None asks for none.
        limit: of wrong tokens, by address.
    """

    def __init__(self, names: Iterable[str], token: bytes | None, limit: RateLimit | None = None) -> None:
        self._names = frozenset(("localhost", *names))
        self._token = token
        self._limit = limit if limit is not None else RateLimit()
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()

    def check(self, peer: Peer, head: Head) -> None:
        """Let a request pass.

        Raises:
            Refused: it may not come in.
        """
        if head.method not in ("GET", "HEAD"):
            raise Refused(405, _ONLY_READING, headers={"Allow": "GET, HEAD"})
        # The target of a request to a proxy, which names a host of its own.
        if not head.path.startswith("/"):
            raise Refused(400, "the target of the request must begin with /")
        host = self._host(peer, head)
        if head.path in OPEN_PATHS:
            return
        _check_origin(head, host)
        if self._token is not None:
            self._check_token(self._token, peer, head.headers.get_all("Authorization", []))

    def _host(self, peer: Peer, head: Head) -> str:
        given = head.headers.get_all("Host", [])
        if len(given) != 1:
            raise Refused(400, "the request needs one Host")
        text = given[0].strip()
        host = host_name(text)
        if host is None or not (host in (*self._names, peer.local) or is_loopback(host)):
            name = show(host or "NAME")
            hint = f"if it is, write hosts = [{name}] in [web] of its agent.toml (web.hosts)"
            raise Refused(421, f"this machine is not called {show(text[:100])}", hint=hint)
        return text

    def _check_token(self, token: bytes, peer: Peer, given: list[str]) -> None:
        scheme, _, sent = given[0].strip().partition(" ") if len(given) == 1 else ("", "", "")
        hint = "send `Authorization: Bearer TOKEN`, with the word in web.token_file of that machine"
        if scheme.lower() != "bearer":
            raise Refused(401, "this needs a token", hint=hint, headers=_CHALLENGE)
        right = hmac.compare_digest(sent.strip().encode(errors="replace"), token)
        caller = _network(peer.address)
        with self._lock:
            if right and (caller in self._known or not self._limit.is_used_up(caller)):
                # Behind a proxy all have one address, and who guesses there must lock nobody out.
                self._known[caller] = None
                self._known.move_to_end(caller)
                while len(self._known) > _KNOWN:
                    self._known.popitem(last=False)
                return
        if self._limit.allows(caller):
            raise Refused(401, "the token is wrong", hint=hint, headers=_CHALLENGE)
        raise Refused(429, "too many wrong tokens came from there", headers={"Retry-After": "1"})


def _check_origin(head: Head, host: str) -> None:
    """Refuse what a page of another site makes a browser ask for; browsers themselves say so."""
    site, origin = head.headers.get("Sec-Fetch-Site", ""), head.headers.get("Origin")
    foreign = origin is not None and origin.rpartition("://")[2].lower() != host.lower()
    if foreign or site.lower() in ("cross-site", "same-site"):
        raise Refused(403, "pages of other sites may not read this")


def _network(address: str) -> str:
    """Return whom an address belongs to: who has one of IPv6 has a /64 of them."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address.partition("%")[0], 64), strict=False))
