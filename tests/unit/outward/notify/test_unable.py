"""An agent that can't start tells it once, after a minute, and that it works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tank_agent.errors import Retry
from tank_agent.outward.notify.unable import Unable
from tank_agent.settings.notify import NotifySettings
from tests.support.agent import wait_for
from tests.support.receivers import Receiver, receiver


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


def test_it_is_told_once_and_so_is_its_end(hook: Receiver) -> None:
    now = [0.0]
    unable = Unable(NotifySettings(webhook=hook.url), "edge-1", monotonic=lambda: now[0])
    for moment in (0.0, 59.0):
        now[0] = moment
        unable.cannot(Retry("cannot start: No space left on device", hint="make room"))
    assert not hook.received
    for moment in (60.0, 65.0, 70.0):
        now[0] = moment
        unable.cannot(Retry("cannot start: No space left on device", hint="make room"))
    wait_for(lambda: hook.told, "it is told")
    assert hook.titles == ["the agent can't work"]
    assert hook.told[0]["message"] == "cannot start: No space left on device; make room"
    unable.can()
    wait_for(lambda: len(hook.told) == 2, "its end is told")
    assert hook.titles[1] == "the agent works again" and hook.told[1]["state"] == "good"


def test_a_short_trouble_is_not_told(hook: Receiver) -> None:
    unable = Unable(NotifySettings(webhook=hook.url), "edge-1", monotonic=lambda: 0.0)
    unable.cannot(Retry("busy"))
    unable.can()
    assert not hook.received


def test_it_is_tried_again_while_it_is_true(hook: Receiver) -> None:
    hook.answers = ["close"]
    now = [0.0]
    unable = Unable(NotifySettings(webhook=hook.url, after=1.0), "edge-1", monotonic=lambda: now[0])
    unable.cannot(Retry("busy"))
    now[0] = 2.0
    unable.cannot(Retry("busy"))
    wait_for(lambda: len(hook.received) == 2, "it is tried again")
    unable.can()
