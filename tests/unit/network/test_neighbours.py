"""Which pods reach each other, and by which addresses."""

from __future__ import annotations

from ipaddress import IPv6Network

from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.neighbours import Neighbours
from tank_agent.spec.model import Network, Nic, Pod


def bridged(name: str, *bridges: str) -> Pod:
    return Pod(name=name, containers=(), network=Network(mode="bridge", bridges=bridges))


def on_lan(name: str, *addresses: str) -> Pod:
    return Pod(name=name, containers=(), network=Network(mode="nics", nics=(Nic(name="eth0", ip=addresses),)))


def leases(*pods: Pod, ipv6: bool = False) -> Leases:
    pool = Pool(ipv6=IPv6Network("fd12:3456:789a::/48")) if ipv6 else Pool()
    made = Leases(pool, {}, list)
    for pod in pods:
        made.give(pod.name, pod.network.bridges)
    return made


def test_pods_of_a_bridge_and_of_no_other() -> None:
    web, db, other = bridged("web", "default"), bridged("db", "default"), bridged("other", "back")
    known = Neighbours(leases(web, db, other))
    assert known.of(web) == (("db", ("10.89.0.3",)),)
    assert known.of(other) == ()
    assert known.of(Pod(name="alone", containers=())) == ()


def test_each_family_has_its_address() -> None:
    web, db = bridged("web", "default"), bridged("db", "default")
    known = Neighbours(leases(web, db, ipv6=True))
    assert known.of(db) == (("web", ("10.89.0.2", "fd12:3456:789a::2")),)


def test_of_a_pod_in_two_common_bridges_the_address_in_the_first() -> None:
    web, db = bridged("web", "back", "front"), bridged("db", "front", "back")
    known = Neighbours(leases(web, db))
    # Of `back`, the first bridge of web, and of `front`, the first of db.
    assert known.of(web) == (("db", ("10.89.0.3",)),)
    assert known.of(db) == (("web", ("10.89.1.2",)),)


def test_pods_on_the_lan_among_each_other_and_not_those_in_bridges() -> None:
    web, db, inside = (
        on_lan("web", "10.0.0.5/24", "fd00::5/64"),
        on_lan("db", "10.0.0.6/24"),
        bridged("x", "b"),
    )
    known = Neighbours(leases(inside))
    known.note([web, db, inside])
    # It has no IPv6.
    assert known.of(db) == (("web", ("10.0.0.5",)),)
    assert known.of(on_lan("x", "10.0.0.7/24", "fd00::7/64"))[1] == ("web", ("10.0.0.5", "fd00::5"))
    assert known.of(inside) == ()
    known.forget("web")
    assert known.of(db) == ()


def test_of_a_pod_on_two_lans_the_addresses_on_the_common_one() -> None:
    both = on_lan("both", "10.0.0.5/24", "192.168.5.5/24")
    known = Neighbours(leases())
    known.note([both, on_lan("a", "10.0.0.6/24")])
    assert known.of(on_lan("a", "10.0.0.6/24")) == (("both", ("10.0.0.5",)),)
    assert known.of(on_lan("b", "192.168.5.6/24"))[1] == ("both", ("192.168.5.5",))
    # By a router.
    assert known.of(on_lan("c", "172.16.0.1/24"))[1] == ("both", ("10.0.0.5", "192.168.5.5"))


def test_the_version_is_another_with_every_change_and_the_same_without_one() -> None:
    web = bridged("web", "default")
    given = leases(web)
    known = Neighbours(given)
    seen = [known.version]

    def changed() -> bool:
        seen.append(known.version)
        return seen[-1] != seen[-2]

    given.give("db", ("default",))
    assert changed()
    assert known.of(web) == (("db", ("10.89.0.3",)),)
    known.note([on_lan("lan", "10.0.0.5/24")])
    assert changed()
    known.note([on_lan("lan", "10.0.0.5/24")])
    given.give("db", ("default",))
    assert not changed()
    given.keep_only("db", ())
    assert changed()
    assert known.of(web) == ()
