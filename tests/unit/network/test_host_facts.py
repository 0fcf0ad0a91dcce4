"""The host's uplink and DNS, by each of the three adapters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tank_agent.errors import Retry, Stalled
from tank_agent.network import host_facts
from tank_agent.network.host_facts import AutoHostFacts, HostDns, make_host_facts, parse_resolv_conf

IPV4_HEAD = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
ANY = "0" * 32


def ipv4(interface: str, *, destination: str = "00000000", flags: str = "0003", metric: int = 0) -> str:
    mask = "00000000" if destination == "00000000" else "00FFFFFF"
    return f"{interface}\t{destination}\t0100000A\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"


def ipv6(interface: str, *, flags: str = "00000003", metric: str = "00000400") -> str:
    return f"{ANY} 00 {ANY} 00 fe80{'0' * 27}1 {metric} 00000001 00000000 {flags} {interface}\n"


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    made = tmp_path / "route", tmp_path / "ipv6_route"
    monkeypatch.setattr(host_facts, "_ROUTES_IPV4", made[0])
    monkeypatch.setattr(host_facts, "_ROUTES_IPV6", made[1])
    return made


class TestUplink:
    def test_lowest_metric_wins(self, routes: tuple[Path, Path]) -> None:
        routes[0].write_text(IPV4_HEAD + ipv4("wlan0", metric=600) + ipv4("eth0", metric=100))
        assert AutoHostFacts().uplink() == "eth0"

    def test_ipv4_before_ipv6(self, routes: tuple[Path, Path]) -> None:
        routes[0].write_text(IPV4_HEAD + ipv4("eth1", metric=4000))
        routes[1].write_text(ipv6("eth0"))
        assert AutoHostFacts().uplink() == "eth1"

    def test_ipv6_alone(self, routes: tuple[Path, Path]) -> None:
        routes[1].write_text(ipv6("eth1", metric="00000500") + ipv6("eth0"))
        assert AutoHostFacts().uplink() == "eth0"

    def test_routes_that_lead_nowhere_do_not_count(self, routes: tuple[Path, Path]) -> None:
        routes[0].write_text(
            IPV4_HEAD
            + ipv4("eth0", destination="0000000A")
            + ipv4("eth0", flags="0002")
            + ipv4("*", flags="0201")
            + ipv4("*", flags="0001")
        )
        routes[1].write_text(ipv6("lo", flags="00200200"))
        assert AutoHostFacts().uplink() is None

    def test_a_kernel_without_ipv6(self, routes: tuple[Path, Path]) -> None:
        routes[0].write_text(IPV4_HEAD)
        assert AutoHostFacts().uplink() is None

    def test_what_agent_toml_says_wins(self, routes: tuple[Path, Path]) -> None:
        routes[0].write_text(IPV4_HEAD + ipv4("eth0"))
        assert make_host_facts("auto", "eth9", ()).uplink() == "eth9"


class TestDns:
    @pytest.fixture(autouse=True)
    def _files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            host_facts, "_UPSTREAM_RESOLV_CONFS", (tmp_path / "missing", tmp_path / "upstream0")
        )

    def facts(self, tmp_path: Path, own: str, *upstream: str) -> AutoHostFacts:
        (tmp_path / "resolv.conf").write_text(own)
        for number, text in enumerate(upstream):
            (tmp_path / f"upstream{number}").write_text(text)
        return AutoHostFacts(resolv_conf=tmp_path / "resolv.conf")

    def test_resolv_conf_as_it_is(self, tmp_path: Path) -> None:
        facts = self.facts(tmp_path, "nameserver 10.0.0.1\nnameserver fd00::1\nsearch lan\noptions rotate\n")
        assert facts.dns() == HostDns(
            servers=("10.0.0.1", "fd00::1"), search=("lan",), options=("rotate",), local=()
        )

    def test_a_caching_resolver_gives_way_to_the_servers_it_asks(self, tmp_path: Path) -> None:
        facts = self.facts(
            tmp_path,
            "nameserver 127.0.0.53\noptions edns0 trust-ad\n",
            "nameserver 10.0.0.1\nnameserver 127.0.0.1\nsearch lan\n",
        )
        assert facts.dns() == HostDns(
            servers=("10.0.0.1",), search=("lan",), options=("edns0", "trust-ad"), local=("127.0.0.53",)
        )

    def test_a_local_resolver_that_nobody_else_can_ask(self, tmp_path: Path) -> None:
        facts = self.facts(tmp_path, "nameserver 127.0.0.1\nsearch lan\n")
        assert facts.dns() == HostDns(search=("lan",), local=("127.0.0.1",))

    def test_loopback_and_scoped_servers_are_not_for_pods(self, tmp_path: Path) -> None:
        text = "nameserver ::1\nnameserver fe80::1%eth0\nnameserver 10.0.0.1\n"
        assert self.facts(tmp_path, text).dns() == HostDns(
            servers=("10.0.0.1",), local=("::1", "fe80::1%eth0", "10.0.0.1")
        )

    def test_no_resolv_conf(self, tmp_path: Path) -> None:
        assert AutoHostFacts(resolv_conf=tmp_path / "missing").dns() == HostDns()

    def test_what_agent_toml_says_wins(self) -> None:
        assert make_host_facts("auto", None, ("10.0.0.9",)).dns() == HostDns(servers=("10.0.0.9",))

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "nameserver\n",
            "nameserver nonsense\n",
            "; nameserver 10.0.0.1\n",
            "# x\n\n\x00\n",
            "sortlist 1\n",
        ],
    )
    def test_lines_that_say_nothing(self, text: str) -> None:
        assert parse_resolv_conf(text) == HostDns()

    def test_the_last_of_search_and_domain_wins(self) -> None:
        assert parse_resolv_conf("search a b\ndomain c\n").search == ("c",)


def test_static_says_what_agent_toml_says() -> None:
    facts = make_host_facts("static", "eth5", ("10.0.0.9",))
    assert facts.uplink() == "eth5"
    assert facts.dns() == HostDns(servers=("10.0.0.9",))


MODULE = """
from tank_agent.network.host_facts import HostDns
made = []
class Facts:
    def __init__(self):
        made.append(self)
    def uplink(self):
        return "eth4"
    def dns(self):
        return HostDns(servers=("10.4.4.4",))
