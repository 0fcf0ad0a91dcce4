"""Write a pod as a pod file that reads back as an equal pod, by the declaration of each key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from tank_agent.spec.file import PodTable
from tank_agent.spec.keys import DeclaredKey, keys_of
from tank_agent.spec.model import Pod, defaults_of
from tank_agent.spec.toml_text import Inline, write_toml


def render_pod(pod: Pod) -> str:
    """Return the TOML text of a pod, as `tank get` prints it; what is at its default is left out."""
    table = _table(PodTable, pod)
    containers = table.pop("containers")
    return write_toml({**table, "containers": containers})


def _table(kind: type[Struct], given: Struct) -> dict[str, Any]:
    defaults = dict(defaults_of(type(given)))
    table = {}
    for declared in keys_of(kind):
        name, key = declared.name, declared.key
        is_field = hasattr(given, name)
        # A key that is no field of the pod, such as `hosts`, is no part of what runs.
        if key.written is None and not is_field:
            continue
        if is_field and getattr(given, name) == defaults[name] and not key.always:
            continue
        value = getattr(given, name) if key.written is None else key.written(given)
        table[name] = _value(declared, value)
    return table


def _value(declared: DeclaredKey, value: Any) -> Any:
    if isinstance(value, Struct):
        return _table(declared.tables[0], value)
    if isinstance(value, tuple):
        return [_value(declared, item) for item in value]
    return Inline(value) if isinstance(value, Mapping) else value
