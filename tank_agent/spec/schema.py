"""The JSON Schema of a pod file, for editors, which says of each key what it is and of an error which key."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.spec.file import PodTable

Json = dict[str, Any]

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = "#/$defs/"


def json_schema() -> Json:
    """Return the schema (2020-12) of a pod file: one pod at the top, or a list of `[[pods]]`."""
    tables = pod_tables()
    keys = tables["PodTable"]["properties"]
    words, items = "Several pods in one file; each needs a name.", {"$ref": f"{_REFERENCE}NamedPodTable"}
    pods = {"description": words, "type": "array", "minItems": 1, "items": items}
    schema = {
        "$schema": DRAFT,
        "title": "Pod file of tank-agent",
        "description": "One pod, or several as [[pods]]. tank-pod(5) explains every key.",
        "type": "object",
        # Not oneOf, whose error would name the whole file and not the key.
        "properties": {**keys, "pods": pods},
        "additionalProperties": False,
        "if": {"required": ["pods"]},
        "then": {"properties": dict.fromkeys(keys, False)},
        "else": {"required": ["containers"]},
        "$defs": tables,
    }
    found: Json = at_their_keys(schema, tables)
    return found


def pod_tables() -> Json:
    """Return the schema of each table of a pod file by its name."""
    tables = tables_of(PodTable)
    named = {**tables["PodTable"], "title": "One of several pods", "required": ["containers", "name"]}
    return {**tables, "NamedPodTable": named}


def tables_of(kind: type[Struct]) -> Json:
    """Return the schema of a declared table, and of each in it, by name."""
    _, definitions = msgspec.json.schema_components([kind], ref_template=f"{_REFERENCE}{{name}}")
    return {name: _for_editors(node) for name, node in definitions.items()}


def _for_editors(node: Any) -> Any:
    """Take out null, which TOML cannot write, and add the check that a pod has containers."""
    if isinstance(node, list):
        return [_for_editors(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    result = {key: _for_editors(value) for key, value in node.items() if (key, value) != ("default", None)}
    if len(result.get("anyOf", ())) == 1:
        (only,) = result.pop("anyOf")
        result = {**only, **result}
    if "containers" in result.get("properties", ()):
        result["properties"]["containers"]["minItems"] = 1
    return result


def at_their_keys(node: Any, tables: Json) -> Any:
    """Write a table beside the choice that it is in: its keys then have errors of their own."""
    if isinstance(node, list):
        return [at_their_keys(item, tables) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: at_their_keys(value, tables) for key, value in node.items()}
    choices = result.get("anyOf", [])
    names = [choice["$ref"].removeprefix(_REFERENCE) for choice in choices if "$ref" in choice]
    if len(names) == 1:
        table = at_their_keys(tables[names[0]], tables)
        inner = {
            key: table[key] for key in ("properties", "required", "additionalProperties") if key in table
        }
        result["anyOf"] = [{"type": "object"} if "$ref" in choice else choice for choice in choices]
        result = {**inner, **result}
    return result
