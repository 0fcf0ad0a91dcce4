"""Ask every question of the doctor."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tank_agent.doctor import Check, kernel, network, places, secrets, tools
from tank_agent.doctor.kernel import read
from tank_agent.linux import nftables
from tank_agent.linux.namespaces import leave_network
from tank_agent.linux.wakeups import open_inotify


def examine(data_dir: Path, run_dir: Path, pods_dir: Path, identities: Sequence[str] = ()) -> Sequence[Check]:
    """Check this machine, the agent's directories, and the key files with which it decrypts secrets."""
    mount_info = read("/proc/self/mountinfo") or ""
    ipv4_routes, ipv6_routes = read("/proc/net/route") or "", read("/proc/net/ipv6_route") or ""
    return (
        kernel.root(os.geteuid()),
        kernel.kernel_version(platform.release()),
        kernel.overlay(read("/proc/filesystems") or "", kernel.try_overlay()),
        kernel.network_namespaces(kernel.tried(leave_network)),
        kernel.macvlan(kernel.try_macvlan()),
        network.bridge(network.try_bridge()),
        network.packet_filter(nftables.means(), network.try_packet_filter()),
        kernel.seccomp(read("/proc/self/status") or ""),
        kernel.user_namespaces(read("/proc/sys/user/max_user_namespaces")),
        kernel.apparmor(),
        kernel.inotify(
            read("/proc/sys/fs/inotify/max_user_instances") or "0",
            read("/proc/sys/fs/inotify/max_user_watches") or "0",
            kernel.tried(lambda: os.close(open_inotify())),
        ),
        kernel.control_groups(),
        *(
            tools.needed_tool(name, tools.output_of(name, "--version"), floor, reason)
            for name, (floor, reason) in tools.NEEDED.items()
        ),
        tools.tar(tools.output_of("tar", "--version")),
        tools.git(tools.output_of("git", "--version")),
        tools.signatures(),
        secrets.age(tools.output_of("age", "--version")),
        secrets.identities(identities),
        places.uplink(ipv4_routes, ipv6_routes),
        *network.way_to_pods(places.first_uplink(ipv4_routes, ipv6_routes)),
        places.data_dir(data_dir, mount_info),
        places.deleted_files(data_dir),
        places.run_dir(run_dir, mount_info),
        places.pods_dir(pods_dir),
    )
