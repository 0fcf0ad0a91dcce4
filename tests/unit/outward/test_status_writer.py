"""The writer of a commit's status: what it remembers, what it tells of trouble, and when it tries again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.errors import Problem, Retry, Stalled, TankError
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Good, NewEvent, PodStatus, Rollout
from tank_agent.journal.store import MemoryStore
from tank_agent.linux.clock import Clock
from tank_agent.outward.commit_status import PATIENCE, SETTLE
from tank_agent.outward.forges import ForgeAnswer, StatusRequest
from tank_agent.outward.status_writer import Outlook, StatusWriter
from tank_agent.reconcile.core.observed import ImageState, ObservedImage, Situation
from tank_agent.settings.git import GitSettings
from tank_agent.settings.git_status import GitStatusSettings
from tank_agent.source.git.objects import CommitInfo
from tank_agent.source.git.status import GitStatus, StepStatus
from tests.support.agent import wait_for
from tests.support.forges import TOKEN, Answer, Forge
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot
from tests.unit.reconcile.core.builders import updating

A, B = "a" * 40, "b" * 40


class TestClock(Clock):
    __test__ = False

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return 1_795_000_000.0 + self.now

    def monotonic(self) -> float:
        return self.now


def follows(commit: str, **changes: Any) -> GitStatus:
    done = StepStatus(revision=commit)
    info = CommitInfo(id=commit, author="Ann", subject="change", at=1.0)
    found = GitStatus(
        remote="h",
        ref="HEAD",
        fetched=done,
        verified=done,
        checked=done,
        applied=done,
        commit=info,
        latest=info,
    )
    return replace(found, **changes)


class World:
    """A journal, a repository, a forge, and the writer between them; time passes when a test says so."""

    def __init__(self, home: Path, kind: Any = "github") -> None:
        self.clock = TestClock()
        self.store = MemoryStore()
        self.journal = Journal(self.store, clock=FakeClock())
        self.git = follows(A)
        self.forge = Forge(kind)
        self.error: TankError | None = None
        self.token = home / "token"
        self.token.write_text(f"{TOKEN}\n")
        self.token.chmod(0o600)
        self.situation: Callable[[str], Situation] = lambda _: updating()
        status = GitStatusSettings(forge=kind, token_file=str(self.token))
        self.settings = GitSettings(url="https://127.0.0.1/acme/fleet", status=status)
        self.writer = self.another()

    def another(self) -> StatusWriter:
        """Return the writer of the next agent."""
        facts = Outlook(journal=self.journal, git=lambda: self.git, look=self.look)
        return StatusWriter(self.settings, "edge-1", facts, self.send, clock=self.clock, chance=lambda: 0.0)

    def look(self, name: str) -> Situation:
        return self.situation(name)

    def send(self, asked: StatusRequest) -> ForgeAnswer:
        if self.error is not None:
            raise self.error
        prefix = {"github": "https://127.0.0.1/api/v3", "gitlab": "https://127.0.0.1"}[self.forge.kind]
        headers = {name.lower(): value for name, value in asked.headers.items()}
        code, fields, said = self.forge.answer(asked.url.removeprefix(prefix), headers, asked.body)
        return ForgeAnswer(status=code, headers=fields, body=json.dumps(said).encode())

    def passes(self, seconds: float, step: float = 0.5) -> None:
        """Let the writer look again and again for so long."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.writer.turn()
            self.clock.now += step
        self.writer.turn()

    def declare(self, *names: str, problems: tuple[Problem, ...] = ()) -> None:
        pods = [declared(pod(name), f"{name}.toml", "git") for name in names]
        self.journal.merge(snapshot(*pods, source="git", problems=problems))

    def prove(self, name: str, *, outcome: Any = "good") -> None:
        """Give a pod a verdict."""
        desired = self.journal.get(name)
        assert desired is not None
        generation = desired.generation
        rollout = Rollout(
            generation=generation, kind="first", boot_id="b", begun=1.0, outcome=outcome, reason="it ended"
        )
        good = Good(generation=generation, hash=desired.hash, at=1.0) if outcome == "good" else None
        self.journal.record(name, PodStatus(rollout=rollout, good=good))

    @property
    def told(self) -> list[tuple[str, str]]:
        return [(sha[0], state) for sha, _, state, _ in self.forge.statuses]

    @property
    def events(self) -> list[tuple[str, str]]:
        return [(one.type, one.message) for one in self.journal.events() if one.type.startswith("git-status")]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_an_update_is_told_from_its_begin_to_its_verdict(world: World) -> None:
    world.declare("web", "db")
    world.passes(SETTLE + 0.5)
    assert world.told == [("a", "pending")]
    world.prove("web")
    world.passes(5.0)
    assert world.told == [("a", "pending")]
    world.prove("db")
    world.passes(SETTLE + 0.5)
    assert world.told == [("a", "pending"), ("a", "success")]
    world.passes(100.0)
    assert len(world.forge.asked) == 2 and world.events == []
    report = world.writer.report()
    assert (report.commit, report.state, report.context, report.project) == (
        A,
        "success",
        "tank/edge-1",
        "acme/fleet",
    )
    assert report.at == "2026-11-18T11:23:27.500Z" and report.error is None


