"""The ports of this machine that pods publish: which pod has which, and whether a program has one already."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Collection, Mapping, Sequence

from tank_agent.errors import Retry
from tank_agent.network.listeners import Socket, holder, listening
from tank_agent.spec.model import Port


class Claims:
    """Remembers which pod has which ports, and whether they lead to it. Any thread may call it.

    A pod has its ports from before its start until it is removed, or ends for good: another that waits for
    one does not get it in a restart. `open` they are while the pod has a network. One that waits for other
    ports keeps its former until somebody else asks for them, or two that swap theirs would wait for ever.

    Args:
        known: the ports by the journal of all pods, in order: of two that name one port, the first has it.
    """

    def __init__(self, known: Mapping[str, tuple[Port, ...]]) -> None:
        self._lock = threading.Lock()
        self._pods: dict[str, tuple[Port, ...]] = {}
        self._asked: dict[str, tuple[Port, ...]] = {}
        # What pods want that did not get all of it.
        self._refused: dict[str, tuple[Port, ...]] = {}
        self._open: set[str] = set()
        for pod, ports in known.items():
            if ports and not any(self._claimant(pod, port) for port in ports):
                self._pods[pod] = ports

    def of(self, pod: str) -> tuple[Port, ...]:
        """Return the ports that a pod has."""
        with self._lock:
            return self._pods.get(pod, ())

    def open_of(self, pod: str) -> tuple[Port, ...]:
        """Return the ports that lead to a pod."""
        with self._lock:
            return self._pods.get(pod, ()) if pod in self._open else ()

    def published(self) -> dict[str, tuple[Port, ...]]:
        """Return the ports that are open, by pod."""
        with self._lock:
            return {pod: ports for pod, ports in self._pods.items() if pod in self._open}

    def take(self, pod: str, ports: tuple[Port, ...]) -> None:
        """Claim ports for a pod in place of those it had.

        Raises:
            Retry: another pod, or a program on this machine, has one of them; the pod keeps what it had.
        """
        with self._lock:
            had = self._pods.get(pod, ())
            self._refused[pod] = ports
            self._refuse_claimed(pod, ports)
            # From here on no other pod gets them, though it asks in this moment.
            self._asked[pod] = ports
        try:
            _refuse_listening([port for port in ports if port not in had])
            with self._lock:
                self._withdraw(ports)
                self._set(pod, ports)
                del self._refused[pod]
        finally:
            with self._lock:
                del self._asked[pod]

    def stay(self, pod: str) -> None:
        """Note that a pod wants the ports that it has, whatever it waited for before."""
        if pod in self._refused:
            with self._lock:
                self._refused.pop(pod, None)

    def adopt(self, pod: str, ports: tuple[Port, ...]) -> None:
        """Take over the ports that lead to a pod already, of which the journal knows nothing."""
        with self._lock:
            self._open.add(pod)
            if ports and not any(self._claimant(pod, port) for port in ports):
                self._pods[pod] = ports

    def open(self, pod: str) -> None:
        """Let a pod's ports lead to it."""
        with self._lock:
            self._open.add(pod)

    def shut(self, pod: str) -> bool:
        """Let a pod's ports lead nowhere, and return whether they led to it; it keeps them."""
        with self._lock:
            was_open = pod in self._open
            self._open.discard(pod)
            return was_open and pod in self._pods

    def drop(self, pod: str) -> bool:
        """Give up all ports of a pod, and return whether it had any."""
        with self._lock:
            self._open.discard(pod)
            self._refused.pop(pod, None)
            return self._pods.pop(pod, None) is not None

    def _set(self, pod: str, ports: tuple[Port, ...]) -> None:
        self._pods[pod] = ports
        if not ports:
            del self._pods[pod]

    def _withdraw(self, ports: Collection[Port]) -> None:
        """Take ports from those who have them and want others."""
        for pod, theirs in list(self._pods.items()):
            self._set(pod, tuple(each for each in theirs if not any(map(each.collides, ports))))

    def _claimant(self, pod: str, port: Port) -> str | None:
        """Return another pod that has a port and wants it still, or is about to have it."""
        for other, ports in self._pods.items():
            wanted = self._refused.get(other, ports)
            if other != pod and any(map(port.collides, ports)) and any(map(port.collides, wanted)):
                return other
        for other, ports in self._asked.items():
            if other != pod and any(map(port.collides, ports)):
                return other
        return None

    def _refuse_claimed(self, pod: str, ports: Sequence[Port]) -> None:
        for port in ports:
            if other := self._claimant(pod, port):
                raise Retry(
                    f"port {port} of this machine is taken: pod {other} publishes it",
                    hint="give one of the two another port",
                )


def _refuse_listening(ports: Sequence[Port]) -> None:
    for socket in listening() if ports else ():
        taken = next((port for port in ports if _is_at(socket, port)), None)
        if taken is not None:
            raise Retry(
                f"port {taken} of this machine is taken: {holder(socket)} listens at {socket.port}",
                hint="stop that program, or give the pod another port",
            )


def _is_at(socket: Socket, port: Port) -> bool:
    if socket.protocol != port.protocol or not port.host <= socket.port < port.host + port.count:
        return False
    if port.address is None or socket.address.is_unspecified:
        return True
    address = ipaddress.ip_address(port.address)
    return address.is_unspecified or address == socket.address
