"""A packet's way through rules, as nft and iptables-legacy print them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.network.filter_rules import Packet, Rules, from_legacy

TO_POD = Packet("eth0", "tank-a", "tank-a", is_published=True, networks=("10.89.0.0/24",))
ANSWER = Packet("tank-a", "eth0", "tank-a", is_answer=True, is_published=True, networks=("10.89.0.0/24",))
FROM_POD = Packet("tank-a", "eth0", "tank-a", networks=("10.89.0.0/24",))


def table(*rules: str, policy: str = "drop", more: str = "") -> Rules:
    lines = "\n".join(f"\t\t{rule}" for rule in rules)
    hook = f"type filter hook forward priority filter; policy {policy};"
    return Rules(f"table ip filter {{\n{more}\tchain FORWARD {{\n\t\t{hook}\n{lines}\n\t}}\n}}\n")


CHAIN = "\tchain {0} {{\n\t\t{1}\n\t}}\n"


@pytest.mark.parametrize(
    ("rules", "more", "passing"),
    [
        ([], "", []),
        (['iifname "tank-*" counter packets 0 bytes 0 accept'], "", [ANSWER, FROM_POD]),
        (['oifname "tank-a" accept', "ct state established,related accept"], "", [TO_POD, ANSWER]),
        (['oifname "tank-a2" accept', 'iifname "x*" accept'], "", []),
        (['iifname { "eth0", "lo" } accept'], "", [TO_POD]),
        (['iifname != "eth0" accept', 'oifname != { "eth0" } accept'], "", [TO_POD, ANSWER, FROM_POD]),
        (["ct status dnat accept"], "", [TO_POD, ANSWER]),
        (["ct status != dnat accept"], "", [FROM_POD]),
        (["ct state vmap { established : accept, invalid : drop }"], "", [ANSWER]),
        (['iifname vmap { "lo" : accept, "eth0" : jump sub }'], CHAIN.format("sub", "accept"), [TO_POD]),
        (
            ["counter packets 1 bytes 2 jump sub"],
            CHAIN.format("sub", 'oifname "eth0" accept'),
            [ANSWER, FROM_POD],
        ),
        (["goto sub", "accept"], CHAIN.format("sub", "return"), []),
        (["jump sub", "accept"], CHAIN.format("sub", "return"), [TO_POD, ANSWER, FROM_POD]),
        (
            ["iifname @ours accept"],
            '\tset ours {\n\t\ttype ifname\n\t\telements = { "tank-a" }\n\t}\n',
            [ANSWER, FROM_POD],
        ),
        (["tcp dport 22 accept", "xt match physdev counter packets 0 bytes 0 accept"], "", []),
        (['oifname "tank-a" tcp dport 80 accept', "ct state established accept"], "", [TO_POD, ANSWER]),
        (
            ["ip saddr 10.89.0.0/16 accept", "ip daddr 10.89.0.0/24 tcp dport 80 accept"],
            "",
            [TO_POD, ANSWER, FROM_POD],
        ),
        (["ip saddr 192.168.0.0/16 accept"], "", []),
        (['iifname "tank-a" tcp dport 25 drop', "accept"], "", [TO_POD, ANSWER, FROM_POD]),
        (['log prefix "a drop accept " level info', 'comment "accept"'], "", []),
        (["jump FORWARD", "jump nowhere"], "", []),
    ],
)
def test_rules_of_nft(rules: list[str], more: str, passing: list[Packet]) -> None:
    found = table(*rules, more=more)
    assert [each for each in (TO_POD, ANSWER, FROM_POD) if found.lets_through("FORWARD", each)] == passing


@pytest.mark.parametrize(
    "last", ["drop", "counter packets 0 bytes 0 reject with icmp type host-prohibited", 'xt target "REJECT"']
)
def test_what_the_last_rule_drops(last: str) -> None:
    found = table("ct state related,established accept", last, policy="accept")
    assert not found.lets_through("FORWARD", FROM_POD)
    assert found.lets_through("FORWARD", ANSWER)


def test_a_dormant_table_drops_nothing() -> None:
    chain = CHAIN.format("f", "type filter hook forward priority 0; policy drop;")
    text = f"table inet t {{\n\tflags dormant\n{chain}}}\n"
    assert list(Rules(text).forwarding()) == []


def test_only_chains_that_forward_count() -> None:
    text = CHAIN.format("i", "type filter hook input priority 0; policy drop;") + CHAIN.format("f", "drop")
    assert list(Rules(text).forwarding()) == []


LEGACY = """-P INPUT ACCEPT
-P FORWARD DROP
-P OUTPUT ACCEPT
-N DOCKER-USER
-A FORWARD -j DOCKER-USER
-A FORWARD -m conntrack --ctstate NEW,DNAT -j ACCEPT
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -p tcp -m tcp --dport 80 -m state --state NEW -j ACCEPT
-A FORWARD -j LOG --log-prefix "-j ACCEPT"
"""


@pytest.mark.parametrize(
    ("rule", "passing"),
    [
        ("-A DOCKER-USER -j RETURN", []),
        ("-A DOCKER-USER -i tank-+ -j ACCEPT", [ANSWER, FROM_POD]),
        ('-A DOCKER-USER -i tank-a -m comment --comment "a \\\'b\\" -j DROP" -j ACCEPT', [ANSWER, FROM_POD]),
        ("-A DOCKER-USER ! -i eth0 -j ACCEPT", [ANSWER, FROM_POD]),
        ("-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", [ANSWER]),
        ("-A DOCKER-USER -m conntrack ! --ctstate DNAT -j ACCEPT", [FROM_POD]),
        ("-A DOCKER-USER -j ACCEPT", [TO_POD, ANSWER, FROM_POD]),
        ("-I DOCKER-USER -j REJECT --reject-with icmp-port-unreachable", []),
    ],
)
def test_rules_of_iptables_legacy(rule: str, passing: list[Packet]) -> None:
    found = Rules(from_legacy(LEGACY + rule))
    assert list(found.forwarding()) == ["FORWARD"]
    assert [each for each in (TO_POD, ANSWER, FROM_POD) if found.lets_through("FORWARD", each)] == passing


WORDS = (
    'chain x { } type filter hook forward priority 0; policy drop; iifname "a" ct state vmap : jump x ! -A'
    " FORWARD -i tank-+ -j ACCEPT 10.0.0.0/99 @s set elements ="
)
TEXTS = st.sampled_from([*WORDS.split(), "\n", "\n\tchain x {\n", "}\n"])


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, max_size=40))
def test_no_text_is_too_strange(words: list[str]) -> None:
    for text in (" ".join(words), from_legacy(" ".join(words))):
        rules = Rules(text)
        for name in rules.forwarding():
            rules.lets_through(name, TO_POD)


# The part about what is forwarded of firewalld 2.3's table, in Debian 13; `{0}` is its dispatch by zones.
FIREWALLD = """table inet firewalld {{ # progname firewalld
	flags owner,persist

	chain filter_FORWARD {{
		type filter hook forward priority filter + 10; policy accept;
		ct state {{ established, related }} accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		ip6 daddr {{ ::/96, ::ffff:0.0.0.0/96 }} reject with icmpv6 addr-unreachable
		jump filter_FORWARD_POLICIES
		reject with icmpx admin-prohibited
	}}

	chain filter_FORWARD_POLICIES {{
{0}
		jump filter_FWD_public
		reject with icmpx admin-prohibited
	}}

	chain filter_FWD_public {{
		jump filter_FWD_public_allow
	}}

	chain filter_FWD_public_allow {{
		{1}
	}}

	chain filter_FWD_trusted {{
		oifname "tank-*" accept
	}}
}}
"""


@pytest.mark.parametrize(
    ("zones", "within", "passing"),
    [
        ("", "", [TO_POD, ANSWER]),
        ('\t\tiifname "eth0" jump filter_FWD_public', 'oifname "eth0" accept', [TO_POD, ANSWER, FROM_POD]),
        (
            '\t\tiifname "tank-*" jump filter_FWD_trusted\n\t\tiifname "tank-*" accept',
            "",
            [TO_POD, ANSWER, FROM_POD],
        ),
    ],
)
def test_firewalld_of_debian_13(zones: str, within: str, passing: list[Packet]) -> None:
    found = Rules(FIREWALLD.format(zones, within))
    assert list(found.forwarding()) == ["filter_FORWARD"]
    assert [p for p in (TO_POD, ANSWER, FROM_POD) if found.lets_through("filter_FORWARD", p)] == passing
