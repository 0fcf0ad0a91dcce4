"""The sentence for a value as other tools have it: what to write in its place."""

from __future__ import annotations

import re
import shlex

from tank_agent.spec.findings import closest, exact, show
from tank_agent.spec.other_tools import labels
from tank_agent.spec.other_tools.values import (
    NETWORKS,
    PULL_POLICIES,
    PULL_TIMES,
    RESTART_POLICIES,
    USER_NAMESPACES,
)
from tank_agent.spec.ports import port_text
from tank_agent.spec.values import nearest_name

_BRIDGE_NAME = re.compile("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST_ENTRY = re.compile(r"(?P<name>[^:=\s]+)[:=]\[?(?P<address>[^\s\]]+)\]?")

# What needs no quotes as a key.
_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]{0,39}")
# What a shell does, and nobody else.
_SHELL = re.compile(r"[|&;<>()$`*?\n]|(?:^|\s)~")
_EXACT_MAX = 200
_MILLICORES = re.compile("([0-9]{1,6})m")
_PERCENT = re.compile(r"([0-9]{1,6})(?:\.0+)? ?%")
_CORES = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")


def list_of(given: str) -> str | None:
    """Return a text as the list of its words, as a shell splits it; None for one that is too long to show."""
    try:
        words = shlex.split(given)
    except ValueError:
        words = [given]
    return f"[{', '.join(map(exact, words or ['']))}]" if len(given) <= _EXACT_MAX else None


def of_command(given: object) -> str | None:
    """Return the sentence for a command line that is one text."""
    if not isinstance(given, str) or not given.strip():
        return None
    if len(given) > _EXACT_MAX:
        return 'write each word of it, such as ["nginx", "-g", "daemon off;"]'
    # In single quotes a shell does nothing.
    if _SHELL.search(re.sub("'[^']*'", "", given)):
        return f'write ["/bin/sh", "-c", {exact(given)}]'
    return f"write {list_of(given)}"


def of_cores(given: object) -> str | None:
    """Return the sentence for CPU time as a text: "500m" of Kubernetes, "50%" of systemd, "0.5"."""
    if not isinstance(given, str):
        return None
    for form, divisor in ((_MILLICORES, 1000), (_PERCENT, 100)):
        found = form.fullmatch(given.strip())
        if found and int(found[1]):
            return f"write {int(found[1]) / divisor:g}"
    return f"write {given} without quotes" if _CORES.fullmatch(given) else None


def of_pull(given: object) -> str | None:
    """Return the sentence for when to ask the registry."""
    word = str(given).lower().replace("_", "-") if isinstance(given, str | bool) else ""
    if word in PULL_POLICIES:
        return f"write {show(PULL_POLICIES[word])}"
    return PULL_TIMES.get(word.partition("-")[0])


def of_user_namespace(given: object) -> str | None:
    """Return the sentence for a user namespace."""
    word = str(given).lower() if isinstance(given, str | bool) else "-"
    return USER_NAMESPACES.get(word.partition(":")[0])


def of_variables(given: object) -> str | None:
    """Return the sentence for variables as one text."""
    name, equals, value = given.partition("=") if isinstance(given, str) else ("", "", "")
    if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,40}", name) or len(value) > _EXACT_MAX:
        return None
    return f"write {{ {name} = {exact(value)} }}"


def of_capabilities(given: object) -> str | None:
    """Return the sentence for capabilities without the word whether to add or to drop them."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        return None
    return f"write {{ add = [{', '.join(map(show, given[:5]))}] }}, or drop"


def of_volume(given: object) -> str | None:
    """Return the sentence for a volume in compose's short form, or by its name alone."""
    source, colon, path = given.partition(":") if isinstance(given, str) else ("", "", "")
    if not source:
        return None
    mount = f", and [[containers.mounts]] with it and path = {show(path.partition(':')[0])}" if colon else ""
    if source.startswith(("/", ".", "~")):
        name = volume_name(source)
        host = source if source.startswith("/") else f"/…/{source.lstrip('./~')}"
        return f"write [[volumes]] with name = {show(name)} and host = {show(host)}{mount}"
    return f"write [[volumes]] with name = {show(volume_name(source))}{mount}"


def volume_name(path: str) -> str:
    """Return the name of a volume for a directory or file of the host."""
    return nearest_name(path.rstrip("/").rpartition("/")[2]) or "data"


def of_port(given: object) -> str | None:
    """Return the sentence for a port that is no text."""
    text = port_text(given)
    return f"write {show(text)}" if text else None


def of_ports(given: object) -> str | None:
    """Return the sentence for ports that are no list."""
    one = port_text(given)
    pairs = given.items() if isinstance(given, dict) and not one else ()
    texts = [one] if one else [text for host, pod in pairs if (text := port_text({"host": host, "pod": pod}))]
    return f"write [{', '.join(map(show, texts[:5]))}]" if texts else None


def of_restart(given: object) -> str | None:
    """Return the sentence for a restart policy as other tools have it."""
    word = str(given).lower().replace("_", "-") if isinstance(given, str | bool) else ""
    word = word.partition(":")[0] if word.startswith("on-failure:") else word
    return f"write {show(RESTART_POLICIES[word])}" if word in RESTART_POLICIES else None


def of_network(given: object) -> str | None:
    """Return the sentence for a network as other tools name it; None where a better one is known."""
    if isinstance(given, bool):
        return NETWORKS[str(given).lower()]
    if isinstance(given, list) and given and all(isinstance(name, str) for name in given):
        return f"write bridges = [{', '.join(map(show, given[:5]))}] in a table [network]"
    return _network_advice(given) if isinstance(given, str) else None


def _network_advice(given: str) -> str | None:
    word, colon, rest = given.lower().partition(":")
    if word in NETWORKS:
        return NETWORKS[word]
    name = word.removesuffix(".network")
    if word == "bridge" and colon:
        # podman has the name of one there, or options.
        name = rest
        if not rest or "=" in rest:
            return 'write "bridge"'
    elif word == "host" and colon:
        return 'write "host"'
    elif colon or (name == word and closest(given, ("bridge", "host", "none"))):
        return None
    return f"write bridges = [{show(name)}] in a table [network]" if _BRIDGE_NAME.fullmatch(name) else None


def of_hosts(given: object) -> str | None:
    """Return the sentence for names with addresses as a list of texts, or of Kubernetes' tables."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, dict):
        names = first.get("hostnames")
        first = f"{names[0]}={first.get('ip')}" if isinstance(names, list) and names else None
    found = _HOST_ENTRY.fullmatch(first) if isinstance(first, str) else None
    return f"write {{ {show(found['name'])} = {show(found['address'])} }}" if found else None


def of_labels(given: object) -> str | None:
    """Return the sentence for labels as a list of texts, as in compose; None where a better one is known."""
    first = given[0] if isinstance(given, list) and given else None
    name, equals, value = first.partition("=") if isinstance(first, str) else ("", "", "")
    if labels.is_of_a_container(name):
        return (
            f"labels for other tools, such as {show(name)}, mean nothing here; remove them (labels at the top"
            " of a pod select the machines that run it)"
        )
    return (
        f"write labels = {{ {show(name)} = {show(value)} }}"
        if equals and not _PLAIN.fullmatch(name)
        else None
    )
