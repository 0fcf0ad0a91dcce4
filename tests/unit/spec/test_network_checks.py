"""The network of a pod file: which line, which key, what the message says, and what is right."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import pytest

from tank_agent.spec.model import Network
from tank_agent.spec.parse import parse_pod_file
from tests.unit.spec.test_problems import HEAD, NIC, problems

CASES: list[tuple[str, str, list[str]]] = [
    # Ports.
    ("a number", "\nports = [8080]\n", ['2: ports[0]: must be text, not a whole number; write "8080:8080"']),
    ("no list", "ports = 8080\n", ['1: ports: must be a list, not a whole number; write ["8080:8080"]']),
    ("one text", 'ports = "8080:80"\n', ['1: ports: must be a list, not text; write ["8080:80"]']),
    (
        "the long form of compose",
        '[[ports]]\ntarget = 80\npublished = "8080"\nhost_ip = "127.0.0.1"\nprotocol = "udp"\n',
        ['1: ports[0]: must be text, not a table; write "127.0.0.1:8080:80/udp"'],
    ),
    (
        "the long form within its list",
        'ports = [\n"80:80",\n{ target = 81 }]\n',
        ['3: ports[1]: must be text, not a table; write "81:81"'],
    ),
    (
        "a table of ports",
        "[ports]\n8080 = 80\n",
        ['1: ports: must be a list, not a table; write ["8080:80"]'],
    ),
    (
        "a list of pairs",
        'ports = [["8080", "80"]]\n',
        ['1: ports[0]: must be text, not a list; write "8080:80", for example'],
    ),
    (
        "each of several",
        'ports = [\n"80",\n"80:80/sctp",\n"1:1"]\n',
        ['2: ports[0]: "80" has', '3: ports[1]: "sctp" is not'],
    ),
    # Further names.
    (
        "no name",
        '[network]\naliases = ["my db"]\n',
        ['2: network.aliases[0]: "my db" is not a host name; write one such as "my_db"'],
    ),
    (
        "its own",
        '[network]\naliases = ["x", "WEB"]\n',
        ['2: network.aliases[1]: "WEB" is the pod\'s own name already; remove it'],
    ),
    (
        "its host name",
        'hostname = "nas.lan"\n[network]\naliases = ["NAS.lan"]\n',
        ['3: network.aliases[0]: "NAS.lan" is the pod\'s own name already'],
    ),
    (
        "every pod's",
        '[network]\naliases = ["localhost"]\n',
        ['2: network.aliases[0]: "localhost" is every pod\'s name for itself; remove it'],
    ),
    (
        "twice",
        '[network]\naliases = ["db_1", "DB_1"]\n',
        ['2: network.aliases[1]: "DB_1" is given twice'],
    ),
    (
        "elsewhere, too",
        '[network]\naliases = ["nas"]\nextra_hosts = { NAS = "10.0.0.9" }\n',
        ['2: network.aliases[0]: "nas" has another address in extra_hosts; remove one of them'],
    ),
    (
        "without a bridge",
        '[network]\naliases = ["nas"]\n' + NIC.removeprefix("[network]\n"),
        ["2: network.aliases: are names in bridges, and this pod is in none; remove them, or nics"],
    ),
    (
        "of the pod",
        'aliases = ["nas"]\n',
        ["1: aliases: unknown key here; aliases belongs in [network]"],
    ),
    (
        "of Quadlet, in the table",
        '[network]\nNetworkAlias = ["nas"]\n',
        ["2: network.NetworkAlias: unknown key; did you mean aliases?"],
    ),
    # The host name.
    (
        "no host name",
        'hostname = "my host"\n',
        ['1: hostname: "my host" is not a host name; write one such as "nas.lan"'],
    ),
    (
        "too long for the kernel",
        f'hostname = "{".".join(["a" * 32] * 2)}"\n',
        ["has 65 characters, and the kernel takes 64; shorten it"],
    ),
    (
        "every machine's",
        'hostname = "LOCALHOST"\n',
        ['1: hostname: "LOCALHOST" is every machine\'s name for itself; write another'],
    ),
    (
        "with another address",
        'hostname = "nas.lan"\n[network]\nextra_hosts = { "NAS.lan" = "10.0.0.9" }\n',
        ['3: network.extra_hosts."NAS.lan": "NAS.lan" is the pod\'s own name'],
    ),
    ("of Quadlet", 'HostName = "nas"\n', ["1: HostName: unknown key; did you mean hostname?"]),
    (
        "overlap",
        'ports = ["9000-9010:9000-9010",\n"9005:1"]\n',
        ['2: ports[1]: "9005:1" and "9000-9010:9000-9010" need the same port of this machine; change one'],
    ),
    (
        "all addresses twice",
        'ports = ["0.0.0.0:80:80", "[::]:80:80"]\n',
        ["1: ports[1]: ", "0.0.0.0, as no address, is IPv6's too; remove the one of [::]"],
    ),
    (
        "with none",
        'network = "none"\nports = ["80:80"]\n',
        ['2: ports: network = "none" has no ports; remove it, or ports'],
    ),
    (
        "with host",
        'network = "host"\nports = ["80:80"]\n',
        ["2: ports: its programs listen on the host's own ports"],
    ),
    (
        "with interfaces",
        'ports = ["80:80"]\n' + NIC,
        ["1: ports: its interfaces have addresses of their own, with all their ports"],
    ),
    # Networks of other tools.
    *(
        (
            f"network {word}",
            f'network = "{word}"\n',
            [f'1: network: must be one of "bridge", "host", "none", not "{word}"; {right}'],
        )
        for word, right in {
            "default": 'write "bridge"',
            "private": 'write "bridge"',
            "slirp4netns": 'write "bridge"',
            "pasta:-T": 'write "bridge"',
            "bridge:ip=10.88.0.9": 'write "bridge"',
            "off": 'write "none"',
            "hosts": 'did you mean "host"?',
            "Bridge": 'did you mean "bridge"?',
            "container:db": "containers of one pod share its network, so write them into one pod",
            "service:db": "containers of one pod share its network, so write them into one pod",
            "bridge:front": 'write bridges = ["front"] in a table [network]',
            "front": 'write bridges = ["front"] in a table [network]',
            "front.network": 'write bridges = ["front"] in a table [network]',
            "macvlan": 'write a table [[network.nics]] with name = "eth0" and ip = "10.0.0.5/24"',
        }.items()
    ),
    (
        "true",
        "network = true\n",
        ['1: network: must be "bridge", "host", "none" or a table, not true or false; write "bridge"'],
    ),
    (
        "networks of compose",
        'network = ["front", "back"]\n',
        ["1: network: ", 'not a list; write bridges = ["front", "back"] in a table [network]'],
    ),
    (
        "no name either",
        'network = "Front End"\n',
        ['1: network: must be one of "bridge", "host", "none", not "Front End"'],
    ),
    # Bridges.
    (
        "no bridges",
        "[network]\nbridges = []\n",
        ['2: network.bridges: is empty; remove it for the bridge "default", or write network = "none"'],
    ),
    (
        "one bridge twice",
        '[network]\nbridges = ["a", "b",\n"a"]\n',
        ['3: network.bridges[2]: "a" is given twice'],
    ),
    (
        "a bad name",
        '[network]\nbridges = ["Front"]\n',
        ['2: network.bridges[0]: "Front" is not a name', 'such as "front"'],
    ),
    ("a long name", f'[network]\nbridges = ["{"a" * 64}"]\n', ["2: network.bridges[0]: ", "use 1 to 63"]),
    (
        "a name alone",
        '[network]\nbridges = "front"\n',
        ['2: network.bridges: must be a list, not text; write ["front"]'],
    ),
    (
        "beside interfaces",
        f"{NIC.replace('[[', 'bridges = []' + chr(10) + '[[')}",
        ["3: network.nics: a pod has either interfaces on the LAN or bridges"],
    ),
    # Interfaces.
    (
        "dhcp",
        NIC + 'ip = "dhcp"\n',
        [
            '4: network.nics[0].ip: "dhcp" is no address: there is no DHCP here; write an address that your router gives nobody else, such as "10.0.0.5/24"'
        ],
    ),
    (
        "dhcp in a list",
        NIC + 'ip = ["fd00::5/64", "auto"]\n',
        ['4: network.nics[0].ip[1]: "auto" is no address: there is no DHCP'],
    ),
    ("dhcp = true", NIC + "dhcp = true\n", ["4: network.nics[0].dhcp: unknown key; there is no DHCP here"]),
    # Names.
    (
        "seven domains",
        '[network]\ndns_search = ["a", "b", "c", "d", "e", "f", "g"]\n',
        [
            "2: network.dns_search: programs read 6 domains and 256 bytes, not 7 domains of 13 bytes; remove some"
        ],
    ),
    (
        "long domains",
        f'[network]\ndns_search = ["{".".join(["a" * 60] * 3)}", "{".".join(["b" * 60] * 2)}"]\n',
        ["2: network.dns_search: programs read 6 domains and 256 bytes, not 2 domains of 304 bytes"],
    ),
    (
        "one domain twice",
        '[network]\ndns_search = ["lan", "lan"]\n',
        ['2: network.dns_search[1]: "lan" is given twice'],
    ),
    (
        "one option twice",
        '[network]\ndns_options = ["ndots:1", "ndots:01"]\n',
        ['2: network.dns_options[1]: "ndots:1" is given twice'],
    ),
    (
        "an option that is none",
        '[network]\ndns_options = ["ndot:2"]\n',
        ['2: network.dns_options[0]: "ndot:2" is not an option of resolv.conf; did you mean "ndots:2"?'],
    ),
    (
        "hosts as a list",
        '[network]\nextra_hosts = ["nas.lan:10.0.0.9"]\n',
        ['2: network.extra_hosts: must be a table, not a list; write { "nas.lan" = "10.0.0.9" }'],
    ),
    ("hosts of podman", '[network]\nextra_hosts = ["nas=[fd00::9]"]\n', ['write { "nas" = "fd00::9" }']),
    (
        "hosts of Kubernetes",
        '[network]\nextra_hosts = [{ ip = "10.0.0.9", hostnames = ["nas"] }]\n',
        ['write { "nas" = "10.0.0.9" }'],
    ),
    (
        "the pod's own name",
        '[network]\nextra_hosts = { Web = "10.0.0.9" }\n',
        ['2: network.extra_hosts.Web: "Web" is the pod\'s own name'],
    ),
    (
        "localhost",
        '[network.extra_hosts]\nlocalhost = "10.0.0.9"\n',
        ['2: network.extra_hosts.localhost: "localhost" is the pod itself'],
    ),
    (
        "one name in two cases",
        '[network.extra_hosts]\nnas = "10.0.0.9"\nNAS = "10.0.0.8"\n',
        ['3: network.extra_hosts.NAS: "NAS" is given twice, in another case'],
    ),
    (
        "no address",
        '[network]\nextra_hosts = { nas = "nas.lan" }\n',
        ['2: network.extra_hosts.nas: "nas.lan" is not an IP address'],
    ),
    (
        "host_gateway",
        '[network]\nextra_hosts = { me = "host_gateway" }\n',
        ["2: network.extra_hosts.me: ", 'did you mean "host-gateway"?'],
    ),
    (
        "host-gateway without a bridge",
        '[network]\nextra_hosts = { me = "host-gateway" }\n' + NIC.removeprefix("[network]\n"),
        [
            '2: network.extra_hosts.me: "host-gateway" is this machine in a pod\'s bridge, and this pod is in none; write an address'
        ],
    ),
    # Words of other tools.
    *(
        (word, f"{word} = {value}\n", [f"1: {word}: unknown key; {right}"])
        for word, value, right in [
            ("publish", '["80:80"]', "did you mean ports?"),
            ("PublishPort", '["80:80"]', "did you mean ports?"),
            ("network_mode", '"host"', "did you mean network?"),
            ("networks", '["front"]', "did you mean network?"),
            ("hostNetwork", "true", 'write network = "host"'),
            ("add_host", '["a:10.0.0.1"]', "it is called extra_hosts, and belongs in [network]"),
            ("hostAliases", "[]", "it is called extra_hosts, and belongs in [network]"),
            ("dns_opt", "[]", "it is called dns_options, and belongs in [network]"),
            ("expose", '["80"]', "pods of one bridge reach all of each other's ports"),
            ("links", '["db"]', "pods of one bridge reach each other by their names"),
            ("mac_address", '"x"', "the MAC address follows from"),
            ("host_name", '"web"', "did you mean hostname?"),
        ]
    ),
    ("dns of the pod", 'dns = ["10.0.0.1"]\n', ["1: dns: unknown key here; dns belongs in [network]"]),
    (
        "mode",
        '[network]\nmode = "host"\n',
        ['2: network.mode: unknown key; write network = "host" or "none" in place of the table'],
    ),
    (
        "options",
        '[network]\noptions = ["rotate"]\n',
        ["2: network.options: unknown key; did you mean dns_options?"],
    ),
    (
        "networks in the table",
        '[network]\nnetworks = ["front"]\n',
        ["2: network.networks: unknown key; did you mean bridges?"],
    ),
]


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_mistake_gives_one_problem_at_its_line(text: str, expected: list[str]) -> None:
    found = problems(text + "\n" + HEAD)
    lines = sum(line[0].isdigit() and line[1:3] in (": ",) for line in expected) or 1
    assert len(found) == lines, found
    for part in expected:
        assert part in "\n".join(found)


@pytest.mark.parametrize(
    ("key", "right"),
    [
        ('ports = ["80:80"]', "ports belongs to the pod itself, before all its [tables]"),
        ("hostPort = 80", "it is called ports, and belongs to the pod itself, before all its [tables]"),
        ('network_mode = "host"', "it is called network, and belongs to the pod itself"),
        ('networks = ["front"]', "it is called bridges, and belongs in [network]"),
        ('dns = ["10.0.0.1"]', "dns belongs in [network]"),
        ('expose = ["80"]', "pods of one bridge reach all of each other's ports"),
    ],
)
def test_a_key_of_the_network_at_a_container(key: str, right: str) -> None:
    (problem,) = problems(f"{HEAD}{key}\n")
    assert problem.startswith(f"4: containers[0].{key.split(maxsplit=1)[0]}: unknown key")
    assert right in problem


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("", Network()),
        ('network = "none"\n', Network()),
        ('ports = ["80:80"]\n', Network(mode="bridge", bridges=("default",))),
        ('network = "bridge"\n', Network(mode="bridge", bridges=("default",))),
        ("[network]\n", Network(mode="bridge", bridges=("default",))),
        ('[network]\nbridges = ["b", "a"]\n', Network(mode="bridge", bridges=("b", "a"))),
        (
            '[network]\ndns_search = ["a", "b", "c", "d", "e", "f"]\ndns_options = ["ndots:2", "use-vc"]\n',
            Network(
                mode="bridge",
                bridges=("default",),
                dns_search=tuple("abcdef"),
                dns_options=("ndots:2", "use-vc"),
            ),
        ),
        (
            # A container's name may lead elsewhere.
            '[network.extra_hosts]\napp = "FD00:0::5"\nme = "host-gateway"\n',
            Network(
                mode="bridge", bridges=("default",), extra_hosts={"app": "fd00::5", "me": "host-gateway"}
            ),
        ),
    ],
)
def test_a_network(text: str, network: Network) -> None:
    parsed = parse_pod_file(text + HEAD, "web.toml")
    assert parsed.problems == ()
    assert parsed.pods[0].pod.network == network
