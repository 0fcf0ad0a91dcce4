"""Read published ports, such as "127.0.0.1:8080:80/udp", and find those of which only one can be had."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from typing import Literal

from tank_agent.spec.findings import show
from tank_agent.spec.model import ALL4, ALL6, Port
from tank_agent.spec.network_values import refuse_special

_RANGE = "[0-9]+(?:-[0-9]+)?"
_PORT = re.compile(
    rf"(?:(?P<address>\[[^]]*\]|[^:\[\]]*):)?(?P<host>{_RANGE}):(?P<pod>{_RANGE})(?:/(?P<protocol>.*))?",
    re.DOTALL,
)
_ONCE = re.compile(rf"(?:(?P<address>\[[^]]*\]|[0-9.]+):)?:?(?P<ports>{_RANGE})(?P<protocol>/.*)?")
_BARE_IPV6 = re.compile(
    rf"(?P<address>[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(?:%[^:]*)?):(?P<rest>{_RANGE}:{_RANGE}(?:/.*)?)"
)
_PORT_MAX = 65_535
_GUESSED_MAX = 100
_FORM = "write [ADDRESS:]HOST:POD[/udp]"


def published_port(text: str) -> Port:
    """Return a port, or a range of ports, as `[ADDRESS:]HOST:POD[/tcp|udp]` says."""
    found = _PORT.fullmatch(text)
    if found is None:
        raise ValueError(_why_no_port(text))
    protocol = _protocol(found)
    host, count = _range(found["host"])
    pod, pods = _range(found["pod"])
    if count != pods:
        most = max(count, pods) - 1
        right = f"{host}-{host + most}:{pod}-{pod + most}"
        raise ValueError(
            f"{count} of this machine's ports can't lead to {pods} of the pod's; write ranges of one length"
            + (f", such as {show(right)}" if max(host, pod) + most <= _PORT_MAX else "")
        )
    return Port(host=host, pod=pod, count=count, protocol=protocol, address=_address(found))


def _why_no_port(text: str) -> str:
    given, plain = show(text), "".join(text.split())
    if not plain:
        return f'{given} is no port; {_FORM}, such as "8080:80"'
    if plain != text and _PORT.fullmatch(plain):
        return f"{given} has spaces in it; write {_right(plain)}"
    # A guess takes time with the length, and what is longer is no slip.
    guessed = text if len(text) <= _GUESSED_MAX else ""
    once = _ONCE.fullmatch(guessed)
    if once is not None:
        ports = once["ports"]
        address = f"{once['address']}:" if once["address"] else ""
        right = _right(f"{address}{ports}:{ports}{once['protocol'] or ''}")
        return f"{given} has only one port, and none is chosen for you; {_FORM}, such as {right}"
    bare = _BARE_IPV6.fullmatch(guessed)
    if bare is not None and _is_ipv6(address := bare["address"].partition("%")[0]):
        right = f"[{address}]:{bare['rest']}"
        return f"{given} has an IPv6 address without brackets; write {_right(right)}"
    return f'{given} is no port; {_FORM}, such as "8080:80"'


def _right(text: str) -> str:
    """Return a text to write for a wrong one; an example if another part of it is wrong, too."""
    try:
        published_port(text)
    except ValueError:
        return '"8080:80"'
    return show(text)


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _protocol(found: re.Match[str]) -> Literal["tcp", "udp"]:
    given, before = found["protocol"], found.string.partition("/")[0]
    if given is None or given == "tcp":
        return "tcp"
    if given == "udp":
        return "udp"
    words = re.split("[^a-z0-9]+", given.lower())
    if sorted(words) == ["tcp", "udp"]:
        right = f"{show(before)} and {show(f'{before}/udp')}"
        raise ValueError(f"{show(found.string)} has two protocols; write two ports, {right}")
    right = _right(f"{before}/{words[0]}") if words in (["tcp"], ["udp"]) else "tcp or udp"
    raise ValueError(f"{show(given)} is not a protocol that ports have; write {right}")


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    low = _number(first)
    high = _number(last) if dash else low
    if low > high:
        raise ValueError(
            f"{show(text)} begins with the higher port; the lower comes first, as in {high}-{low}"
        )
    return low, high - low + 1


def _number(digits: str) -> int:
    # Python refuses to read a number of thousands of digits.
    number = int(digits.lstrip("0")[:6] or 0)
    if not 1 <= number <= _PORT_MAX:
        raise ValueError(f"{show(digits)} is not the number of a port; they go from 1 to {_PORT_MAX}")
    return number


def _address(found: re.Match[str]) -> str | None:
    text = found["address"]
    if text is None:
        return None
    rest = found.string[len(text) + 1 :]
    inner = text[1:-1] if text.startswith("[") else text
    plain = inner.partition("%")[0]
    try:
        address = ipaddress.ip_address(plain)
    except ValueError:
        right = _right(rest if inner in ("", "*") else f"127.0.0.1:{rest}")
        what = "is not an address of this machine" if inner else "has an empty address"
        raise ValueError(f"{show(inner or found.string)} {what}; write one, such as {right}") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    why = None
    if mapped:
        why = f"{show(inner)} has an IPv4 address in it"
    elif plain != inner:
        why = f"{show(inner)} has a zone, which published ports have not"
    elif (address.version == 6) is not text.startswith("["):
        why = "only IPv6 addresses have brackets, and they always"
    if why:
        host = f"[{address}]" if address.version == 6 and not mapped else mapped or address
        raise ValueError(f"{why}; write {_right(f'{host}:{rest}')}")
    if not address.is_unspecified:
        refuse_special(address)
    return str(address)


def clashes(ports: Sequence[Port]) -> Iterator[tuple[int, int]]:
    """Yield pairs of positions of ports that need one and the same port of the machine, the later one first.

    Of a port that clashes with several, one pair; it takes no longer for many ports than to sort them.
    """
    # By the addresses that a port could share: the one that reaches furthest so far.
    furthest: dict[tuple[str, str], int] = {}
    for at in sorted(range(len(ports)), key=lambda at: ports[at].host):
        port = ports[at]
        shared, own = _groups(port.address or ALL4)
        known = (furthest.get((port.protocol, group), at) for group in shared)
        other = max(known, key=lambda other: ports[other].end if other != at else 0)
        if other != at and ports[other].end > port.host:
            yield max(at, other), min(at, other)
        for group in own:
            if ports[furthest.setdefault((port.protocol, group), at)].end < port.end:
                furthest[port.protocol, group] = at


def _groups(address: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the groups whose ports could be taken by one at this address, and those that it is in."""
    if address == ALL4:
        return ("any",), ("any", ALL4)
    own = ("any", "any6", address) if ":" in address else ("any", address)
    if address == ALL6:
        return ("any6", ALL4), own
    return (address, ALL4, ALL6) if ":" in address else (address, ALL4), own


def port_text(given: object) -> str | None:
    """Return our text for a port as compose or Kubernetes has it as a number or a table; None for others."""
    if isinstance(given, int) and not isinstance(given, bool):
        text = f"{given}:{given}"
    elif isinstance(given, dict):
        words = {str(key).lower().replace("_", ""): str(value) for key, value in given.items()}

        def of(*names: str) -> str:
            return next((words[name] for name in names if words.get(name)), "")

        pod = of("target", "containerport", "container", "pod")
        host = of("published", "hostport", "host") or pod
        address = of("hostip", "address", "ip")
        address = f"[{address}]:" if ":" in address else address and f"{address}:"
        protocol = of("protocol").lower()
        text = f"{address}{host}:{pod}{'/udp' if protocol == 'udp' else ''}"
    else:
        return None
    try:
        published_port(text)
    except ValueError:
        return None
    return text
