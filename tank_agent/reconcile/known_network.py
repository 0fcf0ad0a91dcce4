"""One pod's network, as far as the loop knows it without asking the kernel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from msgspec import Struct

from tank_agent.network.pod_network import NetworkState
from tank_agent.retry import Failure
from tank_agent.spec.model import Network, Pod, Port


class NetworkBasis(NamedTuple):
    """What of a pod its network is made from."""

    network: Network
    ports: tuple[Port, ...]

    @classmethod
    def of(cls, pod: Pod) -> NetworkBasis:
        """Return what a pod's network is made from."""
        return cls(pod.network, pod.ports)


class ConvergeFailure(Failure, frozen=True, kw_only=True):
    """The failures of a change, and what was to be made."""

    wanted: NetworkBasis


class KnownNetwork(Struct):
    """One pod's network. `state` is None without a namespace; `fresh`: no container ran in it yet.

    `seen` holds the signatures and the sources of the files when they were last right, `inodes` their inodes;
    `replaced` is set once these differ. `pod` is the spec that the files were last written for, `sysctls` are
    those that the namespace was made with.
    """

    state: NetworkState | None = None
    fresh: bool = False
    converged: NetworkBasis | None = None
    drift: str | None = None
    failure: ConvergeFailure | None = None
    has_files: bool = False
    pod: Pod | None = None
    seen: object = None
    inodes: object = None
    replaced: bool = False
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)

    def settle(self, wanted: NetworkBasis | None) -> None:
        """Note that the pod's network is as declared; None if it was removed."""
        self.converged = wanted
        self.drift = self.failure = self.seen = None


NO_NETWORK = KnownNetwork()
