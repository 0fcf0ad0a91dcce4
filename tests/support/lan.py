"""An agent on a machine of its own network, with a LAN beside it: nothing of this machine's is touched.

lan:   br0 10.0.0.1/24 fd00::1/64      br1 192.168.5.1/24
        │ veth                          │ veth
host:  eth0 10.0.0.2/24, default        eth1            the agent runs here
        │ macvlan                       │ macvlan
pods:  eth0                            eth1
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tank_agent.linux import namespaces
from tank_agent.linux.mounts import mount_points
from tests.support.agent import Agent, ended, wait_for

T = TypeVar("T")


class Network:
    """A network namespace that stands for a machine, or that is a pod's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, function: Callable[..., T], *args: object) -> T:
        return namespaces.in_network_namespace(self.path, lambda: function(*args))

    def ip(self, command: str, *, check: bool = True) -> str:
        """Run one `ip` command there."""

        def run() -> str:
            argv = ["ip", *command.split()]
            return subprocess.run(argv, check=check, timeout=60, capture_output=True, text=True).stdout

        return self(run)

    def links(self) -> set[str]:
        return {name for _, name in self(socket.if_nameindex)}

    def inode(self) -> int:
        return self.path.stat().st_ino


class Lan:
    """A machine's network `host`, and `lan`, that of a second machine, joined by two links."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.host, self.lan = self._network("host"), self._network("lan")
        for number, addresses in enumerate((["10.0.0.1/24", "fd00::1/64"], ["192.168.5.1/24"])):
            self.lan.ip(f"link add br{number} type bridge forward_delay 0 mcast_snooping 0")
            self.add_uplink(number)
            for address in addresses:
                self.lan.ip(f"addr add {address} dev br{number} {'nodad' if ':' in address else ''}")
            self.lan.ip(f"link set br{number} up")
        self.host.ip("addr add 10.0.0.2/24 dev eth0")
        self.host.ip("route add default via 10.0.0.1")

    def add_uplink(self, number: int) -> None:
        """Plug the machine's interface eth<number> into the LAN's bridge of that number."""
        end = os.open(self.lan.path, os.O_RDONLY)
        try:
            peer = f"peer name port{number} netns /proc/{os.getpid()}/fd/{end}"
            self.host.ip(f"link add eth{number} type veth {peer}")
        finally:
            os.close(end)
        self.host.ip(f"link set eth{number} up")
        self.lan.ip(f"link set port{number} master br{number} up")

    def remove_networks(self) -> None:
        """Remove both machines."""
        for network in (self.host, self.lan):
            namespaces.unpin(network.path)

    def _network(self, name: str) -> Network:
        namespaces.create_network_namespace(self._place / name)
        return Network(self._place / name)


class LanAgent(Agent, Lan):
    """An agent whose processes run in the network `host`."""

    def __init__(self, home: Path, **reconcile: str) -> None:
        Agent.__init__(self, home, **reconcile)
        Lan.__init__(self, home)
        self.environment: dict[str, str] = {}

    def launch(self, *flags: str, fault: str = "", env: Mapping[str, str] | None = None) -> None:
        """Start the agent in its network."""
        merged = {**self.environment, **(env or {})}
        self.host(lambda: super(LanAgent, self).launch(*flags, fault=fault, env=merged))

    def pod(self, name: str) -> Network:
        """Return a pod's network."""
        return Network(self.run / "netns" / name)

    def nics_text(self, *nics: str, dns: str = "", command: list[str] | None = None, extra: str = "") -> str:
        """Return the text of a pod file with interfaces; each of `nics` is the lines of one table."""
        tables = "".join(f"[[network.nics]]\n{nic}\n" for nic in nics)
        head = f"[network]\n{f'dns = {dns}' if dns else ''}\n{tables}"
        return self.pod_text(command=command, head=head, extra=extra)


def nic(
    ip: str | list[str] = "10.0.0.5/24", *, name: str = "eth0", gateway: str = "", parent: str = ""
) -> str:
    """Return the lines of an interface's table."""
    addresses = ", ".join(f'"{address}"' for address in ([ip] if isinstance(ip, str) else ip))
    lines = [f'name = "{name}"', f"ip = [{addresses}]"]
    lines += [f'gateway = "{gateway}"'] if gateway else []
    return "\n".join([*lines, f'parent = "{parent}"'] if parent else lines)


def talk(client: Network, server: Network, address: str) -> bytes:
    """Have one machine say hello to the other's address over TCP, and return what arrives."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server(lambda: socket.create_server((address, 0), family=family)) as listening:
        listening.settimeout(30)
        with client(lambda: socket.socket(family, socket.SOCK_STREAM)) as connecting:
            connecting.settimeout(30)
            connecting.connect((address, listening.getsockname()[1]))
            connecting.sendall(b"hello")
            accepted, _ = listening.accept()
            with accepted:
                accepted.settimeout(30)
                return accepted.recv(5)


@contextmanager
def lan_agent(home: Path, **reconcile: str) -> Iterator[LanAgent]:
    """Run an agent on a LAN of its own, and fail the test if anything stays behind, on the network, too."""
    with stopped_lan_agent(home, **reconcile) as agent:
        agent.start()
        yield agent


@contextmanager
def stopped_lan_agent(home: Path, **reconcile: str) -> Iterator[LanAgent]:
    """Make an agent on a LAN of its own that does not run yet; else as `lan_agent`."""
    agent = LanAgent(home, **reconcile)
    try:
        with _ended_with_networks(agent):
            yield agent
    finally:
        agent.remove_networks()
    assert mount_points(home) == frozenset()


@contextmanager
def _ended_with_networks(agent: LanAgent) -> Iterator[None]:
    own = frozenset({str(agent.host.path), str(agent.lan.path)})
    agent.kept_mounts = own
    with ended(agent):
        yield
    wait_for(lambda: agent.host.links() <= {"lo", "eth0", "eth1"}, "no interface is left on the host")
    if shutil.which("nft"):
        rules = agent.host(lambda: subprocess.run(["nft", "list", "tables"], capture_output=True, check=True))
        assert b"tank" not in rules.stdout, "rules of ours are left on the host"
