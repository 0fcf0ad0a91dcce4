"""Signatures of commits and tags, as gpgv and ssh-keygen judge them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.settings.git import GitVerify
from tank_agent.source.git.access import GitError
from tank_agent.source.git.objects import (
    parse_commit,
    parse_tag,
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


def ssh_signing(work: Work, key: Path) -> None:
    for name, value in (("gpg.format", "ssh"), ("user.signingKey", str(key)), ("commit.gpgSign", "true")):
        work.git("config", name, value)


def refusal(verifier: Verifier, *commits: bytes) -> str | None:
    try:
        verifier.check_commits(map(parse_commit, commits))
    except GitError as error:
        return error.message
    return None


@pytest.mark.machine
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


@pytest.mark.machine
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
