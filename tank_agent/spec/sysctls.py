"""Names and values of kernel parameters that a pod's own namespaces have: sysctl(8), proc_sys(5).

Those of `net.` belong to its network namespace, the others to the IPC namespace of each container.
"""

from __future__ import annotations

import re

from tank_agent.spec.findings import closest, show

_NETWORK = ("net.", "net/")
# namespaces(7), ipc_namespaces(7); the other parameters are of the whole machine.
_IPC = frozenset(
    f"kernel.{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_MQUEUE = "fs.mqueue."
_NAME_LENGTH, _VALUE_LENGTH = 255, 1024
_PART = re.compile(r"[A-Za-z0-9_.:@+-]+")
# Where an interface's name stands, and names there that are of no interface that a file names.
_INTERFACE = re.compile(r"net\.ipv[46]\.(?:conf|neigh)\.([^.]+)\.([^.]+)")
_NO_INTERFACE = frozenset({"all", "default", "lo"})
# The agent sets them by the addresses of the pod's file, and would set them back.
_OWN = frozenset({"accept_ra", "autoconf", "disable_ipv6"})


def is_of_pods(value: str) -> bool:
    """Return whether a pod may have a parameter of its own; far cheaper than to say why not."""
    parts = _parts(value)
    name = ".".join(part.replace(".", "/") for part in parts)
    if name in _IPC or (name.startswith(_MQUEUE) and len(parts) == 3):
        return True
    return is_network_sysctl(name) and len(parts) >= 3


def sysctl_name(value: str) -> str:
    """Return the one form of a kernel parameter's name, of both that sysctl(8) takes.

    It has dots between its parts, and a slash for each dot inside of one: "net.ipv4.conf.eth0/1.forwarding".
    """
    parts = _parts(value)
    if len(value) > _NAME_LENGTH or not all(map(_PART.fullmatch, parts)) or {".", ".."} & set(parts):
        raise ValueError(
            f'{show(value)} is not a kernel parameter; write a name such as "net.core.somaxconn"'
        )
    name = ".".join(part.replace(".", "/") for part in parts)
    if not is_of_pods(value):
        guess = closest(name, _IPC)
        right = f"did you mean {show(guess)}?" if guess else f"set it on the machine: `sysctl -w {name}=…`"
        raise ValueError(
            f"{show(value)} is not a parameter that a pod has of its own; net.*, kernel.shm*, kernel.msg*, "
            f"kernel.sem and fs.mqueue.* are: {right}"
        )
    interface = interface_of(name)
    if interface is not None and name.startswith("net.ipv6.conf.") and name.rpartition(".")[2] in _OWN:
        raise ValueError(
            f"{show(value)} is set by the agent, as the addresses of {interface} in the file need it; "
            f"leave it out"
        )
    return name


def sysctl_value(value: str) -> str:
    """Return what can be written into a kernel parameter."""
    plain = value.isascii() and value.replace("\t", " ").isprintable()
    if not value.strip() or len(value) > _VALUE_LENGTH or not plain:
        raise ValueError(f'{show(value)} is not a value; write one line, such as "1024" or "32768 60999"')
    return " ".join(value.split())


def is_network_sysctl(name: str) -> bool:
    """Return whether a parameter is one of the network namespace."""
    return name.startswith(_NETWORK)


def interface_of(name: str) -> str | None:
    """Return the interface that a parameter is of; None for one that is there before any interface is."""
    found = _INTERFACE.fullmatch(".".join(part.replace(".", "/") for part in _parts(name)))
    return None if found is None or found[1] in _NO_INTERFACE else found[1].replace("/", ".")


def network_sysctl_path(name: str) -> str:
    """Return the path of a parameter below /proc/sys/net; ValueError if it is none of a pod's own."""
    name = sysctl_name(name)
    if not is_network_sysctl(name):
        raise ValueError(f"{show(name)} is not a parameter of the network")
    return "/".join(_parts(name)[1:])


def _parts(name: str) -> list[str]:
    # Whichever separator stands first is the separator.
    first = re.search(r"[./]", name)
    if first is not None and first[0] == "/":
        return name.split("/")
    return [part.replace("/", ".") for part in name.split(".")]
