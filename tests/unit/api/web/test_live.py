"""The live stream: its frames, what is told to whom, and readers who do not keep up."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tank_agent.api.reports import GitReport
from tank_agent.api.request import Refused
from tank_agent.api.stream import CallerGone
from tank_agent.api.web import live
from tank_agent.api.web.live import STREAMS, Listener, Live
from tank_agent.api.web.server import WebServer
from tank_agent.api.web.shown import Shown
from tank_agent.control.pods import Service
from tank_agent.errors import Problem
from tank_agent.runtime.limits.measure import Sample
from tank_agent.settings.settings import Settings
from tests.support.fake_service import until
from tests.support.fake_web import FakeWebService, OpenStream, got, serving_web


class Pages:
    """The part that finds changes, turned by hand, with a clock that stands until it is moved."""

    def __init__(self) -> None:
        self.service = FakeWebService()
        self.now = 1000.0
        self.live = Live(
            cast(Service, self.service), Shown(Settings()), started=0.0, clock=lambda: self.now,
            wall=lambda: 1_780_000_000.0 + self.now,
        )  # fmt: skip

    def open(self) -> Listener:
        return self.live.open(lambda: False)

    def turn(self, later: float = 0.0) -> None:
        self.now += later
        self.live.turn(0.0)

    def read(self, listener: Listener) -> list[tuple[str, Any]]:
        """Return what waits for a page: kinds and data."""
        found = []
        for message in b"".join(listener.pending()).decode().split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in message.split("\n"))
            found.append((fields["event"], json.loads(fields["data"])))
        return found


@pytest.fixture
def pages() -> Pages:
    made = Pages()
    made.service.add("web")
    return made


def test_hello_has_all_that_is_known(pages: Pages) -> None:
    for number in range(60):
        pages.service.say("web", f"event {number}")
    pages.service.samples = [Sample("web", "app", "r1", 1.0, 4096)]
    page = pages.open()
    pages.turn()
    [(kind, hello)] = pages.read(page)
    assert kind == "hello"
    assert hello.keys() == {
        "host", "version", "now", "started", "sources", "pods", "events", "usage",
    }  # fmt: skip
    assert [pod["name"] for pod in hello["pods"]] == ["web"]
    assert [event["seq"] for event in hello["events"]] == list(range(11, 61))
    assert hello["started"] == "1970-01-01T00:00:00Z"
    assert hello["usage"]["interval"] == 30
    assert hello["usage"]["points"] == {"web/app": {"cpu": [None], "memory": [4096]}}


def test_a_message_is_a_frame_of_the_standard(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    pages.service.say("web", "two\nlines, \u2028 and \r another")
    pages.turn()
    frames = b"".join(page.pending()).split(b"\n\n")
    assert frames[0].split(b"\n")[:2] == [b"event: event", b"id: 1"]
    # A line break of the text would end the message.
    assert [line.partition(b":")[0] for line in frames[0].split(b"\n")] == [b"event", b"id", b"data"]
    assert b"\r" not in frames[0]


def test_only_what_changed_is_told(pages: Pages) -> None:
    pages.service.add("db")
    page = pages.open()
    pages.turn()
    page.pending()
    pages.turn(5)
    assert pages.read(page) == []
    pages.service.add("web", phase="backing-off")
    pages.service.say("web", "it ended")
    pages.turn(0.1)
    found = pages.read(page)
    assert [kind for kind, _ in found] == ["event", "pods"]
    assert [pod["phase"] for pod in found[1][1]["changed"]] == ["backing-off"]
    assert found[1][1]["gone"] == []


def test_a_pod_that_is_gone_is_named(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    del pages.service.pods["web"], pages.service.statuses["web"]
    pages.service.say("web", "removed")
    pages.turn()
    assert pages.read(page)[1] == ("pods", {"changed": [], "gone": ["web"]})


def test_a_pod_that_left_for_other_machines_is_gone(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    pages.service.add("web", phase="elsewhere")
    pages.service.say("web", "is for other machines")
    pages.turn()
    assert pages.read(page)[1] == ("pods", {"changed": [], "gone": ["web"]})
    pages.turn(30)
    assert not [one for one in pages.read(page) if one[0] == "pods"]


def test_what_has_no_event_is_seen_by_the_looks_that_follow_one_or_within_30_seconds(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    pages.service.say("web")
    pages.turn()
    page.pending()
    # Such as readiness, a second after the start.
    pages.service.add("web", ready=True)
    pages.turn(1.1)
    assert [pod["ready"] for _, found in pages.read(page) for pod in found["changed"]] == [True]
    # Such as the address of a pod, when it has none of these looks any more.
    for _ in range(6):
        pages.turn(20)
    page.pending()
    pages.service.statuses["web"] = live.replace(pages.service.statuses["web"], addresses=("10.0.0.5",))
    pages.turn(30)
    kinds = dict(pages.read(page))
    assert [pod["addresses"] for pod in kinds["pods"]["changed"]] == [["10.0.0.5"]]


def test_a_file_with_errors_and_another_declaration_are_seen_at_once(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    pages.service.add("db")
    pages.turn(1)
    assert [pod["name"] for _, found in pages.read(page) for pod in found["changed"]] == ["db"]
    report = live.replace(pages.service.statuses["db"], name="bad", phase="failed")
    pages.service.statuses["bad"] = report
    pages.service.problems = (Problem("bad.toml", 1, "restart", "is wrong"),)
    pages.turn(1)
    assert [pod["name"] for _, found in pages.read(page) for pod in found["changed"]] == ["bad"]


def test_a_change_of_usage_alone_is_told_as_usage_only(pages: Pages) -> None:
    page = pages.open()
    pages.service.samples = [Sample("web", "app", "r1", 1.0, 4096)]
    pages.turn()
    page.pending()
    pages.service.add("web", usage={"memory": 5, "cpu": 4.0, "pids": 3})
    # The generation of the fake moves with it.
    pages.service.statuses["web"] = live.replace(pages.service.statuses["web"], generation=1, revision="rev1")
    pages.service.samples = [Sample("web", "app", "r1", 4.0, 8192)]
    pages.turn(30)
    [(kind, usage)] = pages.read(page)
    assert (kind, usage["points"]) == ("usage", {"web/app": [10.0, 8192]})


def test_sources_are_told_when_they_change(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    pages.service.sources.git = GitReport(state="error", remote="https://git.example/x.git", error="no")
    pages.service.say("", "cannot fetch", "git-error")
    pages.turn()
    assert [kind for kind, _ in pages.read(page)] == ["event", "sources"]


def test_a_repository_of_this_machine_is_named_without_its_directory(pages: Pages) -> None:
    pages.service.sources.git = GitReport(state="in-sync", remote="file:///srv/secret/fleet.git")
    page = pages.open()
    pages.turn()
    assert pages.read(page)[0][1]["sources"]["git"]["remote"] == "fleet.git"


def test_a_second_page_gets_its_own_hello_and_no_event_twice(pages: Pages) -> None:
    first = pages.open()
    pages.turn()
    first.pending()
    pages.service.say("web", "one")
    second = pages.open()
    pages.turn()
    assert [kind for kind, _ in pages.read(first)] == ["event"]
    [(kind, hello)] = pages.read(second)
    assert (kind, [event["seq"] for event in hello["events"]]) == ("hello", [1])
    pages.service.say("web", "two")
    pages.turn()
    for page in (first, second):
        assert [found["seq"] for kind, found in pages.read(page) if kind == "event"] == [2]


def test_nothing_is_looked_at_while_no_page_is_open(pages: Pages) -> None:
    looks = []
    pages.service.status = lambda *_, **__: looks.append(1) or []  # type: ignore[method-assign,func-returns-value]
    pages.service.say("web")
    pages.turn()
    pages.turn(31)
    assert looks == []
    page = pages.open()
    pages.turn()
    assert looks == [1]
    page.close()
    pages.turn(31)
    assert looks == [1]


def test_the_reports_are_made_once_for_all_pages(pages: Pages) -> None:
    looks = []
    status = pages.service.status

    def counted(*names: str, **options: bool) -> Any:
        looks.append(names)
        return status(*names, **options)

    pages.service.status = counted  # type: ignore[method-assign]
    opened = [pages.open() for _ in range(STREAMS)]
    pages.turn()
    assert looks == [()]
    pages.service.say("web")
    pages.turn(0.1)
    assert looks == [(), ("web",)]
    assert all(len(pages.read(page)) == 2 for page in opened)


def test_a_page_more_is_refused_until_one_is_closed(pages: Pages) -> None:
    opened = [pages.open() for _ in range(STREAMS)]
    with pytest.raises(Refused, match="16 pages are open already") as caught:
        pages.open()
    assert caught.value.status == 503
    opened[0].close()
    pages.open()


def test_who_does_not_keep_up_is_dropped_and_costs_no_more(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "_QUEUED", 10_000)
    slow, fast = pages.open(), pages.open()
    pages.turn()
    for number in range(100):
        pages.service.say("web", f"{number} {'x' * 500}")
        pages.turn()
        fast.pending()
    with pytest.raises(CallerGone):
        next(slow)
    assert sum(map(len, slow.pending())) <= 10_000
    pages.service.say("web", "and on")
    pages.turn()
    assert len(pages.read(fast)) == 1


def test_a_stop_ends_every_page_and_lets_none_in(pages: Pages) -> None:
    page = pages.open()
    pages.turn()
    page.pending()
    pages.live.close()
    assert list(page) == []
    assert list(pages.open()) == []


def test_silence_has_beats(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_BEAT", 0.05)
    page = pages.open()
    assert next(page) == b": beat\n\n"


# Over a real connection


@pytest.fixture
def server() -> Iterator[tuple[WebServer, FakeWebService]]:
    service = FakeWebService()
    service.add("web")
    with serving_web(service) as started:
        yield started, service


def test_an_event_is_on_its_way_at_once(server: tuple[WebServer, FakeWebService]) -> None:
    started, service = server
    with OpenStream("127.0.0.1", started.port) as page:
        page.wait("hello")
        began = time.monotonic()
        service.say("web", "now")
        assert page.wait("event")["message"] == "now"
        assert time.monotonic() - began < 5


def test_the_seventeenth_page_is_told_so_and_let_in_once_another_left(
    server: tuple[WebServer, FakeWebService],
) -> None:
    started, _ = server
    with contextlib.ExitStack() as stack:
        pages = [stack.enter_context(OpenStream("127.0.0.1", started.port)) for _ in range(16)]
        status, _, body = got(started, "/v1/live")
        assert (status, body["error"]["message"]) == (503, "16 pages are open already")
        # Other requests go on.
        assert got(started, "/v1/status")[0] == 200
        pages[3].close()

        def let_in() -> bool:
            with OpenStream("127.0.0.1", started.port) as page:
                return page.status == 200

        until(let_in)


def test_a_bug_while_looking_does_not_end_the_stream(
    server: tuple[WebServer, FakeWebService], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, service = server
    monkeypatch.setattr("tank_agent.api.web.server._AFTER_BUG", 0.05)
    with OpenStream("127.0.0.1", started.port) as page:
        page.wait("hello")
        status = service.status
        service.status = None  # type: ignore[assignment,method-assign]
        service.say("web", "one")
        page.wait("event")
        service.status = status  # type: ignore[method-assign]
        service.say("web", "two")
        page.wait("event", lambda event: event["message"] == "two")
