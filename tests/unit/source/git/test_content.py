"""The walk over a tree, and the snapshot of a commit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import pytest

from tank_agent.source.files import parse_bytes
from tank_agent.source.git.access import GitError
from tank_agent.source.git.content import DirectoryMissingError, File, Parsed, PodReader, snapshot, walk
from tank_agent.source.git.objects import CommitInfo, object_id
from tank_agent.spec.selection import Mismatch
from tests.support.git import pod_text

COMMIT = CommitInfo(id="r" * 40, author="Ann", subject="change", at=1.0)


class Trees:
    """Builds trees and blobs in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def add(self, *entries: tuple[str, bytes, str]) -> str:
        data = b"".join(
            mode.encode() + b" " + name + b"\0" + bytes.fromhex(target) for mode, name, target in entries
        )
        name = object_id("tree", data)
        self.objects[name] = data
        return name

    def blob(self, data: bytes) -> str:
        name = object_id("blob", data)
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
    result = snapshot(COMMIT, (bad, good), (), parsed, lambda _: None)
    assert [(item.pod.name, item.owner, item.revision) for item in result.pods] == [
        ("web", "git:web.toml", "r" * 40)
    ]
    assert result.unreadable == {"git:db.toml"}
    assert result.problems[0].file == "db.toml"
    assert (result.pods[0].author, result.pods[0].subject) == ("Ann", "change")
    other = snapshot(COMMIT, (good,), (), parsed, lambda _: Mismatch("hosts", "hosts: not this one"))
    assert other.pods == ()
    assert [(one.name, one.owner, str(one)) for one in other.elsewhere] == [
        ("web", "git:web.toml", "web.toml:1: hosts: not this one")
    ]


def test_files_that_may_be_taken_for_pod_files_are_told_once() -> None:
    trees = Trees()
    names = (b"web.yaml", b"DB.TOML", b"x.toml.txt", b".hidden.yml", b"README.md", b"app.yml", b"ok.toml")
    tree = trees.add(*[("100644", name, BLOB) for name in sorted(names)])
    told: list[str] = []
    files, _ = walk(
        trees.add(("40000", b"pods", tree)), "", trees.objects.__getitem__, 100, 5, overlooked=told
    )
    assert sorted(told) == ["pods/DB.TOML", "pods/app.yml", "pods/web.yaml", "pods/x.toml.txt"]
    beside = pod_text() + '[[files]]\nname = "c"\nsource = "app.yml"\n'
    parsed = {files[0]: parse_bytes(beside.encode(), "pods/ok.toml", lambda _: b"x")}
    found = snapshot(COMMIT, files, (), parsed, lambda _: None, overlooked=told)
    assert found.overlooked == ("pods/DB.TOML", "pods/web.yaml", "pods/x.toml.txt")


class Remote:
    """Answers for the blobs of trees, and notes what it was asked for."""

    def __init__(self, trees: Trees) -> None:
        self.trees = trees
        self.asked: list[list[str]] = []

    def read(self, root: str, known: Mapping[tuple[str, str], Parsed] = MappingProxyType({})) -> list[Parsed]:
        """Return the pod files of a tree, parsed."""
        files, _ = walk(root, "", self.trees.objects.__getitem__, 100, 4)
        reader = PodReader(self.trees.objects.__getitem__, lambda _: None, self._answer, parse_bytes)
        parsed = reader.read(files, known)
        self.known = {(file.path, file.id): found for file, found in parsed.items()}
        return list(parsed.values())

    def _answer(self, names: Collection[str]) -> tuple[dict[str, bytes], dict[str, int]]:
        self.asked.append(list(names))
        return {name: self.trees.objects[name] for name in names}, {}


def naming(*sources: str) -> bytes:
    files = "".join(f'[[files]]\nname = "f{at}"\nsource = "{source}"\n' for at, source in enumerate(sources))
    return (files + pod_text()).encode()


def test_files_beside_pod_files_are_asked_for_all_at_once_and_each_once() -> None:
    trees = Trees()
    a, b = trees.blob(b"a"), trees.blob(b"")
    conf = trees.add(("100644", b"b.conf", b))
    root = trees.add(
        ("100644", b"a.conf", a),
        ("40000", b"conf", conf),
        ("100644", b"db.toml", trees.blob(naming("a.conf", "conf/b.conf"))),
        ("100644", b"web.toml", trees.blob(naming("a.conf"))),
    )
    remote = Remote(trees)
    db, web = remote.read(root)
    assert sorted(remote.asked[0]) == sorted([a, b]) and len(remote.asked) == 1
    assert [file.content for file in db.file.pods[0].pod.files] == [b"a", b""]
    assert (web.beside, web.file.beside) == ({"a.conf": a}, ("a.conf",))


def test_a_file_beside_that_changed_is_read_and_the_others_are_not_parsed_again() -> None:
    trees = Trees()
    entries = [
        ("100644", b"db.toml", trees.blob(naming("db.conf"))),
        ("100644", b"web.toml", trees.blob(naming("web.conf", "none"))),
        ("100644", b"web.conf", trees.blob(b"one")),
    ]
    remote = Remote(trees)
    db, web = remote.read(trees.add(*entries, ("100644", b"db.conf", trees.blob(b"one"))))
    new = trees.blob(b"two")
    changed = trees.add(*entries, ("100644", b"db.conf", new))
    again, same = remote.read(changed, remote.known)
    assert same is web and again is not db
    assert (again.file.pods[0].pod.files[0].content, remote.asked[1:]) == (b"two", [[new]])
    # What was missing is found when it comes, though the pod file is the same.
    _, mended = remote.read(
        trees.add(*entries, ("100644", b"db.conf", new), ("100644", b"none", new)), remote.known
    )
    assert mended.file.problems == ()


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none", "is not in this commit"),
        ("conf/none", "is not in this commit"),
        ("file/below", "is not in this commit"),
        ("conf", "is a directory; name a file"),
        ("link", "is a symbolic link or behind one"),
        ("link/x", "is a symbolic link or behind one"),
        ("module", "is in a submodule, which is not fetched"),
        ("module/x", "is in a submodule, which is not fetched"),
        ("../file", "leads out of the pod file's directory"),
        ("..", "leads out of the pod file's directory"),
        (".git/config", "starts with a dot"),
    ],
)
def test_what_is_no_file_of_the_tree_is_told(path: str, words: str) -> None:
    trees = Trees()
    conf = trees.add(("100644", b"x", BLOB))
    root = trees.add(
        ("40000", b"conf", conf),
        ("100644", b"file", BLOB),
        ("120000", b"link", BLOB),
        ("160000", b"module", BLOB),
        ("100644", b"web.toml", trees.blob(naming(path))),
        ("40000", b"..", conf),
    )
    remote = Remote(trees)
    (web,) = remote.read(root)
    (problem,) = web.file.problems
    assert (problem.line, problem.key) == (3, "files[0].source")
    assert words in problem.message
    assert remote.asked == []
