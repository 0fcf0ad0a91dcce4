"""The network of every pod: its namespace, its files in /etc, and their drift."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from tank_agent.errors import Retry, TankError
from tank_agent.linux.clock import Clock
from tank_agent.linux.namespaces import network_namespace_inode, unpin
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.network.host_facts import HostDns, HostFacts
from tank_agent.network.host_side import HostSide, Reservation
from tank_agent.network.names import (
    NameFacts,
    files_differ,
    hosts,
    read_host_hosts,
    resolv_conf,
    wants_host_dns,
    write_files,
)
from tank_agent.network.obstacles import Obstacle
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.network.shim import HostAccess
from tank_agent.network.sysctls import NO_SYSCTLS
from tank_agent.reconcile.cheap_looks import namespace_of, recent, signature
from tank_agent.reconcile.core.observed import NetworkUse, PendingChange
from tank_agent.reconcile.known_network import NO_NETWORK, ConvergeFailure, KnownNetwork, NetworkBasis
from tank_agent.reconcile.name_writer import NameWriter
from tank_agent.retry import Failure, Pace, spread
from tank_agent.runtime.mounts.rootfs import FILES
from tank_agent.spec.model import Pod, Port

_log = structlog.get_logger()
_HOSTS = Path("/etc/hosts")
_HOST_NAMESPACE = Path("/proc/self/ns/net")
# Shorter than for programs that fail: a cable may be plugged in again any time.
PACE = Pace(base=1.0, cap=30.0)


class Networks:
    """Knows the networks of all pods, so that planning for a thousand pods asks the kernel nothing.

    `check` finds what others changed, once per resync. One thread at a time changes the network of a pod.

    Args:
        pod_networks: makes and removes the namespaces.
        host_side: bridges and published ports.
        host: the host's DNS.
        run_dir: has the pods' files in `pods`.
        clock: for the back-off of changes that failed.
        access: the machine's way to its pods on the LAN.
        keep: records what a pod has reserved of this machine, before any of it is used.
    """

    def __init__(
        self,
        pod_networks: PodNetworks,
        host_side: HostSide,
        host: HostFacts,
        run_dir: Path,
        clock: Clock,
        *,
        access: HostAccess,
        keep: Callable[[str, Reservation], None],
    ) -> None:
        self._pod_networks = pod_networks
        self._host_side = host_side
        self._access = access
        self._clock = clock
        self._keep = keep
        self._files = run_dir / "pods"
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._names = NameWriter(lambda: host_side.names.version, self._write_names)
        # Who writes a pod's files: its worker, or the thread of names.
        self._writing = threading.Lock()
        self._pods: dict[str, KnownNetwork] = {}
        self._obstacles: tuple[Obstacle, ...] = ()
        self._host_dns = recent(clock, host.dns)
        self._host_hosts = recent(clock, lambda: signature(str(_HOSTS)))

    def adopt(
        self,
        processes: Mapping[str, Collection[int]],
        pods: Mapping[str, Pod],
        sysctls: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Take over the networks of pods that have runs, by their main `processes`, and remove all others.

        `pods` are those that should run, by name; `sysctls` are those with which a pod's network was made.
        """
        self._host_side.adopt(processes.keys())
        self._host_side.names.note(pods.values())
        with self._lock:
            # Until `forget`: one of them may be declared no more by the first look.
            self._pods.update({pod: KnownNetwork() for pod in pods})
        with left_for_later("networks of pods"):
            self._pod_networks.sweep(processes.keys())
        for pod, pids in processes.items():
            state = self._pod_networks.observe(pod)
            if state is None and self._repin_any(pod, pids):
                state = self._pod_networks.observe(pod)
            with self._lock:
                self._pods[pod] = KnownNetwork(
                    state=state, has_files=True, pod=pods.get(pod), sysctls=sysctls.get(pod, NO_SYSCTLS)
                )
            self._access.note(pod, pods[pod].network if pod in pods else None)
            if pod not in pods and state is not None and state.addresses:
                # One that an older journal does not know goes on as it is.
                self._host_side.recover(pod, self._pod_networks.leases(pod))
        for directory in self._files.iterdir():
            if directory.name not in processes:
                with left_for_later(str(directory)):
                    remove_tree(directory)

    def pods(self) -> frozenset[str]:
        """Return the pods that have a namespace."""
        with self._lock:
            return frozenset(pod for pod, known in self._pods.items() if known.state is not None)

    def remembered(self) -> frozenset[str]:
        """Return the pods of which something is kept until `forget`: a namespace, files or names."""
        with self._lock:
            return frozenset(self._pods)

    def remembers(self, pod: str) -> bool:
        """Return whether a pod is one of `remembered`."""
        return pod in self._pods

    def state(self, pod: str) -> NetworkUse:
        """Return whether a pod has a namespace, and whether a container ran in it."""
        with self._lock:
            known = self._pods.get(pod, NO_NETWORK)
            return "absent" if known.state is None else "fresh" if known.fresh else "used"

    def is_outdated(self, pod: Pod) -> bool:
        """Return whether a pod has a namespace that was made with other sysctls."""
        with self._lock:
            known = self._pods.get(pod.name, NO_NETWORK)
            return known.state is not None and known.sysctls != pod.sysctls

    def addresses(self, pod: str) -> tuple[str, ...]:
        """Return the addresses of a pod's interfaces, with prefix."""
        return self._state(pod).addresses

    def change(self, pod: Pod) -> PendingChange | None:
        """Return the known difference of a pod's network from its declaration; asks the kernel nothing."""
        with self._lock:
            known = self._pods.get(pod.name, NO_NETWORK)
            reason, failure = known.drift, known.failure
            if reason is None and known.converged not in (None, NetworkBasis.of(pod)):
                reason = "the pod's file changed it"
        if reason is None:
            return None
        # A failure of another declaration delays nothing.
        last = failure if failure is not None and failure.wanted == NetworkBasis.of(pod) else Failure()
        return PendingChange(reason=reason, error=last.error, count=last.count, retry_at=last.retry_at)

    def failure(self, pod: str) -> Failure | None:
        """Return the failure of the last `converge`; None if it succeeded."""
        with self._lock:
            return self._pods.get(pod, NO_NETWORK).failure

    def directory(self, pod: str) -> Path:
        """Return the directory of a pod's hosts, hostname and resolv.conf."""
        return self._files / pod

    def check(self, pod: Pod) -> bool:
        """Look for drift of a pod's network and files, and keep it for `change`.

        Returns whether one of the files was replaced since the last look, even with the same content.
        """
        own = pod.network.mode != "host"
        with self._lock:
            known = self._pods.get(pod.name, NO_NETWORK)
            if (known.state is not None) != own or (not own and not known.has_files):
                return False
        reason = self._difference(pod, known)
        with self._lock:
            if reason is None:
                known.failure, known.converged = None, NetworkBasis.of(pod)
            known.drift = reason
            replaced, known.replaced = known.replaced, False
        return replaced

    def make(self, pod: Pod) -> None:
        """Make a pod's network; errors as `PodNetworks.ensure`, which then leave nothing."""
        with self._lock:
            # Its names are noted first of all, and others see them until `forget`.
            self._pods.setdefault(pod.name, KnownNetwork())
        try:
            state = self._ensure(pod, whole=True)
        except Exception:
            # Nobody would remove a network that `pods` does not list.
            self._remove(pod.name)
            raise
        with self._known(pod.name) as known:
            known.state, known.fresh, known.sysctls = state, True, pod.sysctls
            known.settle(NetworkBasis.of(pod))

    def converge(self, pod: Pod, pids: Collection[int]) -> None:
        """Change a pod's network and its files to the declared ones, while containers run.

        `pids` are processes of the pod, in case its pin is lost; some may still be in the host's network.

        Raises:
            Stalled, Retry: as `PodNetworks.ensure`; `change` has the failure, and the time of the next try.
        """
        try:
            self._converge(pod, pids)
        except TankError as error:
            with self._known(pod.name) as known:
                former = known.failure
                if former is None or former.wanted != NetworkBasis.of(pod):
                    former = ConvergeFailure(wanted=NetworkBasis.of(pod))
                known.failure = former.again(str(error), PACE, self._clock.monotonic(), spread(pod.name))
            raise
        with self._known(pod.name) as known:
            known.settle(NetworkBasis.of(pod))

    def _converge(self, pod: Pod, pids: Collection[int]) -> None:
        try:
            if pod.network.mode != "host":
                self._keep_pin(pod.name, pids)
                self._ensure(pod, whole=False)
            else:
                self.leave_bridges(pod)
        finally:
            # Also after a failure: the status and /etc/hosts show what was done.
            state = self._pod_networks.observe(pod.name)
            with self._known(pod.name) as known:
                if state is not None and known.state is not None:
                    known.state = state
            self.files(pod)

    def leave_bridges(self, pod: Pod) -> None:
        """Take back what a pod of the machine's network had of its own before; errors as in `remove`."""
        self._host_side.names.note([pod])
        if self._host_side.concerns(pod):
            self._reserve(pod, whole=True)
            self._settle(pod)
        self._names.look()

    def _ensure(self, pod: Pod, *, whole: bool) -> NetworkState:
        """Make or change a pod's network; unless `whole`, all of it that can be had before an error."""
        self._host_side.names.note([pod])
        bridged = self._host_side.concerns(pod)
        refused = self._reserve(pod, whole=whole) if bridged else None
        self._names.look()
        if bridged:
            self._host_side.prepare(pod)
        # Those of a network in use stay as they were, until its containers have ended.
        sysctls = pod.sysctls if whole else self._sysctls(pod.name)
        state = self._pod_networks.ensure(pod.name, pod.network, sysctls)
        if bridged:
            self._host_side.publish(pod.name)
        if self._access.note(pod.name, pod.network):
            self._reach(pod.name)
        if refused is not None:
            raise refused
        if bridged:
            self._settle(pod)
        return state

    def _reserve(self, pod: Pod, *, whole: bool) -> TankError | None:
        refused = self._host_side.reserve(pod)
        self._keep(pod.name, self._host_side.reserved(pod.name))
        if whole and refused is not None:
            raise refused
        return refused

    def _settle(self, pod: Pod) -> None:
        if self._host_side.settle(pod):
            self._keep(pod.name, self._host_side.reserved(pod.name))
            self._names.look()

    def _remove(self, pod: str) -> None:
        self._host_side.close(pod)
        self._pod_networks.remove(pod)
        if self._access.note(pod, None):
            self._reach(pod)

    def _reach(self, pod: str | None = None) -> tuple[str, ...]:
        """Keep the machine's way to its pods on the LAN right; return what was not. No pod waits for it."""
        try:
            changed = self._access.ensure(pod)
            self._host_side.send_from(self._access.senders())
        except TankError as error:
            _log.warning("this machine does not reach all of its pods on the LAN", error=str(error))
            return ()
        return changed

    def set_host_access(self, *, enabled: bool) -> None:
        """Let this machine and its pods on the LAN reach each other, or not."""
        self._access.enabled = enabled
        self._reach()

    def give_up_ports(self, pod: str) -> None:
        """Give up the ports of a pod that has ended for good, after its network was removed."""
        if self._host_side.give_up_ports(pod):
            self._keep(pod, self._host_side.reserved(pod))

    def ports(self, pod: str) -> tuple[Port, ...]:
        """Return the ports of this machine that lead to a pod now."""
        return self._host_side.ports(pod)

    def wanted_ports(self, pod: Pod) -> tuple[Port, ...]:
        """Return the ports of a pod's file, each with the address where it is published."""
        return self._host_side.wanted_ports(pod)

    def leases(self, pod: str) -> dict[str, tuple[str, ...]]:
        """Return a pod's addresses by bridge."""
        return self._host_side.leases.of(pod)

    def warnings(self, pod: str) -> tuple[str, ...]:
        """Return what of this machine keeps packets from a pod in bridges, each with the line to type."""
        return self._host_side.warnings(pod)

    def check_host(self) -> tuple[str, ...]:
        """Make right what somebody changed of the bridges and their rules; return what it was.

        Raises:
            Stalled, Retry: it cannot be done now.
        """
        wrong = (*self._reach(), *self._host_side.check())
        found = self._host_side.look_for_obstacles()
        for obstacle in found:
            if obstacle not in self._obstacles:
                _log.warning(obstacle.problem, type=obstacle.remedy)
        for obstacle in self._obstacles:
            if obstacle not in found:
                _log.info("not so any more", was=obstacle.problem)
        self._obstacles = found
        return wrong

    def close(self) -> None:
        """End the thread of names."""
        self._names.close()

    def _write_names(self) -> None:
        """Write /etc/hosts of pods that may have other neighbours; what fails is drift at the next check."""
        with self._lock:
            names = [name for name, known in self._pods.items() if known.pod is not None]
        for name in names:
            with suppress(OSError), self._writing:
                # A pod may have gone meanwhile, and its files with it.
                with self._lock:
                    pod = self._pods.get(name, NO_NETWORK).pod
                if pod is not None and pod.network.mode in ("bridge", "nics"):
                    write_files(self._files / name, {"hosts": self._wanted_hosts(pod)})

    def namespace(self, pod: Pod) -> Path | None:
        """Return the namespace for a container that starts now, None for the host's; Retry without a pin."""
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
        """Write the pod's hosts, hostname and resolv.conf, and return their directory, or raise Retry."""
        directory = self.directory(pod.name)
        with self._known(pod.name) as known:
            known.has_files, known.pod = True, pod
        try:
            with self._writing:
                write_files(directory, self._wanted_files(pod))
        except OSError as error:
            raise Retry(f"cannot write {error.filename or directory}: {error.strerror}") from error
        if pod.network.mode == "host":
            with self._lock:
                known.settle(NetworkBasis.of(pod))
        return directory

    def remove(self, pod: str) -> None:
        """Remove a pod's network; errors as `PodNetworks.remove`."""
        self._remove(pod)
        with self._lock:
            known = self._pods.get(pod)
            if known is not None:
                known.state, known.fresh = None, False
                known.settle(None)

    def forget(self, pod: str) -> None:
        """Remove the files of a pod that is gone, and forget its network."""
        self._host_side.free(pod)
        self._names.look()
        with self._lock:
            self._pods.pop(pod, None)
        with self._writing:
            remove_tree(self._files / pod)

    @contextlib.contextmanager
    def _known(self, pod: str) -> Iterator[KnownNetwork]:
        """Hold the lock, and give the network of a pod to change."""
        with self._lock:
            yield self._pods.setdefault(pod, KnownNetwork())

    def _state(self, pod: str) -> NetworkState:
        with self._lock:
            return self._pods.get(pod, NO_NETWORK).state or NetworkState()

    def _sysctls(self, pod: str) -> Mapping[str, str]:
        with self._lock:
            return self._pods.get(pod, NO_NETWORK).sysctls

    def _difference(self, pod: Pod, known: KnownNetwork) -> str | None:
        try:
            if reason := self._host_side.difference(pod):
                return reason
            if pod.network.mode != "host":
                inode = self._state(pod.name).netns_inode
                differences = self._pod_networks.drift(
                    pod.name, pod.network, inode=inode, sysctls=known.sysctls
                )
                if differences:
                    return differences[0]
            return self._files_difference(pod, known)
        except (TankError, OSError) as error:
            return str(error)

    def _files_difference(self, pod: Pod, known: KnownNetwork) -> str | None:
        """Compare the pod's files with the wanted ones, but only if either changed since the last look."""
        directory = f"{self._files}/{pod.name}"
        files = tuple([signature(f"{directory}/{name}") for name in FILES])
        # A pod without neighbours does not read its files again because others come and go.
        neighbours = self._host_side.names.version if pod.network.mode in ("bridge", "nics") else 0
        seen = (files, self._state(pod.name), pod, self._dns(pod), self._host_hosts(), neighbours)
        if known.seen == seen:
            return None
        inodes = tuple(each and each[:2] for each in files)
        known.replaced = known.replaced or known.inodes not in (None, inodes)
        known.inodes = inodes
        differing = files_differ(self._files / pod.name, self._wanted_files(pod))
        if differing == ("hosts",) and self._names.look():
            # They are about to be written, and compared the next time.
            return None
        if differing:
            return f"/etc/{differing[0]} is not as it should be"
        known.seen = seen
        return None

    def _dns(self, pod: Pod) -> HostDns:
        """Return the host's DNS, which only pods that use it wait for."""
        return self._host_dns() if wants_host_dns(pod.network) else HostDns()

    def _wanted_files(self, pod: Pod) -> dict[str, str]:
        return {
            "hosts": self._wanted_hosts(pod),
            "hostname": f"{pod.hostname or pod.name}\n",
            "resolv.conf": resolv_conf(pod.network, self._dns(pod)),
        }

    def _wanted_hosts(self, pod: Pod) -> str:
        known = NameFacts(
            aliases=self._host_side.names.own_aliases(pod),
            neighbours=self._host_side.names.of(pod),
            gateway=self._host_side.gateway(pod),
            host_hosts=read_host_hosts(_HOSTS) if pod.network.mode == "host" else "",
        )
        return hosts(pod, self._state(pod.name), known)

    def _keep_pin(self, pod: str, pids: Collection[int]) -> None:
        """Pin the namespace again if its pin was lost or replaced; Retry if no process is in it any more."""
        state = self._state(pod)
        if state.netns is None:
            return
        pinned = network_namespace_inode(state.netns)
        if pinned is not None and pinned == state.netns_inode:
            return
        if pinned is not None:
            # Another namespace, which is not this pod's.
            unpin(state.netns)
        pid = next((pid for pid in pids if namespace_of(pid) == state.netns_inode), None)
        if pid is None:
            # The next plan makes a new one.
            self.remove(pod)
            raise Retry("the pod's network namespace is gone", where=f"pod {pod}")
        self._pod_networks.repin(pod, pid)

    def _repin_any(self, pod: str, pids: Collection[int]) -> bool:
        own = _HOST_NAMESPACE.stat().st_ino
        for pid in pids:
            with contextlib.suppress(Retry):
                if namespace_of(pid) not in (None, own):
                    return self._pod_networks.repin(pod, pid)
        return False
