"""The listener of [web] over real sockets: what it shows, whom it refuses, and what hostile callers cost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import cast

import pytest
import structlog

from tank_agent.agent.outward import start_outward
from tank_agent.api.door import Timeouts
from tank_agent.api.reports import WantedReport, WhyReport
from tank_agent.api.web import page
from tank_agent.api.web import server as web_server
from tank_agent.api.web.server import WebServer
from tank_agent.control.pods import Service
from tank_agent.settings.settings import Settings
from tank_agent.settings.web import WebSettings
from tests.support.fake_service import serving, until
from tests.support.fake_web import (
    TOKEN,
    FakeWebService,
    OpenStream,
    called,
    got,
    read_answer,
    sent,
    serving_web,
    web_threads,
)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture
def service() -> FakeWebService:
    made = FakeWebService()
    made.add("web")
    return made


@pytest.fixture
def server(service: FakeWebService) -> Iterator[WebServer]:
    with serving_web(service) as started:
        yield started


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    return file


# What callers cost


def test_costly_answers_are_made_two_at_a_time_whatever_comes(service: FakeWebService) -> None:
    inside, most, go, lock = 0, 0, threading.Event(), threading.Lock()

    def why(name: str) -> WhyReport:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        go.wait(30)
        with lock:
            inside -= 1
        return WhyReport(name=name, summary="so")

    service.why = why  # type: ignore[method-assign]
    with serving_web(service, patience=0.5) as server, ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(got, server, "/v1/pods/web/why") for _ in range(8)]
        refused = [one.result(30) for one in asked if one in wait(asked, 10, FIRST_COMPLETED).done]
        assert {(status, headers["retry-after"]) for status, headers, _ in refused} == {(503, "1")}
        # Others are answered meanwhile, such as Prometheus.
        assert got(server, "/v1/status")[0] == 200
        until(lambda: sum(one.done() for one in asked) == 6)
        go.set()
        assert sorted(one.result(30)[0] for one in asked) == [200] * 2 + [503] * 6
        assert (most, got(server, "/v1/pods/web/why")[0]) == (2, 200)


# What it shows


def test_the_page_comes_with_its_policy(server: WebServer) -> None:
    status, headers, body = got(server, "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<html" in body
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src ")
    assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert headers["cache-control"] == "no-store"
    assert not any(name.startswith("access-control") for name in headers)


def test_status_is_what_the_socket_says_without_process_ids(server: WebServer) -> None:
    status, headers, body = got(server, "/v1/status")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert [(pod["name"], pod["phase"], pod["containers"][0]["pid"]) for pod in body] == [
        ("web", "running", None)
    ]


def test_nothing_tells_a_directory(server: WebServer, service: FakeWebService) -> None:
    service.sources.directory_error = "/etc/tank/pods.d/web.toml:3: no; see /var/lib/tank/x and /run/tank/y"
    for target in ("/v1/info", "/v1/sources"):
        status, _, body = got(server, target)
        assert status == 200
        assert not any(place in json.dumps(body) for place in ("/etc", "/var", "/run"))
    assert got(server, "/v1/sources")[2]["directories"][0] == {
        "path": "pods.d",
        "error": "web.toml:3: no; see x and y",
    }
    assert got(server, "/v1/info")[2].keys() == {"host", "version", "uptime"}


def test_why_shows_no_command_and_no_variable(server: WebServer, service: FakeWebService) -> None:
    keys = ("command", "args", "env.LEVEL", "env.image", "health.exec", "image", "limits.memory")
    wanted = [WantedReport(key=f"containers[app].{key}", old="a", new="b", effect="") for key in keys]
    wanted += [WantedReport(key=key, old="none", new="b", effect="") for key in ("labels.x", "schedule")]
    service.explained["web"] = WhyReport(name="web", summary="", wanted=tuple(wanted))
    shown = {one["key"]: (one["old"], one["new"]) for one in got(server, "/v1/pods/web/why")[2]["wanted"]}
    hidden = {f"containers[app].{key}": ("set", "set") for key in keys[:5]}
    assert shown == {
        **hidden,
        "containers[app].image": ("a", "b"),
        "containers[app].limits.memory": ("a", "b"),
        "labels.x": ("none", "set"),
        "schedule": ("none", "b"),
    }


def test_head_has_the_head_of_get_and_no_body(server: WebServer) -> None:
    for target in ("/", "/v1/status", "/v1/live", "/v1/pods/web/logs?follow=1", "/v1/nothing"):
        with called(server) as caller:
            request = b"%%b %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % target.encode()
            caller.sendall(request % b"HEAD")
            data = b""
            while piece := caller.recv(65536):
                data += piece
        assert data.endswith(b"\r\n\r\n") and data.count(b"\r\n\r\n") == 1
    # None of them holds a place.
    for _ in range(20):
        assert sent(server, b"HEAD /v1/live HTTP/1.1\r\nHost: localhost\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/v1/pods", "/v1/pods/web", "/v1/events", "/v1/images", "/v1/volumes", "/v1/pods/web/history",
        "/v1/pods/web/exec", "/v1/pods/web/files?path=/etc", "/v1/pods/web/attach", "/v1/pods/web/wait",
        "/v1/pods/web/stop", "/v1/sync", "/v1/../v1/pods", "/..%2f..%2fetc/passwd", "//v1/pods", "/%00",
        "/v1/live/", "/page.html", "/favicon.ico",
    ],
)  # fmt: skip
def test_nothing_else_is_there(server: WebServer, target: str) -> None:
    assert got(server, target)[0] == 404


def test_every_route_of_the_socket_that_changes_something_is_refused(
    server: WebServer, service: FakeWebService
) -> None:
    from tank_agent.api.routes import ROUTES

    for call in ROUTES:
        if call.method != "GET":
            path = call.path.replace("{name}", "web").replace("{pod}", "web")
            request = f"{call.method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nweb"
            status, headers, _ = sent(server, request.encode())
            assert (status, headers["allow"]) == (405, "GET, HEAD"), call
    assert service.calls == []


# Tokens


def test_the_token_is_for_everything_but_the_page(service: FakeWebService, token_file: Path) -> None:
    with serving_web(service, token_file=token_file) as server:
        assert got(server, "/")[0] == 200
        for target in ("/v1/status", "/metrics", "/v1/live", "/v1/nothing", "/v1/pods/web/logs", "/v1/info"):
            status, headers, body = got(server, target)
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="tank"')
            assert "Authorization: Bearer TOKEN" in body["error"]["hint"]
        assert got(server, "/v1/status", Authorization=f"Bearer {TOKEN}")[0] == 200
        assert got(server, f"/v1/status?token={TOKEN}")[0] == 401
        found = [got(server, "/v1/status", Authorization="Bearer no")[0] for _ in range(30)]
        assert found[0] == 401 and found[-1] == 429
        # This address has proved itself before.
        assert got(server, "/v1/status", Authorization=f"Bearer {TOKEN}")[0] == 200


# Where it can't listen


def test_a_taken_port_is_said_once_and_tried_again(service: FakeWebService) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with serving_web(service, f"127.0.0.1:{port}") as server:
            assert not server.check() and not server.check()
            assert [(one.type, one.pod) for one in service.told] == [("web-failed", "")]
            assert "Address already in use" in service.told[0].message
            assert f"sport = :{port}" in service.told[0].message
            report = server.report()
            assert (report.listen, report.error) == (
                f"127.0.0.1:{port}",
                f"cannot listen on 127.0.0.1:{port}: Address already in use",
            )
            assert report.hint == f"`ss -ltnp sport = :{port}` shows who listens there"
            other.close()
            until(server.check)
            assert [one.type for one in service.told] == ["web-failed", "web-recovered"]
            assert server.report().error is None
            assert got(server, "/v1/status")[0] == 200


def test_it_listens_once_whichever_thread_tries(
    service: FakeWebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, both, listening = [], threading.Barrier(2), web_server._listening

    def slow(setting: str) -> socket.socket:
        tries.append(setting)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.3)
        return listening(setting)

    monkeypatch.setattr(web_server, "_listening", slow)
    web = WebSettings(listen="127.0.0.1:0")
    server = WebServer(cast(Service, service), Settings(web=web), web)
    with ThreadPoolExecutor(2) as callers:
        asked = [callers.submit(server.check) for _ in range(2)]
        assert [one.result(30) for one in asked] == [True, True]
    server.stop()
    assert len(tries) == 1


@pytest.mark.parametrize("listen", ["192.0.2.1:0", "[2001:db8::1]:0"])
def test_an_address_that_is_not_there_yet_is_waited_for(service: FakeWebService, listen: str) -> None:
    with serving_web(service, listen):
        assert "Cannot assign requested address" in service.told[0].message


def test_a_token_that_cannot_be_used_keeps_it_closed(service: FakeWebService, tmp_path: Path) -> None:
    file = tmp_path / "token"
    with serving_web(service, token_file=file) as server:
        assert server.port == 0 and "web.token_file" in service.told[0].message
        file.write_text(TOKEN)
        assert not server.check() and "is open to others" in service.told[-1].message
        file.chmod(0o600)
        assert server.check()
        assert got(server, "/v1/status")[0] == 401


def test_ipv6(service: FakeWebService) -> None:
    with serving_web(service, "[::1]:0") as server, called(server, "::1") as caller:
        caller.sendall(b"GET /v1/info HTTP/1.1\r\nHost: [::1]:9470\r\n\r\n")
        assert read_answer(caller)[0] == 200


def test_all_addresses_are_of_ipv4_too(service: FakeWebService, token_file: Path) -> None:
    with serving_web(service, "[::]:0", token_file=token_file) as server:
        for address in ("127.0.0.1", "::1"):
            with called(server, address) as caller:
                host = f"[{address}]" if ":" in address else address
                caller.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                assert read_answer(caller)[0] == 200


def test_a_page_that_cannot_be_started_stops_nothing(
    service: FakeWebService, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = WebSettings(listen="127.0.0.1:0")
    monkeypatch.setattr(page.load, "__defaults__", (Path("/nowhere"),))
    with structlog.testing.capture_logs() as logs, contextlib.ExitStack() as stack:
        start_outward(Settings(web=web), cast(Service, service), stack)
    assert [one["event"] for one in logs] == ["the web page can't be started; all else works"]
    report = service.sources.report().web
    assert report is not None and report.error == "the page can't be started"


# Hostile callers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n", 421),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: rebind.example\r\n\r\n", 400),
        (b"GET http://rebind.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: yes\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n", 400),
        (b"GET /\rX HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /v1/pods/\xff\xfe/why HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/pods/%ff%fe/why HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/pods/%2e%2e/logs HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/pods//why HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 500 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        # A proxy in front could take what follows for a body, and we for a request, or the other way round.
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 44\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0, 0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n", 411),
    ],
)
def test_a_hostile_request_is_refused_and_ends_the_connection(
    server: WebServer, request_: bytes, status: int
) -> None:
    smuggled = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with called(server) as caller:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            caller.sendall(request_ + smuggled)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := caller.recv(65536):
                data += piece
    assert data.startswith(b"HTTP/1.1 %d " % status), data[:200]
    # Names that are only not there leave the connection to the next request.
    assert data.count(b"HTTP/1.1 ") == (2 if status == 404 else 1)
    assert got(server, "/v1/status")[0] == 200


def test_requests_in_a_row_are_answered_in_their_order(server: WebServer) -> None:
    one = b"GET /%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
    with called(server) as caller:
        caller.sendall(
            one % (b"v1/info", b"") + one % (b"v1/none", b"") + one % (b"", b"Connection: close\r\n")
        )
        data = b""
        while piece := caller.recv(65536):
            data += piece
    assert [int(part[:3]) for part in data.split(b"HTTP/1.1 ")[1:]] == [200, 404, 200]


def test_who_drips_a_head_is_ended(service: FakeWebService) -> None:
    with serving_web(service, timeouts=Timeouts(idle=5.0, head=0.3)) as server, called(server) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\nHost: loc")
        began = time.monotonic()
        while time.monotonic() - began < 20:
            try:
                caller.sendall(b"x")
            except OSError:
                break
            time.sleep(0.05)
        assert time.monotonic() - began < 10
        assert got(server, "/v1/status")[0] == 200


def test_who_says_nothing_is_ended(service: FakeWebService) -> None:
    with serving_web(service, timeouts=Timeouts(idle=0.2)) as server, called(server) as caller:
        assert caller.recv(10) == b""


def test_a_full_table_is_told_and_the_socket_serves_on(service: FakeWebService, tmp_path: Path) -> None:
    path = tmp_path / "tank.sock"
    with serving(service, path), serving_web(service, limit=8) as server, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(called(server)).sendall(b"GET / HT")
        until(lambda: len(web_threads()) >= 10)
        status, _, body = sent(server, b"")
        assert status == 503 and b"serves 8 connections already" in body
        with socket.socket(socket.AF_UNIX) as local:
            local.settimeout(30)
            local.connect(os.fspath(path))
            local.sendall(b"GET /v1/status HTTP/1.1\r\n\r\n")
            assert read_answer(local)[0] == 200


@pytest.mark.alone
def test_the_lack_of_descriptors_is_told(service: FakeWebService) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving_web(service) as server, called(server) as caller, contextlib.ExitStack() as stack:
        caller.sendall(b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n")
        read_answer(caller)
        second = stack.enter_context(socket.socket())
        second.settimeout(30)
        used = descriptors()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, before[1]))
        try:
            fillers = []
            with contextlib.suppress(OSError):
                while True:
                    fillers.append(os.open(os.devnull, os.O_RDONLY))
            second.connect(("127.0.0.1", server.port))
            status, _, body = read_answer(second)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for filler in fillers:
                os.close(filler)
        assert status == 503 and b"LimitNOFILE" in body
        assert got(server, "/v1/status")[0] == 200


# Logs


def test_a_followed_log_ends_with_its_reader(server: WebServer, service: FakeWebService) -> None:
    for _ in range(40):
        with called(server) as caller:
            caller.sendall(b"GET /v1/pods/web/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            data = b""
            while b"stdout F app hello" not in data:
                piece = caller.recv(65536)
                assert piece
                data += piece
        until(lambda: service.following == 0)
    until(lambda: len(web_threads()) == 2)


def test_no_more_than_sixteen_follow(server: WebServer) -> None:
    follow = b"GET /v1/pods/web/logs?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(16):
            caller = stack.enter_context(called(server))
            caller.sendall(follow)
            assert caller.recv(12) == b"HTTP/1.1 200"
        status, _, body = sent(server, follow)
        assert status == 503 and b"16 logs are followed already" in body
        assert got(server, "/v1/pods/web/logs")[0] == 200
    until(lambda: sent(server, follow.replace(b"web", b"none"))[0] == 404)


# The end, and the cost


def test_a_stop_ends_streams_at_once(service: FakeWebService) -> None:
    with serving_web(service) as server:
        pages = [OpenStream("127.0.0.1", server.port) for _ in range(4)]
        for page in pages:
            page.wait("hello")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1.5
        for page in pages:
            with page:
                assert page.next()[0] == "end"


def test_it_costs_nothing_where_it_is_off() -> None:
    code = (
        "import sys, contextlib, tank_agent.agent.lifecycle\n"
        "from tank_agent.agent.outward import start_outward\n"
        "from tank_agent.settings.settings import Settings\n"
        "import threading\n"
        "before = threading.active_count()\n"
        "with contextlib.ExitStack() as stack:\n"
        "    start_outward(Settings(), None, stack)\n"
        "    assert threading.active_count() == before\n"
        "print([name for name in sys.modules if name.startswith('tank_agent.api.web')])\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_thousand_short_streams_leave_nothing(server: WebServer) -> None:
    def counts() -> tuple[int, int]:
        return descriptors(), len(web_threads())

    def stream() -> None:
        with OpenStream("127.0.0.1", server.port) as page:
            assert page.status in (200, 503)

    for _ in range(50):
        stream()
    until(lambda: len(web_threads()) == 2)
    before = counts()
    for _ in range(1000):
        stream()
    until(lambda: counts() == before)
