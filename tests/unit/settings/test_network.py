"""[network] of agent.toml: which line, which key, what is wrong, and what would be right."""

# A case stays on as few lines as a table's row may have.

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.settings.network import BridgeSettings
from tests.unit.settings.test_settings import load, problems

HEAD = "[network.bridge]\n"


def test_all_keys(tmp_path: Path) -> None:
    text = 'pool = "172.20.0.0/14"\nprefix = 22\nipv6 = "FD00:1::/48"\npublish = "::1"\n'
    assert load(tmp_path, HEAD + text).network.bridge == BridgeSettings(
        pool="172.20.0.0/14", prefix=22, ipv6="fd00:1::/48", publish="::1"
    )
    assert load(tmp_path, "").network.bridge == BridgeSettings()


@pytest.mark.parametrize("pool", ["10.0.0.0/8", "192.168.7.0/24", "100.64.0.0/10", "10.9.8.0/255.255.255.0"])
def test_networks_that_are_taken(tmp_path: Path, pool: str) -> None:
    assert load(tmp_path, f'{HEAD}pool = "{pool}"\n').network.bridge.pool.startswith(pool.partition("/")[0])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            'pool = "10.89.0.1/16"',
            '2: network.bridge.pool: "10.89.0.1/16" is an address in a network; write "10.89.0.0/16"',
        ),
        (
            'pool = "10.89.0.0"',
            '2: network.bridge.pool: "10.89.0.0" has no prefix length; write one such as "10.89.0.0/16"',
        ),
        ('pool = "10.89.0.0/30"', "2: network.bridge.pool: "),
        ('pool = "bridge"', '2: network.bridge.pool: "bridge" is not an IPv4 network; write one such as'),
        ('pool = "fd00::/48"', "2: network.bridge.pool: "),
        (
            'pool = "8.8.0.0/16"',
            '2: network.bridge.pool: "8.8.0.0/16" is not a private network; write one of 10.0.0.0/8,',
        ),
        ('pool = "127.0.0.0/16"', "is not a private network"),
        ('pool = "169.254.0.0/16"', "is not a private network"),
        ('pool = "0.0.0.0/0"', "is not a private network"),
        ("pool = 10", "2: network.bridge.pool: must be text"),
        ("prefix = 8", "2: network.bridge.prefix: must be from 16 to 29"),
        ("prefix = 30", "2: network.bridge.prefix: must be from 16 to 29"),
        ('prefix = "/24"', "2: network.bridge.prefix: must be a whole number"),
        (
            'pool = "10.89.0.0/20"\nprefix = 18',
            "3: network.bridge.prefix: a bridge's /18 does not fit into pool, a /20",
        ),
        (
            'pool = "10.89.0.0/26"',
            "1: network.bridge.prefix: a bridge's /24 does not fit into pool, a /26; write at least 26",
        ),
        ('ipv6 = "fd12::/65"', '2: network.bridge.ipv6: "fd12::/65" must be a /48 to /64'),
        (
            'ipv6 = "fd00::/8"',
            '2: network.bridge.ipv6: "fd00::/8" must be a /48 to /64; a /48 has a /64 for each of 65536',
        ),
        ('ipv6 = "fd12::1/48"', 'is an address in a network; write "fd12::/48"'),
        (
            'ipv6 = "2001:db8::/48"',
            '2: network.bridge.ipv6: "2001:db8::/48" is not a private network; write one of fd00::/8',
        ),
        ('ipv6 = "fe80::/64"', "is not a private network"),
        ('ipv6 = "10.0.0.0/24"', "is of IPv4, for which the key is pool"),
        ("ipv6 = true", "2: network.bridge.ipv6: must be text"),
        (
            'publish = "localhost"',
            '2: network.bridge.publish: "localhost" is not an address; write one of this machine, such as',
        ),
        ('publish = "127.0.0.1:80"', "is not an address"),
        ('publish = "224.0.0.1"', "is not the address of one host"),
        ('publish = "fe80::1%eth0"', "has a zone"),
        (
            'publish = "::1"',
            "2: network.bridge.publish: is of IPv6, which bridges have only with ipv6",
        ),
        ('[network]\nbridges = ["a"]', "unknown key"),
        ('pol = "10.0.0.0/16"', "2: network.bridge.pol: unknown key; did you mean pool?"),
    ],
)
def test_one_mistake_gives_one_problem(tmp_path: Path, lines: str, expected: str) -> None:
    text = f"{lines}\n" if lines.startswith("[") else f"{HEAD}{lines}\n"
    (found,) = problems(tmp_path, text)
    assert expected in found


def test_a_wrong_pool_says_nothing_of_the_prefix(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f'{HEAD}pool = "10.0.0.0/99"\nprefix = 16\n')
    assert found.startswith("2: network.bridge.pool")
