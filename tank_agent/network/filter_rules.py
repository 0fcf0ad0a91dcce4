"""Follow a packet through the rules of a firewall, as `nft list` or `iptables-save` prints them; pure.

Only what a rule says of interfaces and of connections is understood. What depends on anything else counts as
not for our packet, except a rule that names our bridge: how far that opens it is for its owner to say.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

Verdict = Literal["accept", "drop", "return"]


class Packet(NamedTuple):
    """A packet that is forwarded to, from or within a bridge of ours.

    Args:
        came_by: the interface where it came in; empty for one that nobody knows.
        goes_by: the one where it is to leave.
        bridge: the interface of the bridge, one of the two.
        is_answer: it belongs to a connection that was let through.
        is_published: the connection is to a published port.
        networks: those of the bridge.
    """

    came_by: str
    goes_by: str
    bridge: str
    is_answer: bool = False
    is_published: bool = False
    networks: tuple[str, ...] = ()


class Chain(NamedTuple):
    """A chain: its rules, and its policy if the kernel calls it for each packet that is forwarded."""

    rules: tuple[str, ...]
    policy: Verdict | None = None


_CHAIN = re.compile(r"^\s*chain (\S+) \{$")
_SET = re.compile(r"set (\S+) \{[^{}]*elements = (\{[^}]*\})")
_HOOK = re.compile(r"type filter hook forward priority [^;]*; policy (accept|drop);")
_INTERFACE = re.compile(r'([io])if(?:name)? (!= )?(vmap )?(\{[^}]*\}|"[^"]*"|@?[\w.-]+)')
_CONNECTION = re.compile(r"ct (state|status) (!= )?(vmap )?(\{[^}]*\}|[\w,]+)")
_SILENT = re.compile(
    r'counter packets \d+ bytes \d+|counter name "[^"]*"|counter|comment "[^"]*"'
    r'|log(?: prefix "[^"]*"| level \w+| flags [\w,]+(?: \w+)?| group \d+)*'
)
_END = re.compile(
    r'(accept|drop|return|continue|reject(?: .*)?|queue(?: .*)?|xt target "?REJECT"?|(?:jump|goto) \S+)$'
)
_MAPPED = re.compile(r'("[^"]*"|[\w.-]+) : (accept|drop|return|(?:jump|goto) [\w.-]+)')
_ADDRESS = re.compile(r"\b[0-9a-f]*[.:][0-9a-f.:]+(?:/\d+)?")
_NAMES = re.compile(r'"([^"]*)"|([\w.-]+)')
_VERDICTS: Mapping[str, Verdict] = {"accept": "accept", "drop": "drop", "return": "return"}
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _Rule(NamedTuple):
    """What a rule says: of interfaces, of connections, of what is not understood, and what it does."""

    interfaces: tuple[re.Match[str], ...]
    connections: tuple[re.Match[str], ...]
    is_whole: bool
    networks: tuple[_Network, ...]
    action: str

    @classmethod
    def read(cls, text: str) -> _Rule:
        rest = _SILENT.sub("", text).strip()
        interfaces = tuple(_INTERFACE.finditer(rest)) if "if" in rest else ()
        rest = _INTERFACE.sub("", rest) if interfaces else rest
        connections = tuple(_CONNECTION.finditer(rest)) if "ct " in rest else ()
        rest = (_CONNECTION.sub("", rest) if connections else rest).strip()
        end = _END.search(rest)
        unknown = (rest[: end.start()] if end else rest).strip()
        return cls(
            interfaces, connections, not unknown, tuple(_networks(unknown)), _plain(end[1]) if end else ""
        )


class Rules:
    """The rules of one table."""

    def __init__(self, listed: str) -> None:
        self.chains = dict(_chains(listed))
        self.is_dormant = "flags dormant" in listed
        self._sets: Mapping[str, str] = dict(_SET.findall(listed))
        self._read = functools.cache(_Rule.read)

    def forwarding(self) -> Iterator[str]:
        """Yield the chains that the kernel calls for each packet that is forwarded."""
        if not self.is_dormant:
            yield from (name for name, chain in self.chains.items() if chain.policy is not None)

    def lets_through(self, name: str, packet: Packet) -> bool:
        """Return whether one of these chains lets a packet through."""
        verdict = self._follow(name, packet, {})
        return (self.chains[name].policy if verdict == "return" else verdict) != "drop"

    def _follow(self, name: str, packet: Packet, known: dict[str, Verdict]) -> Verdict:
        if name not in known:
            # A chain that leads to itself is no kernel's.
            known[name] = "return"
            known[name] = self._verdict(name, packet, known)
        return known[name]

    def _verdict(self, name: str, packet: Packet, known: dict[str, Verdict]) -> Verdict:
        for text in self.chains[name].rules if name in self.chains else ():
            action = self._action(self._read(text), packet)
            kind, _, target = action.partition(" ")
            if kind in ("jump", "goto"):
                found = self._follow(target, packet, known)
                if found != "return" or kind == "goto":
                    return found
            elif kind in _VERDICTS:
                return _VERDICTS[kind]
        return "return"

    def _action(self, rule: _Rule, packet: Packet) -> str:
        """Return what a rule does to a packet; empty if nothing."""
        named, mapped = False, ""
        for match in rule.interfaces:
            found = self._is_interface(match, packet)
            if match[3]:
                mapped += found
            elif not found:
                return ""
            elif not match[2]:
                named = named or _name_of(match, packet) == packet.bridge
        for match in rule.connections:
            found = _is_connection(match, packet)
            if match[3]:
                mapped += found
            elif not found:
                return ""
        action = rule.action or mapped
        if rule.is_whole:
            return action
        # What is said of our bridge or its network lets through what its owner wants.
        named = named or any(_overlaps(network, packet.networks) for network in rule.networks)
        return action if named and action.partition(" ")[0] not in ("drop", "return") else ""

    def _is_interface(self, match: re.Match[str], packet: Packet) -> str:
        own = _name_of(match, packet)
        listed = self._sets.get(match[4][1:], "") if match[4].startswith("@") else match[4]
        if match[3]:
            return _looked_up(listed, lambda name: _is_named(name, own))
        found = any(_is_named(one or other, own) for one, other in _NAMES.findall(listed))
        return "yes" if found != bool(match[2]) else ""


def _is_connection(match: re.Match[str], packet: Packet) -> str:
    has = {"established" if packet.is_answer else "new"}
    if match[1] == "status":
        has = {"dnat"} if packet.is_published else set()
    if match[3]:
        return _looked_up(match[4], lambda name: name in has)
    found = bool(has & set(re.findall(r"\w+", match[4])))
    return "yes" if found != bool(match[2]) else ""


def _chains(listed: str) -> Iterator[tuple[str, Chain]]:
    name, rules, policy = "", list[str](), None
    for line in listed.splitlines():
        opened = _CHAIN.match(line)
        if opened:
            name, rules, policy = opened[1], [], None
        elif name and line.strip() == "}":
            yield name, Chain(tuple(rules), policy)
            name = ""
        elif name and line.lstrip().startswith("type "):
            hook = _HOOK.search(line)
            policy = _VERDICTS[hook[1]] if hook else None
        elif name and rules and rules[-1].count("{") > rules[-1].count("}"):
            rules[-1] += f" {line.strip()}"
        elif name:
            rules.append(line.strip())


def _plain(action: str) -> str:
    return "drop" if action.startswith(("reject", "xt target")) else action


def _name_of(match: re.Match[str], packet: Packet) -> str:
    return packet.came_by if match[1] == "i" else packet.goes_by


def _is_named(name: str, own: str) -> bool:
    return name == own or (name.endswith("*") and bool(own) and own.startswith(name[:-1]))


def _looked_up(listed: str, is_own: Callable[[str], bool]) -> str:
    """Return the action of a map for what we are; empty for none."""
    return next((str(action) for key, action in _MAPPED.findall(listed) if is_own(key.strip('"'))), "")


def _networks(text: str) -> Iterator[_Network]:
    for found in _ADDRESS.findall(text):
        with suppress(ValueError):
            yield ipaddress.ip_network(found, strict=False)


def _overlaps(network: _Network, own: Sequence[str]) -> bool:
    ours = map(ipaddress.ip_network, own)
    return any(network.version == each.version and network.overlaps(each) for each in ours)


# iptables-extensions(8)
_LEGACY = (
    (re.compile(r"(! )?-([io]) (\S+)"), lambda m: f'{m[2]}ifname {"!= " if m[1] else ""}"{m[3]}"'),
    (
        re.compile(r"-m (?:conntrack|state) (! )?--(?:ct)?state ([\w,]+)"),
        lambda m: _legacy_states(m[2], bool(m[1])),
    ),
    (re.compile(r'-m comment --comment (?:"(?:[^"\\]|\\.)*"|\S+)'), lambda _: ""),
    (re.compile(r"-j LOG\b.*"), lambda _: ""),
    (re.compile(r"-j REJECT\b.*"), lambda _: "drop"),
    (re.compile(r"-j (ACCEPT|DROP|RETURN)\b"), lambda m: m[1].lower()),
    (re.compile(r"-j (\S+)"), lambda m: f"jump {m[1]}"),
    (re.compile(r"-g (\S+)"), lambda m: f"goto {m[1]}"),
)


def from_legacy(saved: str) -> str:
    """Return what `iptables -S` prints in the words of nft(8)."""
    policies = dict(re.findall(r"^-P (\S+) (\S+)", saved, re.MULTILINE))
    chains: dict[str, list[str]] = {name: [] for name in policies}
    for name in re.findall(r"^-N (\S+)", saved, re.MULTILINE):
        chains[name] = []
    for name, rule in re.findall(r"^-A (\S+) ?(.*)$", saved, re.MULTILINE):
        text = rule
        for pattern, translated in _LEGACY:
            text = pattern.sub(translated, text)
        chains.setdefault(name, []).append(text.replace('+"', '*"'))
    lines = ["table ip filter {"]
    for name, rules in chains.items():
        policy = policies.get("FORWARD", "ACCEPT").lower()
        hook = [f"type filter hook forward priority filter; policy {policy};"] if name == "FORWARD" else []
        lines += [f"chain {name} {{", *hook, *rules, "}"]
    return "\n".join([*lines, "}"])


def _legacy_states(text: str, negated: bool) -> str:
    states = {word.lower() for word in text.split(",")}
    no = "!= " if negated else ""
    if states == {"dnat"}:
        return f"ct status {no}dnat"
    # Of several, one suffices, which no rule of nft says in a word: leave it unknown.
    return f"ct state {no}{','.join(sorted(states))}" if "dnat" not in states else "several states"
