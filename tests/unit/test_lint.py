"""The linters find nothing: `./dev lint` is part of the tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_lint_is_clean() -> None:
    done = subprocess.run(
        [ROOT / "dev", "lint"],
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
