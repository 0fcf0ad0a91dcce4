"""`tank why` for every kind of name: here, in a broken file, for other machines, gone, and unknown."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from tank_agent.api.reports import ContainerReport, ExitReport, PodReport, WhyReport
from tank_agent.control.why import Why
from tank_agent.errors import PodNotFound
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import Good, NewEvent, PodStatus, Rollout, Verdict
from tank_agent.journal.store import MemoryStore
from tank_agent.source.files import parser_for
from tank_agent.source.snapshot import Declared
from tank_agent.spec.model import Host, selects
from tank_agent.spec.parse import parse_pod_file
from tests.unit.journal.builders import FakeClock, pod, snapshot

TEXT = """\
[[containers]]
name = "app"
rootfs = "/srv/app"
command = ["{command}"]
env = {{ PASSWORD = "{password}" }}
"""


class World:
    """A pods_dir, a journal that follows it, and what the loop and the sessions say."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.clock = directory, FakeClock()
        self.journal = Journal(MemoryStore(), clock=self.clock)
        self.host = Host(name="edge-1")
        self.reports: dict[str, PodReport] = {}
        self.broken: dict[str, PodReport] = {}
        self.printed: dict[str, list[bytes]] = {}
        self.git_texts: dict[tuple[str, str], bytes] = {}
        statuses = SimpleNamespace(
            journal=self.journal,
            of=lambda name: self.reports[name],
            broken_files=lambda _: self.broken,
        )
        loop = SimpleNamespace(knows=self.reports.__contains__, known_pods=lambda: tuple(self.reports))
        sources = SimpleNamespace(places={"dir": str(directory)}, host=self.host, git=None)
        self.sources: Any = sources
        self.why = Why(cast(Any, loop), cast(Any, statuses), sources, cast(Any, self))

    def logs(self, pod: str, container: str, query: Any, ended: Any) -> tuple[bool, list[bytes]]:
        return False, self.printed.get(f"{pod}/{container}", [])

    def save(self, name: str, text: str, source: str = "dir", revision: str = "") -> None:
        """Write a file, and let the journal follow it."""
        file = self.directory / f"{name}.toml"
        file.write_text(text)
        parsed = parse_pod_file(text, str(file))
        owner = f"{source}:{file}" if source == "dir" else f"{source}:{name}.toml"
        found = [
            Declared(pod=one.pod, owner=owner, revision=revision or f"{name}-rev", file=str(file))
            for one in parsed.pods
            if selects(one.selector, self.host)
        ]
        self.journal.merge(snapshot(*found, source=source))

    def runs(self, name: str, phase: str = "running", **fields: Any) -> None:
        desired = self.journal.get(name)
        assert desired is not None
        app = ContainerReport(name="app", phase=phase, pid=7, restarts=0, image="/srv/app")
        told = {"containers": (app,), "owner": desired.owner, "generation": desired.generation, **fields}
        self.reports[name] = PodReport(name=name, phase=phase, **told)

    def explain(self, name: str) -> WhyReport:
        return self.why.of(name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def text(command: str = "/bin/good", password: str = "hunter2") -> str:
    return TEXT.format(command=command, password=password)


def fail_update(world: World) -> None:
    """Let generation 2 of pod web fail, and generation 1 come back."""
    world.save("web", text())
    world.save("web", text("/bin/bad", "other"), revision="web-bad")
    good = world.journal.revision("web", 1)
    assert good is not None
    rollout = Rollout(generation=2, kind="update", boot_id="b", begun=1.0, replaced=1)
    world.journal.record("web", PodStatus(rollout=rollout, good=Good(generation=1, hash=good.hash, at=1.0)))
    verdict = Verdict(outcome="failed", at=world.clock.now, reason="container app ended with exit code 3")
    world.journal.quarantine("web", 2, verdict, good)
    world.runs("web")


def test_a_pod_that_runs_as_it_should(world: World) -> None:
    world.save("web", text())
    world.runs("web")
    found = world.explain("web")
    assert found.summary == f"web runs as {world.directory}/web.toml says"
    assert (found.file, found.line, found.commit) == (f"{world.directory}/web.toml", 1, "web-rev")
    assert (found.wanted, found.unblock) == ((), ())
    (change,) = found.changes
    assert (change.generation, change.cause, change.outcome) == (
        1,
        "its file changed",
        None,
    )


def test_a_failed_update_shows_the_line_of_every_field_and_no_value_of_a_variable(world: World) -> None:
    fail_update(world)
    found = world.explain("web")
    fields = {one.key: (one.old, one.new, one.line) for one in found.wanted}
    assert fields == {
        "containers[app].command": ('["/bin/good"]', '["/bin/bad"]', 4),
        "containers[app].env.PASSWORD": ("set", "set", 5),
    }
    assert "hunter2" not in str(found)
    assert found.commit == "web-bad"
    outcomes = [(one.generation, one.outcome, one.cause) for one in found.changes]
    assert outcomes == [
        (1, None, "its file changed"),
        (2, "failed", "its file changed"),
        (3, None, "back to generation 1"),
    ]
    assert found.changes[1].reason == "container app ended with exit code 3"
    assert [event.type for event in found.events] == ["update-failed"]


def test_the_lines_are_those_of_the_commit(world: World) -> None:
    world.save("web", text(), "git", "a" * 40)
    world.save("web", text("/bin/bad"), "git", "b" * 40)
    good = world.journal.revision("web", 1)
    assert good is not None
    status = PodStatus(
        good=Good(generation=1, hash=good.hash, at=1.0),
        rollout=Rollout(generation=2, kind="update", boot_id="b", begun=1.0, replaced=1),
    )
    world.journal.record("web", status)
    world.runs("web")
    asked: list[tuple[str, str]] = []

    def git_text(commit: str, path: str, patience: float) -> bytes:
        asked.append((commit, path))
        return b"\n\n" + text("/bin/bad").encode()

    world.sources.git = SimpleNamespace(repository=SimpleNamespace(text=git_text))
    found = world.explain("web")
    # While it has to prove itself, what it replaced is shown.
    assert [(one.key, one.file, one.line) for one in found.wanted] == [
        ("containers[app].command", "web.toml", 6)
    ]
    assert asked == [("b" * 40, "web.toml")]
    world.sources.git.repository.text = lambda *_: None
    assert [(one.file, one.line) for one in world.explain("web").wanted] == [("web.toml", 0)]


def test_what_a_pinned_pod_does_not_follow(world: World) -> None:
    world.save("web", text())
    world.save("web", text("/bin/new"))
    first = world.journal.revision("web", 1)
    assert first is not None
    world.journal.roll_back("web", first)
    world.runs("web")
    (field,) = world.explain("web").wanted
    assert (field.key, field.old, field.new) == ("containers[app].command", '["/bin/good"]', '["/bin/new"]')
    # A suspended one is compared with the text that is there now.
    world.journal.resume("web")
    world.journal.suspend("web")
    world.save("web", text("/bin/newest"))
    (field,) = world.explain("web").wanted
    assert field.new == '["/bin/newest"]'


def test_the_log_of_the_container_that_explains_most(world: World) -> None:
    world.save("web", text())
    ended = ExitReport(code=3, signal=None, oom=False, at=None)
    app = ContainerReport(name="app", phase="running", pid=7, restarts=0, image="x")
    side = replace(app, name="side", phase="backing-off", exit=ended)
    world.runs("web", "degraded", containers=(app, side))
    lines = [b"2026-11-22T06:00:0%d.0Z stdout F side line %d\x1b[2J\xff\n" % (at, at) for at in range(3)]
    world.printed["web/side"] = [b"".join(lines)]
    found = world.explain("web")
    assert found.log_of == "side"
    assert found.log == tuple(f"line {at}\x1b[2J\ufffd" for at in range(3))


def test_the_log_before_the_verdict(world: World) -> None:
    fail_update(world)
    status = world.journal.status("web")
    bad = replace(status.bad[0], at=1_795_000_010.0)
    world.journal.record("web", replace(status, bad=(bad,)))
    stamps = ("2026-11-18T11:06:40", "2026-11-18T11:06:50", "2026-11-18T11:06:51")
    world.printed["web/app"] = [f"{stamp}.000Z stdout F app {stamp}\n".encode() for stamp in stamps]
    assert world.explain("web").log == stamps[:2]


def test_a_broken_file(world: World) -> None:
    file = str(world.directory / "web.toml")
    problem = f"{file}:3: containers[0].image: is empty"
    world.broken["web"] = PodReport(name="web", phase="failed", owner=f"dir:{file}", error=problem)
    found = world.explain("web")
    assert found.summary == f"web does not run: {problem}"
    assert found.unblock == (f"mend {file}: it is looked at again once it is saved",)


def test_a_pod_for_other_machines(world: World) -> None:
    world.save("web", f'hosts = ["edge-2"]\nlabels = {{ site = "fra" }}\n{text()}')
    found = world.explain("web")
    assert found.summary == (
        "web is not meant for this machine (edge-1), but for hosts edge-2 and labels site=fra"
    )
    assert (found.file, found.status) == (f"{world.directory}/web.toml", None)
    assert found.unblock == (
        f"edit `hosts` and `labels` in {world.directory}/web.toml, or [labels] of agent.toml",
    )


def test_a_pod_whose_file_was_not_looked_at_yet(world: World) -> None:
    (world.directory / "web.toml").write_text(text())
    assert world.explain("web").summary == f"web is declared in {world.directory}/web.toml, and not here yet"


def test_a_pod_of_git_for_other_machines(world: World) -> None:
    parsed = parser_for(Host(name="x"))(b'hosts = ["x"]\n' + text().encode(), "web.toml")
    declared = ("web.toml", parsed.pods[0].selector)
    world.sources.git = SimpleNamespace(repository=SimpleNamespace(declaring=lambda _: declared))
    assert world.explain("web").summary == "web is not meant for this machine (edge-1), but for hosts x"


def test_a_pod_that_is_gone(world: World) -> None:
    world.save("web", text())
    (world.directory / "web.toml").unlink()
    world.journal.merge(snapshot())
    world.journal.record("web", None, [NewEvent(pod="web", type="removed", message="the pod is gone")])
    found = world.explain("web")
    assert found.summary == "there is no pod web any more, 2026-11-18T11:06:40Z: the pod is gone"
    assert [one.generation for one in found.changes] == [1]
    assert "`tank history web`" in found.unblock[0]


def test_a_name_that_nothing_knows(world: World) -> None:
    world.save("web", text())
    world.runs("web")
    with pytest.raises(PodNotFound) as error:
        world.explain("wbe")
    assert error.value.message == "there is no pod wbe, and the files declare none"
    assert error.value.hint == "did you mean web? `tank list` shows all"


def test_a_pod_that_runs_and_nobody_declares(world: World) -> None:
    world.reports["old"] = PodReport(name="old", phase="degraded", error="the journal does not know it")
    found = world.explain("old")
    assert found.summary == "old is degraded, and nothing declares it"
    assert found.unblock == ("`tank delete old` ends it",)


def test_only_the_last_five_changes_and_events(world: World) -> None:
    for number in range(8):
        world.journal.put(pod("job", f"/bin/{number}"), f"rev{number}", by="ann")
        world.journal.record("job", PodStatus(), [NewEvent(pod="job", type="x", message=str(number))])
        world.journal.record("", None, [NewEvent(pod="other", type="x", message="y")])
    world.runs("job")
    found = world.explain("job")
    assert [one.generation for one in found.changes] == [4, 5, 6, 7, 8]
    assert {one.by for one in found.changes} == {"ann"}
    assert [one.message for one in found.events if one.type == "x"] == ["5", "6", "7"]
    assert [one.by for one in found.events if one.type == "applied"] == ["ann", "ann"]
