"""The host's own network: its uplink to the LAN, and its DNS servers.

There are three adapters: `auto` asks the machine each time, `static` returns what agent.toml has, and a
dotted path names a class of the user's (`acme.net.Facts`), which is made once, without arguments.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from tank_agent.errors import Retry, Stalled

# /proc/net belongs to the process; the caller wants the namespace of the thread.
_ROUTES_IPV4 = Path("/proc/thread-self/net/route")
_ROUTES_IPV6 = Path("/proc/thread-self/net/ipv6_route")
_RESOLV_CONF = Path("/etc/resolv.conf")
# Where local caching resolvers keep the servers that they ask.
_UPSTREAM_RESOLV_CONFS = (
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)
_RESOLV_CONF_LIMIT = 64 * 1024
_ROUTES_LIMIT = 100_000
_IPV6_ANY = "0" * 32
# linux/route.h, linux/ipv6_route.h
_RTF_UP, _RTF_REJECT = 0x1, 0x200
# A blackhole leads to no interface, but has no RTF_REJECT as others of its kind have.
_NO_INTERFACE = "*"


class HostDns(Struct, frozen=True, kw_only=True):
    """The host's DNS as resolv.conf(5) has it.

    `servers` can be asked from another network namespace. `local` are the servers that only the host itself
    can ask, such as a caching resolver on 127.0.0.53; pods in the host's network use them if there are any.
    """

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    local: tuple[str, ...] = ()


class HostFacts(Protocol):
    """The facts of the host that pods' networks need. Any thread asks, and often, so answer quickly."""

    def uplink(self) -> str | None:
        """Return the interface that `parent = "auto"` stands for; None if there is none now."""

    def dns(self) -> HostDns:
        """Return the DNS that pods without their own `dns` get."""


def why_no_uplink(host: HostFacts) -> tuple[str, str]:
    """Return why an adapter knows no uplink now, and a hint."""
    hint = "set a parent in the pod's file, or an uplink in the [host] table of agent.toml"
    if isinstance(host, StaticHostFacts):
        return 'no uplink: adapter "static" knows only what agent.toml says', hint
    if isinstance(host, UserHostFacts):
        hint = "set a parent in the pod's file, or let the adapter name one"
        return f"no uplink: {host.path}.uplink() returned None", hint
    return "this machine has no uplink: no default route leads anywhere", hint


class AutoHostFacts:
    """Asks the machine for its default route and its resolv.conf, unless agent.toml has the answer."""

    def __init__(
        self, uplink: str | None = None, dns: tuple[str, ...] = (), *, resolv_conf: Path = _RESOLV_CONF
    ) -> None:
        self._uplink, self._dns, self._resolv_conf = uplink, dns, resolv_conf

    def uplink(self) -> str | None:
        """Return the interface of the IPv4 default route with the lowest metric, else of the IPv6 one."""
        if self._uplink is not None:
            return self._uplink
        return next(default_interfaces(_lines(_ROUTES_IPV4), _lines(_ROUTES_IPV6)), None)

    def dns(self) -> HostDns:
        """Return resolv.conf's DNS; a caching resolver on loopback gives way to the servers that it asks."""
        if self._dns:
            return HostDns(servers=self._dns)
        own = _read_resolv_conf(self._resolv_conf)
        servers, search = _reachable(own.servers), own.search
        local = own.servers if servers != own.servers else ()
        for path in _UPSTREAM_RESOLV_CONFS if own.servers and not servers else ():
            upstream = _read_resolv_conf(path)
            if servers := _reachable(upstream.servers):
                search = search or upstream.search
                break
        return HostDns(servers=servers, search=search, options=own.options, local=local)


class StaticHostFacts:
    """Returns the facts of agent.toml, without a look at the machine."""

    def __init__(self, uplink: str | None, dns: tuple[str, ...]) -> None:
        self._uplink = uplink
        self._dns = HostDns(servers=dns)

    def uplink(self) -> str | None:
        """Return the uplink of agent.toml."""
        return self._uplink

    def dns(self) -> HostDns:
        """Return the DNS servers of agent.toml."""
        return self._dns


