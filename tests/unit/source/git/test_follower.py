"""Polling the repository: when woken, regularly, and sooner after failures."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tank_agent.settings.git import GitSettings
from tank_agent.settings.settings import Settings
from tank_agent.source.git.follower import GitFollower, poll_delay
from tank_agent.source.git.status import GitStatus, StepStatus
from tank_agent.spec.model import Host
from tests.support.git import wait_until


def test_schedule_spreads_and_backs_off() -> None:
    assert poll_delay(60.0, 0, 0.5) == pytest.approx(60.0)
    assert poll_delay(60.0, 0, 0.0) == pytest.approx(54.0)
    assert poll_delay(60.0, 0, 0.999) < 66.0
    assert [round(poll_delay(60.0, n, 0.5)) for n in (1, 2, 3, 7, 8, 99)] == [5, 10, 20, 320, 600, 600]
    assert poll_delay(3600.0, 99, 0.5) == pytest.approx(3600.0)


class FakeRepository:
    def __init__(self) -> None:
        self.looks = 0
        self.error: str | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.status = GitStatus(remote="r", ref="HEAD")

    def poll(self) -> GitStatus:
        self.looks += 1
        self.gate.wait(10)
        return GitStatus(remote="r", ref="HEAD", fetched=StepStatus(error=self.error))

    def stop(self) -> None:
        self.gate.set()


class FakeInbox:
    """An agent that is not suspended and knows nothing."""

    def __init__(self, data_dir: Path) -> None:
        self.settings = Settings(data_dir=data_dir)
        self.host = Host(name="x")

    def __getattr__(self, name: str) -> Any:
        return {"recall": lambda _: b"", "suspended": lambda: False}.get(name, lambda *_: None)


def make_follower(tmp_path: Path, source: FakeRepository, poll: float, **more: Any) -> GitFollower:
    settings = GitSettings(url="https://git.invalid/x.git", poll=poll)
    follower = GitFollower(settings, FakeInbox(tmp_path), random=lambda: 0.5, **more)
    follower.repository = source  # type: ignore[assignment]
    return follower


def looked(follower: GitFollower, timeout: float) -> bool:
    return follower.answered(follower.ask(), timeout)


def test_it_polls_when_woken_and_after_failures_sooner(tmp_path: Path) -> None:
    source, delays = FakeRepository(), list[float]()
    source.error = "down"

    def wait(event: threading.Event, delay: float) -> bool:
        delays.append(delay)
        if len(delays) == 3:
            source.error = None
        return len(delays) < 5 or event.wait(10)

    follower = make_follower(tmp_path, source, 60.0, wait=wait)
    follower.start()
    wait_until(lambda: len(delays) == 5)
    assert delays == pytest.approx([5, 10, 20, 60, 60])
    assert looked(follower, timeout=60)
    assert source.looks == 6
    follower.close()


def test_it_survives_a_bug(tmp_path: Path) -> None:
    source, bugs = FakeRepository(), list[int]()

    def poll() -> GitStatus:
        bugs.append(1)
        raise ZeroDivisionError

    source.poll = poll  # type: ignore[method-assign]
    follower = make_follower(tmp_path, source, 600.0)
    follower.start()
    assert looked(follower, timeout=60)
    assert follower.alive()
    assert bugs
    follower.close()


def test_who_asks_waits_for_a_look_that_began_after_it(tmp_path: Path) -> None:
    source = FakeRepository()
    source.gate.clear()
    follower = make_follower(tmp_path, source, 600.0)
    follower.start()
    wait_until(lambda: source.looks == 1)
    assert not looked(follower, timeout=0.05)
    source.gate.set()
    assert looked(follower, timeout=60)
    assert source.looks >= 2
    follower.close()
    assert not looked(follower, timeout=0.05)
