"""Which pods have a network, whether a container ran in it, and the files that tell its programs about it."""

from __future__ import annotations

import threading
from pathlib import Path

from tank_agent.network.files import pod_files, write_files
from tank_agent.network.host_facts import HostFacts
from tank_agent.network.pod_network import NetworkState, PodNetworks
from tank_agent.reconcile import observed
from tank_agent.runtime.rootfs import remove_tree
from tank_agent.spec.model import Pod

_HOSTS = Path("/etc/hosts")


class Networks:
    """Remembers what was made, so that looking at a thousand pods asks the kernel nothing.

    Args:
        pod_networks: makes and removes the namespaces.
        host: the host's DNS.
        run_dir: the pods' files lie in its `pods` directory.
    """

    def __init__(self, pod_networks: PodNetworks, host: HostFacts, run_dir: Path) -> None:
        self._pod_networks = pod_networks
        self._host = host
        self._files = run_dir / "pods"
        self._files.mkdir(mode=0o755, parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._states: dict[str, NetworkState] = {}
        self._fresh: set[str] = set()

    def adopt(self, pods: frozenset[str]) -> None:
        """Take over the networks of pods that have runs, and remove all others that a former agent left."""
        self._pod_networks.sweep(pods)
        for pod in self._pod_networks.pinned() & pods:
            state = self._pod_networks.observe(pod)
            if state is not None:
                with self._lock:
                    self._states[pod] = state
        for directory in self._files.iterdir():
            if directory.name not in pods:
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

    def make(self, pod: Pod) -> None:
        """Make a pod's network; errors as `PodNetworks.ensure`."""
        state = self._pod_networks.ensure(pod.name, pod.network)
        with self._lock:
            self._states[pod.name] = state
            self._fresh.add(pod.name)

    def namespace(self, pod: Pod) -> Path | None:
        """Return the namespace that a container is about to start in; None for the host's."""
        if pod.network.mode == "host":
            return None
        with self._lock:
            self._fresh.discard(pod.name)
            return self._states[pod.name].netns

    def files(self, pod: Pod) -> Path:
        """Write the pod's hosts, hostname and resolv.conf, and return their directory."""
        with self._lock:
            state = self._states.get(pod.name, NetworkState())
        host_hosts = _HOSTS.read_text() if pod.network.mode == "host" and _HOSTS.exists() else ""
        directory = self._files / pod.name
        directory.mkdir(mode=0o755, exist_ok=True)
        write_files(
            directory, pod_files(pod.name, pod.network, state, self._host.dns(), host_hosts=host_hosts)
        )
        return directory

    def remove(self, pod: str) -> None:
        """Remove a pod's network; errors as `PodNetworks.remove`."""
        self._pod_networks.remove(pod)
        with self._lock:
            self._states.pop(pod, None)
            self._fresh.discard(pod)

    def forget(self, pod: str) -> None:
        """Remove the files of a pod that is gone."""
        remove_tree(self._files / pod)
