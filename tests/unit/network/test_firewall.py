"""The table of nftables: written by one thread at a time, from what is wanted by then."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.linux import nftables
from tank_agent.linux.namespaces import create_network_namespace, in_network_namespace, unpin
from tank_agent.network.firewall import TABLE, BridgeNetworks, Firewall, Forward, script

DEADLINE = 60.0


class Kernel:
    """Stands for nftables: keeps what was written last, and can hold up whoever writes."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.number = 1
        self.proceed, self.held = threading.Event(), threading.Event()
        self.proceed.set()

    def run(self, commands: str) -> str:
        if commands.startswith("list"):
            return self.written[-1]
        self.held.set()
        assert self.proceed.wait(DEADLINE)
        self.written.append(commands)
        self.number += 1
        return ""

    def generation(self) -> int:
        return self.number

    def has_table(self, name: str) -> bool:
        assert name == "tank"
        return bool(self.written)

    def change(self, *written: str) -> None:
        self.written = [*written]
        self.number += 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(nftables, "PacketFilter", lambda: made)
    return made


def test_what_is_written_last_is_what_is_wanted_last(kernel: Kernel) -> None:
    ports = ["web"]
    firewall = Firewall(lambda: " ".join(ports))
    kernel.proceed.clear()
    writers = [threading.Thread(target=firewall.write, daemon=True) for _ in range(4)]
    writers[0].start()
    assert kernel.held.wait(DEADLINE)
    # Those who come meanwhile wait for the first, and then write once for all of them.
    for number, writer in enumerate(writers[1:]):
        ports.append(f"db-{number}")
        writer.start()
    kernel.proceed.set()
    for writer in writers:
        writer.join(DEADLINE)
    assert kernel.written == ["web", "web db-0 db-1 db-2"]


def test_only_what_differs_is_written(kernel: Kernel) -> None:
    firewall = Firewall(lambda: "web")
    assert not firewall.write(), "nobody else changed it"
    assert kernel.written == ["web"]
    assert not firewall.write()
    assert kernel.written == ["web"]
    kernel.change("web")
    assert not firewall.write(), "somebody changed another table"
    kernel.change()
    assert firewall.write(), "somebody removed the table"
    kernel.change("web, and a rule more")
    assert firewall.write()
    assert kernel.written[-1] == "web"


def test_without_bridges_nothing_is_written_but_what_was_left_is_removed(kernel: Kernel) -> None:
    nothing = script([], [])
    assert not Firewall(lambda: nothing).write()
    assert kernel.written == []
    kernel.change("of an agent that was killed")
    assert not Firewall(lambda: nothing).write()
    assert kernel.written[-1] == nothing


