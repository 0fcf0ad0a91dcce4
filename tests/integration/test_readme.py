"""The README's second terminal, word for word, against `./dev run`, in a network of its own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tank_agent.linux import namespaces
from tests.support.dev_run import ROOT, environment, foreground, left_behind, wait_for
from tests.support.lan import Network


def second_terminal() -> str:
    """Return the lines that the README has a newcomer type into the second terminal, in order."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Your first pod") : text.index("## How the data flows")]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 3
    return "\n".join(blocks)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Network]:
    """Return a network with nothing but loopback, so that the ports of this machine are left alone."""
    path = tmp_path / "network"
    namespaces.create_network_namespace(path)
    yield Network(path)
    namespaces.unpin(path)


@pytest.mark.timeout(180)
def test_a_newcomer_who_follows_it_word_for_word_succeeds(tmp_path: Path, machine: Network) -> None:
    directory = tmp_path / "run"
    # The only difference: ./dev run of a test lies elsewhere, so that it may run beside one of the user's.
    script = second_terminal().replace("$PWD/.dev/run", str(directory)).replace(".dev/run", str(directory))

    def type_in() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=ROOT,
            env=environment(directory),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    with ExitStack() as first_terminal:
        process = machine(first_terminal.enter_context, foreground(directory))
        wait_for(process, directory, "hello")
        done = machine(type_in)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"first.toml:6: containers\[0\].comand: .*command", done.stdout), done.stdout
    # Each is logged and served; the log of the second container begins with the first's.
    said = [line for line in done.stdout.splitlines() if line in ("hello", "good morning")]
    assert said == ["hello", "hello", "hello", "good morning", "good morning"], done.stdout
    assert "removed" in done.stdout
    assert left_behind(directory) == []
    assert machine.links() == {"lo"}
