"""Credentials from files of Docker's form: which entry counts, and what a broken file says."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from tank_agent.errors import Stalled, TankError
from tank_agent.image.registry.credentials import Credentials, find_credentials
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


@pytest.mark.machine
def test_a_broken_helper_is_told_and_leaves_public_images_alone(tmp_path: Path, helper: Path) -> None:
    problems: list[TankError] = []

    def ask(**content: object) -> str:
        problems.clear()
        file = write(tmp_path / "config.json", **content)
        assert find_credentials("gcr.io", "x", (file,), problems.append) is None
        [problem] = problems
        assert problem.hint is not None and file in problem.hint
        return problem.message

    for content in ({"credHelpers": {"gcr.io": "fake"}}, {"credsStore": "fake"}):
        helper.with_suffix(".answer").unlink(missing_ok=True)
        assert "docker-credential-fake failed" in ask(**content)
        helper.with_suffix(".answer").write_text("not JSON")
        assert "did not answer with JSON" in ask(**content)
    assert "not installed" in ask(auths={}, credsStore="tank-none")
    assert "not installed" in ask(credHelpers={"gcr.io": "tank-none"})
    helper.chmod(0o644)
    assert "cannot run docker-credential-fake" in ask(credsStore="fake")
    helper.chmod(0o755)
    helper.write_text("\0no program")
    assert "cannot run docker-credential-fake" in ask(credsStore="fake")
    # The next file is still read.
    broken = write(tmp_path / "config.json", credsStore="fake")
    other = write(tmp_path / "other.json", auths={"gcr.io": secret("alice")})
    assert find_credentials("gcr.io", "x", (broken, other)) == Credentials(username="alice", password="p:w")


def test_helpers_that_know_nothing_and_names_that_are_none(tmp_path: Path, helper: Path) -> None:
    problems: list[TankError] = []
    helper.write_text('#!/bin/sh\necho "credentials not found in native keychain"; exit 1\n')
    file = write(tmp_path / "config.json", credHelpers={"gcr.io": "fake"})
    assert find_credentials("gcr.io", "x", (file,), problems.append) is None
    assert problems == []
    for name in ("../../bin/sh", "a b", ""):
        file = write(tmp_path / "config.json", credHelpers={"gcr.io": name})
        with pytest.raises(Stalled, match="not the name of a credential helper"):
            find_credentials("gcr.io", "x", (file,))


@pytest.mark.parametrize(
    "key",
    [
        *("r.io:5000", "r.io:5000/", "R.io:5000", "r.io:5000/v1", "r.io:5000/v1/", "r.io:5000/v2/"),
        *("http://r.io:5000", "http://r.io:5000/", "https://r.io:5000/v2", "https://r.io:5000/any/path"),
        *("r.io:5000/team/", "R.io:5000/team"),
    ],
)
def test_the_spellings_of_a_registry_that_docker_reads(tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "auth.json", auths={key: secret("alice")})
    assert find_credentials("r.io:5000", "team/app", (file,)) is not None
    assert find_credentials("r.io", "team/app", (file,)) is None
    assert find_credentials("r.io:5001", "team/app", (file,)) is None


def test_the_plain_spelling_counts_more_than_a_quaint_one(tmp_path: Path) -> None:
    spelled = {
        "https://index.docker.io/v1/access-token": secret("no"),
        "https://index.docker.io/v1/": secret("hub"),
    }
    file = write(tmp_path / "auth.json", auths=spelled)
    assert find_credentials("docker.io", "library/x", (file,)) == Credentials(username="hub", password="p:w")
    file = write(tmp_path / "auth.json", auths={"r.io/": secret("quaint"), "r.io": secret("plain")})
    assert find_credentials("r.io", "x", (file,)) == Credentials(username="plain", password="p:w")


ALICE = secret("alice")["auth"]


@pytest.mark.parametrize(
    "text",
    [
        f'{{"auths": {{"r.io": {{"auth": "{ALICE}\\n"}}}}}}',
        f'{{"auths": {{"r.io": {{"auth": "{ALICE[:4]}\\r\\n{ALICE[4:]}\\n"}}}}}}',
        f'{{"Auths": {{"r.io": {{"Auth": "{ALICE}", "identityToken": null}}}}, "credsstore": ""}}',
        f'{{"credHelpers": null, "credsStore": null, "auths": {{"x": null, "r.io": {{"auth": "{ALICE}"}}}}}}',
        f'{{"auths": {{"r.io": {{"auth": "{ALICE}", "email": null, "username": null, "password": null}}}}}}',
        f'\n {{"auths": {{"r.io": {{"auth": "{ALICE}"}}}}, "HttpHeaders": {{"a": 1}}, "detachKeys": "x"}}\n',
    ],
    ids=["line end", "folded", "case", "null", "null fields", "other fields"],
)
def test_files_that_docker_reads(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    found = find_credentials("r.io", "x", (str(tmp_path / "config.json"),))
    assert found == Credentials(username="alice", password="p:w")


@pytest.mark.parametrize(
    "text",
    ["", "\n", "{}", '{"auths": null}', '{"auths": {"r.io": null}}', '{"auths": {"r.io": {"auth": ""}}}'],
)
def test_files_in_which_nobody_has_logged_in(tmp_path: Path, text: str) -> None:
    empty, second = tmp_path / "config.json", write(tmp_path / "auth.json", auths={"r.io": secret("alice")})
    empty.write_text(text)
    assert find_credentials("r.io", "x", (str(empty),)) is None
    below_a_file = f"{empty}/config.json"
    assert find_credentials("r.io", "x", (below_a_file, str(empty), second)) is not None


def test_a_password_that_is_not_utf_8_is_sent_as_it_was_given(tmp_path: Path) -> None:
    raw = base64.b64encode(b"alice:p\xe4ss").decode()
    file = write(tmp_path / "auth.json", auths={"r.io": {"auth": raw}})
    found = find_credentials("r.io", "x", (file,))
    assert found is not None and found.basic() == f"Basic {raw}"
