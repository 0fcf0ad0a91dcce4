"""Commits, tags and trees as git itself writes them, and as an attacker might; history and signers."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.source.git.decide import judge
from tank_agent.source.git.objects import (
    BadObjectError,
    Commit,
    CommitInfo,
    object_id,
    parse_commit,
    parse_tag,
    parse_tree,
    printable,
)
from tests.support.git import Work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def raw(work: Work, name: str) -> bytes:
    kind = work.git("cat-file", "-t", name)
    done = subprocess.run(["git", "cat-file", kind, name], cwd=work.path, capture_output=True, check=True)
    return done.stdout


def test_reads_what_git_writes(work: Work) -> None:
    work.write("pods/web.toml")
    (work.path / "link").symlink_to("pods")
    first = work.commit("First\n\nbody", push=False)
    second = work.commit("Second", push=False)
    work.git("tag", "-a", "v1", "-m", "release")
    commit = parse_commit(raw(work, second))
    assert (commit.info.id, commit.parents, commit.info.author) == (second, (first,), "Ann Author")
    assert commit.info.subject == "Second"
    assert commit.signed is None
    tree = raw(work, commit.tree)
    assert object_id("tree", tree) == commit.tree
    entries = {entry.name: entry for entry in parse_tree(tree)}
    assert entries[b"pods"].is_directory and entries[b"link"].is_symlink
    tag = parse_tag(raw(work, "v1"))
    assert (tag.target, tag.kind, tag.name, tag.signed) == (second, "commit", "v1", None)


@pytest.mark.parametrize("name", ["ISO-8859-1", "latin1", "windows-1252", "KOI8-R", "Shift_JIS", "GB18030"])
def test_a_commit_says_how_its_texts_are_written(work: Work, name: str) -> None:
    subject, author = ("Мир", "Иван") if name == "KOI8-R" else ("Mehr Gedächtnis", "Jörg Müller")
    if name in ("Shift_JIS", "GB18030"):
        subject, author = "日本", "山田"
    message = work.path / "message"
    message.write_bytes(subject.encode(name))
    options = ["-c", f"i18n.commitEncoding={name}", "commit", "--quiet", "--allow-empty"]
    raw_author = os.fsdecode(f"{author} <j@example.com>".encode(name))
    work.git(*options, "-F", str(message), f"--author={raw_author}")
    info = parse_commit(raw(work, work.head())).info
    assert (info.subject, info.author) == (subject, author)


@pytest.mark.parametrize(
    "name", [b"zip", b"hex", b"punycode", b"utf-16", b"x" * 5000, b"iso88591", b"latin-9", b"\xff"]
)
def test_an_encoding_that_is_none_does_no_harm(name: bytes) -> None:
    commit = parse_commit(HEAD + PEOPLE + b"encoding " + name + b"\n\nplain \x9b")
    assert commit.info.subject == "plain �"


HEAD = b"tree " + b"a" * 40 + b"\n"

PEOPLE = b"author A <a> 1 +0000\ncommitter A <a> 1 +0000\n"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"parent " + b"a" * 40 + b"\n" + HEAD,
        HEAD + HEAD + PEOPLE + b"\nx",
        b"tree short\n" + PEOPLE + b"\nx",
        HEAD + PEOPLE + b"parent " + b"b" * 40 + b"\n\nx",
        HEAD + PEOPLE + b"gpgsig a\ngpgsig b\n\nx",
        b" continued\n" + HEAD + b"\nx",
    ],
)
def test_malformed_commits_are_refused(data: bytes) -> None:
    with pytest.raises(BadObjectError):
        parse_commit(data)


def test_texts_of_strangers_are_harmless() -> None:
    commit = parse_commit(HEAD + b"author \x1b[2J\xff <a> 1 +0000\ncommitter x\n\nsub\x07ject\x1b]0;x")
    assert commit.info.author.isprintable() and commit.info.subject.isprintable()
    assert commit.info.at == 0.0
    assert printable("a\nb\u202e") == "a�b�"


@pytest.mark.parametrize("name", [b"..", b".", b".git", b".GIT", b"a/b", b""])
def test_names_that_no_file_has_are_unsafe(name: bytes) -> None:
    (entry,) = parse_tree(b"100644 " + name + b"\0" + b"x" * 20)
    assert not entry.safe


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for parse in (parse_commit, parse_tag, parse_tree):
        with suppress(BadObjectError):
            parse(data)


def graph(edges: str) -> dict[str, Commit]:
    """Make commits of "name:parent,parent" words."""
    commits = {}
    for word in edges.split():
        name, _, parents = word.partition(":")
        info = CommitInfo(id=name, author="A", subject=name, at=0.0)
        commits[name] = Commit(tree="t", parents=tuple(filter(None, parents.split(","))), info=info)
    return commits


@pytest.mark.parametrize(
    ("edges", "tip", "deployed", "relation", "new", "holes"),
    [
        ("a", "a", None, "first", "a", ""),
        ("a", "a", "a", "same", "", ""),
        ("c:b b:a a", "c", "a", "ahead", "cb", ""),
        ("c:b b:a a", "a", "c", "behind", "a", ""),
        ("c:b b:a", "b", "c", "behind", "b", ""),
        ("x:a c:a a", "x", "c", "diverged", "x", ""),
        # A merge brings the side branch's commits, but not what both have.
        ("m:b,s b:a s:a a", "m", "b", "ahead", "ms", ""),
        # What lies before the deployed commit is not new, even if a side branch started there.
        ("m:c,s c:b s:a b:a a", "m", "c", "ahead", "ms", ""),
        # A commit that is kept from us is a hole; one behind the deployed commit is none.
        ("m:b,s b:a", "m", "b", "ahead", "m", "s"),
        ("c:b b:a", "c", "b", "ahead", "c", ""),
        ("c:b", "c", "z", "diverged", "c", "b"),
    ],
)  # fmt: skip
def test_history_is_judged(
    edges: str, tip: str, deployed: str | None, relation: str, new: str, holes: str
) -> None:
    found = judge(tip, deployed, graph(edges))
    assert found.relation == relation
    assert "".join(commit.info.id for commit in found.new) == new
    assert found.holes == frozenset(holes)
