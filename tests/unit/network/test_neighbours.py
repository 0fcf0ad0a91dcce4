"""Which pods reach each other, and by which addresses."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest
from msgspec.structs import replace

from tank_agent.network.addresses import Leases, Pool
from tank_agent.network.aliases import Alias
from tank_agent.network.neighbours import Neighbours
from tank_agent.spec.model import Network, Nic, Pod


def bridged(name: str, *bridges: str, aliases: tuple[str, ...] = ()) -> Pod:
    return Pod(name=name, containers=(), network=Network(mode="bridge", bridges=bridges, aliases=aliases))


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


def test_an_alias_is_a_name_in_the_bridges_of_its_pod() -> None:
    web, db = bridged("web", "front"), bridged("db", "front", "back", aliases=("My_DB", "db.lan"))
    mq = bridged("mq", "back", "front")
    known = Neighbours(leases(web, db, mq))
    known.note([web, db, mq])
    assert dict(known.of(web)) == {
        "db": ("10.89.0.3",),
        "mq": ("10.89.0.4",),
        "My_DB": ("10.89.0.3",),
        "db.lan": ("10.89.0.3",),
    }
    # In the first of two common bridges.
    assert dict(known.of(mq))["My_DB"] == dict(known.of(mq))["db"] == ("10.89.1.2",)
    assert known.own_aliases(db) == ("My_DB", "db.lan")
    assert (known.own_aliases(web), list(known.warnings("db"))) == ((), [])
    alone = bridged("alone", "third")
    assert known.of(alone) == ()
    version = known.version
    known.note([db])
    assert known.version == version
    known.note([bridged("db", "front", "back")])
    assert known.version != version
    assert dict(known.of(web)) == {"db": ("10.89.0.3",), "mq": ("10.89.0.4",)}


def test_a_pods_own_name_wins_over_an_alias_and_the_first_alias_over_others() -> None:
    pods = {
        name: bridged(name, "default", aliases=aliases)
        for name, aliases in {"a": ("x", "C"), "b": ("X", "y"), "c": ()}.items()
    }
    given = leases(*pods.values())
    known = Neighbours(given)
    # The order in which they came, whatever their names.
    known.note([pods["b"], pods["a"], pods["c"]])
    address = {name: lease["default"][0].partition("/")[0] for name in pods if (lease := given.of(name))}
    assert dict(known.of(pods["c"])) == {
        "a": (address["a"],),
        "b": (address["b"],),
        "X": (address["b"],),
        "y": (address["b"],),
    }
    # For the one that asks in vain, too.
    assert dict(known.of(pods["a"]))["X"] == (address["b"],)
    assert (known.own_aliases(pods["a"]), known.own_aliases(pods["b"])) == ((), ("X", "y"))
    assert list(known.warnings("a")) == [
        "alias x leads to pod b in bridge default, which named it before",
        "alias C leads to pod c in bridge default, whose name it is",
    ]
    assert list(known.warnings("b")) == []
    # As the journal has it, after a restart of the agent.
    again = Neighbours(given, {name: known.aliases.of(name) for name in pods})
    again.note(pods.values())
    assert dict(again.of(pods["c"])) == dict(known.of(pods["c"]))
    # It gets what the other gives up.
    again.forget("b")
    given.keep_only("b", ())
    assert again.own_aliases(pods["a"]) == ("x",)
    assert dict(again.of(pods["c"])) == {"a": (address["a"],), "x": (address["a"],)}


def test_the_host_name_of_a_pod_is_one_more_name_in_its_bridges() -> None:
    pods = {
        name: replace(bridged(name, "default", aliases=aliases), hostname=host_name)
        for name, host_name, aliases in (
            ("a", "nas.lan", ("x",)),
            ("b", "X", ()),
            ("c", "A", ("y",)),
            ("d", "y", ()),
            ("e", "E", ()),
        )
    }
    given = leases(*pods.values())
    known = Neighbours(given)
    known.note(pods.values())
    address = {name: lease["default"][0].partition("/")[0] for name in pods if (lease := given.of(name))}
    assert dict(known.of(pods["e"])) == {
        **{name: (address[name],) for name in "abcd"},
        "x": (address["a"],),
        "nas.lan": (address["a"],),
        "y": (address["c"],),
    }
    assert list(known.warnings("b")) == [
        "hostname X leads to pod a in bridge default, which named it before",
    ]
    assert list(known.warnings("c")) == ["hostname A leads to pod a in bridge default, whose name it is"]
    assert [*known.warnings("a"), *known.warnings("e")] == []
    # It follows the file.
    known.note([replace(pods["d"], hostname="new.lan")])
    assert dict(known.of(pods["e"]))["new.lan"] == (address["d"],)
    alone = Pod(name="f", containers=(), network=Network(mode="host"), hostname="f.lan")
    known.note([alone])
    assert known.aliases.of("f") == {}
    known.forget("d")
    assert "new.lan" not in dict(known.of(pods["e"]))


def test_pods_of_bridges_that_are_apart_may_have_the_same_alias() -> None:
    one, two = bridged("one", "front", aliases=("db",)), bridged("two", "back", aliases=("db",))
    both = bridged("both", "back", "front")
    known = Neighbours(leases(one, two, both))
    known.note([one, two, both])
    assert known.own_aliases(one) == known.own_aliases(two) == ("db",)
    assert dict(known.of(both))["db"] == ("10.89.1.2",)
    assert [*known.warnings("one"), *known.warnings("two")] == []
    # In one of its bridges it is another's, so its own programs still find it itself.
    third = bridged("third", "front", "third", aliases=("db",))
    known = Neighbours(leases(one, third))
    known.note([one, third])
    assert known.own_aliases(third) == ("db",)
    assert list(known.warnings("third")) == [
        "alias db leads to pod one in bridge front, which named it before"
    ]


def test_a_pod_that_goes_between_two_looks_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    web, db = bridged("web", "default"), bridged("db", "default", aliases=("my_db",))
    given = leases(web, db)
    known = Neighbours(given)
    known.note([web, db])
    look = known._aliases_in

    def later(bridge: str) -> dict[str, Alias]:
        found = look(bridge)
        given.keep_only("db", ())
        return found

    known.of(web)
    monkeypatch.setattr(known, "_aliases_in", later)
    assert known.of(web)[0] == ("db", ("10.89.0.3",))
    assert known.of(web) == ()
