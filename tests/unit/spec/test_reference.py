"""docs/reference.md has one row for every key of both files, and says what the schema says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tank_agent.errors import OwnedElsewhere
from tank_agent.journal import ownership
from tank_agent.journal.records import DesiredPod
from tank_agent.settings.settings import load_settings
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import parse_pod_file

ROOT = Path(__file__).parents[3]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
# The directory is no package: its name is that of a library.
_found = importlib.util.spec_from_file_location("key_pages", ROOT / "packaging" / "key_pages.py")
assert _found is not None and _found.loader is not None
key_pages = importlib.util.module_from_spec(_found)
_found.loader.exec_module(key_pages)


@pytest.mark.parametrize("name", sorted(key_pages.definitions()))
def test_every_key_has_its_row(name: str) -> None:
    wanted = "\n".join(key_pages.rows(key_pages.definitions()[name]))
    assert wanted in REFERENCE, f".venv/bin/python packaging/key_pages.py writes these rows:\n{wanted}"


def test_the_change_table_is_the_codes() -> None:
    assert "\n".join(key_pages.change_rows()) in REFERENCE, "run .venv/bin/python packaging/key_pages.py"
    assert key_pages.reference(REFERENCE) == REFERENCE, "run .venv/bin/python packaging/key_pages.py"


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
        ("clock.toml", f'# clock.toml\n{head}image = "oci:/srv/x"\ncomand = []\n'),
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
