"""Runs a program in a mount namespace of its own, where it may cover what is the host's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_with_private_mounts(script: str, *arguments: str) -> None:
    """Fail with what the script printed if it fails."""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, str(Path(__file__).with_name(script)), *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def program_with_private_mounts(program: str, directory: Path) -> None:
    """Fail unless the program, which gets a directory to work in, prints "fine" and nothing else."""
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", program, str(directory)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)
