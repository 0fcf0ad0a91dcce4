"""The JSON Schema of a pod file, for editors: titles, descriptions, patterns, defaults, and both forms."""

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
    pods = {
        "description": "Several pods in one file; each needs a name.",
        "type": "array",
        "minItems": 1,
        "items": {"$ref": "#/$defs/NamedPodTable"},
    }
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
    """Take out null, which TOML cannot write, and say of lists what the checks will."""
    if isinstance(node, list):
        return [for_editors(item) for item in node if item != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    result = {
        key: for_editors(value) for key, value in node.items() if not (key == "default" and value is None)
    }
    alternatives = result.get("anyOf")
    if alternatives is not None and len(alternatives) == 1:
        del result["anyOf"]
        result = {**alternatives[0], **result}
    properties = result.get("properties")
    if properties and "containers" in properties:
        properties["containers"]["minItems"] = 1
    return result
