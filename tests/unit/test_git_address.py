"""Addresses and settings of repositories: what is followed, and what is refused."""

from __future__ import annotations

import msgspec
import pytest

from tank_agent.errors import Stalled, TankError
from tank_agent.source.git.address import Remote, parse_url, redact
from tank_agent.source.git.credentials import load_access
from tank_agent.source.git.settings import GitSettings, GitVerify, GitWebhook, problems
from tank_agent.source.git.transport import Access


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("https://h/fleet.git", Remote(scheme="https", host="h", path="/fleet.git"), None),
        (
            "https://ann@git.example:8443/a/b",
            Remote(scheme="https", host="git.example", port=8443, user="ann", path="/a/b"),
            "https://git.example:8443/a/b",
        ),
        ("git://[::1]:9418/x", Remote(scheme="git", host="::1", port=9418, path="/x"), None),
        ("ssh://git@h/~/x.git", Remote(scheme="ssh", host="h", user="git", path="x.git"), "ssh://h/x.git"),
        ("git@h:x.git", Remote(scheme="ssh", host="h", user="git", path="x.git"), "ssh://h/x.git"),
        ("h:/srv/x.git", Remote(scheme="ssh", host="h", path="/srv/x.git"), "ssh://h/srv/x.git"),
        ("/srv/git/fleet.git", Remote(scheme="file", path="/srv/git/fleet.git"), None),
        ("file:///srv/a%20b", Remote(scheme="file", path="/srv/a b"), "/srv/a b"),
    ],
)
def test_addresses_are_taken_apart(url: str, expected: Remote, shown: str | None) -> None:
    assert parse_url(url) == expected
    assert str(parse_url(url)) == (shown or url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fleet.git",
        "ext::sh -c touch% /tmp/x",
        "fd::17",
        "ftp://h/x",
        "ssh://-oProxyCommand=x/y",
        "ssh://h/~/-x",
        "-oProxyCommand=x:y",
        "user@-h:x",
        "-u@h:x",
        "h:-x",
        "https://h/../x",
        "https://h/%2e%2e/x",
        "https://h",
        "https:///x",
        "https://h/x?y",
        "https://h/x#y",
        "https://h:99999/x",
        "https://u:secret@h/x",
        "file://h/x",
        "https://h/x\ny",
        "https://h/%0ax",
        "https://h%0a/x",
        "/srv/../x",
        "git://ho st/x",
        "https://" + "h" * 3000 + "/x",
    ],
)
def test_odd_addresses_are_refused(url: str) -> None:
    with pytest.raises(Stalled) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_redacts_what_stands_before_the_host() -> None:
    assert redact("fatal: https://u:secret@h/x and ssh://git@h/y") == "fatal: https://h/x and ssh://h/y"


def test_access_is_never_printed() -> None:
    assert "secret" not in repr(Access(password="secret"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"url": "ext::x"}, "url"),
        ({"branch": "a", "tag": "b"}, "tag"),
        ({"branch": "-x"}, "branch"),
        ({"branch": "a..b"}, "branch"),
        ({"branch": "a b"}, "branch"),
        ({"branch": "x.lock"}, "branch"),
        ({"branch": "a/.b"}, "branch"),
        ({"tag": ""}, "tag"),
        ({"commit": "abc"}, "commit"),
        ({"path": "a/../b"}, "path"),
        ({"path": "a//b"}, "path"),
        ({"path": "a\0b"}, "path"),
        ({"poll": 0.0}, "poll"),
        ({"depth": -1}, "depth"),
        ({"budget": -1}, "budget"),
        ({"password_file": "/x"}, "username"),
        ({"netrc": "/x", "token_file": "/x"}, "netrc"),
        ({"url": "http://h/x", "token_file": "/x"}, "url"),
        ({"verify": GitVerify(mode="commits")}, "verify"),
        ({"verify": GitVerify(mode="tag", keyring="/x")}, "verify.mode"),
        ({"webhook": GitWebhook(listen="127.0.0.1:1")}, "webhook.secret_file"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], key: str) -> None:
    found = problems(msgspec.structs.replace(GitSettings(url="https://h/x"), **changes))
    assert [name for name, _ in found] == [key]


def test_settings_that_are_fine() -> None:
    for settings in (
        GitSettings(url="https://h/x"),
        GitSettings(url="http://127.0.0.1/x", token_file="/x"),
        GitSettings(url="https://ann@h/x", password_file="/x"),
        GitSettings(url="h:x", branch="feature/new-one", path="/hosts/{hostname}/"),
    ):
        assert problems(settings) == ()


def test_settings_say_what_to_follow() -> None:
    settings = GitSettings(url="h:x", path="/hosts/{hostname}/")
    assert settings.ref == "HEAD"
    assert msgspec.structs.replace(settings, tag="v1").ref == "refs/tags/v1"
    assert msgspec.structs.replace(settings, commit="a" * 40).ref is None
    assert settings.directory("edge-1") == "hosts/edge-1"
    assert settings.fetch_depth == 1
    assert msgspec.structs.replace(settings, verify=GitVerify(mode="commits")).fetch_depth == 0


def test_unknown_keys_are_errors() -> None:
    with pytest.raises(msgspec.ValidationError, match="pol"):
        msgspec.convert({"url": "h:x", "pol": 1}, GitSettings)


def test_credentials_come_from_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    secret, login = tmp_path / "secret", tmp_path / "netrc"
    secret.write_text("s3cret\n")
    login.write_text("machine h login ann password s3cret\n")
    https = parse_url("https://ann@h/x")
    assert load_access(GitSettings(url="", password_file=str(secret)), https).username == "ann"
    token = load_access(GitSettings(url="", token_file=str(secret)), parse_url("https://h/x"))
    assert (token.username, token.password) == ("x-access-token", "s3cret")
    assert load_access(GitSettings(url="", netrc=str(login)), https).password == "s3cret"
    assert load_access(GitSettings(url="", token_file=str(secret)), parse_url("git://h/x")).password is None


@pytest.mark.parametrize("content", [b"", b"two\nlines\n", b"\xff\xfe", None])
@pytest.mark.parametrize("key", ["password_file", "token_file", "netrc"])
def test_unusable_credentials_say_so_without_their_content(tmp_path, content, key) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    settings = msgspec.structs.replace(GitSettings(url="", username="ann"), **{key: str(file)})
    with pytest.raises(TankError) as caught:
        load_access(settings, parse_url("https://h/x"))
    assert "lines" not in f"{caught.value} {caught.value.__cause__!r}"
    assert str(file) in caught.value.message
