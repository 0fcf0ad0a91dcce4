"""Whatever the agent's answers hold, no verb sends a terminal anything but text and our own colours."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from tank_agent.agent import logging as logs
from tank_agent.api.reports import GitReport, PlannedPod, PlanReport
from tank_agent.cli.verbs.logs import _json, _Printer
from tank_agent.client.logs import LogLine
from tank_agent.errors import TankError
from tank_agent.spec.model import Container, Pod
from tests.support.fake_service import FakeService, serving
from tests.unit.cli.test_verbs import Tank

EVIL = "\x1b[2J\x9b31m\u202egnp\u2028\x7f\U000e0041\ue000\x07"
NAME = f"web{EVIL}"
COLOR = re.compile(r"\x1b\[[0-9;]*m")


def harmless(text: str) -> bool:
    left = COLOR.sub("", text).replace("\n", "").replace("\t", "")
    return not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") for char in left)


def evil_service() -> FakeService:
    service = FakeService()
    hold = {"kind": EVIL, "since": "2026-11-22T06:00:33Z", "generation": 3}
    git = {"state": EVIL, "error": EVIL, "commit": EVIL, "author": EVIL, "subject": EVIL, "file": EVIL}
    service.add(
        NAME,
        phase=EVIL,
        owner=EVIL,
        error=f"{EVIL}\n{EVIL}",
        addresses=[EVIL],
        warnings=(EVIL,),
        hold=hold,
        git=git,
        revision=EVIL,
    )
    container_report = msgspec.structs.replace(
        service.statuses[NAME].containers[0], name=EVIL, phase=EVIL, image=EVIL
    )
    service.statuses[NAME] = msgspec.structs.replace(service.statuses[NAME], containers=(container_report,))
    container = Container(name="app", image="x", env={EVIL: EVIL}, args=(EVIL,))
    service.pods[NAME] = msgspec.structs.replace(
        service.pods[NAME], pod=Pod(name="web", containers=(container,)), revision=EVIL
    )
    service.say(NAME, message=EVIL, type=EVIL)
    commit = {"id": EVIL, "subject": EVIL, "author": EVIL, "at": None}
    step = {"revision": EVIL, "error": EVIL, "hint": EVIL, "at": None}
    git_report = {
        "state": EVIL,
        "error": EVIL,
        "held": EVIL,
        "hint": EVIL,
        "commit": commit,
        "latest": commit,
        "looked_at": None,
        "remote": EVIL,
        "ref": EVIL,
        "troubles": [EVIL],
        "steps": dict.fromkeys(("fetched", "verified", "checked", "applied"), step),
    }
    service.sources.git = msgspec.convert(git_report, GitReport)
    service.sources.directory_error = EVIL
    service.report = PlanReport(
        pods=(PlannedPod(name=EVIL, change=EVIL, actions=(EVIL,), diff=(EVIL,), notes=(EVIL,)),),
        problems=(EVIL,),
    )
    service.images.known = msgspec.structs.replace(
        service.images.known, reference=EVIL, digest=EVIL, pods=(EVIL,)
    )
    return service


@pytest.fixture
def tank(tmp_path: Path) -> Iterator[Tank]:
    with serving(evil_service(), tmp_path / "tank.sock"):
        yield Tank(tmp_path / "tank.sock", tmp_path)


VERBS: tuple[tuple[str, ...], ...] = (
    ("list",),
    ("status",),
    ("status", NAME),
    ("get", NAME),
    ("events",),
    ("history", NAME),
    ("plan",),
    ("sync",),
    ("image", "ls"),
    ("image", "pull", NAME),
    ("image", "rm", EVIL),
    ("image", "update", NAME),
    ("git", "status"),
    ("wait", NAME, "--for", "running", "--timeout", "0"),
    ("rollback", NAME),
    ("suspend", NAME),
    ("delete", NAME),
    ("delete", f"nobody{EVIL}"),
    ("volume", "rm", f"{EVIL}/{EVIL}"),
    ("validate", f"{EVIL}.toml"),
    ("list", NAME),
    ("--wrong", EVIL),
    (EVIL,),
)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_verb_lets_foreign_text_steer_a_terminal(tank: Tank, form: str) -> None:
    for argv in VERBS:
        _, stdout, stderr = tank(*argv, *(("-o", "json") if form == "json" else ()))
        assert harmless(stdout), (argv, stdout)
        assert harmless(stderr), (argv, stderr)


def test_json_keeps_what_it_escapes(tank: Tank) -> None:
    assert tank.json("status")[0]["error"] == f"{EVIL}\n{EVIL}"
    assert json.loads(tank("events", "-o", "json")[1])["message"] == EVIL


def test_an_error_of_the_agent_is_harmless(tmp_path: Path) -> None:
    service = FakeService()
    service.failure = TankError(EVIL, where=EVIL, hint=EVIL)
    with serving(service, tmp_path / "tank.sock"):
        code, _, stderr = Tank(tmp_path / "tank.sock", tmp_path)("list")
    assert code == 1 and harmless(stderr), stderr


def printed(*pieces: tuple[bytes, bool], safe: bool = True) -> bytes:
    output = io.BytesIO()
    printer = _Printer(output, safe=safe, timestamps=True, names=True)
    for content, whole in pieces:
        printer.write(LogLine(f"now{EVIL}", "stdout", f"app{EVIL}", content, whole))
    return output.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"\x9b2J",
        b"\xc2\x9b2J",
        EVIL.encode(),
        b"\xe2\x9b2J",
        bytes(range(256)).replace(b"\n", b""),
        b"\x1b]0;x\x07",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_logs_let_no_control_character_through(content: bytes, cut: int) -> None:
    # Wherever a long line was cut, also within a character.
    shown = printed((content[:cut], False), (content[cut:], True), (b"next", True)).decode()
    assert harmless(shown), shown


def test_logs_keep_text_colours_and_tabs_wherever_a_line_is_cut() -> None:
    line = "größer\t東京 👩‍💻 \x1b[1;31mred\x1b[0m نمی‌خواهم".encode()
    whole = printed((line, True))
    assert line in whole
    for cut in range(len(line)):
        if b"\x1b" not in line[max(0, cut - 7) : cut]:
            assert printed((line[:cut], False), (line[cut:], True)) == whole
    assert EVIL.encode() + b"\n" in printed((EVIL.encode(), True), safe=False)


def test_logs_as_json_are_harmless() -> None:
    text = _json("web", LogLine("now", "stdout", "app", EVIL.encode() + b"\x9b", True))
    assert harmless(text) and json.loads(text)["message"] == EVIL + "\ufffd"


@pytest.mark.parametrize("form", ["terminal", "json"])
def test_the_agents_log_is_harmless(
    capsys: pytest.CaptureFixture[str], form: logs.Form, restored_log: None
) -> None:
    logs.configure(form=form)
    try:
        raise ValueError(EVIL)
    except ValueError:
        structlog.get_logger().exception(f"failed {EVIL}", pod=EVIL, list=[EVIL])
    assert harmless(capsys.readouterr().err)


@pytest.fixture
def restored_log() -> Iterator[None]:
    yield
    structlog.reset_defaults()
