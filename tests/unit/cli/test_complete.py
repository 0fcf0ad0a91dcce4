"""`tank complete`: the names that the shells' completions ask for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import AF_UNIX, socket

import msgspec
import pytest

from tank_agent.api.reports import CommitReport, GitReport
from tank_agent.cli import complete
from tank_agent.cli.main import main
from tank_agent.spec.model import Container, Pod, Schedule
from tests.support.fake_service import FakeService, open_directory, serving


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeService]:
    served = FakeService()
    for name in ("night", "web"):
        served.add(name)
    for name, pod in (
        ("night", Pod(name="night", containers=(_container("app"),), schedule=Schedule(cron="0 3 * * *"))),
        ("web", Pod(name="web", containers=(_container("app"), _container("db")))),
    ):
        served.pods[name] = msgspec.structs.replace(served.pods[name], pod=pod)
    with open_directory() as directory, serving(served, directory / "tank.sock"):
        monkeypatch.setenv("TANK_SOCKET", str(directory / "tank.sock"))
        yield served


def _container(name: str) -> Container:
    return Container(name=name, image="nginx:1")


Names = Callable[..., list[str]]


@pytest.fixture
def names(capfd: pytest.CaptureFixture[str]) -> Names:
    def asked(kind: str, line: str) -> list[str]:
        assert main(["complete", kind, *line.split(" ")]) == 0
        out, err = capfd.readouterr()
        assert err == ""
        return out.splitlines()

    return asked


@pytest.mark.parametrize(
    ("kind", "line", "found"),
    [
        ("pods", "status ", ["night", "web"]),
        ("jobs", "run ", ["night\t0 3 * * *"]),
        ("targets", "exec ", ["night", "web"]),
        ("targets", "exec w", ["web", "web/app\tnginx:1", "web/db\tnginx:1"]),
        ("targets", "exec n", ["night"]),
        ("targets", "exec web/d", ["web/app\tnginx:1", "web/db\tnginx:1"]),
        ("targets", "exec none/", []),
        ("copies", "cp ", ["night:", "web:"]),
        ("copies", "cp web/", ["web/app:\tnginx:1", "web/db:\tnginx:1"]),
        ("copies", "cp web:/e", []),
        ("containers", "logs web -c ", ["app\tnginx:1", "db\tnginx:1"]),
        ("containers", "logs -c ", []),
        ("images", "image rm ", ["docker.io/library/nginx:1.27\tweb"]),
        ("volumes", "volume rm ", ["web/data", "web/old", "media"]),
        (
            "volumes",
            "volume rm web/data@",
            ["web/data@7\t2026-11-22T06:00:33Z", "web/data@manual-3\t2026-11-22T06:00:33Z"],
        ),
        (
            "snapshots",
            "volume restore web/data ",
            ["7\t2026-11-22T06:00:33Z", "manual-3\t2026-11-22T06:00:33Z"],
        ),
        ("revisions", "rollback web ", ["1\trev1"]),
        ("revisions", "rollback none ", []),
        ("revisions", "sync --confirm ", []),
        ("nonsense", "status ", []),
        ("pods", "--host far status ", []),
        ("pods", "--host=far status ", []),
        ("pods", "--socket /nowhere status ", []),
        ("pods", "--socket=/nowhere status ", []),
    ],
)
def test_names_of_a_kind(service: FakeService, names: Names, kind: str, line: str, found: list[str]) -> None:
    assert names(kind, line) == found


def test_a_commit_that_waits_can_be_confirmed(service: FakeService, names: Names) -> None:
    latest = CommitReport(id="a" * 40, author="ann", subject="two\tpods\x1b[2J", at=None)
    service.sources.git = GitReport(state="held", held="too many go", latest=latest)
    assert names("revisions", "sync --confirm ") == [f"{'a' * 40}\ttwo pods\\x1b[2J"]


def test_another_machine_has_no_names_here(
    service: FakeService, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANK_HOST", "far")
    assert names("pods", "status ") == []
    assert names("jobs", "plan ") == ["night\t0 3 * * *"]


def test_words_are_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert (main(["complete"]), main(["complete", "pods"])) == (0, 0)
    assert capfd.readouterr() == ("", "")


def test_a_server_that_never_ends_costs_no_more_than_the_deadline(tmp_path: Path) -> None:
    with socket(AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def dribble() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b" ")
                        time.sleep(complete.DEADLINE / 10)
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        command = [sys.executable, "-m", "tank_agent", "complete", "pods"]
        command += ["--socket", str(tmp_path / "s"), "status", ""]
        done = subprocess.run(command, capture_output=True, check=False, timeout=20)
        thread.join(20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
