"""Ask the LAN whether an address is free, before a pod uses it.

IPv4: ARP probes as RFC 5227 section 2.1.1; IPv6: the neighbour solicitations of duplicate address detection,
RFC 4862 section 5.4. Both are shortened: three probes 0.1 s apart, and the verdict 0.1 s after the last,
where the RFCs take 4 to 7 s and 1 s. A wired host answers within a millisecond; a pod's start should not wait
for the rest.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import socket
import struct
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack

from msgspec import Struct

from tank_agent.linux.paths import Ignoring

PROBES = 3
INTERVAL_SECONDS = 0.1

_BROADCAST = b"\xff" * 6
_ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
_UNSPECIFIED_IPV4, _UNSPECIFIED_IPV6 = bytes(4), bytes(16)
# linux/if_ether.h, linux/if_packet.h
_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, _PACKET_MR_MULTICAST = 263, 1, 0
# RFC 826; RFC 4861 section 4
_ARP_REQUEST = 1
_ICMPV6, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 58, 135, 136
_TARGET_LINK_LAYER_OPTION = b"\x02\x01"
_OVERRIDE = 0x20000000

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_ETHERNET_LENGTH = 14
_ICMPV6_OFFSET = _ETHERNET_LENGTH + _IPV6.size


class Target(Struct, frozen=True):
    """An address, and the index and MAC address of the interface on which it is asked for."""

    index: int
    mac: bytes
    packed: bytes


def holders(targets: Sequence[Target]) -> dict[bytes, bytes]:
    """Return the MAC addresses of hosts that have, or probe, one of the addresses, by address, within 0.3 s.

    OSError if there is no right to open packet sockets (CAP_NET_RAW), or an interface is gone.
    """
    sockets: dict[tuple[int, int], socket.socket] = {}
    with ExitStack() as stack:
        for target in targets:
            # One hears all addresses of an interface.
            key = target.index, _protocol(target.packed)
            if key not in sockets:
                sockets[key] = stack.enter_context(_open(target))
            _join(sockets[key], target)
        found: dict[bytes, bytes] = {}
        for _ in range(PROBES):
            for target in targets:
                _send(sockets[target.index, _protocol(target.packed)], _question(target))
            _listen(sockets.values(), targets, found, time.monotonic() + INTERVAL_SECONDS)
            if len(found) == len(targets):
                break
        return found


def announce(target: Target) -> None:
    """Announce the address's new holder to neighbours that may know another one; OSError as in `holders`.

    This is an ARP announcement (RFC 5227 section 2.3), or an unsolicited neighbour advertisement (RFC 4861
    section 7.2.6).
    """
    opened = _open(target)
    try:
        _send(opened, _statement(target))
    finally:
        # The kernel lets who closes it wait for all of its processors, 8 to 16 ms; that is nobody's business.
        threading.Thread(target=opened.close, name="announced", daemon=True).start()


def _protocol(packed: bytes) -> int:
    return _ETH_P_ARP if len(packed) == 4 else _ETH_P_IPV6


def _open(target: Target) -> socket.socket:
    protocol = _protocol(target.packed)
    # Protocol 0 receives nothing until bind has named the interface: no frame of another one gets in between.
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    try:
        opened.setblocking(False)
        opened.bind((socket.if_indextoname(target.index), protocol))
    except OSError:
        opened.close()
        raise
    return opened


def _join(opened: socket.socket, target: Target) -> None:
    """Receive the frames to the groups in which IPv6 neighbours ask and answer."""
    if len(target.packed) == 4:
        return
    for group in (_ALL_NODES, _solicited_node(target.packed)):
        request = struct.pack("=iHH8s", target.index, _PACKET_MR_MULTICAST, 6, _multicast_mac(group))
        opened.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, request)


def _send(opened: socket.socket, frame: bytes) -> None:
    # The cable is out, or the queue is full: then nobody can answer, and the next probe may get through.
    with Ignoring(errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN):
        opened.send(frame)


def _listen(
    sockets: Collection[socket.socket], targets: Sequence[Target], found: dict[bytes, bytes], deadline: float
) -> None:
    poller = select.poll()
    by_fd = {opened.fileno(): opened for opened in sockets}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    while len(found) < len(targets) and (left := deadline - time.monotonic()) > 0:
        for fd, _ in poller.poll(left * 1000):
            with Ignoring(errno.EAGAIN, errno.ENETDOWN):
                frame = by_fd[fd].recv(2048)
                found.update((t.packed, holder) for t in targets if (holder := holder_in(frame, t)))


def holder_in(frame: bytes, target: Target) -> bytes | None:
    """Return the MAC address of another host that, by this frame, has the target's address or probes it."""
    find = _arp_holder if len(target.packed) == 4 else _nd_holder
    answer = find(frame, target.packed)
    return answer if answer not in (None, target.mac) else None


