"""Every word of another tool in agent.toml is answered: by our word for it, or by why there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import InvalidSpec
from tank_agent.settings.declaration import table_of
from tank_agent.settings.settings import Settings, load_settings
from tank_agent.spec.other_tools.agent_keys import OTHER_TOOLS, REASONS, WITHOUT_KEY
from tank_agent.spec.other_tools.form import folded
from tests.unit.spec.other_tools import foreign
from tests.unit.test_completeness import declared_in


def problems(file: Path, text: str) -> list[str]:
    """Return the problems of agent.toml, as `line: key: message`."""
    file.write_text(text)
    with pytest.raises(InvalidSpec) as caught:
        load_settings(file, environ={})
    return [str(problem).removeprefix(f"{file}:") for problem in caught.value.problems]


@pytest.mark.parametrize("words", ["DOCKERD", "PODMAN_CONF", "KUBELET", "GITOPS", "NOMAD_AGENT"])
def test_every_word_of_another_tool_is_answered(words: str, tmp_path: Path) -> None:
    answers = {
        word: problems(tmp_path / "a", f'"{word}" = "x"\n') for word in getattr(foreign, words).split()
    }
    assert {word: found for word, found in answers.items() if "known here" in found[0]} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('data-root = "/srv"', "1: data-root: unknown key; did you mean data_dir?"),
        (
            'registry-mirrors = ["https://mirror.lan"]',
            "1: registry-mirrors: unknown key; "
            'write [registry."docker.io"] with mirrors = ["mirror.lan:5000"]',
        ),
        (
            '[registry]\nmirrors = ["mirror.lan"]',
            "2: registry.mirrors: must be a table, not a list; "
            'write [registry."docker.io"] with mirrors = ["mirror.lan:5000"]',
        ),
        ("[logs]\nmax-file = 3", "2: logs.max-file: unknown key; did you mean max_files?"),
        (
            'log-driver = "journald"',
            "1: log-driver: unknown key; the agent keeps what is printed, see [logs]; remove it",
        ),
        ("interval = '1m'", "1: interval: unknown key; it is called poll, and belongs in [git]"),
        ("poll = '1m'", "1: poll: unknown key here; poll belongs in [git]"),
        ("podsDir = '/x'", "1: podsDir: unknown key; did you mean pods_dir?"),
        (
            "[reconcile]\npods_dir = '/x'",
            "2: reconcile.pods_dir: unknown key here; pods_dir belongs at the top, before all [tables]",
        ),
    ],
)
def test_words_are_answered_by_ours(text: str, expected: str, tmp_path: Path) -> None:
    assert problems(tmp_path / "agent.toml", text + "\n") == [expected]


def test_a_word_has_one_answer_in_one_place() -> None:
    said = [folded(word) for words in REASONS.values() for word in words.split()]
    assert sorted(said) == sorted(set(said))
    ours = {declared.name for _, declared in declared_in(table_of(Settings))}
    assert {word for word in WITHOUT_KEY if word in OTHER_TOOLS} == set()
    assert {key for keys in OTHER_TOOLS.values() for key in keys} <= ours
