"""Network=, PublishPort= and names of a container or a pod, and the units of networks that they name."""

from __future__ import annotations

import ipaddress
import re

from tank_agent.convert.names import valid
from tank_agent.convert.quadlet.draft import PodDraft, Remarks
from tank_agent.convert.quadlet.read import Units
from tank_agent.convert.quadlet.unit import Entry, Unit
from tank_agent.spec.ports import published_port

_OWN = ("bridge", "private", "pasta", "slirp4netns", "default", "podman")
_PUBLISHED = re.compile(
    r"(?:(?P<address>\[[^]]*\]|[0-9]+\.[0-9.]+|):)?(?:(?P<host>[0-9-]*):)?(?P<pod>[0-9]+(?:-[0-9]+)?)(?P<kind>/.*)?"
)


class Joining:
    """A unit that joins a pod to networks: a container, or a .pod."""

    def __init__(self, unit: Unit, units: Units, pod: PodDraft, remarks: Remarks) -> None:
        self.unit = unit
        self.units = units
        self.pod = pod
        self.remarks = remarks
        self.section = unit.kind.capitalize()

    def join(self, entry: Entry, text: str) -> None:
        """Join what `MODE[:OPTIONS]` or `NETWORK[:OPTIONS]` names."""
        name, _, options = text.partition(":")
        if name in ("host", "none"):
            self.pod.mode = name
        elif name in _OWN:
            self.pod.mode = "bridge"
            if name in ("pasta", "slirp4netns") and options:
                message = f"{options} is of rootless podman's network; the pod is in a bridge of the machine"
                self.remarks.lost(entry, message)
                options = ""
        elif name.endswith(".container") or name == "container":
            self._lost_join(entry, options if name == "container" else name)
        elif name == "ns":
            self.remarks.lost(entry, "no pod joins a namespace of others; it gets one in a bridge")
            self.pod.mode = "bridge"
        else:
            self._bridge(entry, name)
        for word in filter(None, options.split(",")) if name not in ("container", "ns") else ():
            self._option(entry, word)

    def _lost_join(self, entry: Entry, other: str) -> None:
        if self.units.named(other if other.endswith(".container") else f"{other}.container") is None:
            self.remarks.lost(entry, f"{other} is none of these units; put both containers in one pod file")

    def _option(self, entry: Entry, word: str) -> None:
        key, _, value = word.partition("=")
        if key == "alias":
            self.alias(entry, value)
        elif key in ("ip", "ip6"):
            self.address(entry, value)
        else:
            self.remarks.lost(entry, f"the option {word} of a network has no counterpart")

    def _bridge(self, entry: Entry, name: str) -> None:
        unit = self.units.named(name) if name.endswith(".network") else None
        if unit is None and name.endswith(".network"):
            message = f"there is no {name} among the units; the pod is in a bridge of that name"
            self.remarks.note(entry, message)
        if unit is not None and unit.text("Network", "Driver") in ("macvlan", "ipvlan"):
            self._macvlan(entry, unit)
            return
        own = unit.text("Network", "NetworkName") if unit else ""
        self.pod.mode = "bridge"
        self.pod.add_network("bridges", valid(own or name.removesuffix(".network")))

    def _macvlan(self, entry: Entry, unit: Unit) -> None:
        """Give the pod an interface on the LAN, with the address that the container names."""
        options = unit.text("Network", "Options") + "," + unit.text("Network", "PodmanArgs")
        parent = re.search(r"parent=([^, ]+)", options)
        subnet, gateway = unit.text("Network", "Subnet"), unit.text("Network", "Gateway")
        inline = re.search(r"\bip=([0-9.]+)", entry.text)
        address = self.unit.text(self.section, "IP") or (inline[1] if inline else "")
        nic: dict[str, object] = {"name": f"eth{len(self.pod.network.get('nics', []))}"}
        nic |= {"parent": parent[1]} if parent else {}
        if address and subnet:
            nic["ip"] = f"{address}/{ipaddress.ip_network(subnet, strict=False).prefixlen}"
            nic |= {"gateway": gateway} if gateway else {}
        else:
            message = "podman chooses its address; write one as ip of [[network.nics]], and the gateway"
            self.remarks.lost(entry, message)
        self.pod.mode = "nics"
        self.pod.add_network("nics", nic)

    def alias(self, entry: Entry, text: str) -> None:
        """Give the pod another name in its bridges."""
        if text.lower() != self.pod.name:
            self.pod.add_network("aliases", text.lower())

    def address(self, entry: Entry, text: str) -> None:
        """Say where an address comes from, unless the pod has interfaces of its own."""
        networks = self.unit.all(self.section, "Network")
        units = [self.units.named(one.text.partition(":")[0]) for one in networks]
        if not any(one and one.text("Network", "Driver") in ("macvlan", "ipvlan") for one in units):
            message = f"a bridge gives each pod its address; others reach it by its name, {self.pod.name}"
            self.remarks.lost(entry, message)

    def name_server(self, entry: Entry, text: str) -> None:
        """Ask a name server."""
        if text == "none":
            self.remarks.lost(entry, "the pod has a resolv.conf, with the host's name servers")
            return
        self.pod.add_network("dns", text)

    def resolver(self, key: str, entry: Entry, text: str) -> None:
        """Add a line to resolv.conf."""
        if text == ".":
            self.remarks.lost(entry, "the host's domains are looked up, too; name dns_search for others")
        else:
            self.pod.add_network(key, text)

    def host(self, entry: Entry, text: str) -> None:
        """Add a line to /etc/hosts: `NAME[;NAME]:ADDRESS`, or with = in place of the colon."""
        names, separator, address = text.partition("=" if "=" in text else ":")
        if not separator:
            self.remarks.lost(entry, "has no address")
            return
        hosts = self.pod.network.setdefault("extra_hosts", {})
        hosts |= dict.fromkeys(names.split(";"), address.strip("[]"))

    def publish(self, entry: Entry, text: str) -> None:
        """Publish a port, or a range of ports."""
        found = _PUBLISHED.fullmatch(text)
        if found is None:
            self.remarks.lost(entry, "is no port; write HOST:POD in ports")
            return
        address, kind = found["address"] or "", found["kind"] or ""
        if kind not in ("", "/tcp", "/udp"):
            self.remarks.lost(entry, f"{kind[1:]} is not published here, only tcp and udp")
            return
        host = found["host"]
        if not host:
            host = found["pod"]
            message = f"podman takes any free port; here it is {host}, change it if that is taken"
            self.remarks.note(entry, message)
        port = f"{address}:{host}" if address else host
        text = f"{port}:{found['pod']}{'/udp' if kind == '/udp' else ''}"
        self.pod.add("ports", str(published_port(text)))


