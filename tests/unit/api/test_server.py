"""The API server against real sockets: the protocol, its limits, and hostile callers."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from tank_agent.api.door import Timeouts
from tank_agent.api.request import Answer, RawConnection, Reply, Request, Upgrade, json_answer
from tank_agent.api.routes import ROUTES
from tank_agent.api.server import ApiServer
from tank_agent.api.types import Call
from tank_agent.errors import OwnedElsewhere, PodNotFound, Retry, Stalled, TankError
from tests.support.fake_service import FakeService, api_threads, as_user, open_directory, serving, until


def echo(service: object, request: Request) -> Reply:
    if request.query.get("refuse"):
        raise PodNotFound("there is no pod web")

    def run(raw: RawConnection) -> None:
        data = raw.received or raw.socket.recv(65536)
        while data:
            raw.socket.sendall(request.body + data)
            data = raw.socket.recv(65536)

    return Upgrade(run=run)


def only_root(service: object, request: Request) -> Reply:
    return json_answer(request.peer.uid)


TEST_ROUTES = {
    **ROUTES,
    Call("POST /test/echo", bytes, body=100, upgrade="echo"): echo,
    Call("GET /test/root", int, access="owner"): only_root,
}


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "tank.sock"


@pytest.fixture
def server(service: FakeService, path: Path) -> Iterator[ApiServer]:
    with serving(service, path, routes=TEST_ROUTES) as started:
        yield started


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(os.fspath(path))
        yield caller


def read_all(caller: socket.socket) -> bytes:
    data = b""
    while piece := caller.recv(65536):
        data += piece
    return data


def read_answer(caller: socket.socket) -> tuple[int, Any]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = caller.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += caller.recv(65536)
    return int(head.split()[1]), json.loads(body)


def ask(path: Path, request: bytes) -> tuple[int, Any]:
    with connected(path) as caller:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            caller.sendall(request)
        return read_answer(caller)


def get(path: Path, target: str) -> tuple[int, Any]:
    return ask(path, f"GET {target} HTTP/1.1\r\nHost: tank\r\n\r\n".encode())


# The socket itself


def test_without_the_group_only_root_may_connect(service: FakeService, path: Path) -> None:
    with serving(service, path, group="no-such-group"):
        found = path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert stat.S_ISSOCK(found.st_mode)


@pytest.mark.machine
def test_with_the_group_its_members_may_connect(service: FakeService, path: Path) -> None:
    with serving(service, path, group="daemon"):
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o660, 0, 1)


def test_a_dead_agents_socket_is_replaced(service: FakeService, path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
        dead.listen()
    with serving(service, path):
        assert get(path, "/v1/pods") == (200, [])


def test_a_live_agents_socket_is_left_alone(server: ApiServer, path: Path) -> None:
    with pytest.raises(Stalled, match="already running") as caught:
        ApiServer(FakeService(), path).start()
    assert caught.value.hint is not None
    assert get(path, "/v1/pods")[0] == 200


def test_of_agents_that_start_at_once_one_serves(tmp_path: Path) -> None:
    path = tmp_path / "tank.sock"
    servers = [ApiServer(FakeService(), path) for _ in range(8)]

    def start(server: ApiServer) -> bool:
        try:
            server.start()
        except Stalled:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        started = list(pool.map(start, servers))
    try:
        assert sum(started) == 1
        assert get(path, "/v1/pods") == (200, [])
        assert [entry.name for entry in tmp_path.iterdir()] == ["tank.sock"]
    finally:
        for server in servers:
            server.stop()


def test_a_file_in_the_way_is_not_removed(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(Stalled, match="no socket is in the way"):
        ApiServer(FakeService(), path).start()
    assert path.read_text() == "precious"


def test_a_stopped_server_leaves_nothing(service: FakeService, path: Path) -> None:
    with serving(service, path):
        assert get(path, "/v1/pods")[0] == 200
    assert list(path.parent.iterdir()) == []
    ApiServer(service, path).stop()


def test_the_name_survives_the_stop_of_a_predecessor(path: Path) -> None:
    old, new = ApiServer(FakeService(), path), ApiServer(FakeService(), path)
    old.start()
    path.unlink()
    new.start()
    old.stop()
    try:
        assert get(path, "/v1/pods") == (200, [])
    finally:
        new.stop()


def test_a_path_longer_than_an_address_works(service: FakeService, tmp_path: Path) -> None:
    from tank_agent.client.client import Client

    path = tmp_path / ("d" * 100) / ("e" * 100) / "tank.sock"
    service.add("web")
    with serving(service, path):
        assert [pod.name for pod in Client(path).list()] == ["web"]
    assert not path.exists()


# Requests


def test_a_connection_serves_several_requests(server: ApiServer, service: FakeService, path: Path) -> None:
    service.add("web")
    with connected(path) as caller:
        for _ in range(3):
            caller.sendall(b"GET /v1/pods/web HTTP/1.1\r\nHost: t\r\n\r\n")
            status, body = read_answer(caller)
            assert (status, body["name"]) == (200, "web")
            # An error leaves the connection usable, too.
            caller.sendall(b"POST /v1/nowhere HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n")
            assert read_answer(caller)[0] == 404


def test_a_caller_may_ask_to_close(server: ApiServer, path: Path) -> None:
    with connected(path) as caller:
        caller.sendall(b"GET /v1/pods HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert read_all(caller).endswith(b"\r\n\r\n[]")


def test_an_old_caller_is_served(server: ApiServer, service: FakeService, path: Path) -> None:
    service.say("web")
    with connected(path) as caller:
        caller.sendall(b"GET /v1/events HTTP/1.0\r\n\r\n")
        head, _, body = read_all(caller).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert json.loads(body)["pod"] == "web"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (PodNotFound("there is no pod x"), 404, "not-found"),
        (OwnedElsewhere("a file owns x", where="/x.toml", hint="edit it"), 409, "owned-elsewhere"),
        (Stalled("no uplink"), 409, "stalled"),
        (Retry("busy"), 503, "retry"),
        (TankError("odd"), 500, "error"),
        (ValueError("secret detail"), 500, "bug"),
    ],
)
def test_an_error_has_one_form(
    server: ApiServer, service: FakeService, path: Path, error: Exception, status: int, reason: str
) -> None:
    service.failure = error
    found, body = get(path, "/v1/pods")
    assert found == status
    assert set(body["error"]) == {"reason", "message", "where", "hint", "problems"}
    assert body["error"]["reason"] == reason
    assert "secret" not in body["error"]["message"]


def test_problems_travel_with_their_lines(server: ApiServer, path: Path) -> None:
    text = b"web\nbad\nbad\n"
    status, body = ask(
        path, b"POST /v1/pods?file=/x/web.toml HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    )
    assert status == 422
    assert [(each["file"], each["line"]) for each in body["error"]["problems"]] == [
        ("/x/web.toml", 2),
        ("/x/web.toml", 3),
    ]


def test_a_text_that_is_not_utf8_is_a_problem_of_its_line(server: ApiServer, path: Path) -> None:
    status, body = ask(path, b"POST /v1/pods HTTP/1.1\r\nContent-Length: 6\r\n\r\nweb\n\xff\n")
    assert (status, body["error"]["problems"][0]["line"]) == (422, 2)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/nowhere HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/pods/a/b/c HTTP/1.1\r\n\r\n", 404),
        (b"PATCH /v1/pods HTTP/1.1\r\n\r\n", 405),
        (b"GET /v1/pods HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"POST /v1/pods HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"POST /v1/pods HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"POST /v1/pods HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v1/pods HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b'POST /v1/plan HTTP/1.1\r\nContent-Length: 4\r\n\r\n{"a"', 400),
        (b"GET /v1/events?after=-1 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/events?after=x HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/events?after=\xc2\xb2 HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/pods/web/wait?timeout=x HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/pods/web/wait?phase=dancing HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/pods?" + b"&".join(b"a=%d" % n for n in range(200)) + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET /v1/pods HTTP/1.1\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n", 431),
        (b"GET /v1/pods HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),
        (b"GET /v1/pods HTTP/9.9\r\n\r\n", 505),
        (b"GET /v1/pods\r\n\r\n", 505),
        (b"GET http://[x HTTP/1.1\r\n\r\n", 404),
        (b"GET /v1/pods FTP\r\n\r\n", 400),
        (b"\0" * 100 + b"\r\n", 400),
    ],
)
def test_a_bad_request_is_refused_in_our_form(
    server: ApiServer, path: Path, request_: bytes, status: int
) -> None:
    found, body = ask(path, request_)
    assert found == status
    assert body["error"]["message"]
    assert get(path, "/v1/pods")[0] == 200


def test_a_name_may_hold_anything(server: ApiServer, path: Path) -> None:
    status, body = get(path, "/v1/pods/%2e%2e%2f%00%ff")
    assert (status, body["error"]["reason"]) == (404, "not-found")


def test_a_wait_ends_when_the_phase_comes(server: ApiServer, service: FakeService, path: Path) -> None:
    service.add("web", "pulling")
    threading.Timer(0.1, service.add, ("web", "running")).start()
    status, body = get(path, "/v1/pods/web/wait?timeout=20")
    assert (status, body["phase"]) == (200, "running")


@pytest.mark.parametrize("timeout", ["0", "-5", "nan", "0.01"])
def test_a_wait_ends_when_time_is_over(
    server: ApiServer, service: FakeService, path: Path, timeout: str
) -> None:
    service.add("web", "pulling")
    assert get(path, f"/v1/pods/web/wait?timeout={timeout}")[1]["phase"] == "pulling"


def test_two_hundred_at_once(server: ApiServer, service: FakeService, path: Path) -> None:
    service.add("web")
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda _: get(path, "/v1/pods/web"), range(200)))
    assert [status for status, _ in answers] == [200] * 200


# Who may call


def ask_as(server: ApiServer, target: str, uid: int, gid: int, groups: list[int]) -> int:
    """Make a request as another user, past the mode of the socket, and return the status."""
    server.socket_path.chmod(0o666)
    status, body = as_user(uid, gid, groups, lambda: get(server.socket_path, target))
    if status == 403:
        assert "may not do this" in body["error"]["message"]
    return status


@pytest.mark.parametrize(
    ("target", "uid", "gid", "groups", "status"),
    [
        ("/v1/pods", 65534, 65534, [], 403),
        ("/v1/pods", 65534, 65534, [65534, 2, 3], 403),
        ("/v1/pods", 65534, 1, [], 200),
        ("/v1/pods", 65534, 65534, [3, 1], 200),
        ("/v1/pods", 65534, 65534, [*range(1000, 2000), 1], 200),
        ("/v1/pods", 0, 0, [], 200),
        ("/test/root", 65534, 1, [], 403),
        ("/test/root", 0, 0, [], 200),
    ],
)
@pytest.mark.machine
def test_only_root_and_the_group_may_ask(
    service: FakeService, target: str, uid: int, gid: int, groups: list[int], status: int
) -> None:
    with (
        open_directory() as directory,
        serving(service, directory / "tank.sock", group="daemon", routes=TEST_ROUTES) as server,
    ):
        assert ask_as(server, target, uid, gid, groups) == status


@pytest.mark.machine
def test_without_a_group_nobody_else_may_ask(service: FakeService) -> None:
    with (
        open_directory() as directory,
        serving(service, directory / "tank.sock", group="no-such-group") as server,
    ):
        assert ask_as(server, "/v1/pods", 65534, 1, [1, 2]) == 403


# Hostile and unlucky callers

# Not `idle`, which would also cut off who is held up between its connection and its first word.
QUICK = Timeouts(idle=20, head=0.3, body=0.3, write=0.3)


def test_a_slow_head_is_cut_off(service: FakeService, path: Path) -> None:
    slow = Timeouts(idle=20, head=2, body=20, write=20)
    with serving(service, path, timeouts=slow), connected(path) as caller:
        began = time.monotonic()
        # One byte at a time, each in time: only the whole has a deadline.
        while time.monotonic() < began + 0.5:
            caller.sendall(b"G")
            assert get(path, "/v1/pods")[0] == 200
        assert read_answer(caller)[0] == 408
        assert caller.recv(1) == b""
        assert time.monotonic() - began < 20


def test_a_slow_body_is_cut_off(service: FakeService, path: Path) -> None:
    with serving(service, path, timeouts=QUICK):
        assert ask(path, b"POST /v1/pods HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")[0] == 408
    assert service.calls == []


def test_a_body_that_breaks_off_is_not_used(service: FakeService, path: Path) -> None:
    with serving(service, path), connected(path) as caller:
        caller.sendall(b"POST /v1/pods HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        caller.shutdown(socket.SHUT_WR)
        assert read_all(caller) == b""
    assert service.calls == []


def test_an_idle_connection_is_closed_without_a_word(service: FakeService, path: Path) -> None:
    with serving(service, path, timeouts=Timeouts(idle=0.3)), connected(path) as caller:
        assert read_all(caller) == b""


def test_a_caller_that_only_closed_its_sending_half_gets_its_answer(
    server: ApiServer, service: FakeService, path: Path
) -> None:
    service.say("web")
    for request in (b"GET /v1/pods HTTP/1.1\r\n\r\n", b"GET /v1/events HTTP/1.1\r\n\r\n"):
        with connected(path) as caller:
            caller.sendall(request)
            caller.shutdown(socket.SHUT_WR)
            assert b"HTTP/1.1 200" in read_all(caller)


def test_a_reader_of_a_stream_may_pause_for_as_long_as_it_likes(service: FakeService, path: Path) -> None:
    for _ in range(3000):
        service.say("web", "x" * 1000)
    quick = Timeouts(idle=10, head=0.1, body=0.1, write=0.1)
    with serving(service, path, timeouts=quick, limit=8) as server, connected(path) as caller:
        caller.sendall(b"GET /v1/events HTTP/1.1\r\n\r\n")
        # It has been waiting for longer than any answer may take.
        until(lambda: server.pauses._value == 1)
        # Others are served meanwhile.
        assert get(path, "/v1/pods") == (200, [])
        data = b""
        while not data.endswith(b"\r\n0\r\n\r\n"):
            data += caller.recv(65536)
        assert data.count(b"x" * 1000) == 3000
        assert server.pauses._value == 2
        # The connection is as good as new.
        caller.sendall(b"GET /v1/pods HTTP/1.1\r\n\r\n")
        assert read_answer(caller) == (200, [])


def test_a_reader_that_pauses_and_goes_away_is_forgotten(service: FakeService, path: Path) -> None:
    for _ in range(3000):
        service.say("web", "x" * 1000)
    with serving(service, path, timeouts=QUICK, limit=8) as server:
        with connected(path) as caller:
            caller.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
            until(lambda: server.pauses._value == 1)
        until(lambda: len(api_threads()) == 1)
        assert server.pauses._value == 2


def test_of_too_many_that_do_not_read_the_last_are_cut_off(service: FakeService, path: Path) -> None:
    for _ in range(3000):
        service.say("web", "x" * 1000)
    # Long enough for all to have begun before the first is cut off.
    quick = Timeouts(idle=20, head=20, body=20, write=2)
    with serving(service, path, timeouts=quick, limit=8), contextlib.ExitStack() as stack:
        for _ in range(5):
            caller = stack.enter_context(connected(path))
            caller.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
        until(lambda: len(api_threads()) == 6)
        # Two may pause; the others make room.
        until(lambda: len(api_threads()) == 3)
        assert get(path, "/v1/pods") == (200, [])


def test_a_stop_does_not_wait_for_a_reader_that_pauses(service: FakeService, path: Path) -> None:
    for _ in range(3000):
        service.say("web", "x" * 1000)
    server = ApiServer(service, path)
    server.start()
    with connected(path) as caller:
        caller.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
        until(lambda: len(api_threads()) == 2)
        began = time.monotonic()
        server.stop(30.0)
        assert time.monotonic() - began < 15
        # What is missing is not taken for the end.
        assert not read_all(caller).endswith(b"0\r\n\r\n")
    until(lambda: not api_threads())


def test_a_follower_that_went_away_is_forgotten(server: ApiServer, path: Path) -> None:
    with connected(path) as caller:
        caller.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
        assert caller.recv(65536).startswith(b"HTTP/1.1 200")
    until(lambda: len(api_threads()) == 1)


def test_too_many_connections_are_told_so(service: FakeService, path: Path) -> None:
    with serving(service, path, limit=2), contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(path)) for _ in range(2)]
        until(lambda: len(api_threads()) == 3)
        status, body = ask(path, b"GET /v1/pods HTTP/1.1\r\n\r\n")
        assert (status, body["error"]["reason"]) == (503, "busy")
        held[0].close()
        until(lambda: len(api_threads()) == 2)
        assert get(path, "/v1/pods")[0] == 200


def test_callers_are_told_that_descriptors_are_out(server: ApiServer, path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2)]
        for caller in callers:
            caller.settimeout(10)
        with contextlib.closing(stack.enter_context(socket.socket())) as last:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, limits[1]))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            with pytest.raises(OSError, match="Too many open files"):
                while True:
                    descriptor = os.dup(last.fileno())
                    stack.callback(os.close, descriptor)
            for caller in callers:
                caller.connect(os.fspath(path))
                said = caller.recv(4096).decode()
                assert " 503 " in said and "Too many open files" in said and "LimitNOFILE" in said
    assert get(path, "/v1/pods")[0] == 200


def test_random_bytes_do_no_harm(server: ApiServer, path: Path) -> None:
    for length in (1, 10, 1000, 100_000):
        with connected(path) as caller:
            with contextlib.suppress(OSError):
                caller.sendall(os.urandom(length) + b"\r\n\r\n")
                caller.shutdown(socket.SHUT_WR)
            read_all(caller)
    assert get(path, "/v1/pods")[0] == 200


# Stopping


def test_a_stop_ends_followers_waiters_and_the_idle(service: FakeService, path: Path) -> None:
    service.add("web", "pulling")
    server = ApiServer(service, path, routes=TEST_ROUTES)
    server.start()
    with contextlib.ExitStack() as stack:
        follower, waiter, idle, half, upgraded = (stack.enter_context(connected(path)) for _ in range(5))
        follower.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\n\r\n")
        waiter.sendall(b"GET /v1/pods/web/wait?timeout=30 HTTP/1.1\r\n\r\n")
        half.sendall(b"POST /v1/pods HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")
        upgraded.sendall(b"POST /test/echo HTTP/1.1\r\nUpgrade: echo\r\n\r\n")
        assert b"200" in follower.recv(65536)
        assert b"101" in upgraded.recv(65536)
        until(lambda: len(api_threads()) == 6)
        began = time.monotonic()
        server.stop(30.0)
        assert time.monotonic() - began < 15
        assert api_threads() == []
        # Without the last chunk, so that nobody takes it for the end of the stream.
        assert read_all(follower) == b""
        assert read_answer(waiter)[1]["phase"] == "pulling"
        assert [read_all(each) for each in (idle, half, upgraded)] == [b"", b"", b""]
    assert not path.exists()


def test_a_stop_does_not_wait_for_a_stuck_answer(service: FakeService, path: Path) -> None:
    released = threading.Event()

    def stuck(service: object, request: Request) -> Reply:
        released.wait(30)
        return Answer(body=b"[]")

    server = ApiServer(service, path, routes={Call("GET /stuck", bytes): stuck})
    server.start()
    with connected(path) as caller:
        caller.sendall(b"GET /stuck HTTP/1.1\r\n\r\n")
        until(lambda: len(api_threads()) == 2)
        began = time.monotonic()
        server.stop(0.2)
        assert time.monotonic() - began < 15
        released.set()
        until(lambda: not api_threads())


# Taking a connection over


def test_an_upgraded_connection_belongs_to_its_handler(server: ApiServer, path: Path) -> None:
    with connected(path) as caller:
        # What comes right behind the request is not lost.
        caller.sendall(b"POST /test/echo HTTP/1.1\r\nUpgrade: Echo\r\nContent-Length: 1\r\n\r\n>early")
        data = b""
        while not data.endswith(b">early"):
            data += caller.recv(65536)
        assert data.startswith(b"HTTP/1.1 101 ")
        caller.sendall(b"late")
        assert caller.recv(65536) == b">late"
        caller.shutdown(socket.SHUT_WR)
        assert read_all(caller) == b""


def test_an_upgrade_has_to_be_asked_for(server: ApiServer, path: Path) -> None:
    assert ask(path, b"POST /test/echo HTTP/1.1\r\n\r\n")[0] == 426


def test_an_upgrade_can_be_refused(server: ApiServer, path: Path) -> None:
    status, body = ask(path, b"POST /test/echo?refuse=1 HTTP/1.1\r\nUpgrade: echo\r\n\r\n")
    assert (status, body["error"]["reason"]) == (404, "not-found")


def test_the_log_says_who_asked_for_a_change(server: ApiServer, service: FakeService, path: Path) -> None:
    service.add("web")
    with structlog.testing.capture_logs() as lines:
        ask(path, b"DELETE /v1/pods/web HTTP/1.1\r\n\r\n")
        ask(path, b"POST /v1/pods/none/rollback HTTP/1.1\r\n\r\n")
        get(path, "/v1/pods")
    (line,) = lines
    found = {key: line[key] for key in ("event", "what", "uid", "pid")}
    assert found == {"event": "asked", "what": "DELETE /v1/pods/web", "uid": os.getuid(), "pid": os.getpid()}
