"""The token and the address of `[web]`: the door needs both to open, and the doctor looks at them."""

from __future__ import annotations

import errno
import socket

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.paths import NotReadableError
from tank_agent.runtime.secrets.identities import read_key
from tank_agent.settings.declaration import parse_listen

TOKEN_MIN = 16
_TOKEN_MAX = 4096
_WHY = {
    errno.EADDRINUSE: "`ss -ltnp sport = :{port}` shows who listens there",
    errno.EADDRNOTAVAIL: "`ip address` shows the addresses of this machine",
    errno.EACCES: "ports below 1024 may need CAP_NET_BIND_SERVICE",
}


def read_token(path: str) -> bytes:
    """Return the token in a file.

    Raises:
        Stalled: it can't be read, is open to others, or is too short.
    """
    try:
        token = read_key(path).strip()
    except OSError as error:
        hint = f"openssl rand -hex 32 | sudo install -m 600 /dev/stdin {path}"
        raise Stalled(f"web.token_file: {path} can't be read: {error.strerror}", hint=hint) from error
    except NotReadableError as error:
        raise Stalled(f"web.token_file: {path} {error}") from None
    if not TOKEN_MIN <= len(token) <= _TOKEN_MAX or not all(0x21 <= byte <= 0x7E for byte in token):
        message = f"web.token_file: {path} must hold one word of {TOKEN_MIN} to {_TOKEN_MAX} ASCII characters"
        raise Stalled(message, hint="openssl rand -hex 32 makes one")
    return token


def bound(setting: str) -> socket.socket:
    """Return a socket that is bound to an address of this machine, and does not listen yet.

    Raises:
        Retry: that is not possible now.
    """
    address, port = parse_listen(setting)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as error:
        raise cannot_listen(setting, error) from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is all addresses, of IPv4 too, whatever net.ipv6.bindv6only says.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)
        made.bind(place)
    except OSError as error:
        made.close()
        raise cannot_listen(setting, error) from error
    return made


def cannot_listen(setting: str, error: OSError) -> Retry:
    """Return the error of an address at which nobody can listen now."""
    hint = _WHY.get(error.errno or 0, "").format(port=parse_listen(setting)[1])
    return Retry(f"cannot listen on {setting}: {error.strerror}", hint=hint or None)
