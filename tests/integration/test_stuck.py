"""Nothing is stuck without a word, and nothing that stalls or fails keeps what has no part in it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, ended, running_agent, wait_for
from tests.support.images import busybox_members, layer, write_image
from tests.support.registry import Request, fake_registry
from tests.support.trees import big_directory

DEAF = ["/bin/sleep", "1000"]
BUSYBOX = layer(busybox_members())


@pytest.fixture
def home() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    with running_agent(home) as started:
        yield started


def image_pod(image: str, extra: str = 'stop_grace = "300ms"') -> str:
    return f'[[containers]]\nname = "app"\nimage = "{image}"\ncommand = ["/bin/sleep", "1000"]\n{extra}\n'


def errors_while(agent: Agent, name: str, enough: Any) -> list[tuple[str, str | None]]:
    """Collect phase and error of a pod, as often as can be, until there is enough."""
    seen: list[tuple[str, str | None]] = []

    def look() -> bool:
        status = agent.status(name)
        if status is not None:
            seen.append((status["phase"], status["error"]))
        return bool(enough(seen))

    wait_for(look, f"enough was seen: {seen[-3:]}")
    return seen


def test_a_pod_that_is_changed_there_and_back_while_it_stops_rests_meanwhile(
    agent: Agent, home: Path
) -> None:
    layout = home / "layout"
    write_image(layout, [BUSYBOX], tag="one")
    first = image_pod(f"oci:{layout}:one", 'stop_grace = "2s"')
    agent.write("web", first)
    before = agent.wait_phase("web", "running")["containers"][0]["pid"]
    lines = len(agent.log.read_text().splitlines())
    agent.write("web", first.replace("1000", "2000"))
    agent.wait_phase("web", "stopping")
    agent.write("web", first)

    def back() -> bool:
        status = agent.status("web")
        return bool(
            status
            and status["phase"] == "running"
            and status["generation"] == 3
            and status["containers"][0]["pid"] != before
        )

    wait_for(back, "it runs again")
    said = agent.log.read_text().splitlines()[lines:]
    assert not [line for line in said if "pull image" in line]
    assert len(said) < 40, said


def test_a_container_that_cannot_start_shows_why_at_every_look(tmp_path: Path) -> None:
    with running_agent(tmp_path, backoff_base="200ms", backoff_cap="200ms") as agent:
        agent.write("web", agent.pod_text(command=["/bin/nope"]))
        agent.wait_phase("web", "backing-off")

        def failed(_: object) -> bool:
            return [event.type for event in agent.client.events()].count("start-failed") >= 6

        seen = errors_while(agent, "web", failed)
        assert {phase for phase, _ in seen} <= {"backing-off", "starting", "pending"}
        assert not [phase for phase, error in seen if not error or "/bin/nope" not in error]


def test_a_registry_that_stalls_keeps_no_other_pod_from_starting(agent: Agent, home: Path) -> None:
    for name in ("remote", "local"):
        write_image(home / name, [BUSYBOX], tag="one")
    go_on = threading.Event()

    def stall(request: Request) -> None:
        go_on.wait(60)
        request.hang_up()

    with fake_registry(home / "remote") as registry:
        registry.rule("/", stall)
        for number in range(12):
            agent.write(f"bad-{number}", image_pod(f"{registry.address}/x{number}:one"))
        agent.wait_phase("bad-11", "pulling")
        try:
            agent.write("good", image_pod(f"oci:{home / 'local'}:one"))
            agent.wait_phase("good", "running")
        finally:
            for file in agent.pods.iterdir():
                file.unlink()
            go_on.set()


def test_a_pull_that_is_tried_again_says_why(agent: Agent) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        agent.write("web", image_pod(f"127.0.0.1:{nobody.getsockname()[1]}/x:one"))

        def said() -> str | None:
            status = agent.status("web")
            found = status is not None and status["phase"] == "pulling" and status["error"]
            return found or None

        error = wait_for(said, "the status says why")
        assert error.startswith("attempt 1 of 5: ")
        # And goes on to say it once it waits for the next try, and during that.
        seen = errors_while(agent, "web", lambda seen: len({phase for phase, _ in seen[-50:]}) > 1)
        assert all(error for _, error in seen)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def removed(file: Path) -> Iterator[None]:
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def fill_up(file: Path) -> None:
    with file.open("wb", buffering=0) as opened, pytest.raises(OSError, match="No space left"):
        while opened.write(bytes(1 << 16)):
            pass
    with file.open("ab", buffering=0) as opened, pytest.raises(OSError, match="No space left"):
        while opened.write(b"x"):
            pass


def test_pods_are_stopped_in_order_though_the_disk_is_full(tmp_path: Path) -> None:
    """Their ends can't be recorded, and nobody waits for that."""
    agent = Agent(tmp_path)
    with small_disk(agent.data, "24m"):
        agent.kept_mounts = frozenset({str(agent.data)})
        agent.start("--stop-pods")
        fill = agent.data / "fill"
        with ended(agent), removed(fill):
            agent.write("web", agent.pod_text())
            agent.wait_phase("web", "running")
            pid = agent.pid("web")
            fill_up(fill)
            began = time.monotonic()
            agent.stop()
            # Not as long as a drain may take, which is two minutes.
            assert time.monotonic() - began < 60
            assert not Path(f"/proc/{pid}").exists()
            assert "put away later" in agent.log.read_text()
            fill.unlink()
            agent.start()
            agent.wait_phase("web", "running")


def test_what_a_full_disk_keeps_from_being_stored_is_said(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    with small_disk(agent.data, "24m"):
        agent.kept_mounts = frozenset({str(agent.data)})
        agent.start()
        fill = agent.data / "fill"
        with ended(agent), removed(fill):
            agent.write("web", agent.pod_text())
            agent.wait_phase("web", "running")
            with fill.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
                while file.write(bytes(1 << 16)):
                    pass
            # Larger than what is left in pages that the journal may use again.
            agent.write(
                "late", agent.pod_text(head=f"# {'x' * 1000}", extra=f'env = {{ A = "{"y" * 60000}" }}')
            )
            # An event of it is stored at once only if the journal has pages left.
            wait_for(lambda: "make room" in agent.tank("status").stdout, "it is seen")
            synced = agent.tank("sync", "--wait", "--timeout", "3")
            assert synced.returncode == 1, synced
            assert "cannot write the journal" in synced.stdout, synced
            fill.unlink()
            assert agent.tank("sync", "--wait").returncode == 0
            agent.wait_phase("late", "running")

            def told() -> list[str]:
                return [event.type for event in agent.client.events() if not event.pod]

            wait_for(lambda: told() == ["source-error", "source-recovered"], "it is told")
