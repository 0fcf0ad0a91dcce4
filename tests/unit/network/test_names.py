"""The pod's /etc/hosts, /etc/hostname and /etc/resolv.conf."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from tank_agent.network.host_facts import HostDns
from tank_agent.network.names import (
    NameFacts,
    files_differ,
    hosts,
    read_host_hosts,
    resolv_conf,
    write_files,
)
from tank_agent.network.pod_network import NetworkState
from tank_agent.spec.model import Container, Network, Pod

LOCALHOST = "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
DNS = HostDns(servers=("10.0.0.1",), search=("lan", "home"), options=("edns0",), local=("127.0.0.53",))
FILES = {"hosts": f"{LOCALHOST}127.0.1.1 web\n", "hostname": "web\n", "resolv.conf": ""}


def pod(network: Network = Network(), *containers: str) -> Pod:  # noqa: B008
    made = tuple(Container(name=name, rootfs="/r") for name in containers)
    return Pod(name="web", containers=made, network=network)


class TestHosts:
    def test_a_pod_has_its_name_on_each_address(self) -> None:
        state = NetworkState(addresses=("10.0.0.5/24", "fd00::5/64"))
        text = hosts(pod(Network(mode="nics")), state, NameFacts())
        assert text == LOCALHOST + "10.0.0.5 web\nfd00::5 web\n"

    def test_a_pod_without_addresses_has_it_on_loopback(self) -> None:
        assert hosts(pod(), NetworkState(), NameFacts()) == LOCALHOST + "127.0.1.1 web\n"

    def test_a_pod_in_the_hosts_network_sees_the_hosts_entries(self) -> None:
        text = hosts(pod(Network(mode="host")), NetworkState(), NameFacts(host_hosts="10.1.1.1 nas\n\n"))
        assert text == "10.1.1.1 nas\n127.0.1.1 web\n"

    def test_containers_have_their_names_on_loopback_in_every_network(self) -> None:
        for mode in ("none", "host", "nics", "bridge"):
            text = hosts(pod(Network(mode=mode), "app", "web"), NetworkState(), NameFacts())
            assert text == LOCALHOST + "127.0.1.1 web\n127.0.0.1 app\n"

    def test_a_host_name_comes_before_the_name_of_the_pod(self) -> None:
        named = replace(pod(Network(mode="nics"), "app"), hostname="Web.lan")
        state = NetworkState(addresses=("10.0.0.5/24", "fd00::5/64"))
        neighbours = NameFacts(neighbours=(("web.lan", ("10.0.0.6",)),))
        text = hosts(named, state, neighbours).removeprefix(LOCALHOST)
        assert text == "10.0.0.5 Web.lan\nfd00::5 Web.lan\n10.0.0.5 web\nfd00::5 web\n127.0.0.1 app\n"
        # In the machine's network it is one of this machine's, as the pod's own name is.
        named = replace(named, network=Network(mode="host"))
        text = hosts(named, NetworkState(), NameFacts(host_hosts="10.1.1.1 web.lan web\n"))
        assert text == "10.1.1.1 web.lan web\n127.0.1.1 Web.lan\n127.0.1.1 web\n127.0.0.1 app\n"

    def test_aliases_of_the_pod_come_before_all_else_and_those_of_others_last(self) -> None:
        known = NameFacts(aliases=("App", "my_db"), neighbours=(("mq", ("1.1.1.1",)), ("APP", ("1.1.1.1",))))
        text = hosts(pod(Network(mode="bridge"), "app", "b"), NetworkState(addresses=("10.0.0.5/24",)), known)
        assert text.removeprefix(LOCALHOST).splitlines() == [
            "10.0.0.5 web",
            "10.0.0.5 App",
            "10.0.0.5 my_db",
            "127.0.0.1 b",
            "1.1.1.1 mq",
        ]

    def test_nobody_else_is_localhost(self) -> None:
        neighbours = (("localhost", ("10.89.0.3",)), ("ip6-localhost", ("fd00::3",)))
        network = Network(mode="bridge")
        text = hosts(pod(network, "localhost"), NetworkState(), NameFacts(neighbours=neighbours))
        assert text == LOCALHOST + "127.0.1.1 web\n"
        known = NameFacts(host_hosts="127.0.0.1 localhost\n")
        text = hosts(pod(Network(mode="host"), "localhost"), NetworkState(), known)
        assert text == "127.0.0.1 localhost\n127.0.1.1 web\n"

    def test_the_files_own_entries_win_over_containers_and_those_over_other_pods(self) -> None:
        extra = {"nas": "10.1.1.1", "host": "host-gateway", "db": "10.1.1.2"}
        network = Network(mode="bridge", extra_hosts=extra)
        neighbours = (("db", ("1.1.1.1",)), ("app", ("2.2.2.2",)), ("mq", ("3.3.3.3", "::3")))
        known = NameFacts(gateway="10.89.0.1", neighbours=neighbours)
        text = hosts(pod(network, "app"), NetworkState(), known).removeprefix(LOCALHOST)
        assert text.splitlines() == [
            "127.0.1.1 web",
            "10.1.1.1 nas",
            "10.89.0.1 host",
            "10.1.1.2 db",
            "127.0.0.1 app",
            "3.3.3.3 mq",
            "::3 mq",
        ]

    def test_a_name_has_one_meaning_however_it_is_written(self) -> None:
        network = Network(
            mode="bridge", extra_hosts={"DB": "10.1.1.2", "APP": "10.1.1.3", "me": "host-gateway"}
        )
        known = NameFacts(neighbours=(("db", ("1.1.1.1",)),))
        text = hosts(pod(network, "app"), NetworkState(), known).removeprefix(LOCALHOST)
        assert text == "127.0.1.1 web\n10.1.1.2 DB\n10.1.1.3 APP\n", "no gateway yet, no line for it"

    def test_what_the_pod_says_wins_over_the_machines_own_entries(self) -> None:
        machine = (
            "127.0.0.1 localhost # nas\n10.1.1.1 nas NAS.lan Nas\n10.1.1.2 app.lan\tApp#x\n"
            "10.1.1.3 app\n10.1.1.4 web app-2\n"
        )
        network = Network(mode="host", extra_hosts={"nas": "10.9.9.9"})
        text = hosts(pod(network, "app"), NetworkState(), NameFacts(host_hosts=machine))
        assert text == (
            "127.0.0.1 localhost # nas\n10.1.1.1 NAS.lan\n10.1.1.2 app.lan #x\n10.1.1.4 web app-2\n"
            "127.0.1.1 web\n10.9.9.9 nas\n127.0.0.1 app\n"
        )
        other = pod(Network(mode="host"), "other")
        assert hosts(other, NetworkState(), NameFacts(host_hosts=machine)).startswith(machine)


class TestTheHostsFile:
    def test_it_is_read_whole_up_to_the_limit(self, tmp_path: Path) -> None:
        path = tmp_path / "hosts"
        path.write_bytes(b"10.1.1.1 nas\n10.1.1.2 caf\xe9\n")
        assert read_host_hosts(path, path.stat().st_size) == "10.1.1.1 nas\n10.1.1.2 caf\ufffd\n"

    def test_a_longer_one_ends_with_a_whole_line_and_says_so(self, tmp_path: Path) -> None:
        path = tmp_path / "hosts"
        path.write_text("10.1.1.1 nas\n10.1.1.2 printer\n")
        assert read_host_hosts(path, 20) == (
            "10.1.1.1 nas\n# The host's file is larger than 20 bytes: the rest of it is not here.\n"
        )
        assert read_host_hosts(path, 5).startswith("# The host's file")

    def test_none(self, tmp_path: Path) -> None:
        assert read_host_hosts(tmp_path / "missing") == ""


class TestResolvConf:
    def test_the_pods_own_servers_win(self) -> None:
        for mode in ("none", "host", "nics"):
            network = Network(mode=mode, dns=("1.1.1.1", "::2"))
            assert resolv_conf(network, DNS) == "nameserver 1.1.1.1\nnameserver ::2\n"

    def test_without_a_network_it_is_empty(self) -> None:
        assert resolv_conf(Network(), DNS) == ""

    def test_the_pods_own_domains_and_options_win(self) -> None:
        network = Network(mode="bridge", dns_search=("a.lan",), dns_options=("ndots:2",))
        assert resolv_conf(network, DNS) == "nameserver 10.0.0.1\nsearch a.lan\noptions ndots:2\n"

    def test_a_pod_with_interfaces_gets_what_it_can_reach(self) -> None:
        assert resolv_conf(Network(mode="nics"), DNS) == (
            "nameserver 10.0.0.1\nsearch lan home\noptions edns0\n"
        )

    def test_a_pod_in_the_hosts_network_gets_the_hosts(self) -> None:
        network = Network(mode="host")
        assert resolv_conf(network, DNS).startswith("nameserver 127.0.0.53\nsearch")
        assert resolv_conf(network, HostDns(servers=("10.0.0.1",))) == "nameserver 10.0.0.1\n"


class TestWriting:
    def read(self, directory: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in directory.iterdir()}

    def test_all_three_are_written_and_readable_by_any_user(self, tmp_path: Path) -> None:
        old = os.umask(0o077)
        try:
            assert write_files(tmp_path / "etc", FILES)
        finally:
            os.umask(old)
        assert self.read(tmp_path / "etc") == FILES
        assert {path.stat().st_mode & 0o777 for path in (tmp_path / "etc").iterdir()} == {0o644}

    def test_the_same_again_changes_nothing(self, tmp_path: Path) -> None:
        write_files(tmp_path, FILES)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert not write_files(tmp_path, FILES)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    def test_longer_and_shorter_texts_reach_who_has_the_file_open(self, tmp_path: Path) -> None:
        write_files(tmp_path, {"hosts": "some text\n"})
        with (tmp_path / "hosts").open() as mounted:
            for text in ("a much longer text than before\n", "short\n", ""):
                assert write_files(tmp_path, {"hosts": text})
                mounted.seek(0)
                assert mounted.read() == text

    def test_who_reads_meanwhile_sees_no_half_of_an_old_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def truncate(fd: int, length: int) -> None:
            seen.append(os.pread(fd, 4096, 0))
            real(fd, length)

        real = os.ftruncate
        monkeypatch.setattr(os, "ftruncate", truncate)
        write_files(tmp_path, {"hosts": "10.89.0.2 web\n10.89.0.3 db\n"})
        write_files(tmp_path, {"hosts": "10.89.0.2 web\n"})
        assert seen == [b"10.89.0.2 web\n10.89.0.3 db\n", b"10.89.0.2 web\n" + b"\n" * 13]
        assert (tmp_path / "hosts").read_text() == "10.89.0.2 web\n"

    def test_every_file_is_written_also_after_one_that_changed(self, tmp_path: Path) -> None:
        assert write_files(tmp_path, {"a": "1", "b": "2", "c": ""})
        assert self.read(tmp_path) == {"a": "1", "b": "2", "c": ""}
        assert write_files(tmp_path, {"a": "1", "b": "3", "c": ""})
        assert self.read(tmp_path) == {"a": "1", "b": "3", "c": ""}

    def test_a_large_file_that_is_right_does_not_differ_and_is_not_written_again(
        self, tmp_path: Path
    ) -> None:
        text = "".join(f"0.0.0.0 advertiser{number}.example\n" for number in range(60_000))
        assert len(text) > 1 << 20
        assert write_files(tmp_path, {"hosts": text})
        assert files_differ(tmp_path, {"hosts": text}) == ()
        assert not write_files(tmp_path, {"hosts": text})
        assert files_differ(tmp_path, {"hosts": text[:-1]}) == ("hosts",)
        assert files_differ(tmp_path, {"hosts": text + "\n"}) == ("hosts",)
