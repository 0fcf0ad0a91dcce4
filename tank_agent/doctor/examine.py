"""Asks every question of the doctor."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tank_agent.doctor import kernel, places, tools
from tank_agent.doctor.check import Check
from tank_agent.doctor.control_groups import control_groups


def examine(data_dir: Path, run_dir: Path, pods_dir: Path) -> Sequence[Check]:
    """Look at this machine and at the agent's directories."""
    return (*_kernel(), control_groups(), *_tools(), *_places(data_dir, run_dir, pods_dir))


def _kernel() -> Sequence[Check]:
    return (
        kernel.root(os.geteuid()),
        kernel.kernel_version(platform.release()),
        kernel.overlay(kernel.read("/proc/filesystems") or "", kernel.try_overlay()),
        kernel.network_namespaces(kernel.try_network_namespace()),
        kernel.macvlan(kernel.try_macvlan()),
        kernel.seccomp(kernel.read("/proc/self/status") or ""),
        kernel.user_namespaces(kernel.read("/proc/sys/user/max_user_namespaces")),
        kernel.apparmor(kernel.try_apparmor()),
        kernel.inotify(
            kernel.read("/proc/sys/fs/inotify/max_user_instances") or "0",
            kernel.read("/proc/sys/fs/inotify/max_user_watches") or "0",
            kernel.try_inotify(),
        ),
    )


def _tools() -> Sequence[Check]:
    return (
        tools.needed_tool("crun", tools.output_of("crun", "--version"), tools.CRUN_FLOOR, tools.CRUN_REASON),
        tools.needed_tool(
            "conmon", tools.output_of("conmon", "--version"), tools.CONMON_FLOOR, tools.CONMON_REASON
        ),
        tools.tar(tools.output_of("tar", "--version")),
        tools.git(tools.output_of("git", "--version")),
        tools.signatures(tools.missing_of(tools.SIGNATURE_TOOLS)),
    )


def _places(data_dir: Path, run_dir: Path, pods_dir: Path) -> Sequence[Check]:
    mount_info = kernel.read("/proc/self/mountinfo") or ""
    return (
        places.uplink(kernel.read("/proc/net/route") or "", kernel.read("/proc/net/ipv6_route") or ""),
        places.data_dir(data_dir, mount_info),
        places.deleted_files(data_dir),
        places.run_dir(run_dir, mount_info),
        places.pods_dir(pods_dir),
    )
