"""Every verb with closed and with full standard streams: a sentence, an exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.age import make_ssh_key
from tests.support.fake_service import PRINTING, FakeService, serving
from tests.unit.cli.test_verbs import POD, TANK

FULL, CLOSED = "/dev/full", "&-"
LOST = {
    FULL: "tank: cannot write: No space left on device\n",
    CLOSED: "tank: cannot write: the output is closed\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    service = FakeService()
    home = tmp_path_factory.mktemp("streams")
    for name in ("web", "gone"):
        service.add(name)
    service.say("web")
    (home / "good.toml").write_text(POD)
    (home / "bad.toml").write_text("x")
    (home / "names").write_text("job")
    make_ssh_key(home / "key")
    with serving(service, home / "tank.sock"):
        yield home


def tank(home: Path, redirections: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", TANK, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "TANK_SOCKET": str(home / "tank.sock"), "LC_ALL": "C.UTF-8"},
        cwd=home,
    )


@pytest.mark.parametrize("verb", PRINTING)
def test_output_that_is_lost_is_one_sentence_and_exit_code_1(home: Path, verb: str) -> None:
    forms = ((), ("-o", "json")) if verb in ("list", "validate") else ((),)
    cases = [(out, form) for out in (FULL, CLOSED) for form in forms]

    def look(case: tuple[str, tuple[str, ...]]) -> tuple[int, str]:
        done = tank(home, f"<&- >{case[0]}", verb, *PRINTING[verb], *case[1])
        return done.returncode, done.stderr

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, cases)) == [(1, LOST[out]) for out, _ in cases]


@pytest.mark.parametrize("verb", PRINTING)
def test_every_verb_prints_text_and_json(home: Path, verb: str) -> None:
    done = tank(home, "", verb, *PRINTING[verb])
    assert (done.stdout != "", "Traceback" in done.stderr) == (True, False), done.stderr
    found = tank(home, "", verb, *PRINTING[verb], *(() if verb == "schema" else ("-o", "json")))
    assert [json.loads(line) for line in ([found.stdout] if verb != "events" else found.stdout.splitlines())]


@pytest.mark.parametrize("argv", [("--version",), ("--help",), ("list", "--help")])
def test_help_and_version_that_are_lost_are_no_success(home: Path, argv: tuple[str, ...]) -> None:
    done = tank(home, ">/dev/full", *argv)
    assert (done.returncode, done.stderr) == (1, LOST[FULL])


@pytest.mark.parametrize("stdin", ["</dev/null", "<&-"])
@pytest.mark.parametrize("stdout", ["", f">{FULL}", f">{CLOSED}"])
@pytest.mark.parametrize("stderr", [f"2>{FULL}", f"2>{CLOSED}"])
def test_the_exit_code_tells_what_standard_error_can_not(
    home: Path, stdin: str, stdout: str, stderr: str
) -> None:
    redirections = f"{stdin} {stdout} {stderr}"
    codes = {
        argv: tank(home, redirections, *argv).returncode
        for argv in (("list",), ("get", "nobody"), ("validate", "bad.toml"), ("list", "--wrong"))
    }
    assert list(codes.values()) == [1 if stdout else 0, 1, 2, 2], codes


@pytest.mark.parametrize("stdin", ["<&-", "0>written"])
def test_standard_input_that_cannot_be_read_is_said(home: Path, stdin: str) -> None:
    for verb in ("apply", "validate"):
        done = tank(home, stdin, verb, "-")
        assert "Traceback" not in done.stderr
        if stdin == "<&-":
            # It is at its end.
            assert done.returncode == (0 if verb == "apply" else 2), done
        else:
            assert done.returncode == 1
            assert "<stdin>: cannot read: Bad file descriptor" in done.stderr


def test_an_error_is_said_also_where_output_is_lost(home: Path) -> None:
    done = tank(home, f">{FULL}", "image", "rm", "other", "used")
    assert done.returncode == 1
    assert done.stderr.startswith("tank: the image used is needed: pod web runs it\n"), done.stderr
    assert done.stderr.endswith(LOST[FULL])
