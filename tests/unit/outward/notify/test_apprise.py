"""apprise as a child: one for each URL, whose secrets nobody sees; and the file of URLs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import process
from tank_agent.outward.notify import apprise
from tank_agent.outward.notify.apprise import Apprise, parse, receivers
from tank_agent.outward.notify.channels import body_of_note
from tank_agent.outward.notify.memory import Note
from tests.support.agent import wait_for
from tests.support.receivers import Receiver, receiver

BODY = body_of_note(
    Note(at=1.0, kind="test", state="bad", title="web is failing"), "edge-1", "canary-text of it\nand more"
)


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def url(hook: Receiver) -> str:
    return f"json://user:canary-password@127.0.0.1:{hook.port}/canary-topic"


@pytest.mark.machine
def test_a_message_arrives_whole(hook: Receiver) -> None:
    assert Apprise("json", url(hook)).send(BODY).error == ""
    [one] = hook.received
    assert one.path.rstrip("/") == "/canary-topic" and one.headers["authorization"].startswith("Basic ")
    assert one.json["title"] == "edge-1: web is failing"
    assert one.json["message"].strip() == "canary-text of it\nand more" and one.json["type"] == "failure"


@pytest.mark.machine
def test_what_does_not_work_is_told_without_the_address(hook: Receiver) -> None:
    hook.default = (403, {})
    found = Apprise("json", url(hook)).send(BODY)
    assert "403" in found.error or "Forbidden" in found.error, found.error
    assert "canary" not in found.error and "127.0.0.1" not in found.error
    found = Apprise("nonsense", "nonsense://canary").send(BODY)
    assert found.error == "apprise can make nothing of this URL"


@pytest.mark.machine
def test_nobody_sees_its_secrets_and_it_ends_with_who_waits_for_it(hook: Receiver) -> None:
    hook.default = "hang"
    thread = threading.Thread(target=Apprise("json", url(hook)).send, args=(BODY,), daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not hook.received and time.monotonic() < end:
        time.sleep(0.05)
    mine = [pid for pid in children(os.getpid()) if b"apprise" in command(pid)]
    assert len(mine) == 1
    [pid] = mine
    assert b"canary" not in command(pid) and b"canary" not in Path(f"/proc/{pid}/environ").read_bytes()
    if os.geteuid() == 0:
        assert "\nUid:\t65522\t65522" in Path(f"/proc/{pid}/status").read_text()
    opened = {str(one.readlink()).split(":")[0] for one in Path(f"/proc/{pid}/fd").iterdir()}
    assert opened <= {"pipe", "socket", "/memfd", "anon_inode", "/dev/null"}, opened
    hook.ended.set()
    thread.join(30)
    assert not thread.is_alive()


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.machine
def test_it_dies_with_an_agent_that_is_killed(hook: Receiver) -> None:
    hook.default = "hang"
    code = (
        "import tests.unit.outward.notify.test_apprise as t, sys; t.Apprise('json', sys.argv[1]).send(t.BODY)"
    )
    agent = subprocess.Popen([sys.executable, "-c", code, url(hook)])
    wait_for(lambda: hook.received, "it sends")
    [pid] = [pid for pid in children(agent.pid) if b"apprise" in command(pid)]
    agent.kill()
    agent.wait(10)
    wait_for(lambda: not Path(f"/proc/{pid}/exe").exists(), "apprise is gone")


@pytest.mark.machine
def test_one_that_never_ends_is_killed(hook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apprise, "DEADLINE", 2.0)
    hook.default = "hang"
    assert Apprise("json", url(hook)).send(BODY).error == "apprise did not end within 2 s"
    assert not [pid for pid in children(os.getpid()) if b"apprise" in command(pid)]


def test_without_apprise_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ENVIRONMENT", {"PATH": "/nonexistent"})
    found = Apprise("json", "json://127.0.0.1/").send(BODY)
    assert found.error == "apprise is not installed, so nobody in urls_file is told; `apt install apprise`"


def test_a_file_has_one_url_a_line() -> None:
    found, wrong = parse(
        "# mine\n\n; also a comment\nntfy://ntfy.sh/secret\n  phone, mail = mailtos://u:p@h?to=a@b\n", "f"
    )
    assert [one.name for one in found] == ["ntfy (line 4)", "mailtos (line 5)"] and not wrong
    assert [one._url for one in found] == ["ntfy://ntfy.sh/secret", "mailtos://u:p@h?to=a@b"]


@pytest.mark.parametrize(
    "line", ["include /etc/secret.cfg", "urls:", "  - ntfy://x y", "group = a, b", "secret"]
)
def test_what_is_no_url_is_told_by_its_line_and_not_shown(line: str) -> None:
    found, wrong = parse(f"{line}\n", "/etc/tank/urls")
    assert not found and wrong == [
        "/etc/tank/urls:1: is no URL of apprise; write one such as ntfy://ntfy.example/topic"
    ]


def test_a_file_with_too_many_urls_or_none_says_so() -> None:
    found, wrong = parse("ntfy://h/t\n" * 30, "f")
    assert len(found) == 20 and wrong == ["f: has 30 URLs; the first 20 count"]
    assert parse("# nothing\n", "f") == ([], ["f: has no URL in it"])


def test_a_file_that_is_open_or_absent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "urls"
    assert receivers(str(file)) == ([], [f"{file} can't be read: No such file or directory"])
    file.write_text("ntfy://h/t\n")
    file.chmod(0o644)
    assert receivers(str(file)) == ([], [f"{file} is open to others: chmod 600 {file}"])
    file.chmod(0o600)
    assert [one.name for one in receivers(str(file))[0]] == ["ntfy (line 1)"]
