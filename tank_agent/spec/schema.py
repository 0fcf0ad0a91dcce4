"""The JSON Schema of a pod file, for editors."""

from __future__ import annotations

from typing import Any

import msgspec

from tank_agent.spec.file import PodTable

Json = dict[str, Any]


def json_schema() -> Json:
    """Return the schema (2020-12) of a pod file: one pod at the top, or a list of `[[pods]]`."""
    (reference,), definitions = msgspec.json.schema_components([PodTable], ref_template="#/$defs/{name}")
    tables: Json = {name: for_editors(node) for name, node in definitions.items()}
    named = {**tables["PodTable"], "title": "One of several pods", "required": ["containers", "name"]}
    words, items = "Several pods in one file; each needs a name.", {"$ref": "#/$defs/NamedPodTable"}
    pods = {"description": words, "type": "array", "minItems": 1, "items": items}
    several = {
        "title": "A file with several pods",
        "type": "object",
        "properties": {"pods": pods},
        "required": ["pods"],
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Pod file of tank-agent",
        "description": "One pod, or several as [[pods]]. docs/reference.md explains every key.",
        "oneOf": [reference, several],
        "$defs": {**tables, "NamedPodTable": named},
    }


def for_editors(node: Any) -> Any:
    """Take out null, which TOML cannot write, and add the check that a pod has containers."""
    if isinstance(node, list):
        return [for_editors(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    result = {key: for_editors(value) for key, value in node.items() if (key, value) != ("default", None)}
    if len(result.get("anyOf", ())) == 1:
        (only,) = result.pop("anyOf")
        result = {**only, **result}
    if "containers" in result.get("properties", ()):
        result["properties"]["containers"]["minItems"] = 1
    return result
