"""The programs: there, too old, or missing."""

from __future__ import annotations

import pytest

from tank_agent.doctor import tools
from tests.unit.doctor import assert_bad


@pytest.mark.parametrize(
    ("output", "result", "found"),
    [
        ("crun version 1.28\ncommit: 1.2\n", "ok", "version 1.28"),
        ("crun version 1.28.1", "ok", "version 1.28.1"),
        ("crun version 1.8.1", "note", "version 1.8.1, which works; it is bad"),
        ("crun from git", "warn", "unknown version"),
        (None, "fail", "not installed"),
    ],
)
def test_a_needed_tool(output: str | None, result: str, found: str) -> None:
    check = tools.needed_tool("crun", output, (1, 28), "it is bad")
    assert check.result == result
    assert found in check.found
    assert (check.fix == "apt install crun") is (output is None)


def test_a_fresh_debian_13_has_nothing_to_be_frightened_of() -> None:
    for name, output in (("crun", "crun version 1.21"), ("conmon", "conmon version 2.1.12")):
        check = tools.needed_tool(name, output, *tools.NEEDED[name])
        assert (check.result, check.fix.startswith("nothing to do: ")) == ("note", True)
        assert "CVE" not in f"{check.found} {check.fix}"


def test_other_tools() -> None:
    assert tools.tar("tar (GNU tar) 1.34\nCopyright").found == "tar (GNU tar) 1.34"
    assert_bad(tools.tar("tar (busybox) 1.35\n"), "fail", "not GNU tar")
    assert_bad(tools.tar(None), "fail", "not installed")
    assert tools.git("git version 2.47\n").result == "ok"
    assert_bad(tools.git(None), "warn", "not installed")
    assert tools.output_of("no-such-program-anywhere") is None
    assert tools.output_of("false") is None
    assert tools.output_of("echo", "x") == "x\n"
