"""Words and forms of other tools: of compose, Docker, podman and Quadlet, Kubernetes, Nomad; and ours."""

from __future__ import annotations

import re

from tank_agent.spec.findings import closest, show
from tank_agent.spec.network_values import NO_DHCP
from tank_agent.spec.ports import port_text

_KEYS = {
    "args": "cmd",
    "bridges": "bridge networks",
    "command": "entrypoint",
    "containers": "container",
    "cpu": "cpus",
    "dns": "dns_server dns_servers dnsserver dnsservers nameserver nameservers servers",
    "dns_options": "dns_opt dns_opts dnsopt dnsoption dnsoptions options",
    "dns_search": "dnssearch domains search search_domains searchdomains searches",
    "env": "environment",
    "extra_hosts": "add_host add_hosts addhost extrahosts host_aliases hostaliases",
    "gateway": "gateway4 gateway6 gateways gw",
    "host": "source",
    "ip": "address addresses ip6 ip_address ips ipv4 ipv4_address ipv6 ipv6_address",
    "limits": "resources",
    "memory": "mem mem_limit",
    "mounts": "volume_mounts volumemounts",
    "network": "net network_mode networkmode networks",
    "nics": "interface interfaces nic",
    "parent": "device link master",
    "path": "destination mountpath target",
    "pids": "pids_limit",
    "ports": (
        "container_port containerport host_port hostport port port_bindings portmappings publish published "
        "publish_port publish_ports publishport publishports"
    ),
    "read_only": "ro readonly",
    "restart": "restart_policy restartpolicy",
    "stop_grace": "stop_grace_period stop_timeout",
    "stop_signal": "kill_signal stopsignal",
    "working_dir": "cwd workdir workingdir",
}
# Words of other tools, each with those of our keys that it may mean.
OTHER_TOOLS: dict[str, tuple[str, ...]] = {
    word: tuple(key for key, others in _KEYS.items() if word in others.split())
    for words in _KEYS.values()
    for word in words.split()
}

_NO_DHCP = f'{NO_DHCP} ip = "10.0.0.5/24"'
_ALIASES = "a pod is found by its name; other names go into extra_hosts of the pods that ask for them"
_LINKS = "pods of one bridge reach each other by their names; remove it"
_MAC = "the MAC address follows from the machine, the pod and the interface, and stays; remove it"
_BRIDGE = "a bridge needs no more than its name; its network is one of [network.bridge] in agent.toml"
# Words for which there is no key of ours, and why or what instead; of some only in one table.
WITHOUT_KEY = {
    "aliases": _ALIASES,
    "dhcp": _NO_DHCP,
    "dhcp4": _NO_DHCP,
    "dhcp6": _NO_DHCP,
    "dns_config": "write dns, dns_search and dns_options in [network]",
    "dns_policy": "the host's name servers count unless [network] has dns; remove it",
    "dnsconfig": "write dns, dns_search and dns_options in [network]",
    "dnspolicy": "the host's name servers count unless [network] has dns; remove it",
    "domainname": "write dns_search in [network]",
    "expose": "pods of one bridge reach all of each other's ports, and ports is for all others; remove it",
    "external_links": _LINKS,
    "host_network": 'write network = "host"',
    "hostname": "a pod's host name is its name; remove it",
    "hostnetwork": 'write network = "host"',
    "internal": 'every bridge leads out; for a pod that reaches nobody write network = "none"',
    "ipam": _BRIDGE,
    "links": _LINKS,
    "mac": _MAC,
    "mac_address": _MAC,
    "macaddress": _MAC,
    "network.driver": _BRIDGE,
    "network.mode": 'write network = "host" or "none" in place of the table, or bridges or nics in it',
    "network.name": 'write bridges = ["…"] with the name',
    "network.subnet": _BRIDGE,
    "network_alias": _ALIASES,
    "network_aliases": _ALIASES,
    "networkalias": _ALIASES,
    "nics.mtu": "the MTU is the parent's; remove it",
    "nics.type": "an interface on the LAN is macvlan, which needs not be said; remove it",
}
_INTERFACES = 'write a table [[network.nics]] with name = "eth0" and ip = "10.0.0.5/24"'
_SHARED = "containers of one pod share its network, so write them into one pod"
# What other tools call networks, and the sentence for it.
_NETWORKS = {
    **dict.fromkeys(("", "disabled", "false", "lo", "loopback", "no", "off"), 'write "none"'),
    **dict.fromkeys(
        ("default", "docker", "docker0", "nat", "podman", "private", "true", "yes"), 'write "bridge"'
    ),
    **dict.fromkeys(("pasta", "slirp4netns"), 'write "bridge"'),
    **dict.fromkeys(("dhcp", "ipvlan", "macvlan"), _INTERFACES),
    **dict.fromkeys(("container", "ns", "pod", "service"), _SHARED),
}
_BRIDGE_NAME = re.compile("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST_ENTRY = re.compile(r"(?P<name>[^:=\s]+)[:=]\[?(?P<address>[^\s\]]+)\]?")


def port_advice(given: object) -> str | None:
    """Return the sentence for a port that is no text."""
    text = port_text(given)
    return f"write {show(text)}" if text else None


def ports_advice(given: object) -> str | None:
    """Return the sentence for ports that are no list."""
    one = port_text(given)
    pairs = given.items() if isinstance(given, dict) and not one else ()
    texts = [one] if one else [text for host, pod in pairs if (text := port_text({"host": host, "pod": pod}))]
    return f"write [{', '.join(map(show, texts[:5]))}]" if texts else None


def network_advice(given: object) -> str | None:
    """Return the sentence for a network as other tools name it; None where a better one is known."""
    if isinstance(given, bool):
        return _NETWORKS[str(given).lower()]
    if isinstance(given, list) and given and all(isinstance(name, str) for name in given):
        return f"write bridges = [{', '.join(map(show, given[:5]))}] in a table [network]"
    return _network_advice(given) if isinstance(given, str) else None


def _network_advice(given: str) -> str | None:
    word, colon, rest = given.lower().partition(":")
    if word in _NETWORKS:
        return _NETWORKS[word]
    name = word.removesuffix(".network")
    if word == "bridge" and colon:
        # podman has the name of one there, or options.
        name = rest
        if not rest or "=" in rest:
            return 'write "bridge"'
    elif colon or (name == word and closest(given, ("bridge", "host", "none"))):
        return None
    return f"write bridges = [{show(name)}] in a table [network]" if _BRIDGE_NAME.fullmatch(name) else None


def hosts_advice(given: object) -> str | None:
    """Return the sentence for names with addresses as a list of texts, or of Kubernetes' tables."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, dict):
        names = first.get("hostnames")
        first = f"{names[0]}={first.get('ip')}" if isinstance(names, list) and names else None
    found = _HOST_ENTRY.fullmatch(first) if isinstance(first, str) else None
    return f"write {{ {show(found['name'])} = {show(found['address'])} }}" if found else None
