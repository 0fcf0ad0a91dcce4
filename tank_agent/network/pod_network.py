"""Make, converge, read and remove the networks of pods."""

from __future__ import annotations

import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux import namespaces
from tank_agent.network import convergence, rtnetlink
from tank_agent.network.addresses import Lease, Leases
from tank_agent.network.host_facts import HostFacts
from tank_agent.network.rtnetlink import Link, NamespaceState
from tank_agent.network.sysctls import NO_SYSCTLS, SysctlMemory, before_interfaces, network_sysctls
from tank_agent.network.wanted import BRIDGE_PREFIX, WantedNic, bridge_nics, port_name, wanted_nics
from tank_agent.spec.model import Network

_POD = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")
# Make links, set them up, add addresses and routes, find no step left; the others are for changes meanwhile.
_ROUNDS = 6
_CARRIER_SECONDS, _CARRIER_PAUSE = 0.2, 0.002
_SYSCTLS = {
    # The namespace is the pod's own, so any user may bind any port, and ping without CAP_NET_RAW.
    "ipv4/ip_unprivileged_port_start": "0",
    "ipv4/ping_group_range": "0 2147483647",
    # When an address goes, the others of its network stay.
    "ipv4/conf/all/promote_secondaries": "1",
}


class NetworkState(Struct, frozen=True, kw_only=True):
    """The network that a pod has now.

    `netns` is the path at which its namespace is pinned, `netns_inode` the number that names it; both are
    None for a pod in the host's network. `addresses` are those of its interfaces, with prefix, without
    link-local ones.
    """

    netns: Path | None = None
    addresses: tuple[str, ...] = ()
    netns_inode: int | None = None