class Broken:
    def uplink(self):
        raise RuntimeError("cable cut")
    def dns(self):
        return ["10.0.0.1", "ns.example"]
class Wrong(Facts):
    def uplink(self):
        return 4
    def dns(self):
        return "10.0.0.1"
class Plain(Facts):
    def __init__(self, found=["10.0.0.1", "fd00::1"]):
        self.found = found
    def dns(self):
        return self.found
class Fixed(Plain):
    def __init__(self):
        self.found = ("10.0.0.1",)
class Half:
    def uplink(self):
        return None
class Picky(Facts):
    def __init__(self, needed):
        pass
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_facts.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_facts", raising=False)
    return "their_facts"


class TestUsersClass:
    def test_it_is_loaded_and_made_once(self, user_module: str) -> None:
        facts = make_host_facts(f"{user_module}.Facts", None, ())
        for _ in range(2):
            assert facts.uplink() == "eth4"
            assert facts.dns() == HostDns(servers=("10.4.4.4",))
        assert len(sys.modules[user_module].made) == 1

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("their_facts.Nothing", "cannot load their_facts.Nothing: AttributeError"),
            ("no_such_module.Facts", "cannot load no_such_module.Facts: ModuleNotFoundError"),
            ("their_facts.Half", r"their_facts.Half has no method dns\(\)"),
            ("their_facts.Picky", "cannot load their_facts.Picky: TypeError"),
            ("automatic", "'automatic' is no adapter"),
            (".Facts", "'.Facts' is no adapter"),
            ("", "'' is no adapter"),
        ],
    )
    def test_what_cannot_be_loaded(self, user_module: str, name: str, message: str) -> None:
        with pytest.raises(Stalled, match=message) as caught:
            make_host_facts(name, None, ())
        assert caught.value.where == "agent.toml: host.adapter"
        assert caught.value.hint

    def test_an_exception_of_theirs_is_tried_again(self, user_module: str) -> None:
        with pytest.raises(Retry, match=r"their_facts.Broken.uplink\(\) failed: RuntimeError: cable cut"):
            make_host_facts(f"{user_module}.Broken", None, ()).uplink()

    @pytest.mark.parametrize(
        ("name", "servers"), [("Plain", ("10.0.0.1", "fd00::1")), ("Fixed", ("10.0.0.1",))]
    )
    def test_plain_servers_are_enough(self, user_module: str, name: str, servers: tuple[str, ...]) -> None:
        assert make_host_facts(f"{user_module}.{name}", None, ()).dns() == HostDns(servers=servers)

    def test_answers_of_the_wrong_type(self, user_module: str) -> None:
        with pytest.raises(
            Stalled, match=r"their_facts.Broken.dns\(\) returned \['10.0.0.1', 'ns.example'\]"
        ):
            make_host_facts(f"{user_module}.Broken", None, ()).dns()
        with pytest.raises(Stalled, match=r"their_facts.Wrong.dns\(\) returned '10.0.0.1'"):
            make_host_facts(f"{user_module}.Wrong", None, ()).dns()
        with pytest.raises(Stalled, match=r"their_facts.Wrong.uplink\(\) returned 4"):
            make_host_facts(f"{user_module}.Wrong", None, ()).uplink()
