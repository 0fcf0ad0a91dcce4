"""The JSON Schema of agent.toml, for editors."""

from __future__ import annotations

from tank_agent.settings.declaration import table_of
from tank_agent.settings.settings import Settings
from tank_agent.spec.schema import DRAFT, Json, at_their_keys, pod_tables, tables_of


def json_schema() -> Json:
    """Return the schema (2020-12) of agent.toml, which may hold pods, too."""
    tables = {**pod_tables(), **setting_tables()}
    top = tables["SettingsTable"]
    schema = {
        "$schema": DRAFT,
        "title": "agent.toml of tank-agent",
        "description": f"{top['description'].rstrip('.')}. tank-agent.toml(5) explains every key.",
        **{key: value for key, value in top.items() if key not in ("title", "description")},
        "$defs": tables,
    }
    found: Json = at_their_keys(schema, tables)
    return found


def setting_tables() -> Json:
    """Return the schema of each table of agent.toml by its name."""
    tables = tables_of(table_of(Settings))
    tables["SettingsTable"]["properties"]["pods"] = {
        "description": "Seeds: pods that are created once, if absent; as in a pod file, with a name.",
        "type": "array",
        "items": {"$ref": "#/$defs/NamedPodTable"},
    }
    return tables