class PodNetworks:
    """Makes, converges and removes pods' networks.

    Every call can be repeated after a failure or a kill, and comes from any thread, but for one pod from one
    thread at a time. The host's network is the one of the calling thread.
    """

    def __init__(self, run_dir: Path, host: HostFacts, leases: Leases) -> None:
        self._leases = leases
        self._directory = run_dir / "netns"
        self._host = host
        self._lock = threading.Lock()
        self._readers: dict[str, _Reader] = {}
        self._claims: dict[tuple[int, bytes], str] = {}
        self._sysctls: dict[str, SysctlMemory] = {}

    def ensure(self, pod: str, network: Network, sysctls: Mapping[str, str] = NO_SYSCTLS) -> NetworkState:
        """Make the pod's network, or change only the parts that differ from the wanted one.

        Takes about 1 ms without interfaces, and 0.3 s more whenever an address is new: the LAN is asked
        whether it is free.

        Raises:
            Stalled: the spec or the host must change: an impossible parent, name, address or sysctl.
            Retry: not now: no uplink, no such parent, an address that another machine holds. On a network
                that was there before, all other steps are done.
        """
        path = self.path(pod)
        if network.mode == "host":
            self.remove(pod)
            return NetworkState()
        wanted = self._wanted(pod, network)
        inode = namespaces.network_namespace_inode(path)
        fresh = inode is None
        own = network_sysctls(sysctls) if sysctls else sysctls
        if fresh:
            _create(path, before_interfaces(own) if own else None)
            inode = namespaces.network_namespace_inode(path)
            if not wanted and not own:
                return NetworkState(netns=path, netns_inode=inode)
        observed = self._converge(pod, wanted, whole=fresh)
        if own:
            memory = self._memory_of(pod, inode)
            namespaces.in_network_namespace(path, lambda: memory.write(own))
        _wait_for_carrier(wanted)
        return _state(path, inode, observed)

    def observe(self, pod: str) -> NetworkState | None:
        """Return the pod's network as it is; None if no namespace is pinned, as for a pod in the host's."""
        path = self.path(pod)
        inode = namespaces.network_namespace_inode(path)
        return _state(path, inode, _read(path)) if inode is not None else None

    def drift(
        self,
        pod: str,
        network: Network,
        *,
        inode: int | None = None,
        sysctls: Mapping[str, str] = NO_SYSCTLS,
    ) -> tuple[str, ...]:
        """Return the differences from the wanted network, a sentence each; errors as in `ensure`.

        `inode` is the number of the namespace that was made for the pod, if that is known.
        """
        with self._lock:
            reader = self._readers.get(pod)
        quiet = network.mode == "none" and reader and inode in (None, reader.inode) and reader.is_quiet()
        if quiet and not sysctls:
            return ()
        found = namespaces.network_namespace_inode(self.path(pod))
        if network.mode == "host":
            return ("a network namespace is left over",) if found is not None else ()
        if found is None:
            return ("the network namespace is not pinned",)
        if inode not in (None, found):
            return ("another network namespace is pinned in place of the pod's",)
        wanted = self._wanted(pod, network)
        observed = self._read_often(pod, found, links_only=not wanted)
        steps = tuple(map(str, convergence.steps(observed, wanted, _ports(wanted))))
        own = network_sysctls(sysctls) if sysctls and not steps else None
        if not own:
            return steps
        memory = self._memory_of(pod, found)
        return namespaces.in_network_namespace(self.path(pod), lambda: tuple(memory.differences(own)))

    def leases(self, pod: str) -> dict[str, Lease]:
        """Return the addresses that a pod has in bridges, by its namespace and this machine's interfaces."""
        observed = _read(self.path(pod))
        with rtnetlink.open_socket() as netlink:
            links = rtnetlink.read_links(netlink)
        masters = {link.name: link.master for link in links}
        bridges = {link.index: link.name.removeprefix(BRIDGE_PREFIX) for link in links}
        found: dict[str, Lease] = {}
        for link in sorted(filter(convergence.is_ours, observed.links), key=lambda link: link.name):
            bridge = bridges.get(masters.get(port_name(link.mac), 0))
            if bridge is not None:
                own = [address for address in observed.addresses if address.index == link.index]
                found[bridge] = convergence.pod_addresses(NamespaceState(links=(link,), addresses=tuple(own)))
        return found

    def repin(self, pod: str, pid: int) -> bool:
        """Pin the network of a process of the pod again, or Retry if that ended; False if one is pinned."""
        path = self.path(pod)
        if namespaces.network_namespace_inode(path) is not None:
            return False
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            namespaces.pin_network_namespace(pid, path)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise Retry(f"cannot pin the network of pod {pod}: process {pid} has ended") from error
        return True

    def remove(self, pod: str) -> None:
        """Remove the pod's interfaces and unpin its namespace; no error if there is none.

        The interfaces go first, since the kernel removes a namespace later, and a stray process may even hold
        it; until then address and MAC address would be in use.
        """
        path = self.path(pod)
        if namespaces.network_namespace_inode(path) is not None:
            ours = [link for link in _read(path, links_only=True).links if convergence.is_ours(link)]
            if ours:
                from tank_agent.network.nics import remove_links

                remove_links(path, ours)
        namespaces.unpin(path)
        # At last, since a resync would make another one meanwhile. One that is made later finds no pin.
        self._drop_reader(pod)
        with self._lock:
            self._sysctls.pop(pod, None)

    def pinned(self) -> frozenset[str]:
        """Return the pods that have a namespace pinned."""
        with suppress(FileNotFoundError):
            device = self._directory.stat().st_dev
            # A pin is the root of a mount of its own, so it lies on another device than its directory.
            paths = self._directory.iterdir()
            return frozenset(path.name for path in paths if path.lstat().st_dev != device)
        return frozenset()

    def sweep(self, keep: Collection[str]) -> tuple[str, ...]:
        """Remove the networks of all other pods, also half-made pins, and return the names of those pods.

        TankError or OSError if one can't be removed; the others are.
        """
        names: list[str] = []
        with suppress(FileNotFoundError):
            names = sorted(path.name for path in self._directory.iterdir())
        leftovers = tuple(name for name in names if name not in keep and _POD.match(name))
        failure: TankError | OSError | None = None
        for name in leftovers:
            try:
                self.remove(name)
            except (TankError, OSError) as error:
                # Go on, so that one that resists does not keep the others.
                failure = failure or error
        if failure:
            raise failure
        return leftovers

    def _wanted(self, pod: str, network: Network) -> tuple[WantedNic, ...]:
        if network.mode == "bridge":
            return bridge_nics(pod, network.bridges, self._leases.of(pod))
        return wanted_nics(pod, network, self._host)

    def _converge(self, pod: str, wanted: tuple[WantedNic, ...], *, whole: bool) -> NamespaceState:
        """Do steps until none is left, or only those of interfaces that failed; then raise the first error.

        With `whole`, raise it at once: a pod that does not start should not show its addresses to the LAN.
        """
        path = self.path(pod)
        failures: dict[str, TankError] = {}
        with namespaces.in_network_namespace(path, rtnetlink.open_socket) as netlink:
            for _ in range(_ROUNDS):
                observed = rtnetlink.read(netlink)
                steps = convergence.steps(observed, wanted, _ports(wanted))
                left = [step for step in steps if step.interface not in failures]
                if not left and failures:
                    raise next(iter(failures.values()))
                if not left:
                    return observed
                from tank_agent.network.nics import apply

                new = [step.claim for step in left if isinstance(step, convergence.AddAddress)]
                with self._claim(pod, new) as claimed:
                    failures |= apply(path, left, whole=whole, claimed=claimed)
        raise Retry(
            f"the network does not stay as it is made: {left[0]}",
            hint="something else in the pod or on the host changes it",
        )

    @contextmanager
    def _claim(self, pod: str, wanted: Iterable[tuple[int, bytes]]) -> Iterator[dict[tuple[int, bytes], str]]:
        """Claim addresses until they are set, and yield those that other pods have claimed, and these pods.

        Two pods that ask the LAN for one address at the same moment would each take the other's question for
        a holder, and after the same wait ask together again.
        """
        claims = set(wanted)
        with self._lock:
            others = {claim: self._claims[claim] for claim in claims if claim in self._claims}
            own = claims - others.keys()
            self._claims.update(dict.fromkeys(own, pod))
        try:
            yield others
        finally:
            with self._lock:
                for claim in own:
                    del self._claims[claim]

    def _read_often(self, pod: str, inode: int, *, links_only: bool) -> NamespaceState:
        """Read the pod's namespace through a socket that stays in it."""
        with self._lock:
            reader = self._readers.get(pod)
        try:
            if reader is None or reader.inode != inode:
                self._drop_reader(pod)
                reader = _Reader(self.path(pod), inode)
                with self._lock:
                    self._readers[pod] = reader
                if not reader.is_pinned():
                    raise Retry(f"the network of pod {pod} was removed meanwhile")
            return reader.read(links_only=links_only)
        except BaseException:
            # The rest of this answer would be taken for the answer to the next question.
            self._drop_reader(pod)
            raise

    def _memory_of(self, pod: str, inode: int | None) -> SysctlMemory:
        """Return what is known of the sysctls of a pod's namespace; another namespace has others."""
        with self._lock:
            known = self._sysctls.get(pod)
            if known is None or known.inode != inode:
                known = self._sysctls[pod] = SysctlMemory(inode)
            return known

    def _drop_reader(self, pod: str) -> None:
        with self._lock:
            reader = self._readers.pop(pod, None)
        if reader is not None:
            reader.close()

    def path(self, pod: str) -> Path:
        """Return where the network namespace of a pod is pinned; ValueError for no pod's name."""
        if not _POD.match(pod):
            raise ValueError(f"{pod!r} is no pod's name")
        return self._directory / pod


