"""The `[web]` table of agent.toml: the address at which browsers and Prometheus read what goes on here."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated

from msgspec import Struct

from tank_agent.settings.declaration import file_path, listen_address, parse_listen
from tank_agent.spec.findings import show
from tank_agent.spec.keys import declare
from tank_agent.spec.network_values import is_loopback

TOKEN_FILE = "/etc/tank/web.token"  # noqa: S105 - a file's name
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")
_RIGHT_HOST = 'write a name or an address as browsers are given it, such as "edge-1.lan"'


def _host(value: str) -> str:
    """Check a name or an address of this machine; return it as a Host header's is compared."""
    bare = re.sub(r"^[a-z]+://|/.*$", "", value.lower())
    name = host_name(bare)
    if name is None:
        raise ValueError(f"{show(value)} is not the name of a host; {_RIGHT_HOST}")
    if name != value.lower().rstrip("."):
        raise ValueError(
            f"{show(value)} is more than a name, which counts with every port; write {show(name)}"
        )
    return name


def host_name(text: str) -> str | None:
    """Return the host in a Host header, without its port and in one way of writing; None if it is none."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{0,5})?", text.lower())
    # An address of IPv6 without brackets, as people write it into a list.
    host = found[1].strip("[]") if found else text
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        name = host.rstrip(".")
        return name if found and _NAME.fullmatch(name) else None


# A key reads as one sentence, which the formatter would spread over a dozen lines.
# fmt: off
class WebSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The status page, /metrics, and what they are made of, over TCP: nothing can be changed there."""

    listen: Annotated[str, listen_address(
        "The address and port to listen on; one that others reach needs token_file.", "127.0.0.1:9470")]
    token_file: Annotated[str | None, file_path(
        "Holds the token that callers send: root's, and not open to all.", TOKEN_FILE)] = None
    hosts: Annotated[tuple[str, ...], declare(
        "Further names by which browsers may call this machine.", ["edge-1.lan"], each=_host)] = ()
# fmt: on


def problems(settings: WebSettings) -> Iterator[tuple[str, str]]:
    """Yield what contradicts each other in [web], as a key and a sentence."""
    address, _ = parse_listen(settings.listen)
    if settings.token_file is None and not is_loopback(address):
        right = (
            f'write token_file = "{TOKEN_FILE}" (`openssl rand -hex 32` makes one), or listen on 127.0.0.1'
        )
        yield "token_file", f"is needed, since others reach {settings.listen}; {right}"
