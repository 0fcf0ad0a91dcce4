"""Checks of single values of health checks and updates, and what other tools have in their place.

A check returns the value in its one form, or raises ValueError with a sentence for the user.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from tank_agent.spec.findings import exact, show
from tank_agent.spec.other_tools.advice import of_command
from tank_agent.spec.quantities import parse_duration

PORT_MAX = 65_535
RETRIES_MAX = 100
MAX_RESTARTS_MAX = 100
# Servers take a request line and headers of 8 KiB; nobody needs them for a health check.
_PATH_MAX, _HEADERS_MAX = 2000, 4000
_PATH = re.compile("/[!-~]*")
# RFC 9110, section 5.6.2; a value has what any terminal prints.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile("[ -~]*")
# They say how the request is sent, which is the agent's own business.
_OWN_HEADERS = (
    "connection", "content-length", "expect", "keep-alive", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade",
)  # fmt: skip
_URL = re.compile(
    r"https?://(?:\[[^]/?#]*\]|[^:/?#\[\]]*)(?::(?P<port>[0-9]{1,5}))?(?P<path>[/?][!-~]*)?", re.IGNORECASE
)
_ADDRESS = re.compile(r"(?:.*:)?(?P<port>[0-9]{1,5})")
_HERE = "probes go to the pod itself"

Check = Callable[[str | float], float]
DAY, HOUR = 86_400.0, 3600.0

interval: Check = functools.partial(parse_duration, low=1.0, high=DAY)
timeout: Check = functools.partial(parse_duration, low=0.1, high=HOUR)
start_period: Check = functools.partial(parse_duration, high=HOUR)
start_interval: Check = functools.partial(parse_duration, low=0.5, high=DAY)
min_healthy: Check = functools.partial(parse_duration, high=HOUR)
deadline: Check = functools.partial(parse_duration, low=1.0, high=DAY)


def probed_port(value: int) -> int:
    """Return a port that something can listen on."""
    if not 1 <= value <= PORT_MAX:
        raise ValueError(f"must be from 1 to {PORT_MAX}")
    return value


def retries(value: int) -> int:
    """Return how many failures in a row make a container unhealthy."""
    if not 1 <= value <= RETRIES_MAX:
        raise ValueError(f"must be from 1 to {RETRIES_MAX}; 3 is usual")
    return value


def max_restarts(value: int) -> int:
    """Return how many ends of its containers an update may have."""
    if not 0 <= value <= MAX_RESTARTS_MAX:
        raise ValueError(f"must be from 0 to {MAX_RESTARTS_MAX}; 2 is usual")
    return value


def http_path(value: str) -> str:
    """Return what stands in the line of a request."""
    if _URL.fullmatch(value):
        raise ValueError(f"is a path, since {_HERE}; write {show(_path_of_url(value))}")
    if not value.startswith("/"):
        raise ValueError(f'{show(value)} must start with "/", as in "/healthz"')
    if not _PATH.fullmatch(value):
        # A text with half of a character can't be in a file.
        quoted = "".join(f"%{byte:02X}" if not 33 <= byte <= 126 else chr(byte) for byte in value.encode())
        right = (
            show(quoted) if len(quoted) <= 60 and value.isprintable() else '%20 for a space, as in "/a%20b"'
        )
        raise ValueError(f"has a space or another character that no request can have; write {right}")
    if "#" in value:
        raise ValueError(f"what follows a # is never sent; write {show(value.partition('#')[0])}")
    if len(value) > _PATH_MAX:
        raise ValueError(f"is longer than {_PATH_MAX} bytes")
    return value


def header(pair: tuple[str, str]) -> None:
    """Check the name and the value of a header of the request."""
    name, value = pair
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{show(name)} is not the name of a header; use letters, digits and -")
    if name.lower() in _OWN_HEADERS:
        raise ValueError("says how the request is sent, and the agent does that; remove it")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError("has a character that no header can have; use those from space to ~")


def check_headers(given: dict[str, str]) -> None:
    """Check that no header is there twice, and that all are no longer than servers take."""
    if len({name.lower() for name in given}) < len(given):
        raise ValueError("a header is given twice, in another case; remove one")
    if sum(map(len, (*given, *given.values()))) > _HEADERS_MAX:
        raise ValueError(f"are longer than {_HEADERS_MAX} bytes")


_EXACT_MAX = 200


def check_command(words: tuple[str, ...]) -> None:
    """Check that there is a program in the command of a probe, and not what a Dockerfile has there."""
    if not words or not words[0]:
        raise ValueError('there is no program in it; write exec = ["/path/of/the/program"]')
    kind, *rest = words
    if kind == "NONE" and not rest:
        raise ValueError("is a Dockerfile's word for no check; write image = false in place of exec")
    if kind in ("CMD", "CMD-SHELL") and rest:
        # A shell takes one text.
        right = rest if kind == "CMD" else ["/bin/sh", "-c", " ".join(rest)]
        raise ValueError(f"{kind} is a Dockerfile's word; write {exec_text(right)}")


def exec_text(words: list[str]) -> str:
    """Return a command as its key says it; a long one only begins."""
    if sum(map(len, words)) <= _EXACT_MAX:
        return f"exec = [{', '.join(map(exact, words))}]"
    return f"exec = [{', '.join(map(show, words[:4]))}{', …' if len(words) > 4 else ''}]"


def http_advice(given: object) -> str | None:
    """Return the sentence for a probe by http that is no table: a port, or a URL."""
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= PORT_MAX:
        return f"write {{ port = {given} }}"
    if not isinstance(given, str):
        return None
    if given.startswith("/"):
        return f"write {{ port = 8080, path = {show(given)} }} with its port"
    found = _URL.fullmatch(given)
    if found is None:
        port_only = tcp_port(given)
        return f"write {{ port = {port_only} }}" if port_only else None
    tls = given[:5].lower() == "https"
    port = found["port"] or ("443" if tls else "80")
    words = f"{{ port = {port}, path = {show(_path_of_url(given))}{', tls = true' if tls else ''} }}"
    return f"{_HERE}; write {words}"


def _path_of_url(url: str) -> str:
    found = _URL.fullmatch(url)
    path = (found["path"] if found else None) or "/"
    return (path if path.startswith("/") else f"/{path}").partition("#")[0]


def tcp_port(given: object) -> int | None:
    """Return the port of an address, or of Kubernetes' table for one."""
    if isinstance(given, dict):
        given = given.get("port")
    if isinstance(given, str):
        found = _ADDRESS.fullmatch(given) if len(given) < 300 else None
        given = int(found["port"]) if found else None
    good = isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= PORT_MAX
    return given if good and isinstance(given, int) else None