def test_the_next_agent_says_nothing_that_was_said(world: World) -> None:
    world.declare("web")
    world.prove("web", outcome="failed")
    world.passes(5.0)
    assert world.told == [("a", "failure")]
    world.writer = world.another()
    # It has not looked at the remote yet, and knows no errors of files.
    world.git = replace(follows(A), commit=None, fetched=StepStatus())
    world.passes(5.0)
    world.git = follows(A)
    world.passes(5.0)
    assert world.told == [("a", "failure")] and world.writer.report().commit == A


def test_a_crash_between_forge_and_journal_repeats_it_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(name: str) -> None:
        if name == "status:sent":
            raise KeyboardInterrupt

    monkeypatch.setattr("tank_agent.outward.status_writer.point", dies)
    with pytest.raises(KeyboardInterrupt):
        world.passes(5.0)
    assert world.told == [("a", "success")]
    monkeypatch.undo()
    world.writer = world.another()
    world.passes(50.0)
    assert world.told == [("a", "success")] * 2


def test_gitlab_refuses_the_repeated_one_and_all_is_well(tmp_path: Path) -> None:
    world = World(tmp_path, "gitlab")
    world.passes(5.0)
    world.journal.remember("git.status.sent", b"")
    world.writer = world.another()
    world.passes(50.0)
    assert world.told == [("a", "success")] and len(world.forge.asked) == 2
    assert world.events == [] and world.writer.report().state == "success"


@pytest.mark.parametrize("kept", [b"\xff", b"{}", b"null", b'{"sha": 5}'])
def test_a_memory_that_cannot_be_read_is_none(world: World, kept: bytes) -> None:
    world.journal.remember("git.status.sent", kept)
    world.writer = world.another()
    world.passes(5.0)
    assert world.told == [("a", "success")]


def test_files_with_errors_and_pods_of_other_sources(world: World) -> None:
    world.journal.merge(snapshot(declared(pod("other"), "other.toml"), source="dir"))
    world.declare(problems=(Problem("pods/web.toml", 3, "image", "is missing", "web"),))
    world.passes(5.0)
    assert world.told == [("a", "failure")]
    assert world.forge.last(A) == "pods/web.toml:3: image: is missing"
    world.git = follows(B)
    world.declare()
    world.passes(5.0)
    assert (
        world.told[1:] == [("b", "success")] and world.forge.last(B) == "nothing is declared for this machine"
    )


def test_an_image_that_cannot_be_had_is_a_failure_in_the_end(world: World) -> None:
    world.declare("web")
    failed = {"app": ObservedImage(state=ImageState.FAILED, error="there is no nginx:lastest")}
    world.situation = lambda _: updating(images=failed)
    world.passes(PATIENCE - 1.0)
    assert world.told == [("a", "pending")]
    world.passes(3.0)
    assert world.told == [("a", "pending"), ("a", "failure")]
    assert world.forge.last(A) == "web: there is no nginx:lastest"
    # The next agent begins to try anew, which is no news.
    world.writer = world.another()
    world.passes(2 * PATIENCE)
    assert len(world.told) == 2


def test_a_server_that_is_away_is_told_of_once_and_told_when_it_is_back(world: World) -> None:
    world.error = Retry("git.example: it can't be reached: Connection refused")
    world.passes(3.0)
    assert world.events == [] and world.writer.report().error == world.error.message
    world.passes(600.0, step=1.0)
    assert [kind for kind, _ in world.events] == ["git-status-error"]
    world.git = follows(B)
    world.passes(1300.0, step=1.0)
    assert len(world.events) == 1
    world.error = None
    world.passes(700.0, step=1.0)
    # Nobody is told of what was not sent of the commit before it.
    assert world.told == [("b", "success")]
    assert [kind for kind, _ in world.events] == ["git-status-error", "git-status-recovered"]
    assert world.writer.report().error is None


def test_a_wrong_token_is_told_at_once_and_another_one_tried_at_once(world: World) -> None:
    world.token.write_text("wrong-token\n")
    world.passes(3.0)
    (told,) = world.events
    assert told[0] == "git-status-error" and "does not accept the token" in told[1]
    assert str(world.token) in told[1] and "wrong-token" not in told[1]
    world.passes(50.0)
    assert len(world.forge.asked) == 1
    world.token.write_text(f"{TOKEN}\r\n")
    # Within one tick, the time of the change may be the same.
    os.utime(world.token, ns=(1, 1))
    world.passes(1.0)
    assert world.told == [("a", "success")]
    assert [kind for kind, _ in world.events] == ["git-status-error", "git-status-recovered"]


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, "can't be read: No such file or directory; see git.status.token_file"),
        ("token", 0o604, "is open to others: chmod 600"),
        ("", 0o600, "must hold one token, in one line"),
        ("two\nlines", 0o600, "must hold one token, in one line"),
        ("a b", 0o600, "must hold one token, in one line"),
        ("\x00", 0o600, "must hold one token, in one line"),
        ("ü", 0o600, "must hold one token, in one line"),
    ],
)
def test_a_token_file_that_cannot_serve_is_told(
    world: World, text: str | None, mode: int, words: str
) -> None:
    if text is None:
        world.token.unlink()
    else:
        world.token.write_text(text)
        world.token.chmod(mode)
    world.passes(3.0)
    (told,) = world.events
    assert words in told[1] and world.forge.asked == []
    world.token.write_text(TOKEN)
    world.token.chmod(0o600)
    world.passes(1.0)
    assert world.told == [("a", "success")]