class UserHostFacts:
    """A user's class, with its mistakes turned into errors that name it."""

    def __init__(self, path: str, facts: HostFacts) -> None:
        self.path = path
        self._facts = facts

    def uplink(self) -> str | None:
        """Return the uplink that the user's class names."""
        found = self._ask("uplink")
        if found is not None and not isinstance(found, str):
            raise Stalled(
                f"{self.path}.uplink() returned {found!r}", hint="return an interface's name or None"
            )
        return found

    def dns(self) -> HostDns:
        """Return the DNS that the user's class names, in full or as a list of servers."""
        found = self._ask("dns")
        if isinstance(found, HostDns):
            return found
        if isinstance(found, list | tuple) and all(
            isinstance(each, str) and _is_address(each) for each in found
        ):
            return HostDns(servers=tuple(found))
        raise Stalled(
            f"{self.path}.dns() returned {found!r}",
            hint="return a list of servers' addresses, or a tank_agent.network.host_facts.HostDns",
        )

    def _ask(self, method: str) -> object:
        try:
            return getattr(self._facts, method)()
        except Exception as error:
            raise Retry(f"{self.path}.{method}() failed: {type(error).__name__}: {error}") from error


def make_host_facts(adapter: str, uplink: str | None, dns: tuple[str, ...]) -> HostFacts:
    """Return the adapter that agent.toml names: "auto", "static", or the dotted path of a class.

    `uplink` and `dns` are those of the [host] table. Stalled if the class can't be loaded or made, or lacks a
    method.
    """
    if adapter == "auto":
        return AutoHostFacts(uplink, dns)
    if adapter == "static":
        return StaticHostFacts(uplink, dns)
    return _load(adapter)


def _load(path: str) -> HostFacts:
    where = "agent.toml: host.adapter"
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        raise Stalled(
            f"{path!r} is no adapter",
            where=where,
            hint='use "auto", "static" or a dotted path: "module.Class"',
        )
    try:
        made = getattr(importlib.import_module(module_name), class_name)()
    except Exception as error:
        raise Stalled(
            f"cannot load {path}: {type(error).__name__}: {error}",
            where=where,
            hint="the module must be on the agent's PYTHONPATH, and the class takes no arguments",
        ) from error
    for method in ("uplink", "dns"):
        if not callable(getattr(made, method, None)):
            raise Stalled(
                f"{path} has no method {method}()",
                where=where,
                hint="see HostFacts in tank_agent.network.host_facts",
            )
    return UserHostFacts(path, made)


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a /proc route table; nothing where the kernel lacks the protocol."""
    with contextlib.suppress(FileNotFoundError), path.open(encoding="ascii") as lines:
        yield from itertools.islice(lines, _ROUTES_LIMIT)


def _read_resolv_conf(path: Path) -> HostDns:
    with contextlib.suppress(FileNotFoundError), path.open(encoding="utf-8", errors="replace") as file:
        return parse_resolv_conf(file.read(_RESOLV_CONF_LIMIT))
    return HostDns()


def parse_resolv_conf(text: str) -> HostDns:
    """Read resolv.conf(5), and skip lines that can't be read, as the resolver does."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and _is_address(values[0]):
            servers.append(values[0])
        elif keyword in ("search", "domain"):
            search = tuple(values)
        elif keyword == "options":
            options.extend(values)
    return HostDns(servers=tuple(servers), search=search, options=tuple(options))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _reachable(servers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the servers without those on loopback, and link-local ones with an interface of the host."""
    return tuple(
        server for server in servers if "%" not in server and not ipaddress.ip_address(server).is_loopback
    )


def default_interfaces(ipv4: Iterable[str], ipv6: Iterable[str]) -> Iterator[str]:
    """Yield the interfaces of the default routes of /proc/net/route and ipv6_route, the best first."""
    yield from _by_metric(
        (int(row[6]), row[0])
        for row in map(str.split, ipv4)
        if len(row) >= 10 and row[0] != _NO_INTERFACE and row[1] == row[7] == "00000000" and _usable(row[3])
    )
    yield from _by_metric(
        (int(row[5], 16), row[9])
        for row in map(str.split, ipv6)
        if len(row) >= 10 and row[0] == _IPV6_ANY and row[1] == "00" and _usable(row[8])
    )


def _by_metric(found: Iterable[tuple[int, str]]) -> Iterator[str]:
    # Of two with one metric, the kernel takes the one that it lists first.
    return (name for _, name in sorted(found, key=lambda route: route[0]))


def _usable(flags: str) -> bool:
    return int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP
