"""Questions about what pods in bridges and published ports need of this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from tank_agent.doctor import Check, ok, warn
from tank_agent.doctor.kernel import tried
from tank_agent.errors import TankError
from tank_agent.linux import nftables
from tank_agent.linux.namespaces import leave_network
from tank_agent.network.obstacles import Obstacle, on_this_machine

_WITHOUT = "without it pods have no ports and no bridges, network none, host and addresses on the LAN work"


def bridge(attempt: str | None) -> Check:
    """Say whether the kernel has bridges; `attempt` is the error of making one, if any."""
    if attempt is None:
        return ok("bridges", "available")
    return warn("bridges", f"not available: {attempt}", f"modprobe bridge; {_WITHOUT}")


def try_bridge() -> str | None:
    """Make a bridge and a veth pair in a new network namespace; return the error if that fails."""
    from pyroute2 import IPRoute, NetlinkError

    def attempt() -> None:
        leave_network()
        try:
            with IPRoute() as route:
                route.link("add", ifname="tank-doctor", kind="bridge")
                route.link("add", ifname="tank-doctor-1", kind="veth", peer="tank-doctor-2")
        except NetlinkError as error:
            raise OSError(error.code or errno.EIO, os.strerror(error.code or errno.EIO)) from error

    return tried(attempt)


def packet_filter(means: str | None, attempt: str | None) -> Check:
    """Say whether rules of ports can be written: by what `means`, and the error of an attempt, if any."""
    name = "nftables"
    if means is None:
        found = "neither libnftables nor the program nft is installed"
        return warn(name, found, f"apt install nftables; {_WITHOUT}")
    if attempt is not None:
        return warn(name, f"does not work: {attempt}", f"modprobe nf_tables; {_WITHOUT}")
    return ok(name, f"by {means}")


def try_packet_filter() -> str | None:
    """Write a table of rules in a new network namespace; return the error if that fails."""

    def attempt() -> None:
        leave_network()
        try:
            nftables.run("table inet tank { chain c { type nat hook prerouting priority dstnat; }\n}")
        except TankError as error:
            raise OSError(errno.EIO, error.message) from error

    return tried(attempt)


def way_to_pods(uplink: str | None) -> Sequence[Check]:
    """Say what of this machine keeps packets from pods in bridges."""
    try:
        found: Sequence[Obstacle] = on_this_machine(uplink)
    except (OSError, TankError) as error:
        return (warn("way to pods", f"can't be looked at: {error}", "run the doctor as root"),)
    if not found:
        return (ok("way to pods", "nothing keeps packets from pods in bridges"),)
    return tuple(warn("way to pods", each.problem, each.remedy) for each in found)
