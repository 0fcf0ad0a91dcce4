"""The status page in a real Chromium: what it shows, live, by keyboard, and of hostile texts."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from tank_agent.api import reports
from tank_agent.api.reports import PodReport
from tank_agent.linux.clock import rfc3339
from tests.support import page_pods as pods
from tests.support.agent import Agent, ended, wait_for
from tests.support.browser import PATIENCE, accessible, chromium, fits, opened
from tests.support.page_server import PAGE, Told, message, serving
from tests.support.updates import update_table, word_pod

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
# Notes which rows the page touches, but for the pictures, which are drawn as they come into sight.
_COUNT = """
window.touched = new Set();
new MutationObserver(found => found.forEach(one => {
  const node = one.target.nodeType === 1 ? one.target : one.target.parentElement, row = node.closest('.row');
  if (row && !node.closest('.use')) touched.add(row.querySelector('button').textContent);
})).observe(document.getElementById('rows'),
  {childList: true, subtree: true, characterData: true, attributes: true});
"""

expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def machine(now: float, found: list[PodReport], **more: Any) -> Told:
    """Return a server's answers for these pods."""
    return Told(
        hello=pods.hello(now, found, **more),
        why=lambda name: next((pods.why(now, one) for one in found if one.name == name), None),
        log=pods.log_lines(now, "app"),
    )


@pytest.fixture
def told() -> Told:
    """Return the answers of a machine as somebody has it."""
    now = time.time()
    return machine(now, pods.household(now), events=pods.household_events(now))


def names(page: Page) -> list[str]:
    # Not their inner text: that of rows beyond the screen is not rendered.
    return page.locator(".row:not([hidden]) h3").all_text_contents()


def until(page: Page, what: str) -> None:
    """Wait until an expression of the page is true; playwright's own wait would need `unsafe-eval`."""
    wait_for(lambda: page.evaluate(what), what)


def wait_page(page: Page) -> None:
    """Wait until all is there that the page was told first."""
    until(page, "loaded && document.querySelector('.row svg, #empty:not([hidden])')")


def as_json(report: PodReport) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(report)
    return found


def row(page: Page, name: str) -> Any:
    return page.locator(".row").filter(has=page.get_by_role("button", name=name, exact=True))


def picture(page: Page, name: str) -> None:
    """Write a picture for the documentation if it is missing, or TANK_PICTURES asks for it."""
    file = PICTURES / f"{name}.png"
    if not file.exists() or os.environ.get("TANK_PICTURES"):
        page.mouse.move(0, 0)
        PICTURES.mkdir(exist_ok=True)
        if name != "phone":
            page.set_viewport_size({"width": 1440, "height": 600})
        page.screenshot(path=file, animations="disabled")
    assert 10_000 < file.stat().st_size < 150_000


