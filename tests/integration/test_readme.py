"""The README's second terminal, word for word, against `./dev run`, in a network of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tank_agent.linux import namespaces
from tests.support.dev_run import ROOT, foreground, left_behind, type_in, wait_for
from tests.support.lan import Network
from tests.support.page import Step, differences, script_of, steps_of


def second_terminal() -> list[Step]:
    """Return what the README has a newcomer type into the second terminal, in order."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Your first pod") : text.index("## How the data flows")]
    # nginx is where there is a registry.
    return [step for step in steps_of(section) if not step.file]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Network]:
    """Return a network with nothing but loopback, so that the ports of this machine are left alone."""
    path = tmp_path / "network"
    namespaces.create_network_namespace(path)
    yield Network(path)
    namespaces.unpin(path)


def test_a_newcomer_who_follows_it_word_for_word_succeeds(tmp_path: Path, machine: Network) -> None:
    directory = tmp_path / "run"
    # The only difference: ./dev run of a test lies elsewhere, so that it may run beside one of the user's.
    steps = second_terminal()
    script = script_of(steps).replace("$PWD/.dev/run", str(directory)).replace(".dev/run", str(directory))

    with ExitStack() as first_terminal:
        process = machine(first_terminal.enter_context, foreground(directory))
        wait_for(process, directory, "hello")
        done = machine(partial(type_in, directory, 120.0, "bash", "-c", script))
    assert differences(steps, done.stdout) == []
    assert re.search(r"first.toml:10: containers\[0\].comand: .*command", done.stdout), done.stdout
    said = [line for line in done.stdout.splitlines() if line in ("hello", "good morning")]
    assert said == ["hello", "hello", "good morning"], done.stdout
    assert "0.0.0.0:8080→80/tcp" in done.stdout
    assert "response:200" in done.stdout
    assert "removed" in done.stdout
    assert left_behind(directory) == []
    assert machine.links() == {"lo"}
