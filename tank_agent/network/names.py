"""The files by which a pod finds names: /etc/hosts, /etc/hostname, /etc/resolv.conf."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct

from tank_agent.linux.paths import Closing
from tank_agent.network.host_facts import HostDns
from tank_agent.network.pod_network import NetworkState
from tank_agent.spec.model import HOST_GATEWAY, Network, Pod

_LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
# No pod or container with such a name gets what programs send to themselves.
_LOOPBACK = frozenset({"localhost", "ip6-localhost", "ip6-loopback"})
# Block lists of advertisers have a few MiB.
_HOSTS_LIMIT = 16 << 20


class NameFacts(Struct, frozen=True, kw_only=True):
    """The names that a pod's /etc/hosts holds besides its own.

    `aliases` lead to the pod itself; `neighbours` are other pods that it reaches, by names and aliases, with
    their addresses; `gateway` is this machine's address in
    the pod's first bridge; `host_hosts` the machine's /etc/hosts, for a pod in its network.
    """

    aliases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, tuple[str, ...]], ...] = ()
    gateway: str = ""
    host_hosts: str = ""


def hosts(pod: Pod, state: NetworkState, known: NameFacts) -> str:
    """Return /etc/hosts (hosts(5)): localhost, the pod, what its file names, its containers, its neighbours.

    A pod without addresses has its name on 127.0.1.1, so that it never goes out to DNS. Programs take the
    first line of a name, or all of them, so each name is there once, as the first of these groups has it.
    """
    own = [address.partition("/")[0] for address in state.addresses] or ["127.0.1.1"]
    extra = [
        (name, known.gateway if address == HOST_GATEWAY else address)
        for name, address in pod.network.extra_hosts.items()
    ]
    names_of_its_own = dict.fromkeys([pod.hostname or pod.name, pod.name, *known.aliases])
    containers = [(container.name, "127.0.0.1") for container in pod.containers]
    # The first is the one by which programs find an address's name.
    lines = [f"{address} {name}\n" for name in names_of_its_own for address in own]
    itself = {*map(str.lower, names_of_its_own), *_LOOPBACK}
    names = set(itself)
    for group in (extra, containers):
        lines += [f"{address} {name}\n" for name, address in group if address and name.lower() not in names]
        names |= {name.lower() for name, _ in group}
    for name, addresses in known.neighbours:
        if name.lower() not in names:
            lines += [f"{address} {name}\n" for address in addresses]
    # The machine's own entries come first in its own network.
    first = _without(known.host_hosts, names - itself) if known.host_hosts else _LOCALHOST
    return first + "".join(lines)


def _without(text: str, names: Collection[str]) -> str:
    """Return a hosts file that says nothing of some names, to which a pod gives another meaning."""
    text = f"{text.rstrip()}\n"
    given = re.compile(rf"(?<!\S)(?:{'|'.join(map(re.escape, names))})(?=[\s#])", re.IGNORECASE)
    # A list of a hundred thousand advertisers is not taken apart for nothing.
    if not names or not given.search(text):
        return text
    return "".join(map(partial(_line_without, names), text.splitlines(keepends=True)))


def _line_without(names: Collection[str], line: str) -> str:
    entry, mark, comment = line.partition("#")
    words = entry.split()
    left = [name for name in words[1:] if name.lower() not in names]
    if len(left) == len(words[1:]):
        return line
    return " ".join([words[0], *left]) + (f" {mark}{comment}" if mark else "\n") if left else ""


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
    """Return /etc/resolv.conf (resolv.conf(5)): as the pod's file says, else as the host's.

    The host's domains and options go with its servers: others may not know them. Empty without a network.
    """
    if not wants_host_dns(network):
        dns = HostDns(servers=network.dns)
    servers = (network.mode == "host" and dns.local) or dns.servers
    lines = [f"nameserver {server}" for server in servers]
    for word, own, hosts in (
        ("search", network.dns_search, dns.search),
        ("options", network.dns_options, dns.options),
    ):
        if own or hosts:
            lines.append(f"{word} {' '.join(own or hosts)}")
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
        # A reader, or an end of ours between the two, sees empty lines and not half of an old one.
        os.pwrite(fd, content.ljust(os.fstat(fd).st_size, b"\n"), 0)
        os.ftruncate(fd, len(content))
        return True