def _arp_holder(frame: bytes, packed: bytes) -> bytes | None:
    if len(frame) < _ETHERNET_LENGTH + _ARP.size:
        return None
    *_, operation, sender_mac, sender, _, asked = _ARP.unpack_from(frame, _ETHERNET_LENGTH)
    probing = operation == _ARP_REQUEST and sender == _UNSPECIFIED_IPV4 and asked == packed
    return sender_mac if sender == packed or probing else None


def _nd_holder(frame: bytes, packed: bytes) -> bytes | None:
    if len(frame) < _ICMPV6_OFFSET + 24:
        return None
    _, _, following, hops, source, _ = _IPV6.unpack_from(frame, _ETHERNET_LENGTH)
    message = frame[_ICMPV6_OFFSET:]
    # A hop limit below 255 came from outside the LAN (RFC 4861 section 7.1).
    if following != _ICMPV6 or hops != 255 or message[8:24] != packed:
        return None
    if message[0] == _NEIGHBOUR_ADVERTISEMENT:
        has_option = message[24:26] == _TARGET_LINK_LAYER_OPTION and len(message) >= 32
        return message[26:32] if has_option else frame[6:12]
    if message[0] == _NEIGHBOUR_SOLICITATION and source == _UNSPECIFIED_IPV6:
        return frame[6:12]
    return None


def _question(target: Target) -> bytes:
    if len(target.packed) == 4:
        return _arp_frame(target.mac, _UNSPECIFIED_IPV4, target.packed)
    body = struct.pack("!BBHI16s", _NEIGHBOUR_SOLICITATION, 0, 0, 0, target.packed)
    return _icmpv6_frame(target.mac, _UNSPECIFIED_IPV6, _solicited_node(target.packed), body)


def _statement(target: Target) -> bytes:
    if len(target.packed) == 4:
        return _arp_frame(target.mac, target.packed, target.packed)
    body = struct.pack("!BBHI16s", _NEIGHBOUR_ADVERTISEMENT, 0, 0, _OVERRIDE, target.packed)
    body += _TARGET_LINK_LAYER_OPTION + target.mac
    return _icmpv6_frame(target.mac, target.packed, _ALL_NODES, body)


def _arp_frame(mac: bytes, sender: bytes, asked: bytes) -> bytes:
    ethernet = _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP)
    return ethernet + _ARP.pack(1, 0x0800, 6, 4, _ARP_REQUEST, mac, sender, bytes(6), asked)


def _icmpv6_frame(mac: bytes, source: bytes, destination: bytes, message: bytes) -> bytes:
    pseudo = source + destination + struct.pack("!II", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = _IPV6.pack(6 << 28, len(message), _ICMPV6, 255, source, destination)
    return _multicast_mac(destination) + mac + struct.pack("!H", _ETH_P_IPV6) + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _solicited_node(packed: bytes) -> bytes:
    return ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + packed[13:]


def _multicast_mac(group: bytes) -> bytes:
    return b"\x33\x33" + group[12:]
