"""A command that the kernel did not run is told from one that failed."""

from __future__ import annotations

import pytest

from tank_agent.runtime.session.exec import complaint


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (b"exec: Exec format error\n", "Exec format error"),
        (b"exec: No such file or directory\r\n", "No such file or directory"),
        (b"\x1b[1;31mexec: Permission denied\x1b[0m\r\n", "Permission denied"),
    ],
)
def test_what_crun_says_for_the_kernel_is_understood(printed: bytes, said: str) -> None:
    assert complaint(printed) == said


@pytest.mark.parametrize(
    "printed",
    [
        b"",
        b"exec: No such file or directory",
        b"sh: exec: line 1: x: not found\n",
        b'exec: "git": executable file not found in $PATH\n',
        b"begun\nexec: No such file or directory\n",
        b"exec: No such file or directory\nmore\n",
        b"exec: \xff\n",
        b"exec: Success\n",
    ],
)
def test_what_a_command_says_itself_is_its_own(printed: bytes) -> None:
    assert complaint(printed) == ""
