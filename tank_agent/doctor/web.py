"""Can [web] be served: its token, whether others can read that on the way, and who has its address."""

from __future__ import annotations

import ipaddress
import os

from tank_agent.api.web.opening import bound, read_token
from tank_agent.doctor import Check, note, ok, warn
from tank_agent.errors import TankError
from tank_agent.network.listeners import holder, listening
from tank_agent.settings.declaration import parse_listen
from tank_agent.settings.web import WebSettings
from tank_agent.spec.network_values import is_loopback

_NAME = "web"
_RESTART = "systemctl restart tank-agent"
_TLS = "let a proxy with TLS pass on what comes, and listen on 127.0.0.1: docs/web.md; a VPN does, too"
_AGAIN = "it is tried again at each resync"


def of_settings(settings: WebSettings) -> list[Check]:
    """Check the token, and who can read it on its way."""
    checks = []
    if settings.token_file is not None:
        checks += _token(settings.token_file)
    address, _ = parse_listen(settings.listen)
    if not is_loopback(address):
        found = (
            f"others reach {settings.listen} over plain HTTP: who sees the packets on the way has the token"
        )
        checks.append(note(_NAME, found, _TLS))
    return checks


def of_agent(listen: str, *, at: str | None, error: str | None, hint: str | None) -> Check:
    """Check what the agent says: `at` is where it is to listen, None if it does not know of [web]."""
    if at != listen:
        before = "[web]" if at is None else f"[web] listen = {listen}, and has {at}"
        found = f"the agent that runs was started before {before} was written"
        taken = _taken(listen) if at is None else None
        return taken or warn(_NAME, found, _RESTART)
    if error is not None:
        found = f"the page is not served: {error}"
        return warn(_NAME, f"{found}{_who(listen)}", f"{hint or 'mend that'}; {_AGAIN}")
    return ok(_NAME, f"the agent listens on {listen}")


def of_address(listen: str) -> Check:
    """Check whether an agent could listen, while none can be asked."""
    return _taken(listen) or ok(_NAME, f"nobody has {listen}, and the agent can listen there")


def _token(file: str) -> list[Check]:
    try:
        read_token(file)
    except TankError as error:
        if isinstance(error.__cause__, PermissionError) and os.geteuid() != 0:
            return [
                note(_NAME, f"web.token_file: {file} can't be looked at by this user", "sudo tank doctor")
            ]
        return [warn(_NAME, error.message, error.hint or f"chown root:root {file} && chmod 600 {file}")]
    return []


def _taken(listen: str) -> Check | None:
    """Return why nobody could listen at an address now; None if that is possible."""
    try:
        bound(listen).close()
    except TankError as error:
        if isinstance(error.__cause__, PermissionError) and os.geteuid() != 0:
            # A port that only root may have, as which the agent runs.
            return None
        advice = error.hint or "write another address in [web]"
        return warn(_NAME, f"{error.message}{_who(listen)}", advice)
    return None


def _who(listen: str) -> str:
    """Return who has the address, as the end of a sentence; empty if nobody has."""
    text, port = parse_listen(listen)
    address = ipaddress.ip_address(text)
    for socket in listening():
        one = socket.address
        same = address == one or address.is_unspecified or one.is_unspecified
        if (socket.protocol, socket.port) == ("tcp", port) and same:
            return f"; {holder(socket)} listens there"
    return ""
