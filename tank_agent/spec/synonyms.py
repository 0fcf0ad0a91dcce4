"""Guesses which key an unknown one was meant to be: mistyped, another tool's word, or in the wrong table."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tank_agent.spec.findings import closest, show

# What other tools (compose, Kubernetes, Quadlet, Nomad) call our keys.
_OTHER_TOOLS = {
    "address": "ip",
    "addresses": "ip",
    "cmd": "args",
    "container": "containers",
    "cpus": "cpu",
    "cwd": "working_dir",
    "destination": "path",
    "entrypoint": "command",
    "environment": "env",
    "interfaces": "nics",
    "kill_signal": "stop_signal",
    "mem": "memory",
    "mem_limit": "memory",
    "mountpath": "path",
    "nameservers": "dns",
    "pids_limit": "pids",
    "resources": "limits",
    "restart_policy": "restart",
    "restartpolicy": "restart",
    "ro": "read_only",
    "readonly": "read_only",
    "source": "host",
    "stop_grace_period": "stop_grace",
    "stop_timeout": "stop_grace",
    "stopsignal": "stop_signal",
    "target": "path",
    "volume_mounts": "mounts",
    "volumemounts": "mounts",
    "workdir": "working_dir",
    "workingdir": "working_dir",
}
_KNOWN_SHOWN = 12


class KeyGuesser:
    """Knows all keys of a schema that msgspec made, and in which tables they stand."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._headers = _find_headers(schema)

    def guess(self, key: str, known: Collection[str]) -> str | None:
        """Return which of the known keys of the same table was probably meant, or None."""
        word = str(key).lower().replace("-", "_")
        other = _OTHER_TOOLS.get(word)
        if other in known:
            return other
        if key in self._headers:
            return None  # Right in itself, and only in the wrong table.
        return closest(str(key), known)

    def message(self, key: str, guess: str | None, schema: dict[str, Any]) -> str:
        """Return the sentence about an unknown key."""
        if guess:
            return f"unknown key; did you mean {guess}?"
        places = self._headers.get(_OTHER_TOOLS.get(str(key).lower(), str(key)))
        if places:
            return f"unknown key here; {show(key)[1:-1]} belongs {' or '.join(places[:3])}"
        known = sorted(schema.get("properties", {}))
        if len(known) > _KNOWN_SHOWN:
            return "unknown key; docs/reference.md lists the known ones"
        return f"unknown key; known here: {', '.join(known)}"


def _find_headers(schema: dict[str, Any]) -> dict[str, list[str]]:
    """Return, for every key, the tables that have it, as their headers are written."""
    headers: dict[str, list[str]] = {}
    definitions = schema.get("$defs", {})

    def walk(node: dict[str, Any], header: str) -> None:
        for key, child in node.get("properties", {}).items():
            headers.setdefault(key, []).append(
                f"in {header}" if header else "to the pod itself, before all its [tables]"
            )
            path = f"{header.strip('[]')}.{key}" if header else key
            for inner, is_list in _tables_in(child):
                walk(definitions[inner], f"[[{path}]]" if is_list else f"[{path}]")

    walk(definitions.get(schema.get("$ref", "").rpartition("/")[2], schema), "")
    return headers


def _tables_in(node: dict[str, Any]) -> list[tuple[str, bool]]:
    found = [(branch, False) for branch in node.get("anyOf", [node])]
    if "items" in node:
        found.append((node["items"], True))
    return [(inner["$ref"].rpartition("/")[2], is_list) for inner, is_list in found if "$ref" in inner]
