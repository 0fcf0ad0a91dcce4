"""docs/reference.md has one row for every key of both files, and says what the schema says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.errors import OwnedElsewhere
from tank_agent.journal import ownership
from tank_agent.journal.records import DesiredPod
from tank_agent.reconcile.changes import TABLE
from tank_agent.settings.settings import SettingsTable, load_settings
from tank_agent.spec.file import PodTable
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import parse_pod_file
from tank_agent.spec.structure import toml_value

REFERENCE = (Path(__file__).parents[3] / "docs" / "reference.md").read_text()


def definitions() -> dict[str, dict[str, Any]]:
    _, found = msgspec.json.schema_components([PodTable, SettingsTable], ref_template="{name}")
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
    if node["type"] == "object" and "$ref" in node["additionalProperties"]:
        return "tables by name"
    if node["type"] == "object":
        return "table of text"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}[
        node["type"]
    ]


def default(table: dict[str, Any], key: str, node: dict[str, Any]) -> str:
    if key in table["required"]:
        return "**needed**"
    value = node.get("default")
    return "" if value in (None, [], ()) else f"`{toml_value(value)}`"


def rows(table: dict[str, Any]) -> list[str]:
    """Return the rows of the reference for one table."""
    table.setdefault("required", [])
    return [
        f"| `{key}` | {kind(node)} | {default(table, key, node)} | {node['description']} |"
        for key, node in table["properties"].items()
    ]


@pytest.mark.parametrize("name", sorted(definitions()))
def test_every_key_has_its_row(name: str) -> None:
    wanted = "\n".join(rows(definitions()[name]))
    assert wanted in REFERENCE, f"docs/reference.md should have these rows:\n{wanted}"


def test_the_change_table_is_the_codes() -> None:
    wanted = "\n".join(f"| `{row.key}` | {row.effect} | {row.note} |" for row in TABLE)
    assert wanted in REFERENCE, f"docs/reference.md should have these rows:\n{wanted}"


def blocks(first_line: str) -> list[str]:
    """Return the TOML examples of the reference that begin with a comment that says which file they are."""
    return [
        block.partition("```")[0] for block in REFERENCE.split("```toml\n") if block.startswith(first_line)
    ]


def test_the_examples_of_pod_files_are_valid() -> None:
    examples = blocks("# pods.d/")
    assert len(examples) >= 2
    for example in examples:
        parsed = parse_pod_file(example, "example.toml")
        assert parsed.problems == ()
        assert parsed.pods


def test_the_examples_of_agent_toml_are_valid(tmp_path: Path) -> None:
    (example,) = blocks("# /etc/tank/agent.toml")
    file = tmp_path / "agent.toml"
    file.write_text(example)
    assert load_settings(file, environ={}).seed_problems == ()


def test_the_documents_show_messages_as_they_are_printed() -> None:
    docs = "".join((Path(__file__).parents[3] / "docs" / name).read_text() for name in ("cli.md", "guide.md"))
    head = '[[containers]]\nname = "app"\n'
    for file, text in (
        ("web.toml", f'{head}image = ""\n'),
        ("/etc/tank/pods.d/clock.toml", f'{head}image = "oci:/srv/x"\ncomand = []\n'),
    ):
        (problem,) = parse_pod_file(text, file).problems
        assert f"\n{problem}\n" in docs
    db = DesiredPod(
        name="db",
        pod=Pod(name="db", containers=()),
        owner="dir:/etc/tank/pods.d/db.toml",
        revision="r",
        generation=1,
        hash="",
        changed_at=0.0,
    )
    with pytest.raises(OwnedElsewhere) as refused:
        ownership.refuse_deletion(db, owner_exists=True)
    assert f"\ntank: {refused.value}\n" in docs
