"""The default routes of a network namespace, as /proc/net/route and /proc/net/ipv6_route list them."""

from __future__ import annotations

from collections.abc import Iterable

_IPV6_ANY = "0" * 32
# linux/route.h, linux/ipv6_route.h
_RTF_UP = 0x1
_RTF_REJECT = 0x200
# A blackhole leads to no interface, but has no RTF_REJECT as others of its kind have.
_NO_INTERFACE = "*"


def ipv4_default_interfaces(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the interfaces of the default routes in the lines of /proc/net/route, the best first."""
    rows = (line.split() for line in lines)
    found = [
        (int(row[6]), row[0])
        for row in rows
        if len(row) >= 10 and row[0] != _NO_INTERFACE and row[1] == row[7] == "00000000" and _usable(row[3])
    ]
    return _by_metric(found)


def ipv6_default_interfaces(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the interfaces of the default routes in the lines of /proc/net/ipv6_route, the best first."""
    rows = (line.split() for line in lines)
    found = [
        (int(row[5], 16), row[9])
        for row in rows
        if len(row) >= 10 and row[0] == _IPV6_ANY and row[1] == "00" and _usable(row[8])
    ]
    return _by_metric(found)


def _by_metric(found: list[tuple[int, str]]) -> tuple[str, ...]:
    # Of two with one metric, the kernel takes the one that it lists first.
    return tuple(name for _, name in sorted(found, key=lambda route: route[0]))


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP
