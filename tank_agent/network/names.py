"""The files by which a pod finds names: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tank_agent.linux.paths import Closing
from tank_agent.network.host_facts import HostDns
from tank_agent.network.pod_network import NetworkState
from tank_agent.spec.model import Network

_LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
# Block lists of advertisers have a few MiB.
_HOSTS_LIMIT = 16 << 20


def pod_files(
    pod: str, network: Network, state: NetworkState, dns: HostDns, *, host_hosts: str = ""
) -> dict[str, str]:
    """Return the texts of `hosts`, `hostname` and `resolv.conf` by these names.

    `dns` and `host_hosts`, the text of /etc/hosts, are the host's; a pod in its network sees both.
    """
    return {
        "hosts": hosts(pod, network, state, host_hosts=host_hosts),
        "hostname": f"{pod}\n",
        "resolv.conf": resolv_conf(network, dns),
    }


def hosts(pod: str, network: Network, state: NetworkState, *, host_hosts: str = "") -> str:
    """Return /etc/hosts (hosts(5)): localhost, and the pod's name on each of its addresses.

    A pod without addresses has its name on 127.0.1.1, so that it never goes out to DNS.
    """
    addresses = [address.partition("/")[0] for address in state.addresses] or ["127.0.1.1"]
    # The resolver takes the first match, so the host's own entries come first.
    others = f"{host_hosts.rstrip()}\n" if network.mode == "host" and host_hosts else _LOCALHOST
    return others + "".join(f"{address} {pod}\n" for address in addresses)


def read_host_hosts(path: Path, limit: int = _HOSTS_LIMIT) -> str:
    """Return the host's /etc/hosts, empty if there is none; else OSError if it cannot be read.

    Of a file that is larger than the limit, this is the whole lines before it, and a comment.
    """
    content = b""
    with suppress(FileNotFoundError), path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) <= limit:
        return content.decode(errors="replace")
    lines = content[: content.rfind(b"\n", 0, limit) + 1].decode(errors="replace")
    return f"{lines}# The host's file is larger than {limit} bytes: the rest of it is not here.\n"


def wants_host_dns(network: Network) -> bool:
    """Return whether a pod's resolv.conf depends on the host's DNS."""
    return network.mode != "none" and not network.dns


def resolv_conf(network: Network, dns: HostDns) -> str:
    """Return /etc/resolv.conf (resolv.conf(5)): the pod's DNS, else the host's; empty without a network."""
    if not wants_host_dns(network):
        dns = HostDns(servers=network.dns)
    servers = (network.mode == "host" and dns.local) or dns.servers
    lines = [f"nameserver {server}" for server in servers]
    if dns.search:
        lines.append(f"search {' '.join(dns.search)}")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)


def write_files(directory: Path, files: Mapping[str, str]) -> bool:
    """Write files by name into the pod's directory, each in place, and return whether anything changed.

    The inodes stay, since containers have them bind-mounted: a file renamed into place would never reach
    them. Nothing is forced to disk, because run_dir does not outlive the machine.

    OSError if the directory cannot be made or written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as folder:
        # Not `any`, which would stop at the first that changed.
        return sum(_write(folder, name, text.encode()) for name, text in files.items()) > 0


def files_differ(directory: Path, files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the files that `write_files` would change or make; changes nothing."""
    return tuple(name for name, text in files.items() if _differs(directory / name, text.encode()))


def _differs(path: Path, content: bytes) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(OSError), Closing(os.open(path, flags)) as fd:
        return not _holds(fd, content)
    # It is absent, or somebody has put something else in its place.
    return True


def _holds(fd: int, content: bytes) -> bool:
    return os.fstat(fd).st_size == len(content) and os.pread(fd, len(content) + 1, 0) == content


def _write(folder: int, name: str, content: bytes) -> bool:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with Closing(os.open(name, flags, 0o644, dir_fd=folder)) as fd:
        if os.fstat(fd).st_mode & 0o777 != 0o644:
            # Programs of any user read these; a strict umask must not hide them.
            os.fchmod(fd, 0o644)
        if _holds(fd, content):
            return False
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, len(content))
        return True
