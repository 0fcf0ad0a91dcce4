"""The ports of this machine that pods publish: which pod has which, and whether a program has one already."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tank_agent.errors import Retry
from tank_agent.spec.model import Port

_PROC = Path("/proc")
# net/tcp_states.h: a socket that listens; one of UDP that has no peer is in TCP_CLOSE.
_LISTEN, _NO_PEER = 0x0A, 0x07


class Socket(NamedTuple):
    """A socket of a program on this machine that waits at an address and a port; `inode` names it."""

    protocol: str
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int


class Claims:
    """Remembers which pod publishes which ports. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, tuple[Port, ...]] = {}

    def of(self) -> dict[str, tuple[Port, ...]]:
        """Return the ports of every pod that has some."""
        with self._lock:
            return dict(self._pods)

    def get(self, pod: str) -> tuple[Port, ...]:
        """Return the ports of a pod."""
        with self._lock:
            return self._pods.get(pod, ())

    def take(self, pod: str, ports: tuple[Port, ...]) -> None:
        """Claim ports for a pod in place of those it had.

        Raises:
            Retry: another pod, or a program on this machine, has one of them; the pod keeps what it had.
        """
        with self._lock:
            had = self._pods.get(pod, ())
            for port in ports:
                self._refuse_claimed(pod, port)
        new = [port for port in ports if port not in had]
        if new:
            _refuse_listening(new)
        with self._lock:
            for port in ports:
                self._refuse_claimed(pod, port)
            self._pods[pod] = ports
            if not ports:
                del self._pods[pod]

    def adopt(self, pod: str, ports: tuple[Port, ...]) -> None:
        """Take over the ports that a pod published under a former agent."""
        with self._lock:
            if ports:
                self._pods[pod] = ports

    def drop(self, pod: str) -> None:
        """Give up all ports of a pod."""
        with self._lock:
            self._pods.pop(pod, None)

    def _refuse_claimed(self, pod: str, port: Port) -> None:
        for other, ports in self._pods.items():
            if other != pod and any(port.collides(theirs) for theirs in ports):
                raise Retry(
                    f"port {port} of this machine is taken: pod {other} publishes it",
                    hint="give one of the two another port",
                )


def _refuse_listening(ports: Sequence[Port]) -> None:
    for socket in listening():
        taken = next((port for port in ports if _is_at(socket, port)), None)
        if taken is not None:
            raise Retry(
                f"port {taken} of this machine is taken: {_holder(socket)} listens at {socket.port}",
                hint="stop that program, or give the pod another port",
            )


def _is_at(socket: Socket, port: Port) -> bool:
    if socket.protocol != port.protocol or not port.host <= socket.port < port.host + port.count:
        return False
    if port.address is None or socket.address.is_unspecified:
        return True
    address = ipaddress.ip_address(port.address)
    return address.is_unspecified or address == socket.address


def listening() -> Iterator[Socket]:
    """Yield the sockets that wait in this network namespace for whoever comes, by proc(5)."""
    for protocol, state in (("tcp", _LISTEN), ("udp", _NO_PEER)):
        for suffix in ("", "6"):
            try:
                lines = (_PROC / "thread-self" / "net" / f"{protocol}{suffix}").read_text().splitlines()[1:]
            except FileNotFoundError:
                continue
            for line in lines:
                words = line.split()
                if int(words[3], 16) == state:
                    address, port = words[1].split(":")
                    yield Socket(
                        protocol=protocol, address=_address(address), port=int(port, 16), inode=int(words[9])
                    )


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    # 32-bit words in the machine's order.
    packed = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _holder(socket: Socket) -> str:
    """Return the program that has a socket, as "nginx (process 123)"."""
    wanted = f"socket:[{socket.inode}]"
    for process in _PROC.iterdir():
        if not process.name.isdigit():
            continue
        try:
            if any(str(entry.readlink()) == wanted for entry in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text(errors='replace').strip()} (process {process.name})"
        except OSError:
            # It ended meanwhile.
            continue
    return "a program"
