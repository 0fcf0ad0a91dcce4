"""Commits, tags and trees as git itself writes them, and as an attacker might; history and signers."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.settings.git import GitVerify
from tank_agent.source.git.access import GitError
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
from tank_agent.source.git.verify import Verifier, judge_openpgp, load
from tests.support.git import Work, make_key


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


def ssh_signing(work: Work, key: Path) -> None:
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", str(key)), ("commit.gpgSign", "true")):
        work.git("config", name, value)


def refusal(verifier: Verifier, *commits: bytes) -> str | None:
    try:
        verifier.check_commits(map(parse_commit, commits))
    except GitError as error:
        return error.message
    return None


def test_ssh_signatures(work: Work, tmp_path: Path) -> None:
    for name in ("ann", "eve"):
        make_key(tmp_path / name)
    public = (tmp_path / "ann.pub").read_text().split()
    ssh_signing(work, tmp_path / "ann")
    good = raw(work, work.commit("good", push=False))
    work.git("config", "user.signingKey", str(tmp_path / "eve"))
    unknown = raw(work, work.commit("unknown", push=False))
    unsigned = raw(work, work.commit("unsigned", "--no-gpg-sign", push=False))
    work.git("config", "user.signingKey", str(tmp_path / "ann"))
    work.git("tag", "-s", "-m", "release", "v1")
    user = (65534, 65534)

    def verifier(line: str) -> Verifier:
        return Verifier(signers=line.format(*public).encode(), user=user)

    ann = verifier("ann@example.com,bob@example.com {0} {1}\n")
    assert refusal(ann, good) is None
    assert "is not signed" in (refusal(ann, unsigned) or "")
    assert "not in git.verify.allowed_signers" in (refusal(ann, unknown) or "")
    assert "does not fit" in (refusal(ann, good.replace(b"\ngood", b"\nevil")) or "")
    assert refusal(ann, good, good, unsigned) == refusal(ann, unsigned)
    assert refusal(verifier('*@example.com namespaces="git" {0} {1}\n'), good) is None
    assert refusal(verifier('ann@example.com namespaces="file" {0} {1}\n'), good)
    assert "has expired" in (refusal(verifier('ann@x valid-before="20200101" {0} {1}\n'), good) or "")
    assert "allowed_signers is not set" in (refusal(Verifier(keyring=b"x", user=user), good) or "")
    tag = parse_tag(raw(work, "v1"))
    ann.check_tag([tag], "v1")
    for tags, name, words in (([tag], "v2", "made as v1"), ([], "v1", "not annotated")):
        with pytest.raises(GitError, match=words):
            ann.check_tag(tags, name)
    with pytest.raises(GitError, match="does not fit"):
        ann.check_tag([parse_tag(raw(work, "v1").replace(b"release", b"revenge"))], "v1")


@pytest.fixture
def gpg(tmp_path: Path, work: Work):  # type: ignore[no-untyped-def]
    """A key ring with two keys, one of them expired, and git set up to sign with it."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)

    def run(*argv: str) -> bytes:
        options = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback"]
        return subprocess.run([*options, "--passphrase", "", *argv], check=True, capture_output=True).stdout

    run("--quick-generate-key", "ann@example.com", "ed25519", "sign", "never")
    run(
        "--faked-system-time",
        "20200101T000000!",
        "--quick-generate-key",
        "old@example.com",
        "ed25519",
        "sign",
        "1d",
    )
    program = tmp_path / "gpg"
    program.write_text(
        f"#!/bin/sh\nexec gpg --homedir {home} --batch --pinentry-mode loopback"
        ' --passphrase "" $GPG_MORE "$@"\n'
    )
    program.chmod(0o755)
    work.git("config", "gpg.program", str(program))
    work.git("config", "commit.gpgSign", "true")
    yield run
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True, capture_output=True)


def test_openpgp_signatures(work: Work, gpg, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    work.git("config", "user.signingKey", "ann@example.com")
    good = raw(work, work.commit("good", push=False))
    work.git("config", "user.signingKey", "old@example.com")
    env = {"GPG_MORE": "--faked-system-time 20200101T010000!"}
    work.git("commit", "--quiet", "--allow-empty", "-m", "old", env=env)
    old = raw(work, work.head())
    both, only_old = tmp_path / "both.asc", tmp_path / "old.gpg"
    both.write_bytes(gpg("--armor", "--export"))
    only_old.write_bytes(gpg("--export", "old@example.com"))

    def verifier(keyring: Path) -> Verifier:
        found = load(GitVerify(mode="commits", keyring=str(keyring)), (65534, 65534))
        assert found is not None
        return found

    assert refusal(verifier(both), good) is None
    assert "was changed after it was signed" in (
        refusal(verifier(both), good.replace(b"\ngood", b"\nevil")) or ""
    )
    assert "key has expired" in (refusal(verifier(both), old) or "")
    assert "not in git.verify.keyring" in (refusal(verifier(only_old), good) or "")


@pytest.mark.parametrize(
    ("status", "code", "good"),
    [
        ("NEWSIG\nGOODSIG x\nVALIDSIG x", 0, True),
        ("NEWSIG\nGOODSIG x\nVALIDSIG x", 1, False),
        ("NEWSIG\nGOODSIG x\nVALIDSIG x\nNEWSIG\nBADSIG y", 0, False),
        ("NEWSIG\nGOODSIG x\nVALIDSIG x\nNEWSIG\nGOODSIG y\nVALIDSIG y", 0, False),
        ("NEWSIG\nEXPKEYSIG x\nVALIDSIG x", 0, False),
        ("NEWSIG\nREVKEYSIG x\nVALIDSIG x", 0, False),
        ("", 0, False),
    ],
)
def test_only_one_good_signature_is_good(status: str, code: int, good: bool) -> None:
    lines = "\n".join(f"[GNUPG:] {line}" for line in status.splitlines())
    assert (judge_openpgp(lines, code) is None) == good


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PGP NOTHING-----\n"])
def test_key_files_that_cannot_be_used_are_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Stalled, match=r"git\.verify\.keyring|is empty"):
        load(GitVerify(mode="commits", keyring=str(file)), None)
