"""docs/guide.md, block by block as it stands, beside `./dev run`, in a network of its own."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path

from tests.integration.test_readme import machine
from tests.support.dev_run import ROOT, TANK, foreground, left_behind, type_in, wait_for
from tests.support.lan import Network
from tests.support.page import differences, script_of, steps_of

__all__ = ["machine"]
PAGE = (ROOT / "docs" / "guide.md").read_text()


def test_every_block_runs_and_prints_what_the_page_shows(tmp_path: Path, machine: Network) -> None:
    directory, place = tmp_path / "run", tmp_path / "srv"
    # What the page puts below /srv and /etc lies here, so that the machine is left alone.
    moved = PAGE.replace("tank image busybox ", f"tank image busybox {place}/images/busybox ")
    for written, here in (
        ("oci:/srv/", f"oci:{place}/"),
        (" /srv/notes", f" {place}/notes"),
        ('"/srv/notes', f'"{place}/notes'),
        ("/etc/tank/pods.d", str(directory / "pods.d")),
    ):
        assert written in moved
        moved = moved.replace(written, here)
    steps = steps_of(moved)
    script = f"PATH={TANK.parent}:$PATH\n{script_of(steps)}"

    with ExitStack() as first_terminal:
        process = machine(first_terminal.enter_context, foreground(directory))
        wait_for(process, directory, "hello")
        before = sorted((directory / "pods.d").rglob("*"))
        done = machine(partial(type_in, directory, 200.0, "sh", "-euc", script))
        after = sorted((directory / "pods.d").rglob("*"))
        volumes = [path.name for path in (directory / "data/volumes").iterdir()]
    assert differences(steps, done.stdout.strip()) == [], done.stdout
    assert done.returncode == 0
    assert after == before
    assert not (place / "notes").exists()
    assert "keeper" not in volumes
    assert left_behind(directory) == []
