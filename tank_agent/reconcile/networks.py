"""The network of every pod: its namespace, its files in /etc, and what drifted since they were made."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from msgspec import Struct

from tank_agent.errors import Retry, TankError
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import network_namespace_inode, unpin
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.network.host_facts import HostDns, HostFacts
from tank_agent.network.names import files_differ, pod_files, read_host_hosts, wants_host_dns, write_files
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.reconcile.core.observed import NetworkUse, PendingChange
from tank_agent.retry import Failure, Pace, spread
from tank_agent.runtime.mounts.rootfs import FILES
from tank_agent.spec.model import Network, Pod

T = TypeVar("T")

_HOSTS = Path("/etc/hosts")
_HOST_NAMESPACE = Path("/proc/self/ns/net")
# A cable that is plugged in again should not be waited for as a program that keeps failing is.
PACE = Pace(base=1.0, cap=30.0)
# Shorter than any resync, longer than one takes.
_HOST_FRESH = 1.0


class _ConvergeFailure(Failure, frozen=True, kw_only=True):
    network: Network


class _PodNetwork(Struct):
    """One pod's network. `state` is None without a namespace; `fresh`: no container ran in it yet.

    `seen` is what the files were made of when they were found right, `inodes` name them, `replaced` is set
    once they are others.
    """

    state: NetworkState | None = None
    fresh: bool = False
    converged: Network | None = None
    drift: str | None = None
    failure: _ConvergeFailure | None = None
    has_files: bool = False
    seen: object = None
    inodes: object = None
    replaced: bool = False

    def settle(self, network: Network | None) -> None:
        """Note that the network is as this one wants it; None if there is none any more."""
        self.converged = network
        self.drift = self.failure = self.seen = None


_NONE = _PodNetwork()


class Networks:
    """Remembers what was made, so that planning for a thousand pods asks the kernel nothing.

    What changes behind our back is found by `check`, once per resync. Calls for one pod that change its
    network come from one thread at a time.

    Args:
        pod_networks: makes and removes the namespaces.
        host: the host's DNS.
        run_dir: the pods' files lie in its `pods` directory.
        clock: for the back-off of changes that failed.
    """

    def __init__(self, pod_networks: PodNetworks, host: HostFacts, run_dir: Path, clock: Clock) -> None:
        self._pod_networks = pod_networks
        self._clock = clock
        self._files = run_dir / "pods"
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._pods: dict[str, _PodNetwork] = {}
        self._host_dns = _Recent(clock, host.dns)
        self._host_hosts = _Recent(clock, lambda: _signature(str(_HOSTS)))

    def adopt(self, processes: Mapping[str, Collection[int]]) -> None:
        """Take over the networks of pods that have runs, and remove all others that a former agent left.

        Args:
            processes: the main processes that live, of every pod that has a run.
        """
        with left_for_later("networks of pods"):
            self._pod_networks.sweep(processes.keys())
        for pod, pids in processes.items():
            state = self._pod_networks.observe(pod)
            if state is None and self._repin_any(pod, pids):
                state = self._pod_networks.observe(pod)
            with self._lock:
                self._pods[pod] = _PodNetwork(state=state, has_files=True)
        for directory in self._files.iterdir():
            if directory.name not in processes:
                with left_for_later(str(directory)):
                    remove_tree(directory)

    def pods(self) -> frozenset[str]:
        """Return the pods that have a namespace."""
        with self._lock:
            return frozenset(pod for pod, known in self._pods.items() if known.state is not None)

    def state(self, pod: str) -> NetworkUse:
        """Return whether a pod has a namespace, and whether a container ran in it."""
        with self._lock:
            known = self._pods.get(pod, _NONE)
            if known.state is None:
                return "absent"
            return "fresh" if known.fresh else "used"

    def addresses(self, pod: str) -> tuple[str, ...]:
        """Return the addresses of a pod's interfaces, with prefix."""
        return self._state(pod).addresses

    def change(self, pod: Pod) -> PendingChange | None:
        """Return what of a pod's network is known to be not as the pod wants it; asks the kernel nothing."""
        with self._lock:
            known = self._pods.get(pod.name, _NONE)
            reason, failure = known.drift, known.failure
            if reason is None and known.converged not in (None, pod.network):
                reason = "the pod's file changed it"
        if reason is None:
            return None
        # Another network is another try, whatever became of the last.
        if failure is not None and failure.network == pod.network:
            return PendingChange(
                reason=reason, error=failure.error, count=failure.count, retry_at=failure.retry_at
            )
        return PendingChange(reason=reason)

    def failure(self, pod: str) -> Failure | None:
        """Return how the last `converge` failed, whatever network it was for; None once one succeeded."""
        with self._lock:
            return self._pods.get(pod, _NONE).failure

    def directory(self, pod: str) -> Path:
        """Return where a pod's hosts, hostname and resolv.conf lie."""
        return self._files / pod

    def check(self, pod: Pod) -> bool:
        """Look whether a pod still has what was made for it, and remember for `change` what differs.

        Returns whether one of its files is another one than at the last look, whatever is in it.
        """
        own = pod.network.mode != "host"
        with self._lock:
            known = self._pods.get(pod.name, _NONE)
            if (known.state is not None) != own or (not own and not known.has_files):
                return False
        reason = self._difference(pod, known)
        with self._lock:
            if reason is None:
                known.failure, known.converged = None, pod.network
            known.drift = reason
            replaced, known.replaced = known.replaced, False
        return replaced

    def make(self, pod: Pod) -> None:
        """Make a pod's network; errors as `PodNetworks.ensure`, which then leave nothing."""
        try:
            state = self._pod_networks.ensure(pod.name, pod.network)
        except Exception:
            # Of whatever kind: one that `pods` does not list would never be removed.
            self._pod_networks.remove(pod.name)
            raise
        with self._lock:
            known = self._pods.setdefault(pod.name, _PodNetwork())
            known.state, known.fresh = state, True
            known.settle(pod.network)

    def converge(self, pod: Pod, pids: Collection[int]) -> None:
        """Change a pod's network and its files to what is wanted, under the containers that run.

        Args:
            pod: as it should be.
            pids: processes of the pod, should its pin be lost; some may be in the host's network still.

        Raises:
            Stalled, Retry: as `PodNetworks.ensure`; what could be done is done. It is remembered, and waits
                before the next try.
        """
        try:
            self._converge(pod, pids)
        except TankError as error:
            with self._lock:
                known = self._pods.setdefault(pod.name, _PodNetwork())
                former = known.failure
                if former is None or former.network != pod.network:
                    former = _ConvergeFailure(network=pod.network)
                known.failure = former.again(str(error), PACE, self._clock.monotonic(), spread(pod.name))
            raise
        with self._lock:
            self._pods[pod.name].settle(pod.network)

    def _converge(self, pod: Pod, pids: Collection[int]) -> None:
        try:
            if pod.network.mode != "host":
                self._keep_pin(pod.name, pids)
                self._pod_networks.ensure(pod.name, pod.network)
        finally:
            # Also after a failure: what was done shows in the status and in /etc/hosts.
            state = self._pod_networks.observe(pod.name)
            with self._lock:
                known = self._pods.setdefault(pod.name, _PodNetwork())
                if state is not None and known.state is not None:
                    known.state = state
            self.files(pod)

    def namespace(self, pod: Pod) -> Path | None:
        """Return the namespace that a container is about to start in; None for the host's.

        Raises:
            Retry: its pin was lost.
        """
        if pod.network.mode == "host":
            return None
        with self._lock:
            known = self._pods[pod.name]
            known.fresh = False
            state = known.state or NetworkState()
        if state.netns is None or network_namespace_inode(state.netns) != state.netns_inode:
            with self._lock:
                known.drift = "the network namespace is not pinned"
            raise Retry("the pod's network namespace is not pinned", where=f"pod {pod.name}")
        return state.netns

    def files(self, pod: Pod) -> Path:
        """Write the pod's hosts, hostname and resolv.conf, and return their directory.

        Raises:
            Retry: they cannot be written.
        """
        directory = self.directory(pod.name)
        with self._lock:
            known = self._pods.setdefault(pod.name, _PodNetwork())
            known.has_files = True
        try:
            write_files(directory, self._wanted_files(pod))
        except OSError as error:
            raise Retry(f"cannot write {error.filename or directory}: {error.strerror}") from error
        if pod.network.mode == "host":
            with self._lock:
                known.settle(pod.network)
        return directory

    def remove(self, pod: str) -> None:
        """Remove a pod's network; errors as `PodNetworks.remove`."""
        self._pod_networks.remove(pod)
        with self._lock:
            known = self._pods.get(pod)
            if known is not None:
                known.state, known.fresh = None, False
                known.settle(None)

    def forget(self, pod: str) -> None:
        """Remove the files of a pod that is gone, and all that is known of its network."""
        remove_tree(self._files / pod)
        with self._lock:
            self._pods.pop(pod, None)

    def _state(self, pod: str) -> NetworkState:
        with self._lock:
            return self._pods.get(pod, _NONE).state or NetworkState()

    def _difference(self, pod: Pod, known: _PodNetwork) -> str | None:
        try:
            if pod.network.mode != "host":
                inode = self._state(pod.name).netns_inode
                differences = self._pod_networks.drift(pod.name, pod.network, inode=inode)
                if differences:
                    return differences[0]
            return self._files_difference(pod, known)
        except (TankError, OSError) as error:
            return str(error)

    def _files_difference(self, pod: Pod, known: _PodNetwork) -> str | None:
        """Read the pod's files only if they, or what they are made of, changed since the last look."""
        directory = f"{self._files}/{pod.name}"
        files = tuple([_signature(f"{directory}/{name}") for name in FILES])
        seen = (files, self._state(pod.name), pod.network, self._dns(pod), self._host_hosts.get())
        if known.seen == seen:
            return None
        inodes = tuple(signature and signature[:2] for signature in files)
        known.replaced = known.replaced or known.inodes not in (None, inodes)
        known.inodes = inodes
        differing = files_differ(self._files / pod.name, self._wanted_files(pod))
        if differing:
            return f"/etc/{differing[0]} is not as it should be"
        known.seen = seen
        return None

    def _dns(self, pod: Pod) -> HostDns:
        """Return the host's DNS; nothing for a pod that does not use it: that must not wait for it."""
        return self._host_dns.get() if wants_host_dns(pod.network) else HostDns()

    def _wanted_files(self, pod: Pod) -> dict[str, str]:
        hosts = read_host_hosts(_HOSTS) if pod.network.mode == "host" else ""
        return pod_files(pod.name, pod.network, self._state(pod.name), self._dns(pod), host_hosts=hosts)

    def _keep_pin(self, pod: str, pids: Collection[int]) -> None:
        """Pin the namespace again where its pin was lost, or another's was put in its place.

        Raises:
            Retry: no process is in it any more.
        """
        state = self._state(pod)
        if state.netns is None:
            return
        pinned = network_namespace_inode(state.netns)
        if pinned is not None and pinned == state.netns_inode:
            return
        if pinned is not None:
            # First, and without a look at what is in it: it is not this pod's.
            unpin(state.netns)
        pid = next((pid for pid in pids if _namespace_of(pid) == state.netns_inode), None)
        if pid is None:
            # Nobody is in it: the next look finds none, and makes one.
            self.remove(pod)
            raise Retry("the pod's network namespace is gone", where=f"pod {pod}")
        self._pod_networks.repin(pod, pid)

    def _repin_any(self, pod: str, pids: Collection[int]) -> bool:
        own = _HOST_NAMESPACE.stat().st_ino
        for pid in pids:
            try:
                if _namespace_of(pid) not in (None, own):
                    return self._pod_networks.repin(pod, pid)
            except Retry:
                continue
        return False


class _Recent(Generic[T]):
    """A fact of the host, read at most once a second, since a resync asks for every pod."""

    def __init__(self, clock: Clock, read: Callable[[], T]) -> None:
        self._clock, self._read = clock, read
        self._known: tuple[float, T] | None = None

    def get(self) -> T:
        now, known = self._clock.monotonic(), self._known
        if known is None or not known[0] <= now < known[0] + _HOST_FRESH:
            known = self._known = (now, self._read())
        return known[1]


def _namespace_of(pid: int) -> int | None:
    """Return the inode number that names a process's network namespace; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError):
        return None


def _signature(path: str) -> tuple[int, ...] | None:
    """Return what changes whenever a file's content may have, inode first; None if it is not there.

    A thousand pods have three files each, so no Path is made of any; whatever changes sets the ctime.
    """
    try:
        status = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_dev, status.st_size, status.st_ctime_ns
