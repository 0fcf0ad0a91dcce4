"""The walk over a tree, and the snapshot of a commit."""

from __future__ import annotations

import pytest

from tank_agent.source.files import parse_bytes
from tank_agent.source.git.access import GitError
from tank_agent.source.git.content import DirectoryMissingError, File, snapshot, walk
from tank_agent.source.git.objects import CommitInfo, object_id
from tests.support.git import pod_text

COMMIT = CommitInfo(id="r" * 40, author="Ann", subject="change", at=1.0)


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
