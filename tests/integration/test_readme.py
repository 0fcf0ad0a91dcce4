"""The README's second terminal, word for word, against `./dev run`."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.dev_run import ROOT, environment, foreground, left_behind, wait_for


def second_terminal() -> str:
    """Return the lines that the README has a newcomer type into the second terminal, in order."""
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## Your first pod") : text.index("## How the data flows")]
    blocks = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 3
    return "\n".join(blocks)


@pytest.mark.timeout(180)
def test_a_newcomer_who_follows_it_word_for_word_succeeds(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    # The only difference: ./dev run of a test lies elsewhere, so that it may run beside one of the user's.
    script = second_terminal().replace("$PWD/.dev/run", str(directory)).replace(".dev/run", str(directory))
    with foreground(directory) as process:
        wait_for(process, directory, "hello")
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=ROOT,
            env=environment(directory),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"first.toml:4: containers\[0\].comand: .*command", done.stdout), done.stdout
    assert re.search(r"^hello$", done.stdout, flags=re.MULTILINE), done.stdout
    assert re.search(r"^good morning$", done.stdout, flags=re.MULTILINE), done.stdout
    assert "removed" in done.stdout
    assert left_behind(directory) == []
