"""`tank image`: text, JSON and exit codes against a server, and the display of a pull."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tank_agent import Client
from tank_agent.cli.output import megabytes, share
from tank_agent.cli.verbs.image import PullDisplay
from tank_agent.errors import ImageInUse, Stalled
from tank_agent.image.config import LayerProgress, PullProgress
from tests.support.fake_service import FakeService
from tests.unit.cli.test_verbs import Tank, service, tank

__all__ = ["service", "tank"]
NAME = "docker.io/library/nginx:1.27"


def test_ls(tank: Tank) -> None:
    code, out, err = tank("image", "ls")
    assert (code, err) == (0, "")
    head, line = out.splitlines()
    assert head.split() == ["IMAGE", "DIGEST", "SIZE", "LAYERS", "PULLED", "PODS"]
    assert line.split()[:5] == [NAME, f"sha256:{'a' * 12}", "188.0", "MB", "2"]
    assert line.endswith(" web")
    (found,) = tank.json("image", "ls")
    assert found["pods"] == ["web"]
    assert found["digest"] == f"sha256:{'a' * 64}"


def test_pull_prints_one_line_a_layer_and_the_result(tank: Tank, service: FakeService) -> None:
    code, out, err = tank("image", "pull", "nginx:1.27")
    assert code == 0
    assert out == f"{NAME}@sha256:{'a' * 64}\n"
    assert err.splitlines() == ["cccccccccccc  here already 50 B", "bbbbbbbbbbbb  done         100 B"]
    (found,) = tank.json("image", "pull", "nginx:1.27")
    assert found["reference"] == NAME
    assert service.images.calls == [("pull", "nginx:1.27", "always")] * 2


def test_a_failed_pull_says_why(tank: Tank) -> None:
    code, out, err = tank("image", "pull", "bad")
    assert (code, out) == (1, "")
    assert err.splitlines()[-2:] == ["tank: bad: no such image", "  check the name"]


def test_update_prints_what_moved_or_that_nothing_did(tank: Tank, service: FakeService) -> None:
    code, out, err = tank("image", "update", "web", "held", "api", "--force")
    assert (code, out) == (1, "web/app: nginx:1.27 aaaaaaaaaaaa → bbbbbbbbbbbb\napi: already the newest\n")
    assert err.splitlines()[-2:] == [
        "tank: pod held is pinned, so its images stay as they are",
        "  `tank resume held`",
    ]
    assert service.images.calls[0] == ("update", "web", "force")
    (found,) = tank.json("image", "update", "web")
    assert (found["name"], found["generation"], found["moved"][0]["container"]) == ("web", 4, "app")
    assert found["moved"][0]["after"] == f"sha256:{'b' * 64}"
    assert service.images.calls[-1] == ("update", "web")


def test_an_update_of_a_stopped_pod_says_when_it_counts(tank: Tank) -> None:
    code, out, _ = tank("image", "update", "down", "idle")
    assert code == 0
    assert out.splitlines() == [
        "down/app: nginx:1.27 aaaaaaaaaaaa → bbbbbbbbbbbb",
        "down is stopped: this counts once you `tank start down`",
        "idle: already the newest",
    ]
    (found,) = tank.json("image", "update", "down")
    assert found["stopped"] is True


def test_rm_and_prune(tank: Tank, service: FakeService) -> None:
    code, out, err = tank("image", "rm", "one", "used", "two")
    assert (code, out) == (1, "one removed\ntwo removed\n3.0 MB freed\n")
    assert err == "tank: the image used is needed: pod web runs it\n  remove the pod first\n"
    assert tank("image", "prune") == (0, "a removed\nb removed\n2.5 GB freed\n", "")
    assert tank.json("image", "prune") == {"removed": ["a", "b"], "freed": 2_500_000_000}
    assert service.images.calls[-1] == ("prune",)


def test_wrong_usage(tank: Tank) -> None:
    for words in (("image",), ("image", "eat"), ("image", "pull"), ("image", "rm"), ("image", "update")):
        code, _, err = tank(*words)
        assert code == 2
        assert "usage: tank image" in err or "write ls, pull" in err


def test_the_same_from_python(tank: Tank) -> None:
    client = Client(tank.socket)
    assert [image.reference for image in client.images()] == [NAME]
    seen: list[int] = []
    assert client.pull_image("x", policy="missing", progress=lambda at: seen.append(at.done)).layers == 2
    assert seen == [50, 110, 150]
    with pytest.raises(Stalled, match="no such image"):
        client.pull_image("bad")
    assert client.update_images("api").moved == ()
    with pytest.raises(Stalled, match="pod held is pinned"):
        client.update_images("held")
    with pytest.raises(ImageInUse, match="pod web runs it"):
        client.remove_image("used")


def test_status_shows_how_far_an_image_is(tank: Tank, service: FakeService) -> None:
    service.add("web", "pulling", progress={"done": 12_300_000, "total": 57_000_000})
    assert "web: pulling app: 12.3 MB of 57.0 MB (21 %)\n" in tank("status")[1]
    assert "pulling     app: 12.3 MB of 57.0 MB (21 %)\n" in tank("status", "web")[1]


def test_amounts() -> None:
    assert [megabytes(size) for size in (0, 999, 1000, 12_345, 2_000_000, 3_450_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "12.3 kB",
        "2.0 MB",
        "3.5 GB",
    ]
    assert share(0, 0) == "0 B of 0 B"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def layers(*states: str) -> PullProgress:
    rows = tuple(
        LayerProgress(digest=f"sha256:{number}{'0' * 63}", done=5, total=10, state=state)  # type: ignore[arg-type]
        for number, state in enumerate(states)
    )
    return PullProgress(done=5, total=20, layers=rows)


def test_on_a_terminal_the_layers_under_way_are_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(PullDisplay, "_size", lambda _: os.terminal_size((40, 4)), raising=True)
    stream = Terminal()
    with PullDisplay(stream) as display:
        display.show(PullProgress(done=0, total=0))
        assert stream.getvalue() == ""
        display.show(layers("downloading", "waiting"))
        assert stream.getvalue() == (
            "000000000000  downloading  5 B of 10 B \n0 of 2 layers, 5 B of 20 B (25 %)\n"
        )
        display.show(layers("done", "unpacking"))
        assert stream.getvalue().endswith(
            "\x1b[2A\r\x1b[J000000000000  done         10 B\n"
            "100000000000  unpacking    5 B of 10 B \n1 of 2 layers, 5 B of 20 B (25 %)\n"
        )
        # No more lines than the terminal has, or they could not be erased.
        display.show(layers("done", *["unpacking"] * 9))
        assert stream.getvalue().rpartition("\x1b[J")[2].count("\n") == 3
    assert stream.getvalue().endswith("\x1b[3A\r\x1b[J")


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    with PullDisplay(stream) as display:
        display.show(layers("downloading"))
        display.show(layers("done"))
        display.show(layers("done"))
    assert stream.getvalue() == "000000000000  done         10 B\n"


def test_without_an_agent(tmp_path: Path) -> None:
    code, _, err = Tank(tmp_path / "none.sock", tmp_path)("image", "ls")
    assert code == 1
    assert "agent is not running" in err
