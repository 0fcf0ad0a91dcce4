"""Derive man pages, schemas and the tables of docs/reference.md from the declarations of keys.

.venv/bin/python packaging/key_pages.py     # in the root: writes schema/ and those tables anew
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402  (after the line above: the sources beside this file, not what is installed)

from tank_agent.reconcile.core.changes import TABLE  # noqa: E402
from tank_agent.settings.declaration import table_of  # noqa: E402
from tank_agent.settings.schema import json_schema as agent_schema  # noqa: E402
from tank_agent.settings.schema import setting_tables  # noqa: E402
from tank_agent.settings.settings import Settings  # noqa: E402
from tank_agent.spec.file import PodTable  # noqa: E402
from tank_agent.spec.schema import json_schema as pod_schema  # noqa: E402
from tank_agent.spec.schema import pod_tables  # noqa: E402
from tank_agent.spec.structure import toml_value  # noqa: E402

TEMPLATES = ROOT / "packaging" / "templates"
REFERENCE = ROOT / "docs" / "reference.md"
# The examples name them in their first line.
SCHEMAS = ROOT / "schema"
# A comment in the reference names the table of keys that follows; its rows are generated.
_MARKED = re.compile(r"(<!-- keys: (\w+) -->\n\|[^\n]*\n\|[-|]*\n)((?:\|[^\n]*\n)*)")
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def schemas() -> dict[Path, str]:
    """Return the text of both schemas, as the sources and the package have them, by their path here."""
    found = {"pod": pod_schema(), "agent": agent_schema()}
    return {
        SCHEMAS / f"{name}.schema.json": json.dumps(schema, indent=2) + "\n" for name, schema in found.items()
    }


# --- docs/reference.md --------------------------------------------------------------------------------------


def definitions() -> dict[str, dict[str, Any]]:
    """Return the schema of every table of both files by its name."""
    _, found = msgspec.json.schema_components([PodTable, table_of(Settings)], ref_template="{name}")
    return found


def kind(node: dict[str, Any]) -> str:
    """Return a type in the words of the reference."""
    if "anyOf" in node:
        words = [kind(branch) for branch in node["anyOf"] if branch != {"type": "null"}]
        return " or ".join(
            word for word in dict.fromkeys(words) if word != "whole number" or "number" not in words
        )
    if "enum" in node:
        return " or ".join(f'`"{value}"`' for value in node["enum"])
    if "$ref" in node:
        return "table"
    if node["type"] == "array":
        return "tables" if "$ref" in node["items"] else "list of text"
    if node["type"] == "object":
        values = node["additionalProperties"]
        by_name = "tables by name" if "$ref" in values else "table"
        return "table of text" if values.get("type") == "string" else by_name
    return _WORDS[node["type"]]


def rows(table: dict[str, Any]) -> list[str]:
    """Return the rows of the reference for one table."""
    found = []
    for key, node in table["properties"].items():
        value = node.get("default")
        default = "" if value in (None, [], ()) else f"`{toml_value(value)}`"
        default = "**needed**" if key in table.get("required", ()) else default
        found.append(f"| `{key}` | {kind(node)} | {default} | {node['description']} |")
    return found


def change_rows() -> list[str]:
    """Return the rows of the change table."""
    return [f"| `{row.key}` | {row.effect} | {row.note} |" for row in TABLE]


def reference(text: str) -> str:
    """Return docs/reference.md with its tables of keys as they are declared."""
    tables = {name: rows(table) for name, table in definitions().items()} | {"changes": change_rows()}

    def written(found: re.Match[str]) -> str:
        return found[1] + "".join(f"{row}\n" for row in tables[found[2]])

    return _MARKED.sub(written, text)


# --- man pages ----------------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """Escape text for groff(7)."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    lines = [f"\\&{line}" if line.startswith((".", "'")) else line for line in escaped.split("\n")]
    return "\n".join(lines)


def keys_page(top: str, intro: str) -> str:
    """Return the body of a page about a TOML file: its tables, as the schema has them."""
    definitions = {**pod_tables(), **setting_tables()}
    parts = [template(intro)]
    seen: set[str] = set()
    waiting = [(top, "")]
    while waiting:
        name, path = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        table = definitions[name]
        parts.append(f".SH {roff(path.upper() or 'KEYS')}\n{roff(table.get('description', ''))}\n")
        for key, node in table.get("properties", {}).items():
            parts.append(_key(key, node))
            if key != "pods":
                waiting += [(found, f"{path}.{key}".strip(".")) for found in _references(node)]
    return "".join(parts) + ".SH SEE ALSO\n.BR tank (1),\n.BR tank\\-agent (8)\n"


def _key(key: str, node: dict[str, Any]) -> str:
    text = roff(node.get("description", ""))
    if node.get("default") not in (None, [], {}, ""):
        text += f"\nDefault: {roff(json.dumps(node['default']))}."
    elif node.get("examples"):
        text += f"\nExample: {roff(json.dumps(node['examples'][0]))}."
    return f".TP\n\\fB{roff(key)}\\fR\n{text}\n"


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
        return found + [name for value in node.values() for name in _references(value)]
    if isinstance(node, list):
        return [name for value in node for name in _references(value)]
    return []


def template(name: str) -> str:
    """Return a part of a man page that is written by hand."""
    return (TEMPLATES / f"{name}.roff").read_text()


if __name__ == "__main__":
    REFERENCE.write_text(reference(REFERENCE.read_text()))
    for path, text in schemas().items():
        path.write_text(text)
