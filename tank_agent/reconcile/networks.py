"""Which pods have a network, whether a container ran in it, and the files that tell its programs about it."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from tank_agent.errors import Retry, TankError
from tank_agent.linux.clock import Clock
from tank_agent.linux.leftovers import left_for_later
from tank_agent.linux.namespaces import network_namespace_inode, unpin
from tank_agent.linux.trees import remove_tree
from tank_agent.network.files import files_differ, pod_files, read_host_hosts, wants_host_dns, write_files
from tank_agent.network.host_facts import HostDns, HostFacts
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.reconcile import observed
from tank_agent.reconcile.observed import PendingChange
from tank_agent.retry import Failure, Pace, spread
from tank_agent.runtime.mounts.rootfs import FILES
from tank_agent.spec.model import Network, Pod

_HOSTS = Path("/etc/hosts")
_HOST_NAMESPACE = Path("/proc/self/ns/net")
# A cable that is plugged in again should not be waited for as a program that keeps failing is.
PACE = Pace(base=1.0, cap=30.0)
# Shorter than any resync, longer than one takes.
_HOST_FRESH = 1.0


class _Failure(Failure, frozen=True, kw_only=True):
    network: Network


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
        self._host = host
        self._clock = clock
        self._files = run_dir / "pods"
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._states: dict[str, NetworkState] = {}
        self._fresh: set[str] = set()
        self._converged: dict[str, Network] = {}
        self._drift: dict[str, str] = {}
        self._failures: dict[str, _Failure] = {}
        # The pods whose files were written.
        self._told: set[str] = set()
        self._quiet: dict[str, object] = {}
        self._inodes: dict[str, object] = {}
        self._replaced: set[str] = set()
        self._dns_read: tuple[float, HostDns] | None = None
        self._hosts_read: tuple[float, object] | None = None

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
            if state is not None:
                with self._lock:
                    self._states[pod] = state
        self._told.update(processes)
        for directory in self._files.iterdir():
            if directory.name not in processes:
                with left_for_later(str(directory)):
                    remove_tree(directory)

    def pods(self) -> frozenset[str]:
        """Return the pods that have a namespace."""
        with self._lock:
            return frozenset(self._states)

    def state(self, pod: str) -> observed.NetworkState:
        """Return whether a pod has a namespace, and whether a container ran in it."""
        with self._lock:
            if pod not in self._states:
                return "absent"
            return "fresh" if pod in self._fresh else "used"

    def addresses(self, pod: str) -> tuple[str, ...]:
        """Return the addresses of a pod's interfaces, with prefix."""
        with self._lock:
            state = self._states.get(pod)
        return state.addresses if state is not None else ()

    def change(self, pod: Pod) -> PendingChange | None:
        """Return what of a pod's network is known to be not as the pod wants it; asks the kernel nothing."""
        with self._lock:
            reason = self._drift.get(pod.name)
            converged = self._converged.get(pod.name, pod.network)
            failure = self._failures.get(pod.name)
        if reason is None and converged != pod.network:
            reason = "the pod's file changed it"
        if reason is None:
            return None
        # Another network is another try, whatever became of the last.
        if failure is not None and failure.network == pod.network:
            return PendingChange(reason=reason, error=failure.error, retry_at=failure.retry_at)
        return PendingChange(reason=reason)

    def directory(self, pod: str) -> Path:
        """Return where a pod's hosts, hostname and resolv.conf lie."""
        return self._files / pod

    def check(self, pod: Pod) -> bool:
        """Look whether a pod still has what was made for it, and remember for `change` what differs.

        Returns whether one of its files is another one than at the last look, whatever is in it.
        """
        own = pod.network.mode != "host"
        if (self.state(pod.name) != "absent") != own or (not own and pod.name not in self._told):
            return False
        reason = self._difference(pod, own=own)
        with self._lock:
            if reason is not None:
                self._drift[pod.name] = reason
            else:
                self._drift.pop(pod.name, None)
                self._failures.pop(pod.name, None)
                self._converged[pod.name] = pod.network
        replaced = pod.name in self._replaced
        self._replaced.discard(pod.name)
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
            self._states[pod.name] = state
            self._fresh.add(pod.name)
            self._settled(pod)

    def converge(self, pod: Pod, pids: Collection[int]) -> None:
        """Change a pod's network and its files to what is wanted, under the containers that run.

        Args:
            pod: as it should be.
            pids: processes of the pod, should its pin be lost; some may be in the host's network still.

        Raises:
            Stalled, Retry: as `PodNetworks.ensure`; what could be done is done.
        """
        try:
            if pod.network.mode != "host":
                self._keep_pin(pod.name, pids)
                self._pod_networks.ensure(pod.name, pod.network)
        finally:
            # Also after a failure: what was done shows in the status and in /etc/hosts.
            state = self._pod_networks.observe(pod.name)
            with self._lock:
                if state is not None and pod.name in self._states:
                    self._states[pod.name] = state
            self.files(pod)
        with self._lock:
            self._settled(pod)

    def failed(self, pod: Pod, error: str) -> bool:
        """Remember that `converge` failed, so that it waits before the next try; False if that is no news."""
        with self._lock:
            known = self._failures.get(pod.name)
            former = (
                known if known is not None and known.network == pod.network else _Failure(network=pod.network)
            )
            now = self._clock.monotonic()
            self._failures[pod.name] = former.again(error, PACE, now, spread(pod.name))
        return known is None or known.error != error

    def namespace(self, pod: Pod) -> Path | None:
        """Return the namespace that a container is about to start in; None for the host's.

        Raises:
            Retry: its pin was lost.
        """
        if pod.network.mode == "host":
            return None
        with self._lock:
            state = self._states[pod.name]
            self._fresh.discard(pod.name)
        if state.netns is None or network_namespace_inode(state.netns) != state.netns_inode:
            with self._lock:
                self._drift[pod.name] = "the network namespace is not pinned"
            raise Retry("the pod's network namespace is not pinned", where=f"pod {pod.name}")
        return state.netns

    def files(self, pod: Pod) -> Path:
        """Write the pod's hosts, hostname and resolv.conf, and return their directory.

        Raises:
            Retry: they cannot be written.
        """
        directory = self.directory(pod.name)
        self._told.add(pod.name)
        try:
            write_files(directory, self._wanted_files(pod))
        except OSError as error:
            raise Retry(f"cannot write {error.filename or directory}: {error.strerror}") from error
        if pod.network.mode == "host":
            with self._lock:
                self._settled(pod)
        return directory

    def remove(self, pod: str) -> None:
        """Remove a pod's network; errors as `PodNetworks.remove`."""
        self._pod_networks.remove(pod)
        with self._lock:
            self._states.pop(pod, None)
            self._fresh.discard(pod)
            self._clear(pod)

    def forget(self, pod: str) -> None:
        """Remove the files of a pod that is gone."""
        remove_tree(self._files / pod)
        for known in (self._told, self._replaced):
            known.discard(pod)
        with self._lock:
            self._clear(pod)
            self._inodes.pop(pod, None)

    def _clear(self, pod: str) -> None:
        for known in (self._converged, self._drift, self._failures, self._quiet):
            known.pop(pod, None)

    def _settled(self, pod: Pod) -> None:
        self._clear(pod.name)
        self._converged[pod.name] = pod.network

    def _difference(self, pod: Pod, *, own: bool) -> str | None:
        try:
            if own:
                with self._lock:
                    state = self._states.get(pod.name)
                inode = state.netns_inode if state is not None else None
                differences = self._pod_networks.drift(pod.name, pod.network, inode=inode)
                if differences:
                    return differences[0]
            return self._files_difference(pod)
        except (TankError, OSError) as error:
            return str(error)

    def _files_difference(self, pod: Pod) -> str | None:
        """Read the pod's files only if they, or what they are made of, changed since the last look."""
        with self._lock:
            state = self._states.get(pod.name)
        directory = f"{self._files}/{pod.name}"
        files = tuple([_signature(f"{directory}/{name}") for name in FILES])
        seen = (files, state, pod.network, self._host_dns(pod), self._host_hosts())
        if self._quiet.get(pod.name) == seen:
            return None
        inodes = tuple(signature and signature[:2] for signature in files)
        if self._inodes.setdefault(pod.name, inodes) != inodes:
            self._inodes[pod.name] = inodes
            self._replaced.add(pod.name)
        differing = files_differ(self._files / pod.name, self._wanted_files(pod))
        if differing:
            return f"/etc/{differing[0]} is not as it should be"
        self._quiet[pod.name] = seen
        return None

    def _host_dns(self, pod: Pod) -> HostDns:
        """Return the host's DNS; nothing for a pod that does not use it, which must not wait for it either.

        Read at most once a second, since a resync asks for every pod.
        """
        if not wants_host_dns(pod.network):
            return HostDns()
        now = self._clock.monotonic()
        if self._dns_read is None or not self._dns_read[0] <= now < self._dns_read[0] + _HOST_FRESH:
            self._dns_read = (now, self._host.dns())
        return self._dns_read[1]

    def _host_hosts(self) -> object:
        """Return what tells of the host's hosts file; read as seldom as its DNS."""
        now = self._clock.monotonic()
        if self._hosts_read is None or not self._hosts_read[0] <= now < self._hosts_read[0] + _HOST_FRESH:
            self._hosts_read = (now, _signature(str(_HOSTS)))
        return self._hosts_read[1]

    def _wanted_files(self, pod: Pod) -> dict[str, str]:
        with self._lock:
            state = self._states.get(pod.name, NetworkState())
        hosts = read_host_hosts(_HOSTS) if pod.network.mode == "host" else ""
        return pod_files(pod.name, pod.network, state, self._host_dns(pod), host_hosts=hosts)

    def _keep_pin(self, pod: str, pids: Collection[int]) -> None:
        """Pin the namespace again where its pin was lost, or another's was put in its place.

        Raises:
            Retry: no process is in it any more.
        """
        with self._lock:
            state = self._states.get(pod)
        if state is None or state.netns is None:
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