def finish(pod: PodDraft, published: list[Entry], remarks: Remarks) -> None:
    """Put the network of a pod into its keys, in one of the forms that it has."""
    table = pod.network
    if pod.mode in ("host", "none"):
        for entry in published if pod.keys.pop("ports", None) else []:
            why = "its programs listen on the host's own ports" if pod.mode == "host" else "it has no network"
            remarks.note(entry, f"does nothing: {why}")
        if table:
            words = ", ".join(table)
            message = f'a pod with network = "{pod.mode}" has no {words}, which are left out'
            remarks.lost(pod.place, message, "Container.Network")
        pod.keys["network"] = pod.mode
        return
    if "nics" in table:
        for entry in published if pod.keys.pop("ports", None) else []:
            remarks.note(entry, "does nothing: the interfaces have addresses of their own, with all ports")
        for key in ("aliases", "bridges"):
            if table.pop(key, None) is not None:
                message = f"a pod with interfaces on the LAN has no {key}, which are left out"
                remarks.lost(pod.place, message, "Container.Network")
    own = str(pod.keys.get("hostname", "")).lower()
    if own and (others := [name for name in table.pop("aliases", ()) if name != own]):
        # The host name is a name of the pod already.
        table["aliases"] = others
    pod.keys["network"] = table or "bridge"