def tcp_advice(given: object) -> str | None:
    """Return the sentence for a probe by tcp that is no number: an address, or a table."""
    port = tcp_port(given)
    if port is None or isinstance(given, int):
        return None
    return f"{_HERE}; write {port}" if isinstance(given, str) and ":" in given else f"write {port}"


def exec_advice(given: object) -> str | None:
    """Return the sentence for a probe by exec that is Kubernetes' table."""
    if isinstance(given, str):
        return of_command(given)
    words = given.get("command") if isinstance(given, dict) else None
    if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
        return f"write {exec_text(words)}"
    return None


def headers_advice(given: object) -> str | None:
    """Return the sentence for headers as Kubernetes' list of tables."""
    first = given[0] if isinstance(given, list) and given else None
    name, value = (first.get("name"), first.get("value")) if isinstance(first, dict) else (None, None)
    if isinstance(name, str) and isinstance(value, str):
        return f"write {{ {show(name)} = {show(value)} }}"
    return None


def after_advice(given: object) -> str | None:
    """Return the sentence for compose's depends_on with conditions: a table by name."""
    if not isinstance(given, dict) or not given:
        return None
    names = f"write [{', '.join(map(show, list(given)[:5]))}]"
    ended = [
        name
        for name, more in given.items()
        if isinstance(more, dict) and more.get("condition") == "service_completed_successfully"
    ]
    return f"{names}, or init = true in {show(ended[0])}, which runs to its end first" if ended else names


def snapshot_advice(given: object) -> str | None:
    """Return the sentence for a wrong value of a volume's snapshot."""
    if isinstance(given, str) and given.lower() in ("true", "false", "yes", "no", "on", "off"):
        return f"write {'true' if given.lower() in ('true', 'yes', 'on') else 'false'}"
    return 'write true, false or "reflink"'
