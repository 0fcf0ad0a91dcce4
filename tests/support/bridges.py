"""Pods in bridges for tests: an agent on a machine that forwards, pods that answer, and who reaches them."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lan import LanAgent, Network, stopped_lan_agent

IPV6_POOL = "fd12:3456:789a::/48"

_HTTP = """
[[containers]]
name = "app"
rootfs = "{rootfs}"
command = ["/bin/sh", "-c", '''
trap "exit 0" TERM; mkdir -p /www; hostname > /www/index.html; /bin/busybox httpd -p 80 -h /www; {more}
echo started; while :; do sleep 1000 & wait $!; done''']
stop_grace = "300ms"
"""


@contextmanager
def bridge_agent(home: Path, **bridge: str) -> Iterator[LanAgent]:
    """Make an agent, not started yet, on a machine that lets packets of the LAN through, as a person is told.

    `bridge` are settings of [network.bridge].
    """
    with stopped_lan_agent(home) as agent:
        set_bridge(agent, **bridge)
        agent.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        if "ipv6" in bridge:
            agent.host(lambda: Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1"))
            agent.host.ip("addr add fd00::2/64 dev eth0 nodad")
            agent.host.ip("route add default via fd00::1")
            # As on a machine without br_netfilter; the setting is the namespace's own.
            agent.host(_leave_bridged_packets)
        yield agent


def set_bridge(agent: LanAgent, **bridge: str) -> None:
    """Write [network.bridge] of agent.toml in place of what it is."""
    text = agent.config.read_text().partition("[network.bridge]")[0]
    lines = "".join(f"{key} = {value if value.isdigit() else repr(value)}\n" for key, value in bridge.items())
    agent.config.write_text(f"{text}[network.bridge]\n{lines}")


def _leave_bridged_packets() -> None:
    for name in ("bridge-nf-call-ip6tables", "bridge-nf-call-iptables"):
        setting = Path("/proc/sys/net/bridge") / name
        if setting.exists():
            setting.write_text("0")


def web(agent: LanAgent, head: str = "", more: str = "") -> str:
    """Return the text of a pod that answers on port 80 with its name."""
    return head + _HTTP.format(rootfs=agent.rootfs, more=more)


def running(agent: LanAgent, *names: str) -> None:
    """Wait until pods run, and their programs have begun."""
    for name in names:
        agent.wait_phase(name, "running")
        agent.wait_output(name, "started")


def get(address: str, port: int) -> str:
    """Return the page at an address, as this thread's network reaches it."""
    with socket.create_connection((address, port), timeout=2) as connection:
        # The kernel has answered for whoever listens; the server itself may be slow.
        connection.settimeout(60)
        connection.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
        answer = b""
        while part := connection.recv(4096):
            answer += part
    return answer.partition(b"\r\n\r\n")[2].decode().strip()


def reaches(network: Network, address: str, port: int) -> bool:
    """Return whether a page answers."""
    try:
        return bool(network(get, address, port))
    except OSError:
        return False


def nft(agent: LanAgent, *words: str) -> str:
    """Run the program nft on the agent's machine, and return what it prints."""
    done = agent.host(
        lambda: subprocess.run(["nft", *words], capture_output=True, check=True, text=True, timeout=60)
    )
    return done.stdout
