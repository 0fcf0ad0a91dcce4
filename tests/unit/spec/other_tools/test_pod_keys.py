"""Every word of another tool in a pod file is answered: by our word for it, or by why there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tank_agent.spec.file import PodTable
from tank_agent.spec.other_tools import pod_reasons
from tank_agent.spec.other_tools.form import folded
from tank_agent.spec.other_tools.pod_keys import OTHER_TOOLS
from tank_agent.spec.other_tools.pod_reasons import WITHOUT_KEY
from tank_agent.spec.parse import parse_pod_file
from tests.unit.spec.other_tools import foreign
from tests.unit.test_completeness import declared_in

CONTAINER = '[[containers]]\nname = "app"\nimage = "oci:/srv/app"\n'
# The table of ours → the file before the word. A pod's own keys stand before its tables.
BEFORE = {
    "": "",
    "containers": CONTAINER,
    "health": f"{CONTAINER}[containers.health]\ntcp = 1\n",
    "limits": f"{CONTAINER}[containers.limits]\n",
    "mounts": f'[[volumes]]\nname = "d"\n{CONTAINER}[[containers.mounts]]\nvolume = "d"\npath = "/d"\n',
    "network": f"{CONTAINER}[network]\n",
    "security": f"{CONTAINER}[containers.security]\n",
    "update": f"{CONTAINER}[update]\n",
    "volumes": f'{CONTAINER}[[volumes]]\nname = "d"\n',
    "files": f'{CONTAINER}[[files]]\nname = "d"\ncontent = "x"\n',
    "secrets": f'{CONTAINER}[[secrets]]\nname = "d"\nhost = "/x"\n',
}
# A table of theirs → those of ours in which its words would be written.
OURS = {"service": ("", "containers"), "deploy": ("", "containers", "limits"), "restart_policy": ("",)}


def cases() -> Iterator[tuple[str, str]]:
    for tool in (foreign.COMPOSE, foreign.QUADLET, foreign.KUBERNETES, foreign.NOMAD):
        for theirs, words in tool.items():
            for table in OURS.get(theirs, (theirs,)):
                yield from ((table, word) for word in words.split())
    for words in (foreign.PODMAN_RUN, foreign.SYSTEMD):
        yield from ((table, word) for table in ("", "containers") for word in words.split())


def messages(table: str, word: str) -> list[str]:
    before = BEFORE[table]
    text = f'{before}"{word}" = "x"\n{"" if before else CONTAINER}'
    found = parse_pod_file(text, "web.toml").problems
    return [problem.message for problem in found if problem.key.rpartition(".")[2].strip('"') == word]


@pytest.mark.parametrize("table", sorted(BEFORE))
def test_every_word_of_another_tool_is_answered(table: str) -> None:
    """A word that we have, too, needs no answer unless its value is wrong."""
    unanswered = {}
    for place, word in cases():
        found = messages(place, word) if place == table else []
        if any("known here" in message for message in found):
            unanswered[word] = found
    assert unanswered == {}


def test_what_a_tool_writes_differently_is_one_word() -> None:
    answers = {tuple(messages("containers", word)) for word in ("workingDir", "WorkingDir", "working-dir")}
    assert answers == {("unknown key; did you mean working_dir?",)}


def test_a_word_has_one_answer_in_one_place() -> None:
    said = [
        folded(word) for table in pod_reasons.TABLES for words in table.values() for word in words.split()
    ]
    assert sorted(said) == sorted(set(said))
    ours = {folded(declared.name) for _, declared in declared_in(PodTable)}
    assert {word for word in WITHOUT_KEY if word in OTHER_TOOLS} == set()
    assert {word for word in WITHOUT_KEY if word in ours} == set()
