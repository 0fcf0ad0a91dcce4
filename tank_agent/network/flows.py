"""Flows of UDP that the kernel remembers: those that a change of ports would leave stuck are forgotten.

Where a flow goes is decided by its first packet. One that began before its port was published goes on past
the pod, and one to a pod that is gone goes on to nobody, for as long as its sender does not pause.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from tank_agent.network import rtnetlink
from tank_agent.network.firewall import Forward
from tank_agent.network.nics import explained

_LOOPBACK4 = ipaddress.IPv4Network("127.0.0.0/8")


class Flow(NamedTuple):
    """Where the first packet of a flow was sent, and who answers: addresses and ports."""

    address: str
    port: int
    answering: str
    answering_port: int


class Flows:
    """Forgets the flows that other ports make wrong. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forwards: frozenset[Forward] = frozenset()

    def follow(self, forwards: Collection[Forward]) -> None:
        """Forget the flows that lead elsewhere than these ports of UDP; asks only if they are others.

        Raises:
            Retry, Stalled: the kernel refuses it.
        """
        with self._lock:
            former, self._forwards = self._forwards, frozenset(forwards)
            if former == self._forwards:
                return
        _forget(forwards, {forward.target for forward in former - frozenset(forwards)})


def is_stale(flow: Flow, forwards: Collection[Forward], withdrawn: Collection[str]) -> bool:
    """Return whether a flow to an address of this machine would begin anew with another end.

    `withdrawn` are the addresses of pods that had a port until now.
    """
    goal = _goal(flow, forwards)
    if goal is None:
        return flow.answering in withdrawn and flow.answering != flow.address
    return goal != (flow.answering, flow.answering_port)


def _goal(flow: Flow, forwards: Collection[Forward]) -> tuple[str, int] | None:
    """Return where the table leads a flow that begins now; of one address first, as the table has it."""
    for address in (flow.address, None):
        for each in forwards:
            same = each.address == address and each.is_ipv6 == (":" in flow.address)
            if same and each.port <= flow.port < each.port + each.count:
                return each.target, each.target_port + flow.port - each.port
    return None


def _forget(forwards: Collection[Forward], withdrawn: Collection[str]) -> None:
    # Late: a machine without ports of UDP never pays for it. The package first: see test_structure.
    import pyroute2  # noqa: F401
    from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket

    own = set(map(rtnetlink.text, rtnetlink.own_addresses()))
    for family in (socket.AF_INET, socket.AF_INET6):
        # Such a socket is for one family. A machine may have a hundred thousand flows of TCP, each of which
        # takes 0.3 ms to read; before Linux 5.8 they come none the less.
        only_udp = NFCTAttrTuple(family=family, proto=socket.IPPROTO_UDP)
        with explained("cannot read the flows of UDP"), NFCTSocket(family) as conntrack:
            # As a list: the socket is not free for another request before.
            for entry, flow in list(_flows(conntrack.dump(tuple_orig=only_udp))):
                is_local = flow.address in own or (
                    family == socket.AF_INET and ipaddress.IPv4Address(flow.address) in _LOOPBACK4
                )
                if is_local and is_stale(flow, forwards, withdrawn):
                    with explained("cannot forget a flow of UDP", ignore=(errno.ENOENT,)):
                        original = entry.get_attr("CTA_TUPLE_ORIG")
                        conntrack.entry("del", tuple_orig=NFCTAttrTuple.from_netlink(family, original))


def _flows(entries: Iterable[Any]) -> Iterator[tuple[Any, Flow]]:
    for entry in entries:
        sent, answer = (_ends(entry.get_attr(f"CTA_TUPLE_{way}")) for way in ("ORIG", "REPLY"))
        if sent is not None and answer is not None:
            _, to, port = sent
            source, _, _ = answer
            yield entry, Flow(to, port, *source)


def _ends(found: Any) -> tuple[tuple[str, int], str, int] | None:
    """Return source, destination and its port of one direction of a flow of UDP; None for others."""
    addresses, ports = found.get_attr("CTA_TUPLE_IP"), found.get_attr("CTA_TUPLE_PROTO")
    if ports.get_attr("CTA_PROTO_NUM") != socket.IPPROTO_UDP:
        return None
    version = "V4" if addresses.get_attr("CTA_IP_V4_DST") else "V6"
    source, to = (addresses.get_attr(f"CTA_IP_{version}_{end}") for end in ("SRC", "DST"))
    port, from_port = ports.get_attr("CTA_PROTO_DST_PORT"), ports.get_attr("CTA_PROTO_SRC_PORT")
    return (source, from_port), to, port
