"""The pure parts: selectors, budget, schedule, the walk over a tree, and the worker's order of looks."""

from __future__ import annotations

import threading

import pytest
from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.source.files import parse_bytes
from tank_agent.source.git.access import GitError
from tank_agent.source.git.content import DirectoryMissingError, File, snapshot, walk
from tank_agent.source.git.decide import held
from tank_agent.source.git.objects import object_id
from tank_agent.source.git.schedule import Schedule
from tank_agent.source.git.status import CommitInfo, GitStatus, StepStatus
from tank_agent.source.git.worker import GitWorker
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod, content_hash
from tank_agent.spec.selectors import Host, Selector, selects
from tests.support.git import pod_text, wait_until

COMMIT = CommitInfo(id="r" * 40, author="Ann", subject="change", at=1.0)


@pytest.mark.parametrize(
    ("hosts", "labels", "expected"),
    [
        ((), {}, True),
        (("edge-*",), {}, True),
        (("EDGE-1",), {}, True),
        (("edge-1.example.com",), {}, True),
        (("core-*", "edge-?"), {}, True),
        (("core-*",), {}, False),
        ((), {"site": "fra"}, True),
        ((), {"site": "f*"}, True),
        ((), {"site": "fra", "tier": "gold"}, False),
        (("edge-*",), {"site": "ber"}, False),
    ],
)
def test_selectors(hosts: tuple[str, ...], labels: dict[str, str], expected: bool) -> None:
    host = Host(name="edge-1.example.com", labels={"site": "fra"})
    assert selects(Selector(hosts=hosts, labels=labels), host) == expected


class Desired(Struct, frozen=True):
    name: str
    owner: str
    hash: str


BAD = Problem("x", 1, "", "bad", "a")


def pod(name: str, command: str = "true") -> Pod:
    return Pod(name=name, containers=(Container(name="app", image="oci:/x", command=(command,)),))


def desired(*names: str, owner: str = "git") -> list[Desired]:
    return [Desired(name, f"{owner}:{name}.toml", content_hash(pod(name))) for name in names]


def declared(*pods: Pod, problems: tuple[Problem, ...] = (), unreadable: tuple[str, ...] = ()) -> Snapshot:
    return Snapshot(
        source="git",
        revision="r",
        pods=tuple(
            Declared(pod=item, owner=f"git:{item.name}.toml", revision="r", file="f") for item in pods
        ),
        problems=problems,
        unreadable=frozenset(unreadable),
    )


@pytest.mark.parametrize(
    ("current", "new", "budget", "words"),
    [
        (desired(), declared(), None, None),
        (desired("a"), declared(), None, None),
        (desired("a", "b"), declared(), None, "remove 2 (a, b) of 2 pods"),
        (desired("a", "b"), declared(pod("a")), None, None),
        (desired("a", "b"), declared(pod("a", "x"), pod("b", "x")), None, "replace 2 (a, b) of 2 pods"),
        (desired("a", "b"), declared(pod("a", "x")), None, "remove 1 (b) and replace 1 (a) of 2 pods"),
        (desired("a", "b"), declared(pod("a"), pod("b"), pod("c")), 0, None),
        (desired("a", "b", "c"), declared(pod("a")), 1, "remove 2 (b, c) of 3 pods, and the budget is 1"),
        (desired("a", "b", "c", "d"), declared(), None, "remove 4 (a, b, c, …) of 4 pods"),
        # A bad file removes nothing, whether its pods' names are known or not.
        (desired("a", "b"), declared(problems=(BAD,), unreadable=("git:b.toml",)), 0, None),
        # Pods of others are not ours to count.
        (desired("a", "b", owner="dir"), declared(), 0, None),
    ],
)  # fmt: skip
def test_budget(current: list[Desired], new: Snapshot, budget: int | None, words: str | None) -> None:
    sentence = held(current, new, budget)
    assert (sentence is None) == (words is None)
    assert words is None or words in (sentence or "")


def test_schedule_spreads_and_backs_off() -> None:
    schedule = Schedule(interval=60.0)
    assert schedule.delay(0, lambda: 0.5) == pytest.approx(60.0)
    assert schedule.delay(0, lambda: 0.0) == pytest.approx(54.0)
    assert schedule.delay(0, lambda: 0.999) < 66.0
    assert [round(schedule.delay(n, lambda: 0.5)) for n in (1, 2, 3, 7, 8, 99)] == [5, 10, 20, 320, 600, 600]
    assert Schedule(interval=3600.0).delay(99, lambda: 0.5) == pytest.approx(3600.0)