def test_an_answer_that_repeats_the_token_does_not_tell_it(world: World) -> None:
    world.forge.rule = lambda: (401, {}, {"message": f"bad token {TOKEN}"})
    world.passes(3.0)
    assert TOKEN not in str(world.events) and TOKEN not in str(world.writer.report())


def test_github_takes_no_more_of_a_commit(world: World) -> None:
    world.forge.limit = 1
    world.declare("web")
    world.passes(3.0)
    world.prove("web")
    world.passes(3000.0, step=5.0)
    assert world.told == [("a", "pending")] and len(world.forge.asked) == 2
    (told,) = world.events
    assert "takes no status of this commit any more" in told[1]
    # Over a restart, too; and the next commit is told as ever.
    world.writer = world.another()
    world.passes(50.0)
    assert len(world.forge.asked) == 2
    world.git = follows(B)
    world.passes(3.0)
    assert world.told[-1] == ("b", "success")


def test_a_limit_of_requests_is_kept(world: World) -> None:
    answers: list[Answer | None] = [(403, {"retry-after": "120"}, {"message": "secondary rate limit"}), None]
    world.forge.rule = lambda: answers.pop(0) if answers else None
    world.passes(100.0)
    assert len(world.forge.asked) == 1
    world.passes(30.0)
    assert world.told == [("a", "success")] and world.events == []


def test_a_commit_that_the_forge_does_not_know_yet(world: World) -> None:
    world.forge.commits = set()
    world.passes(8.0)
    assert len(world.forge.asked) == 2 and world.events == []
    world.forge.commits = {A}
    world.passes(15.0)
    assert world.told == [("a", "success")] and world.events == []


def test_a_held_commit_waits_and_a_refused_one_has_failed(world: World) -> None:
    world.git = follows(A, fetched=StepStatus(revision=B), held="held: it would remove 3 of 3 pods")
    world.passes(3.0)
    world.git = follows(
        A, fetched=StepStatus(revision=B), verified=StepStatus(revision=A, error="it is not signed")
    )
    world.passes(3.0)
    assert world.told == [("b", "pending"), ("b", "failure")]
    assert world.forge.last(B) == "refused: it is not signed"


def test_it_ends_at_once_though_the_forge_never_answers(tmp_path: Path) -> None:
    world = World(tmp_path)
    asked, ended = threading.Event(), threading.Event()

    def send(_: StatusRequest) -> ForgeAnswer:
        asked.set()
        ended.wait(60.0)
        raise Stalled("cut")

    facts = Outlook(journal=world.journal, git=lambda: world.git, look=lambda _: updating())
    writer = StatusWriter(world.settings, "edge-1", facts, send, cut=ended.set)
    writer.start()
    wait_for(asked.is_set, "the forge is asked")
    begin = time.monotonic()
    writer.close()
    assert time.monotonic() - begin < 3.0
    assert not any(thread.name == "git-status" for thread in threading.enumerate())
    assert world.events == []


def test_it_ends_at_once_while_nothing_happens_and_looks_again_at_an_event(tmp_path: Path) -> None:
    world = World(tmp_path)
    facts = Outlook(journal=world.journal, git=lambda: world.git, look=lambda _: updating())
    writer = StatusWriter(world.settings, "edge-1", facts, world.send)
    writer.start()
    wait_for(lambda: world.told == [("a", "success")], "the status is sent")
    world.git = follows(B)
    world.declare("web")
    world.prove("web")
    world.journal.try_to_record([NewEvent(pod="web", type="update-good", message="it is good")])
    wait_for(lambda: ("b", "success") in world.told, "the next is sent", 20.0)
    begin = time.monotonic()
    writer.close()
    assert time.monotonic() - begin < 3.0


def test_a_bug_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tank_agent.outward.status_writer._LOOK_EVERY", 0.1)
    world = World(tmp_path)
    broken = [True]

    def git() -> GitStatus:
        if broken:
            raise ZeroDivisionError
        return world.git

    facts = Outlook(journal=world.journal, git=git, look=lambda _: updating())
    writer = StatusWriter(world.settings, "edge-1", facts, world.send)
    writer.start()
    try:
        time.sleep(0.3)
        broken.clear()
        wait_for(lambda: world.told == [("a", "success")], "it goes on", 20.0)
    finally:
        writer.close()


def test_an_agent_without_the_table_loads_nothing_of_it() -> None:
    code = (
        "import sys, tank_agent.agent.lifecycle\n"
        "ours = ('commit_status', 'forges', 'post', 'status_writer')\n"
        "print([name for name in ours if f'tank_agent.outward.{name}' in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "[]\n"
