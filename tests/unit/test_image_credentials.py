"""Credentials from files of Docker's form: which entry counts, and what a broken file says."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.credentials import Credentials, find_credentials
from tank_agent.linux import process


def secret(user: str, password: str = "p:w") -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def write(path: Path, **content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    ("key", "host", "repository"),
    [
        ("ghcr.io", "ghcr.io", "a/b"),
        ("https://ghcr.io/v1/", "ghcr.io", "a/b"),
        ("https://ghcr.io", "ghcr.io", "a/b"),
        ("ghcr.io/a", "ghcr.io", "a/b"),
        ("ghcr.io/a/b", "ghcr.io", "a/b"),
        ("localhost:5000", "localhost:5000", "x"),
        ("https://index.docker.io/v1/", "docker.io", "library/nginx"),
        ("docker.io", "docker.io", "library/nginx"),
    ],
)
def test_the_entry_of_the_registry_is_found(tmp_path: Path, key: str, host: str, repository: str) -> None:
    file = write(tmp_path / "auth.json", auths={key: secret("alice")})
    assert find_credentials(host, repository, (file,)) == Credentials(username="alice", password="p:w")


@pytest.mark.parametrize("key", ["ghcr.io.evil.example", "cr.io", "ghcr.io:5000", "ghcr.io/other", "*"])
def test_entries_of_other_hosts_are_not_used(tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "auth.json", auths={key: secret("alice")})
    assert find_credentials("ghcr.io", "a/b", (file,)) is None


def test_the_most_specific_entry_and_the_first_file_win(tmp_path: Path) -> None:
    one = write(tmp_path / "1", auths={"r.io": secret("host"), "r.io/team": secret("team")})
    two = write(tmp_path / "2", auths={"r.io/team/app": secret("second"), "other.io": secret("other")})
    files = (str(tmp_path / "missing"), one, two)
    assert find_credentials("r.io", "team/app", files) == Credentials(username="team", password="p:w")
    assert find_credentials("r.io", "else", files) == Credentials(username="host", password="p:w")
    assert find_credentials("other.io", "x", files) == Credentials(username="other", password="p:w")
    assert find_credentials("none.io", "x", files) is None


def test_plain_fields_and_identity_tokens(tmp_path: Path) -> None:
    file = write(
        tmp_path / "auth.json",
        auths={"a.io": {"username": "u", "password": "p"}, "b.io": {"identitytoken": "t"}, "c.io": {}},
    )
    assert find_credentials("a.io", "x", (file,)) == Credentials(username="u", password="p")
    assert find_credentials("b.io", "x", (file,)) == Credentials(identity_token="t")
    assert find_credentials("c.io", "x", (file,)) is None


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"auths": {"r.io": {"auth": "hunter2!"}}}', '{"auths": 1}', "[" * 99_999],
    ids=["cut", "a list", "no base64", "a number", "deep"],
)
def test_a_broken_file_is_named_and_no_secret_is_shown(tmp_path: Path, text: str) -> None:
    file = tmp_path / "auth.json"
    file.write_text(text)
    with pytest.raises(Stalled, match=str(file)) as caught:
        find_credentials("r.io", "x", (str(file),))
    assert "hunter2" not in str(caught.value)


def test_credentials_do_not_print_their_secret() -> None:
    found = Credentials(username="alice", password="hunter2")
    assert "hunter2" not in f"{found} {found!r}"
    assert found.basic() == "Basic " + base64.b64encode(b"alice:hunter2").decode()


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "docker-credential-fake"
    path.write_text(
        '#!/bin/sh\ncat > "$0.asked"\ncat "$0.answer" 2>/dev/null || { echo "$ERROR"; exit 1; }\n'
    )
    path.chmod(0o755)
    monkeypatch.setattr(process, "ENVIRONMENT", {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    return path


def test_helpers(tmp_path: Path, helper: Path) -> None:
    answer = helper.with_suffix(".answer")
    answer.write_text('{"ServerURL": "x", "Username": "u", "Secret": "s"}')
    file = write(
        tmp_path / "config.json", credHelpers={"gcr.io": "fake"}, auths={"gcr.io": secret("not this")}
    )
    assert find_credentials("gcr.io", "x", (file,)) == Credentials(username="u", password="s")
    assert helper.with_suffix(".asked").read_text() == "gcr.io"
    answer.write_text('{"Username": "<token>", "Secret": "t"}')
    file = write(tmp_path / "config.json", credsStore="fake")
    assert find_credentials("gcr.io", "x", (file,)) == Credentials(identity_token="t")


def test_broken_helpers(tmp_path: Path, helper: Path) -> None:
    file = write(tmp_path / "config.json", credHelpers={"gcr.io": "fake"})
    with pytest.raises(Stalled, match="docker-credential-fake failed"):
        find_credentials("gcr.io", "x", (file,))
    helper.with_suffix(".answer").write_text("not JSON")
    with pytest.raises(Stalled, match="did not answer with JSON"):
        find_credentials("gcr.io", "x", (file,))
    helper.write_text('#!/bin/sh\necho "credentials not found in native keychain"; exit 1\n')
    assert find_credentials("gcr.io", "x", (file,)) is None
    for name in ("../../bin/sh", "a b", ""):
        file = write(tmp_path / "config.json", credHelpers={"gcr.io": name})
        with pytest.raises(Stalled, match="not the name of a credential helper"):
            find_credentials("gcr.io", "x", (file,))