class Trees:
    """Builds trees in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def add(self, *entries: tuple[str, bytes, str]) -> str:
        data = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(target) for mode, name, target in entries
        )
        name = object_id("tree", data)
        self.objects[name] = data
        return name


BLOB = "b" * 40


def found(
    trees: Trees, root: str, path: str = "", entries: int = 100, depth: int = 4
) -> tuple[list[str], list[str]]:
    files, problems = walk(root, path, trees.objects.__getitem__, entries, depth)
    return [file.path for file in files], [str(problem) for problem in problems]


def test_the_walk_takes_pod_files_and_follows_nothing() -> None:
    trees = Trees()
    inner = trees.add(("100644", b"in.toml", BLOB))
    root = trees.add(
        ("100644", b"web.toml", BLOB),
        ("100755", b"db.toml", BLOB),
        ("100644", b"README.md", BLOB),
        ("100644", b".hidden.toml", BLOB),
        ("100644", b"web.toml~", BLOB),
        ("40000", b"sub", inner),
        ("40000", b".github", inner),
        ("120000", b"link.toml", BLOB),
        ("120000", b"elsewhere", BLOB),
        ("160000", b"module", BLOB),
        ("40000", b"..", inner),
        ("40000", b".git", inner),
        ("100644", b"a/b.toml", BLOB),
        ("100644", b"\xff.toml", BLOB),
        ("100644", b"\x1b[2J.toml", BLOB),
    )
    files, problems = found(trees, root)
    assert files == ["db.toml", "sub/in.toml", "web.toml"]
    assert [problem.split(": ")[0] for problem in problems] == [
        "..",
        ".git",
        "a/b.toml",
        "link.toml",
        "�.toml",
        "�[2J.toml",
    ]
    assert "link.toml: is a symbolic link, which is never followed" in problems[3]


def test_the_walk_starts_at_the_path() -> None:
    trees = Trees()
    inner = trees.add(("100644", b"in.toml", BLOB))
    edge = trees.add(("40000", b"edge", inner))
    root = trees.add(
        ("40000", b"hosts", edge), ("120000", b"l", BLOB), ("160000", b"m", BLOB), ("100644", b"f", BLOB)
    )
    assert found(trees, root, "hosts/edge") == (["hosts/edge/in.toml"], [])
    for path, words in (
        ("hosts/core", "hosts/core is not in this commit"),
        ("l", "l is a symbolic link"),
        ("m/x", "m is a submodule"),
        ("f", "f is a file"),
    ):
        with pytest.raises(DirectoryMissingError, match=words):
            found(trees, root, path)


def test_the_walk_is_bounded() -> None:
    trees = Trees()
    tree = trees.add(("100644", b"x.toml", BLOB))
    for _ in range(5):
        tree = trees.add(("40000", b"d", tree))
    with pytest.raises(GitError, match="directories deep"):
        found(trees, tree, depth=4)
    # Ten levels that each name the one below ten times are ten thousand million files in ten small objects.
    tree = trees.add(*[("100644", b"%d.toml" % n, BLOB) for n in range(10)])
    for _ in range(9):
        tree = trees.add(*[("40000", b"%d" % n, tree) for n in range(10)])
    with pytest.raises(GitError, match="more than 100 entries"):
        found(trees, tree, depth=16)


def test_a_bad_file_keeps_its_pods_and_lets_the_others_pass() -> None:
    good, bad = File("web.toml", "1" * 40), File("db.toml", "2" * 40)
    parsed = {good: parse_bytes(pod_text().encode(), good.path), bad: parse_bytes(b"= broken", bad.path)}
    result = snapshot(COMMIT, (bad, good), (), parsed, lambda _: True)
    assert [(item.pod.name, item.owner, item.revision) for item in result.pods] == [
        ("web", "git:web.toml", "r" * 40)
    ]
    assert result.unreadable == {"git:db.toml"}
    assert result.problems[0].file == "db.toml"
    assert (result.pods[0].author, result.pods[0].subject) == ("Ann", "change")
    assert snapshot(COMMIT, (good,), (), parsed, lambda item: item.pod.name != "web").pods == ()


def test_status_tells_the_first_error_and_the_state() -> None:
    status = GitStatus(remote="r", ref="HEAD")
    assert (status.state, status.error) == ("pending", None)
    ok = StepStatus(revision="a")
    assert GitStatus(remote="r", ref="HEAD", fetched=ok, applied=ok).state == "in-sync"
    assert GitStatus(remote="r", ref="HEAD", applied=ok).state == "pending"
    assert GitStatus(remote="r", ref="HEAD", fetched=StepStatus(revision="b"), applied=ok).state == "behind"
    assert GitStatus(remote="r", ref="HEAD", fetched=ok, held="held: x").state == "held"
    bad = GitStatus(remote="r", ref="HEAD", verified=StepStatus(error="no"))
    assert (bad.state, bad.error) == ("error", "verify: no")


class FakeSource:
    def __init__(self) -> None:
        self.looks = 0
        self.error: str | None = None
        self.gate = threading.Event()
        self.gate.set()

    def sync(self) -> GitStatus:
        self.looks += 1
        self.gate.wait(10)
        return GitStatus(remote="r", ref="HEAD", fetched=StepStatus(error=self.error))

    def stop(self) -> None:
        self.gate.set()


def test_the_worker_looks_when_woken_and_after_failures_sooner() -> None:
    source, delays = FakeSource(), list[float]()
    source.error = "down"

    def wait(event: threading.Event, delay: float) -> bool:
        delays.append(delay)
        if len(delays) == 3:
            source.error = None
        return len(delays) < 5 or event.wait(10)

    worker = GitWorker(source, Schedule(interval=60.0), random=lambda: 0.5, wait=wait)
    worker.start()
    wait_until(lambda: len(delays) == 5)
    assert delays == pytest.approx([5, 10, 20, 60, 60])
    assert worker.sync(timeout=10)
    assert source.looks == 6
    worker.stop()


def test_the_worker_survives_a_bug() -> None:
    source, bugs = FakeSource(), list[Exception]()
    worker = GitWorker(source, Schedule(interval=600.0), before=lambda: 1 // 0, on_bug=bugs.append)
    worker.start()
    assert worker.sync(timeout=10)
    worker.stop()
    assert {type(bug) for bug in bugs} == {ZeroDivisionError}


def test_a_sync_waits_for_a_look_that_began_after_it() -> None:
    source = FakeSource()
    source.gate.clear()
    worker = GitWorker(source, Schedule(interval=600.0))
    worker.start()
    wait_until(lambda: source.looks == 1)
    assert not worker.sync(timeout=0.05)
    source.gate.set()
    assert worker.sync(timeout=10)
    assert source.looks >= 2
    worker.stop()
    assert not worker.sync(timeout=0.05)
