"""The Python API against a real server: typed answers, errors, waits, and an agent that is not there."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent import Client, Pod
from tank_agent.api.frames import PROTOCOL
from tank_agent.api.reports import PlanReport, PodReport
from tank_agent.api.request import Answer, RawConnection, Reply, Request, Upgrade
from tank_agent.api.routes import ROUTES
from tank_agent.api.storage import RemovedVolume
from tank_agent.api.types import AppliedPod, Call
from tank_agent.client.fast import http as light
from tank_agent.client.not_reached import NotReached
from tank_agent.errors import AgentUnreachable, InvalidSpec, OwnedElsewhere, PodNotFound, Retry, TankError
from tank_agent.spec.beside import Sent
from tests.support.fake_service import CHANGES, FakeService, as_user, open_directory, serving


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tank.sock"


@pytest.fixture
def client(service: FakeService, path: Path) -> Iterator[Client]:
    with serving(service, path):
        yield Client(path)


def test_answers_have_types(client: Client, service: FakeService) -> None:
    service.add("web")
    service.add("web")
    service.report = CHANGES
    assert client.list() == service.list_pods()
    assert client.get("web") == service.get("web")
    assert client.status() == service.status()
    assert client.status("web") == service.status("web")[0]
    assert list(client.history("web")) == list(service.history("web"))
    assert client.plan({"/x/web.toml": "ä"}) == CHANGES
    assert client.sync() == client.sync(1.5) == service.status()
    assert client.info() == service.info()
    assert service.calls == [("plan", {"/x/web.toml": "ä"}), ("sync", None), ("sync", 1.5)]


def test_a_plan_without_files_asks_what_is_pending(client: Client, service: FakeService) -> None:
    assert client.plan() == PlanReport(pods=())
    assert client.plan({}) == PlanReport(pods=())
    assert service.calls == [("plan", None), ("plan", {})]


def test_apply_takes_what_is_at_hand(client: Client, service: FakeService, tmp_path: Path) -> None:
    file = tmp_path / "web.toml"
    file.write_text("web\n")
    name = os.fspath(file)
    created = [AppliedPod(name="web", change="created", generation=1)]
    assert client.apply(file) == created
    assert client.apply(name) == created
    assert client.apply("web\n") == created
    assert client.apply(b"web", file="<stdin>") == created
    assert client.apply(b"web", file="/a b/ä&?.toml") == created
    assert [call[1:] for call in service.calls] == [
        ("web\n", name),
        ("web\n", name),
        ("web\n", "<text>"),
        ("web", "<stdin>"),
        ("web", "/a b/ä&?.toml"),
    ]


NAMING = '[[files]]\nname = "a"\nsource = "conf/a.conf"\n[[files]]\nname = "b"\nsource = "b.conf"\n'


def test_apply_sends_what_the_pod_file_names_beside_it(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    file = tmp_path / "web.toml"
    file.write_text(NAMING)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.conf").write_bytes(b"\xff\0")
    (tmp_path / "unnamed.conf").write_text("never sent")
    client.apply(file)
    # Of a text nobody knows where it stands.
    client.apply(NAMING)
    found = Sent({"conf/a.conf": b"\xff\0"}, {"b.conf": "is not there"})
    assert service.calls == [
        ("apply", NAMING, os.fspath(file), found),
        ("apply", NAMING, "<text>"),
    ]


def test_a_text_from_a_pipe_has_nothing_beside_it(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "b.conf").write_text("x")
    writer = threading.Thread(target=(tmp_path / "pipe.toml").write_text, args=(NAMING,))
    writer.start()
    client.apply(tmp_path / "pipe.toml")
    writer.join()
    ((_, _, _, sent),) = service.calls
    assert isinstance(sent, Sent) and sent.contents == {}
    assert set(sent.missing.values()) == {
        "can't be read, since this text is in no directory; write its content here instead"
    }


def test_a_plan_sends_them_too(client: Client, service: FakeService) -> None:
    client.plan({"/x/web.toml": NAMING}, beside=Sent({"b.conf": b"b"}))
    assert service.calls == [("plan", {"/x/web.toml": NAMING}, Sent({"b.conf": b"b"}))]


def test_apply_writes_a_pod_as_toml(client: Client, service: FakeService) -> None:
    fields: dict[str, object] = {
        "name": "web",
        "containers": [{"name": "app", "image": "oci:/srv/busybox", "args": ["a\n"]}],
    }
    pod = Pod.new(fields)
    client.apply(pod)
    client.apply(fields)
    (_, first, file), (_, second, _) = service.calls
    assert first == second
    assert file == "<pod web>"
    from tank_agent.spec.parse import parse_pod_file

    parsed = parse_pod_file(first, file)
    assert parsed.problems == ()
    assert [each.pod for each in parsed.pods] == [pod]


def test_an_invalid_file_raises_every_problem(client: Client) -> None:
    with pytest.raises(InvalidSpec) as caught:
        client.apply("bad\nbad\n", file="/x.toml")
    assert [str(problem)[:9] for problem in caught.value.problems] == ["/x.toml:1", "/x.toml:2"]


def test_a_pod_of_a_file_says_which(client: Client, service: FakeService) -> None:
    with pytest.raises(OwnedElsewhere, match=r"web\.toml"):
        client.apply("owned\n")
    service.add("web", owner="dir:/x.toml")
    with pytest.raises(OwnedElsewhere):
        client.delete("web")


def test_a_file_that_is_missing_or_huge_is_not_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(TankError, match="No such file"):
        client.apply(tmp_path / "none.toml")
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(TankError, match="1 MiB"):
        client.apply(huge)


def test_a_body_that_is_refused_unread_still_tells_why(client: Client) -> None:
    with pytest.raises(TankError, match="4194304 bytes, more than the 1048576"):
        client.apply(b"#" * (4 << 20))


def test_delete_is_idempotent(client: Client, service: FakeService) -> None:
    service.add("web")
    assert [client.delete("web"), client.delete("web")] == [True, False]


def test_a_pod_that_is_not_there(client: Client) -> None:
    for method in (client.get, client.status, client.history):
        with pytest.raises(PodNotFound, match=r"there is no pod a/b\?"):
            method("a/b?")


# Waiting


def test_a_wait_ends_with_the_phase(client: Client, service: FakeService) -> None:
    service.add("web", "pulling")
    threading.Timer(0.1, service.add, ("web", "running")).start()
    assert client.wait("web", timeout=20).phase == "running"
    threading.Timer(0.1, service.delete, ("web",)).start()
    assert client.wait("web", "deleted", timeout=20) == PodReport(name="web", phase="deleted")


def test_a_wait_that_is_over_says_what_it_is_instead(client: Client, service: FakeService) -> None:
    service.add("web", "backing-off", error="exit code 3")
    with pytest.raises(
        NotReached, match=r"web is backing-off, not running, after 0.2 s: exit code 3"
    ) as caught:
        client.wait("web", timeout=0.2)
    assert caught.value.status.phase == "backing-off"


def test_a_wait_gives_a_new_pod_a_moment_to_appear(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The timer may be late.
    monkeypatch.setattr("tank_agent.client.client._APPEARS_WITHIN", 60.0)
    threading.Timer(0.3, service.add, ("web", "running")).start()
    assert client.wait("web", timeout=20).phase == "running"


def test_a_wait_for_nobody_ends_early(client: Client) -> None:
    began = time.monotonic()
    with pytest.raises(PodNotFound):
        client.wait("nobody", timeout=0.2)
    with pytest.raises(PodNotFound):
        client.wait("nobody", timeout=60)
    assert time.monotonic() - began < 30


def test_a_wait_outlives_a_restart_of_the_agent(service: FakeService, path: Path) -> None:
    service.add("web", "pulling")
    results: list[str] = []
    with serving(service, path):
        waiter = threading.Thread(target=lambda: results.append(Client(path).wait("web", timeout=30).phase))
        waiter.start()
        assert service.waited.wait(10)
    with serving(service, path):
        service.add("web", "running")
        waiter.join(60)
    assert results == ["running"]


# Events


def test_events_come_in_order_and_filtered(client: Client, service: FakeService) -> None:
    for number in range(1200):
        service.say("web" if number % 2 else "db", f"event {number}")
    assert [event.seq for event in client.events()] == list(range(1, 1201))
    assert [event.seq for event in client.events(after=1198)] == [1199, 1200]
    assert {event.pod for event in client.events(pod="web")} == {"web"}
    assert list(client.events(after=1200)) == []


def test_a_follower_sees_what_happens(client: Client, service: FakeService) -> None:
    service.say("web", "old")
    followed = client.events(follow=True)
    assert next(followed).message == "old"
    threading.Timer(0.05, service.say, ("web", "new")).start()
    assert next(followed).message == "new"
    followed.close()  # type: ignore[attr-defined]


def test_a_follower_learns_that_the_agent_ended(service: FakeService, path: Path) -> None:
    service.say("web", "old")
    with serving(service, path):
        followed = Client(path).events(follow=True)
        next(followed)
    with pytest.raises(AgentUnreachable, match="ended"):
        next(followed)


# An agent that is not there


def test_nobody_listens(path: Path) -> None:
    with pytest.raises(AgentUnreachable, match="not running") as caught:
        Client(path).list()
    assert str(path) in str(caught.value)
    assert "tank agent" in str(caught.value)
    assert caught.value.exit_code == 1
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    with pytest.raises(AgentUnreachable, match="not running"):
        Client(path).list()
    with pytest.raises(AgentUnreachable, match="not running"):
        Client(path / "below").list()


@pytest.mark.machine
def test_a_foreign_user_is_told_which_group_to_join(service: FakeService) -> None:
    with (
        open_directory() as directory,
        serving(service, directory / "tank.sock", group="no-such-group") as server,
    ):
        client = Client(server.socket_path)
        with pytest.raises(AgentUnreachable, match="only root and members of group tank") as caught:
            as_user(65534, 65534, [], client.list)
        assert "usermod -aG tank" in str(caught.value)
        server.socket_path.chmod(0o666)
        with pytest.raises(AgentUnreachable, match="user 65534 may not do this"):
            as_user(65534, 65534, [], client.list)


def test_the_socket_is_taken_from_the_environment(
    service: FakeService, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TANK_SOCKET", raising=False)
    assert Client().socket == Path("/run/tank/tank.sock")
    monkeypatch.setenv("TANK_SOCKET", os.fspath(path))
    with serving(service, path):
        assert Client().list() == []


def test_an_agent_that_hangs_is_not_waited_for(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.bind(os.fspath(path))
        stuck.listen(1)
        with pytest.raises(AgentUnreachable, match="did not answer in time"):
            Client(path, timeout=0.2).list()


def test_removals_may_take_long(
    client: Client, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(**_: str) -> RemovedVolume:
        time.sleep(0.5)
        return RemovedVolume(deleted=True)

    monkeypatch.setattr(service.storage, "remove", slowly)
    assert Client(client.socket, timeout=0.1).remove_volume("web", "old")


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
)
def test_whatever_else_answers_is_no_agent(path: Path, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(os.fspath(path))
        odd.listen(1)

        def answer() -> None:
            connection, _ = odd.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(AgentUnreachable, match="broke the connection"):
            Client(path).list()
        thread.join()


def odd_answer(service: object, request: Request) -> Reply:
    return Answer(body=b'[{"nom": "web"}]')


def test_an_agent_of_another_version_is_told_apart(service: FakeService, path: Path) -> None:
    with serving(service, path, routes={Call("GET /v1/pods", bytes): odd_answer}):
        with pytest.raises(TankError, match="not understood") as caught:
            Client(path).list()
        assert "tank version" in str(caught.value)
        with pytest.raises(TankError, match="no such function"):
            Client(path).info()


def test_a_full_agent_asks_to_come_back(service: FakeService, path: Path) -> None:
    with serving(service, path, limit=0), pytest.raises(Retry, match="connections already"):
        Client(path).list()


# Taking a connection over


def greet(service: object, request: Request) -> Reply:
    def run(raw: RawConnection) -> None:
        raw.socket.sendall(b"hello " + request.body)
        while data := raw.received or raw.socket.recv(65536):
            raw.socket.sendall(data)

    return Upgrade(run=run)


def test_an_upgraded_connection_carries_bytes_both_ways(service: FakeService, path: Path) -> None:
    call = Call("POST /test/greet", bytes, body=100, upgrade=PROTOCOL)
    with serving(service, path, routes={**ROUTES, call: greet}):
        taken = light.ask_for_session(os.fspath(path), "/test/greet", b"you").answer(expected=101)
        with contextlib.closing(taken.connection) as raw:
            data = taken.received
            while len(data) < 9:
                data += raw.recv(100)
            assert data == b"hello you"
            raw.sendall(b"bye")
            assert raw.recv(100) == b"bye"
            assert raw.gettimeout() is None
        with pytest.raises(TankError, match="no such function"):
            light.ask_for_session(os.fspath(path), "/test/none").answer(expected=101)