def test_it_is_one_small_file_that_asks_for_nothing_else() -> None:
    text = PAGE.read_text()
    assert PAGE.stat().st_size < 40 * 1024
    assert len(re.findall(r"<style\b", text)) == len(re.findall(r"<script\b", text)) == 1
    assert re.findall(r"""\s(?:style|on\w+)\s*=\s*["']""", text) == []
    assert (
        re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|DOMParser|\beval\b|new Function", text
        )
        == []
    )
    places = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[\w./-]*""", text))
    assert places == {"http://www.w3.org/2000/svg"}, "of the icon, which is no request"


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("desk", (1440, 900), "light"), ("dark", (1440, 900), "dark"), ("phone", (390, 844), "light")],
)
def test_a_machine_at_a_glance(
    browser: Browser, told: Told, name: str, size: tuple[int, int], scheme: Any
) -> None:
    with serving(told) as url, opened(browser, url, size=size, color_scheme=scheme) as page:
        wait_page(page)
        # What needs attention comes first, then what is under way.
        assert names(page)[:4] == ["api", "paperless", "zigbee", "camera"]
        assert names(page)[4:] == ["dashboard", "metrics", "mosquitto", "notes", "proxy", "backup"]
        expect(page.locator("#chips button")).to_have_text(
            ["10 all", "3 to look at", "1 under way", "5 well", "1 at rest"]
        )
        expect(page.get_by_role("heading", level=1)).to_have_text("edge-7")
        sources = page.locator("#sources")
        expect(sources).to_contain_text(
            "git in sync at 9b1f04c2d7aa Give the sensors more memory Ann Berg, 2h"
        )
        expect(sources).to_contain_text("/etc/tank/pods.d")
        expect(row(page, "api")).to_contain_text("Update: rolled back")
        expect(row(page, "api")).to_contain_text(
            "9b1f04c2d7aa runs again: container app ended with exit code 3"
        )
        expect(row(page, "api")).to_contain_text("127.0.0.1:8080→80")
        expect(row(page, "paperless")).to_contain_text("503 Service Unavailable")
        expect(row(page, "paperless")).to_contain_text("Memory: 388M / 512M")
        expect(row(page, "zigbee")).to_contain_text("7 restarts")
        expect(row(page, "zigbee")).to_contain_text(re.compile(r"next try in \d+s"))
        expect(row(page, "camera")).to_contain_text("31M of 74M pulled")
        expect(row(page, "backup")).to_contain_text(re.compile("next run in 17h.*, last succeeded 6h"))
        expect(row(page, "proxy")).to_contain_text("a newer image is there for app")
        expect(row(page, "mosquitto").locator("svg")).to_have_count(2)
        expect(row(page, "mosquitto").locator("svg").first).to_have_attribute(
            "aria-label", re.compile(r"CPU over the last hour: highest \d+ %")
        )
        expect(row(page, "mosquitto").locator("time").first).to_have_attribute("datetime", re.compile("^20"))
        expect(page.locator("#feed li").first).to_contain_text("camera update started")
        expect(page).to_have_title("(3) edge-7 \N{EN DASH} tank")
        fits(page)
        accessible(page)
        if name == "dark":
            page.get_by_role("button", name="api", exact=True).first.click()
            expect(page.locator("#log div")).not_to_have_count(0)
            accessible(page)
        picture(page, name)


def test_what_changes_is_shown_and_nothing_else_is_touched(browser: Browser, told: Told) -> None:
    now = time.time()
    with serving(told) as url, opened(browser, url) as page:
        wait_page(page)
        page.get_by_role("button", name="mosquitto", exact=True).focus()
        page.evaluate(_COUNT)
        down = {"phase": "failed", "started_at": None, "usage": None, "restarts": 3}
        crashed = pods.pod(
            "mosquitto", now=now, phase="failed", container=down, error="container app was killed"
        )
        told.send("pods", {"changed": [as_json(crashed)], "gone": ["notes"]})
        expect(row(page, "mosquitto")).to_contain_text("container app was killed")
        expect(row(page, "notes")).to_have_count(0)
        assert names(page)[:4] == ["api", "mosquitto", "paperless", "zigbee"]
        assert page.evaluate("[...touched]") == ["mosquitto"]
        assert page.evaluate("document.activeElement.textContent") == "mosquitto", (
            "it moved under the keyboard"
        )
        said = page.get_by_role("status")
        expect(said).to_contain_text("mosquitto needs attention: container app was killed")
        expect(said).to_contain_text("notes is gone")
        told.send("pods", {"changed": [as_json(pods.pod("mosquitto", now=now, up=1))], "gone": []})
        expect(said).to_have_text("mosquitto is well again")
        told.send(
            "pods", {"changed": [as_json(pods.pod("fresh", now=now, ports=pods.port(81, 80)))], "gone": []}
        )
        expect(row(page, "fresh")).to_contain_text("127.0.0.1:81→80")
        # The next sample: the picture ends in it.
        told.send("usage", {"at": rfc3339(now), "points": {"fresh/app": [55.0, 97 << 20]}})
        expect(row(page, "fresh")).to_contain_text("CPU: 55 %")
        expect(row(page, "fresh")).to_contain_text("Memory: 97M / 128M")
        told.send(
            "event", pods.event(900, now, "fresh", "unhealthy", "3 times failed", "app") | {"by": "eve"}
        )
        expect(page.locator("#feed li").first).to_contain_text("fresh/app unhealthy")
        expect(page.locator("#feed li").first).to_contain_text("by eve")
        for number in range(901, 1200):
            told.send("event", pods.event(number, now, "fresh", "exited", "again"))
        until(page, "document.querySelector('#feed li').seq === 1199")
        assert page.locator("#feed li").count() == 200


def test_sources_that_need_a_person_are_loud(browser: Browser, told: Told) -> None:
    now = time.time()
    good = pods.household_sources(now)
    assert good.git is not None
    newer = reports.CommitReport(id=pods.NEW, author="Ben Ode", subject="Drop all pods", at=rfc3339(now - 60))
    with serving(told) as url, opened(browser, url) as page:
        wait_page(page)
        sources = page.locator("#sources")
        told.send("sources", msgspec.to_builtins(msgspec.structs.replace(good, suspended=True)))
        expect(sources).to_contain_text("Sources are suspended")
        expect(sources.locator("code").first).to_have_text("tank resume")
        held = msgspec.structs.replace(
            good.git,
            state="held",
            latest=newer,
            held="it removes 9 of 9 pods",
            hint="`tank sync --confirm` lets it through",
        )
        wrong = reports.DirectoryReport(path="/etc/tank/pods.d", error="/etc/tank/pods.d: cannot be read")
        told.send(
            "sources",
            msgspec.to_builtins(msgspec.structs.replace(good, git=held, directories=(wrong,), unusable=2)),
        )
        expect(sources).to_contain_text("git held")
        expect(sources).to_contain_text("fetched e4a7710c5be9 Drop all pods Ben Ode")
        expect(sources).to_contain_text("it removes 9 of 9 pods")
        expect(sources).to_contain_text("tank sync --confirm lets it through")
        expect(sources).to_contain_text("cannot be read")
        expect(sources).to_contain_text("2 files with errors")
        expect(sources).not_to_contain_text("suspended")
        accessible(page)


def test_a_pod_opens_with_what_explains_it(browser: Browser, told: Told) -> None:
    with serving(told) as url, opened(browser, url, refused=True) as page:
        wait_page(page)
        page.get_by_role("button", name="api", exact=True).first.click()
        pod = page.locator("#pod")
        expect(page.locator("#name")).to_be_focused()
        expect(pod).to_contain_text("since the update to e4a7710c5be9 failed")
        expect(pod).to_contain_text("pods/api.toml:10")
        expect(pod).to_contain_text("tank resume api tries the failed update again")
        expect(pod).to_contain_text("registry.lan/api:1.4@1f2e3d4c5b6a")
        expect(page.locator("#s-changes tbody tr").first).to_contain_text("failed")
        expect(page.locator("#s-events")).to_contain_text("has proved itself")
        expect(page.locator("#s-facts")).to_contain_text("10.89.0.7/24")
        assert page.url.endswith("#pod=api")
        # A change of the pod asks for the reason again.
        asked = sum(path == "/v1/pods/api/why" for path in told.requests)
        told.send(
            "pods",
            {"changed": [as_json(pods.pod("api", now=time.time(), error="no space left"))], "gone": []},
        )
        expect(pod).to_contain_text("no space left")
        wait_for(lambda: sum(path == "/v1/pods/api/why" for path in told.requests) > asked, "it asks again")
        accessible(page)
        page.keyboard.press("Escape")
        expect(pod).to_be_hidden()
        expect(page.get_by_role("button", name="api", exact=True).first).to_be_focused()
        page.go_back()
        expect(page.locator("#name")).to_have_text("api")
        page.goto(f"{url}#pod=backup")
        expect(page.locator("#s-job")).to_contain_text("0 3 * * * (Europe/Berlin), at most 1h")
        expect(page.locator("#s-job tbody tr").first).to_contain_text("42")
        expect(page.locator("#s-job tbody tr").first).to_contain_text("1m 34s")
        # At rest, that is the log of its last run; followed, it would be that of the next.
        wait_for(
            lambda: "/v1/pods/backup/logs?tail=300&follow=0&container=app" in told.requests, "its log is read"
        )
        page.goto(f"{url}#pod=nobody")
        expect(pod).to_contain_text("there is no pod nobody")


def test_a_log_is_followed_paused_and_bounded(browser: Browser, told: Told) -> None:
    now = time.time()
    told.log = pods.log_lines(now, "web", "db")
    at = rfc3339(now)
    with serving(told) as url, opened(browser, f"{url}#pod=notes") as page:
        log, pause = page.locator("#log"), page.locator("#pause")
        expect(log.locator("div")).to_have_count(48)
        expect(log.locator("div").first).to_contain_text("weblistening on :80")
        expect(log.locator(".err").first).to_contain_text("warning: lamp")
        page.locator("#which").select_option("db")
        expect(log.locator("div")).to_have_count(24)
        told.print(
            f"{at} stdout P db half ",
            f"{at} stderr F db other",
            f"{at} stdout P db of ",
            f"{at} stdout F db a line",
        )
        expect(log.locator("div").last).to_have_text("of a line")
        told.print(f"{at} stdout F db \x1b[31mred\x1b[0m \x1b]0;title\x07and \x07plain")
        expect(log.locator("div").last).to_have_text("red and \\u0007plain")
        assert page.evaluate("$('log').scrollHeight - $('log').scrollTop - $('log').clientHeight < 2")
        pause.click()
        told.print(*(f"{at} stdout F db line {number}" for number in range(3000)))
        expect(pause).to_have_text("Paused, 3000 new")
        expect(log.locator("div").last).to_have_text("red and \\u0007plain")
        accessible(page)
        pause.click()
        expect(log.locator("div").last).to_have_text("line 2999")
        assert log.locator("div").count() == 2000
        # Who scrolls back wants to read.
        log.hover()
        page.mouse.wheel(0, -900)
        expect(pause).to_have_attribute("aria-pressed", "true")
        page.locator("#copy").click()
        assert page.evaluate("String(getSelection())").endswith("line 2998\nline 2999")


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "javascript:alert(1)",
    "\u202egnp.exe\u2066 \u200b\u00ad\x1b[2J\x00",
    "]]>--></style></script>`${alert(1)}`",
)


def test_hostile_texts_are_only_texts(browser: Browser) -> None:
    now = time.time()
    word, found = "w" * 500, []
    for number, text in enumerate([*HOSTILE, word]):
        name = f"{text}{number}"
        sick = {
            "name": text,
            "image": text,
            "last_line": text,
            "phase": "failed",
            "started_at": rfc3339(now),
            "health": reports.HealthReport(
                state="unhealthy", since=rfc3339(now), message=text * 20, failing=2
            ),
            "exit": reports.ExitReport(code=1, signal=None, oom=False, at=rfc3339(now), reason=text),
        }
        rollout = reports.RolloutReport(
            state="failed", outcome="failed", wanted=text, running=text, reason=text
        )
        git = reports.PodGitReport(state=text, error=text, commit=text, author=text, subject=text, file=text)
        found.append(
            pods.pod(
                name,
                now=now,
                phase="failed",
                owner=text,
                container=sick,
                error=(text + "\n") * 400,
                waits=(text,),
                warnings=(text,),
                git=git,
                rollout=rollout,
                revision=text,
                addresses=(text,),
                health=text,
            )
        )
    commit = reports.CommitReport(id=HOSTILE[0], author=HOSTILE[1], subject=HOSTILE[3] * 9, at=rfc3339(now))
    git_report = reports.GitReport(
        state="error",
        remote=HOSTILE[1],
        ref=HOSTILE[0],
        error=HOSTILE[0] * 300,
        hint=HOSTILE[4],
        held=HOSTILE[1],
        commit=commit,
        latest=commit,
        troubles=HOSTILE,
    )
    sources = reports.SourcesReport(
        suspended=False,
        git=git_report,
        directories=(reports.DirectoryReport(path=HOSTILE[1], error=HOSTILE[0]),),
        overlooked=HOSTILE,
        overlooked_count=5,
    )
    events = [pods.event(number, now, text, text, text * 50, text) for number, text in enumerate(HOSTILE, 1)]
    told = machine(now, found, events=events, sources=sources, host=HOSTILE[0])
    told.log = [f"{rfc3339(now)} stdout F app {text}\n".encode() for text in [*HOSTILE, word * 100]]
    told.log += [b"no line at all\n", rfc3339(now).encode() + b" stdout F app \xff\xfe bytes\n"]
    for size in ((1440, 900), (360, 740)):
        with serving(told) as url, opened(browser, url, size=size) as page:
            until(page, "loaded")
            # Each is there to be read, and nothing of it has become an element.
            assert "<img src=x onerror=alert(1)>0" in names(page)
            assert "\\u202egnp.exe\\u2066 \\u200b\\u00ad\\u001b[2J\\u00003" in names(page)
            for at in range(len(found)):
                page.locator(".row h3 button").nth(at).evaluate("node => node.click()")
                expect(page.locator("#s-why")).to_contain_text("is failed")
                expect(page.locator("#log div")).to_have_count(7)
                fits(page)
                wide = page.evaluate(
                    "[...document.querySelectorAll('.row, #pod, #events')]"
                    ".filter(one => one.scrollWidth > one.clientWidth + 1)"
                    ".map(one => one.id || one.textContent.slice(0, 60))"
                )
                assert wide == []
                page.locator("#close").click()
            strange = page.evaluate(
                "[...document.querySelectorAll('body img, body script, body iframe, body a')]"
                ".map(one => one.outerHTML.slice(0, 60))"
            )
            assert [one for one in strange if not one.startswith("<script>\n'use strict'")] == []


def test_data_of_another_form_makes_no_element_and_sets_no_property(browser: Browser, told: Told) -> None:
    foreign = [{"innerHTML": "<b>x</b>", "onclick": "x"}, {"nodeType": 1, "innerHTML": "<b>x</b>"}, [["<i>"]]]
    with serving(told) as url, opened(browser, url) as page:
        wait_page(page)
        shown = page.evaluate("json => h('p', JSON.parse(json)).outerHTML", json.dumps(foreign))
        assert shown == "<p>[object Object][object Object]&lt;i&gt;</p>"


def test_a_thousand_pods(browser: Browser) -> None:
    now = time.time()
    found = [
        pods.pod(f"pod-{number:04}", now=now, ports=pods.port(10000 + number, 80)) for number in range(1000)
    ]
    told = machine(now, found)
    timing = """
    window.times = {};
    new MutationObserver(() => { const count = document.querySelectorAll('.row').length;
      if (count && !times.first) times.first = performance.now();
      if (count === 1000 && !times.all) times.all = performance.now();
    }).observe(document, {childList: true, subtree: true});
    """
    with serving(told) as url, opened(browser, url, script=timing) as page:
        until(page, "loaded && document.querySelectorAll('.row').length === 1000")
        drawn = page.locator(".row svg").count()
        assert 0 < drawn < 200, "pictures are only drawn where they are seen"
        page.evaluate(_COUNT)
        page.evaluate(
            "(() => { const told = HEAR.pods;"
            " HEAR.pods = found => { const at = performance.now(); told(found);"
            " document.body.offsetTop; times.update = performance.now() - at; }; })()"
        )
        told.send(
            "pods",
            {
                "changed": [as_json(pods.pod("pod-0700", now=now, phase="failed", error="it broke"))],
                "gone": [],
            },
        )
        expect(page.locator(".row").first).to_contain_text("it broke")
        assert page.evaluate("[...touched]") == ["pod-0700"]
        times = page.evaluate("times")
        print({name: round(value) for name, value in times.items()})
        assert times["first"] < 10_000 and times["all"] < 30_000 and times["update"] < 2_000
        page.locator("#find").fill("10999")
        expect(page.locator(".row:visible")).to_have_count(1)
        assert names(page) == ["pod-0999"]
        page.locator("#find").fill("pod-07 failed")
        expect(page.locator(".row:visible")).to_have_count(1)
        page.locator("#find").fill("no such thing")
        expect(page.get_by_text("No pod matches.")).to_be_visible()
        page.keyboard.press("Escape")
        until(page, "document.querySelectorAll('.row:not([hidden])').length === 1000")
        # All at once, as after a reconnect: only what differs is touched.
        page.evaluate("touched.clear()")
        told.send("hello", told.hello)
        expect(page.locator(".row").first).not_to_contain_text("it broke")
        assert page.evaluate("[...touched]") == ["pod-0700"]


def test_a_page_at_rest_does_next_to_nothing(browser: Browser) -> None:
    now = time.time()
    found = [pods.pod(f"pod-{number:02}", now=now, up=90000 + number) for number in range(100)]
    told = machine(now, found, events=pods.household_events(now))
    script = """
    window.changes = 0;
    new MutationObserver(found => changes += found.length).observe(document,
      {childList: true, subtree: true, characterData: true, attributes: true});
    """
    with serving(told) as url, opened(browser, url, script=script, clock=now) as page:
        until(page, "loaded")
        page.clock.run_for(1000)
        for seconds, most in ((9, 40), (60, 150)):
            page.evaluate("changes = 0")
            for _ in range(0, seconds, 10):
                heard = page.evaluate("heard")
                page.clock.run_for(min(seconds, 10) * 1000)
                # Without a beat it would give up the connection.
                told.streams[0].put(b": beat\n\n")
                until(page, f"heard > {heard}")
            assert page.evaluate("changes") < most, "only times that read otherwise now are written"


def test_a_token_is_asked_for_and_kept_in_the_tab(browser: Browser, told: Told) -> None:
    told.token = "s3cret"
    with serving(told) as url, opened(browser, url, refused=True) as page:
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        accessible(page)
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("The agent does not know this token.")
        accessible(page)
        field.fill("s3cret")
        page.keyboard.press("Enter")
        wait_page(page)
        expect(page.locator("#login")).to_be_hidden()
        page.reload()
        wait_page(page)
        assert "s3cret" not in page.content() and "s3cret" not in page.url
    with serving(told) as url, opened(browser, f"{url}#token=s3cret&pod=api") as page:
        wait_page(page)
        expect(page.locator("#name")).to_have_text("api")
        assert page.url == f"{url}#pod=api", "the token has left the address"
        assert page.evaluate("history.length") <= 2
    assert all("s3cret" not in path for path in told.requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_lost_connection_is_told_and_found_again(browser: Browser, told: Told, scheme: Any) -> None:
    with serving(told) as url, opened(browser, url, color_scheme=scheme, refused=True) as page:
        wait_page(page)
        told.refuses = 503
        told.cut()
        lost = page.locator("#lost")
        expect(lost).to_contain_text(re.compile(r"This is how it was \d+s ago\. Next try in \d+s"))
        expect(page.locator("body")).to_have_class("lost")
        expect(page.get_by_role("status")).to_contain_text("The connection to the agent is lost.")
        expect(page.locator("#link")).to_have_text("not connected")
        expect(lost).to_contain_text("16 pages are open already")
        accessible(page)
        # What happened meanwhile is there afterwards.
        told.hello["pods"] = [one for one in told.hello["pods"] if one["name"] != "notes"]
        told.refuses = None
        page.get_by_role("button", name="Try now").click()
        expect(lost).to_be_hidden()
        expect(page.locator("#link")).to_have_text("live")
        expect(row(page, "notes")).to_have_count(0)
        assert "lost" not in (page.locator("body").get_attribute("class") or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_empty_machine_says_what_to_do(browser: Browser, scheme: Any) -> None:
    told = machine(time.time(), [])
    with serving(told) as url, opened(browser, url, color_scheme=scheme, size=(360, 740)) as page:
        wait_page(page)
        expect(page.get_by_text("Nothing runs here yet.")).to_be_visible()
        expect(page.locator("#empty")).to_contain_text("Put a pod file into /etc/tank/pods.d")
        accessible(page)
        fits(page)
        told.send("pods", {"changed": [as_json(pods.pod("first", now=time.time()))], "gone": []})
        expect(row(page, "first")).to_be_visible()
        expect(page.locator("#empty")).to_be_hidden()


@pytest.mark.parametrize("size", [(1440, 900), (360, 740)])
def test_all_of_it_by_keyboard(browser: Browser, told: Told, size: tuple[int, int]) -> None:
    def focus() -> str:
        text: str = page.evaluate("document.activeElement.id || document.activeElement.textContent")
        return text

    with serving(told) as url, opened(browser, url, size=size) as page:
        wait_page(page)
        press = page.keyboard.press
        press("Tab")
        assert focus() == "10 all"
        press("Tab")
        press("Enter")
        assert names(page) == ["api", "paperless", "zigbee"] and focus() == "3 to look at"
        press("Shift+Tab")
        press("Enter")
        press("/")
        assert focus() == "find"
        page.keyboard.type("paper")
        assert names(page) == ["paperless"]
        press("Escape")
        assert focus() == "find" and len(names(page)) == 10
        press("ArrowDown")
        assert focus() == "api"
        press("ArrowDown")
        press("ArrowDown")
        press("ArrowUp")
        assert focus() == "paperless"
        outline = page.evaluate("getComputedStyle(document.activeElement, '::after').outlineStyle")
        assert outline == "solid", "the focus is seen"
        press("Enter")
        assert focus() == "name"
        expect(
            page.get_by_role("button", name="paperless", exact=True, include_hidden=True).first
        ).to_have_attribute("aria-expanded", "true")
        expect(page.locator("#log div")).not_to_have_count(0)
        reached = []
        for _ in range(4):
            press("Tab")
            reached.append(focus())
        assert [one for one in reached if one in ("close", "pause", "copy", "log")] == [
            "close",
            "pause",
            "copy",
            "log",
        ]
        if size[0] < 500:
            # It covers the list, which is then out of reach.
            assert page.evaluate("document.querySelector('.row').closest('[inert]') !== null")
        accessible(page)
        press("Escape")
        assert focus() == "paperless"
        press("/")
        press("Escape")
        assert focus() == "find"


def test_the_messages_of_the_server_are_read_in_any_pieces(browser: Browser, told: Told) -> None:
    with serving(told) as url, opened(browser, url) as page:
        wait_page(page)
        whole = b": beat\n\n" + message("pods", {"changed": [], "gone": ["proxy"]}).replace(
            b"\ndata", b"\nid: 7\ndata"
        )
        whole += message("event", pods.event(77, 0.0, "", "née", "ümlaut"), ensure_ascii=False)
        for number in range(len(whole)):
            for stream in told.streams:
                stream.put(whole[number : number + 1])
        expect(row(page, "proxy")).to_have_count(0)
        expect(page.locator("#feed li").first).to_contain_text("née")


@pytest.fixture
def web_agent(tmp_path: Path) -> Iterator[tuple[Agent, str]]:
    """Return an agent that serves the page, and the address with its token."""
    agent, token = Agent(tmp_path), "0123456789abcdef0123456789abcdef"
    (tmp_path / "token").write_text(f"{token}\n")
    (tmp_path / "token").chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with agent.config.open("a") as file:
        file.write(f'[web]\nlisten = "127.0.0.1:{port}"\ntoken_file = "{tmp_path / "token"}"\n')
    with ended(agent):
        agent.start()
        yield agent, f"http://127.0.0.1:{port}/#token={token}"


def test_a_real_machine_live(browser: Browser, web_agent: tuple[Agent, str]) -> None:
    agent, url = web_agent
    with opened(browser, url, refused=True) as page:
        expect(page.get_by_text("Nothing runs here yet.")).to_be_visible()
        pod, why = row(page, "web"), page.locator("#s-why")
        agent.write("web", word_pod(agent, "first"))
        expect(pod).to_contain_text("Phase: running")
        expect(pod).to_contain_text("Health: healthy")
        expect(pod).to_contain_text("Update: good")
        pod.get_by_role("button").click()
        expect(why).to_contain_text("web runs as")
        expect(page.locator("#log")).to_contain_text("first")
        # A crash, which the agent mends at once.
        os.kill(agent.pid("web"), signal.SIGKILL)
        expect(pod).to_contain_text("1 restart")
        expect(page.locator("#s-containers")).to_contain_text("last exit: signal 9")
        expect(page.locator("#log")).to_contain_text("firstfirst")
        # A bad update, which goes back by itself.
        agent.write(
            "web", agent.pod_text(command=["/bin/sh", "-c", "echo broken; exit 3"], head=update_table())
        )
        expect(pod).to_contain_text("runs again: container app ended with exit code 3")
        expect(why).to_contain_text("since the update to")
        expect(page.locator("#s-wanted")).to_contain_text("containers[app].command")
        expect(page.locator("#feed")).to_contain_text("rolled back")
        accessible(page)
        page.keyboard.press("Escape")
        # A job, a file with a mistake, and a pod whose file is removed.
        agent.write("job", agent.pod_text(command=["/bin/echo", "done"], head='schedule = "0 3 * * *"'))
        expect(row(page, "job")).to_contain_text("next run in")
        assert agent.tank("run", "job").returncode == 0
        expect(row(page, "job")).to_contain_text("last succeeded")
        agent.write("wrong", 'immage = "x"\n')
        expect(row(page, "wrong")).to_contain_text("wrong.toml:1: containers: is missing")
        (agent.pods / "wrong.toml").unlink()
        expect(row(page, "wrong")).to_have_count(0)
        # CPU takes two samples, of which there is one each 30 s.
        expect(pod.locator("svg").last).to_have_attribute(
            "aria-label", re.compile("^Memory over the last hour")
        )
        assert agent.tank("suspend").returncode == 0
        expect(page.locator("#sources")).to_contain_text("Sources are suspended")
        # The agent is killed; the containers go on, and the next one tells of them.
        agent.kill()
        expect(page.locator("#lost")).to_be_visible()
        agent.start()
        expect(page.locator("#link")).to_have_text("live")
        expect(pod).to_contain_text("Phase: degraded")
        fits(page)