class _Reader:
    """Reads one namespace again and again: to enter it takes three times as long as to read it."""

    def __init__(self, path: Path, inode: int) -> None:
        self.inode = inode
        self._path = str(path)
        self._pin = _pin(self._path)
        self._lock = threading.Lock()
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._netlink, self._control = namespaces.in_network_namespace(
            path, lambda: (rtnetlink.open_socket(), socket.socket(socket.AF_INET, kind))
        )

    def is_pinned(self) -> bool:
        """Return whether this namespace is still pinned."""
        return _pin(self._path) == self._pin

    def is_quiet(self) -> bool:
        """Return whether this namespace is still pinned, with its loopback up: two system calls."""
        with self._lock:
            return self.is_pinned() and namespaces.is_link_up(self._control, "lo")

    def read(self, *, links_only: bool) -> NamespaceState:
        with self._lock:
            return rtnetlink.read(self._netlink, links_only=links_only)

    def close(self) -> None:
        """Close the sockets, which otherwise keep the namespace."""
        with self._lock:
            self._netlink.close()
            self._control.close()


def _ports(wanted: Collection[WantedNic]) -> dict[str, Link]:
    """Return this machine's ends of a pod's interfaces in bridges, by name, as far as they are there."""
    names = [nic.port for nic in wanted if nic.is_bridged]
    if not names:
        return {}
    with rtnetlink.open_socket() as netlink:
        links = [rtnetlink.read_link(netlink, name) for name in names]
    return {link.name: link for link in links if link is not None}


def _wait_for_carrier(wanted: Collection[WantedNic]) -> None:
    """Wait until bridges pass packets on to the interfaces that were plugged into them.

    The kernel lets them some time later, mostly a few milliseconds, and drops the questions for addresses
    until then, which it asks once a second: so long would the first client wait.
    """
    names = [name for nic in wanted if nic.is_bridged for name in (nic.port, nic.parent) if name]
    if not names:
        return
    deadline = time.monotonic() + _CARRIER_SECONDS
    with rtnetlink.open_socket() as netlink:
        for name in names:
            # Since Linux 6.8 the question itself has the kernel catch up.
            while (link := rtnetlink.read_link(netlink, name)) and not link.running:
                if time.monotonic() > deadline:
                    return
                time.sleep(_CARRIER_PAUSE)


def _state(path: Path, inode: int | None, observed: NamespaceState) -> NetworkState:
    return NetworkState(netns=path, addresses=convergence.pod_addresses(observed), netns_inode=inode)


def _pin(path: str) -> tuple[int, int] | None:
    """Return the identity of the namespace pinned at a path: a pin has the namespace's own inode."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _create(path: Path, prepare: Callable[[], None] | None) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        namespaces.create_network_namespace(path, _SYSCTLS, prepare)
    except OSError as error:
        what = f"cannot make a network namespace: {error.strerror}"
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise Stalled(
                what, hint="the agent needs root, CAP_SYS_ADMIN and a writable /proc/sys"
            ) from error
        if error.errno == errno.ENOSPC:
            raise Stalled(what, hint="raise the sysctl user.max_net_namespaces") from error
        raise Retry(what) from error


def _read(path: Path, *, links_only: bool = False) -> NamespaceState:
    # The socket keeps the namespace it was made in, so the thread that enters it is soon done.
    with namespaces.in_network_namespace(path, rtnetlink.open_socket) as netlink:
        return rtnetlink.read(netlink, links_only=links_only)
