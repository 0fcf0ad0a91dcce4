"""Leases: a pod keeps its address, no two pods share one, and no two bridges a network."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.network.addresses import ForeignNetwork, Lease, Leases, Pool, gateway

SMALL = Pool(ipv4=ipaddress.IPv4Network("10.89.0.0/27"), prefix=29)
IPV6 = ipaddress.IPv6Network("fd12::/48")
BOTH = Pool(ipv6=IPV6)
Known = dict[str, dict[str, Lease]]


def leases(pool: Pool | None = None, known: Known | None = None, foreign: Sequence[str] = ()) -> Leases:
    elsewhere = [ForeignNetwork(network=network, interface="eth0") for network in foreign]
    return Leases(pool or Pool(), known or {}, lambda: elsewhere)


def test_pods_get_the_lowest_addresses_and_keep_them() -> None:
    made = leases()
    assert made.give("web", ("default",)) == {"default": ("10.89.0.2/24",)}
    assert made.give("db", ("default", "back")) == {
        "default": ("10.89.0.3/24",),
        "back": ("10.89.1.2/24",),
    }
    assert made.give("web", ("default",)) == {"default": ("10.89.0.2/24",)}
    assert made.networks() == {"default": ("10.89.0.0/24",), "back": ("10.89.1.0/24",)}
    assert made.neighbours("default") == {"db": ("10.89.0.3/24",), "web": ("10.89.0.2/24",)}
    assert gateway("10.89.1.0/24") == "10.89.1.1"
    assert gateway("fd12:0:0:1::/64") == "fd12:0:0:1::1"


def test_what_a_pod_frees_another_gets_and_an_empty_bridge_frees_its_network() -> None:
    made = leases()
    made.give("web", ("front",))
    made.give("db", ("back",))
    assert made.keep_only("web", ()) == {"front"}
    assert made.networks() == {"back": ("10.89.1.0/24",)}
    assert made.keep_only("web", ()) == frozenset()
    assert made.of("web") == {}
    assert made.give("other", ("third",)) == {"third": ("10.89.0.2/24",)}


def test_a_pod_keeps_what_it_leaves_until_it_has_left_it() -> None:
    made = leases()
    made.give("web", ("a", "b"))
    assert made.give("web", ("c", "b")) == {
        "c": ("10.89.2.2/24",),
        "b": ("10.89.1.2/24",),
        "a": ("10.89.0.2/24",),
    }
    assert made.give("late", ("a",)) == {"a": ("10.89.0.3/24",)}, "the other is still in use"
    assert made.keep_only("web", ("c", "b")) == frozenset(), "another pod is in the bridge"
    assert list(made.of("web")) == ["c", "b"]
    assert made.give("later", ("a",)) == {"a": ("10.89.0.2/24",)}


def test_the_version_counts_changes_only() -> None:
    made = leases()
    made.give("web", ("a",))
    version = made.version
    made.give("web", ("a",))
    made.keep_only("web", ("a",))
    made.keep_only("nobody", ())
    assert made.version == version
    made.keep_only("web", ())
    assert made.version > version


def test_the_journals_leases_are_restored() -> None:
    known = {
        "web": {"default": ("10.89.3.7/24",)},
        "db": {"default": ("10.89.3.2/24",), "x": ("10.89.0.9/24",)},
    }
    made = leases(known=known)
    assert {pod: made.of(pod) for pod in known} == known
    assert made.networks() == {"default": ("10.89.3.0/24",), "x": ("10.89.0.0/24",)}
    assert made.give("new", ("default",)) == {"default": ("10.89.3.3/24",)}
    assert made.give("newer", ("y",)) == {"y": ("10.89.1.2/24",)}


@pytest.mark.parametrize(
    "lease",
    [
        ("192.168.1.2/24",),
        ("10.89.0.2/16",),
        ("10.89.0.2/25",),
        ("10.89.0.1/24",),
        ("10.89.0.0/24",),
        ("10.89.0.255/24",),
        ("fd12::2/64",),
        ("nonsense",),
        ("",),
        (),
    ],
    ids=str,
)
def test_what_is_not_of_the_pool_was_never_given(lease: Lease) -> None:
    made = leases(known={"web": {"default": lease}})
    assert (made.of("web"), made.networks()) == ({}, {})
    assert made.lacks("web", ("default",))
    assert made.give("web", ("default",)) == {"default": ("10.89.0.2/24",)}


def test_of_two_pods_with_one_address_one_keeps_it() -> None:
    same = {"default": ("10.89.0.2/24",)}
    made = leases(known={"b": same, "a": same})
    assert (made.of("a"), made.of("b")) == (same, {})
    assert made.give("b", ("default",)) == {"default": ("10.89.0.3/24",)}


def test_of_two_bridges_with_one_network_one_keeps_it() -> None:
    known = {
        "a": {"one": ("10.89.0.2/24",)},
        "b": {"two": ("10.89.0.3/24",)},
        "c": {"one": ("10.89.4.2/24",)},
    }
    made = leases(known=known)
    assert made.networks() == {"one": ("10.89.0.0/24",)}
    assert (made.of("b"), made.of("c")) == ({}, {})


def test_a_full_bridge_says_so_and_takes_nothing() -> None:
    made = leases(SMALL)
    for number in range(5):
        made.give(f"pod-{number}", ("default",))
    before = made.networks()
    with pytest.raises(Stalled, match=r"bridge default is full: every address of 10.89.0.0/29 is in use"):
        made.give("more", ("other", "default"))
    assert (made.of("more"), made.networks()) == ({}, before)
    assert made.give("more", ("other",)) == {"other": ("10.89.0.10/29",)}
    made.keep_only("pod-3", ())
    assert made.give("late", ("default",)) == {"default": ("10.89.0.5/29",)}


def test_a_pod_that_cannot_have_more_keeps_what_it_has() -> None:
    made = leases(SMALL)
    for number in range(5):
        made.give(f"pod-{number}", ("full",))
    made.give("web", ("default",))
    with pytest.raises(Stalled):
        made.give("web", ("default", "other", "full"))
    assert made.of("web") == {"default": ("10.89.0.10/29",)}
    assert set(made.networks()) == {"full", "default"}


def test_a_pool_without_networks_says_what_is_in_the_way() -> None:
    made = leases(SMALL)
    for number in range(4):
        made.give("web", [f"bridge-{at}" for at in range(number + 1)])
    with pytest.raises(Stalled, match="every network of it has a bridge"):
        made.give("other", ("more",))
    with pytest.raises(Stalled, match=r"no network is left in 10.89.0.0/27 .*: 10.0.0.0/8 is on eth0"):
        leases(SMALL, foreign=("10.0.0.0/8",)).give("web", ("default",))


def test_no_bridge_overlaps_a_network_of_this_machine() -> None:
    foreign = ("10.89.0.128/25", "10.89.1.7/32", "10.89.2.0/23", "fd12::/64", "0.0.0.0/0", "192.168.0.0/16")
    made = leases(BOTH, foreign=foreign)
    assert made.give("web", ("default",)) == {"default": ("10.89.4.2/24", "fd12:0:0:1::2/64")}
    # Who is in a bridge already is asked for nothing.
    silent = Leases(Pool(), {"web": {"default": ("10.89.0.2/24",)}}, lambda: pytest.fail("asked"))
    assert silent.give("web", ("default",)) == {"default": ("10.89.0.2/24",)}


def test_ipv6_comes_later_and_goes() -> None:
    known = {"web": {"default": ("10.89.0.7/24",)}}
    made = leases(BOTH, known)
    assert made.lacks("web", ("default",))
    both = ("10.89.0.7/24", "fd12::2/64")
    assert made.give("web", ("default",)) == {"default": both}
    assert not made.lacks("web", ("default",))
    assert made.networks() == {"default": ("10.89.0.0/24", "fd12::/64")}
    assert leases(known={"web": {"default": both}}).of("web") == known["web"]
    other = leases(Pool(ipv4=ipaddress.IPv4Network("10.90.0.0/16"), ipv6=IPV6), {"web": {"default": both}})
    assert other.give("web", ("default",)) == {"default": ("10.90.0.2/24", "fd12::2/64")}
    assert other.networks() == {"default": ("10.90.0.0/24", "fd12::/64")}


def test_another_prefix_gives_other_networks() -> None:
    made = leases(Pool(prefix=22), {"web": {"default": ("10.89.0.7/24",)}})
    assert made.give("web", ("default",)) == {"default": ("10.89.0.2/22",)}


PODS, BRIDGES = (
    st.sampled_from(["a", "b", "c", "d", "e", "f", "g"]),
    st.sampled_from(["x", "y", "z", "w", "v"]),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["give", "keep", "free"]), PODS, st.lists(BRIDGES, max_size=3, unique=True)),
    max_size=40,
)
TEXTS = st.sampled_from(
    [f"10.89.0.{number}/29" for number in range(32)] + ["10.89.0.2/24", "fd12::2/64", "fd12::3/64", "x"]
)
JOURNALS = st.dictionaries(PODS, st.dictionaries(BRIDGES, st.lists(TEXTS, max_size=3).map(tuple)))


@settings(max_examples=200, deadline=None)
@given(JOURNALS, CHANGES, st.booleans())
def test_no_two_pods_share_an_address_and_no_two_bridges_a_network(
    known: Known, changes: list[tuple[str, str, list[str]]], ipv6: bool
) -> None:
    pool = Pool(ipv4=SMALL.ipv4, prefix=SMALL.prefix, ipv6=IPV6 if ipv6 else None)
    made = leases(pool, known, ("10.89.0.8/29",) if ipv6 else ())
    _assert_apart(made)
    for what, pod, bridges in changes:
        had = made.of(pod)
        if what == "give":
            try:
                got = made.give(pod, bridges)
            except Stalled:
                assert made.of(pod) == had
            else:
                assert list(got)[: len(bridges)] == bridges
                assert all({*lease} <= {*got[name]} for name, lease in had.items())
                assert not made.lacks(pod, bridges)
        else:
            made.keep_only(pod, bridges if what == "keep" else ())
            assert made.of(pod) == {name: had[name] for name in had if what == "keep" and name in bridges}
        _assert_apart(made)
    # The journal has all of it: what the next agent restores is the same.
    journal = {pod: made.of(pod) for pod in "abcdefg"}
    again = leases(pool, journal)
    assert {pod: again.of(pod) for pod in journal} == journal


def _assert_apart(made: Leases) -> None:
    networks = {
        name: [ipaddress.ip_network(text) for text in given] for name, given in made.networks().items()
    }
    for (_, one), (_, other) in combinations(networks.items(), 2):
        assert not any(a.version == b.version and a.overlaps(b) for a in one for b in other)
    used = set()
    for pod in "abcdefg":
        for bridge, lease in made.of(pod).items():
            for interface in map(ipaddress.ip_interface, lease):
                assert interface.network in networks[bridge]
                assert interface.ip not in used
                assert str(interface.ip) != gateway(str(interface.network))
                used.add(interface.ip)
    assert set(networks) == {bridge for pod in "abcdefg" for bridge in made.of(pod)}