GOLDEN = """\
table inet tank {}
delete table inet tank
table inet tank {
map at4 { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; elements = { \
10.0.0.2 . udp . 53 : 10.89.0.3 . 5353 }; }
map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { \
tcp . 8080 : 10.89.0.2 . 80, tcp . 8081 : 10.89.0.2 . 81 }; }
map at6 { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; elements = { \
::1 . tcp . 8443 : fd12::2 . 443 }; }
map any6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
chain raw { type filter hook prerouting priority raw;
iifname != "lo" ip daddr 127.0.0.0/8 drop
iifname != "lo" ip saddr 127.0.0.0/8 drop
ip saddr { 10.89.0.0/24, 10.89.1.0/24 } fib saddr . iif oif missing drop
ip6 saddr { fd12::/64 } fib saddr . iif oif missing drop
}
chain prerouting { type nat hook prerouting priority dstnat;
fib daddr type local jump publish
}
chain output { type nat hook output priority -100;
fib daddr type local jump publish
}
chain publish {
meta l4proto { tcp, udp } dnat ip to ip daddr . meta l4proto . th dport map @at4
meta l4proto { tcp, udp } dnat ip to meta l4proto . th dport map @any4
meta l4proto { tcp, udp } dnat ip6 to ip6 daddr . meta l4proto . th dport map @at6
meta l4proto { tcp, udp } dnat ip6 to meta l4proto . th dport map @any6
}
chain postrouting { type nat hook postrouting priority srcnat;
oifname "tank-back" ip saddr 127.0.0.0/8 masquerade
oifname "tank-back" ip6 saddr ::1 masquerade
ip saddr 10.89.1.0/24 ip daddr 10.89.1.0/24 ct status dnat masquerade
ip saddr 10.89.1.0/24 oifname != "tank-back" masquerade
oifname "tank-default" ip saddr 127.0.0.0/8 masquerade
oifname "tank-default" ip6 saddr ::1 masquerade
ip saddr 10.89.0.0/24 ip daddr 10.89.0.0/24 ct status dnat masquerade
ip saddr 10.89.0.0/24 oifname != "tank-default" masquerade
ip6 saddr fd12::/64 ip6 daddr fd12::/64 ct status dnat masquerade
ip6 saddr fd12::/64 oifname != "tank-default" masquerade
}
chain forward { type filter hook forward priority filter;
ct direction reply accept
ct status dnat accept
iifname "tank-back" oifname "tank-back" accept
iifname "tank-default" oifname "tank-default" accept
oifname { "tank-back", "tank-default" } drop
}
}
"""
BRIDGES = [
    BridgeNetworks(interface="tank-default", networks=("10.89.0.0/24", "fd12::/64")),
    BridgeNetworks(interface="tank-back", networks=("10.89.1.0/24",)),
]
FORWARDS = [
    Forward(protocol="tcp", address=None, port=8080, target="10.89.0.2", target_port=80, count=2),
    Forward(protocol="tcp", address="::1", port=8443, target="fd12::2", target_port=443),
    Forward(protocol="udp", address="10.0.0.2", port=53, target="10.89.0.3", target_port=5353),
]


def test_the_script_says_what_is_wanted() -> None:
    assert script(BRIDGES, FORWARDS) == GOLDEN
    assert script(BRIDGES[::-1], FORWARDS[::-1]) == GOLDEN, "the order does not count"
    assert script([], []) == "table inet tank {}\ndelete table inet tank\n"


@pytest.mark.machine
def test_the_kernel_takes_the_script_and_has_all_of_it(tmp_path: Path) -> None:
    create_network_namespace(tmp_path / "netns")

    def load() -> str:
        nft = nftables.PacketFilter()
        try:
            nft.run("table ip other { chain mine { type filter hook input priority 0; }; }")
            nft.run(script(BRIDGES, FORWARDS))
            before = nft.run(f"list table {TABLE}")
            nft.run(script(BRIDGES, FORWARDS))
            assert nft.run(f"list table {TABLE}") == before, "twice is as once"
            with pytest.raises(Retry, match="nftables refuses the rules"):
                nft.run(script(BRIDGES, FORWARDS) + "nonsense\n")
            assert nft.run(f"list table {TABLE}") == before, "all or nothing"
            nft.run(script([], []))
            assert nft.run("list tables") == "table ip other\n"
            return before
        finally:
            nft.close()

    try:
        listed = in_network_namespace(tmp_path / "netns", load)
    finally:
        unpin(tmp_path / "netns")
    listed = re.sub(r"\s+", " ", listed)
    for line in GOLDEN.splitlines():
        if line.startswith(("oifname", "ip ", "ip6", "ct ", "iifname", "meta")):
            # It joins networks that lie side by side, and shows one network without braces.
            shown = line.replace("10.89.0.0/24, 10.89.1.0/24", "10.89.0.0/23")
            assert shown in listed or re.sub(r"{ (\S+) }", r"\1", shown) in listed, line
    for entry in ("10.0.0.2 . udp . 53 : 10.89.0.3 . 5353", "tcp . 8081 : 10.89.0.2 . 81"):
        assert entry in listed
