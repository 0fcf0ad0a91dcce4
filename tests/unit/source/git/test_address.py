"""Addresses and settings of repositories: those that are followed, and those that are refused."""

from __future__ import annotations

import msgspec
import pytest

from tank_agent.errors import Stalled
from tank_agent.settings.git import GitSettings, GitVerify, GitWebhook, problems
from tank_agent.source.git.access import GitError, explain
from tank_agent.source.git.address import Remote, parse_url, redact


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


@pytest.mark.parametrize(
    "url",
    [
        "http://alice:S3cret@h/x.git",
        "HTTPS://alice:S3cret@h/x.git",
        "https://S3cret@h/x.git",
        "https://alice:S3@cret@h/x.git",
        "https://alice:S3/cret@h/x.git",
        "https://alice:S3?cret@h/x.git",
        "https:/alice:S3cret@h/x.git",
        "https://h/x.git?sv=1&sig=S3cret",
        "//alice:S3cret@h/x.git",
        "https:\\\\alice:S3cret@h/x.git",
        "https://h/x.git?private_token=S3cret",
        "https://h/x.git?a=b&access_token=S3cret&c=d",
        "https://h:8080/x.git?X-Amz-Signature=S3cret",
        "socks5h://alice:S3cret@127.0.0.1:1080",
    ],
)
def test_no_error_of_git_holds_a_secret_of_a_url(url: str) -> None:
    for text in (url, f"fatal: unable to access '{url}/': no", f'"{url}", then {url}'):
        error = GitError("broken", f"the server redirects to {text}", hint=f"see {text}")
        assert "S3" not in str(error) and "cret" not in str(error)
    error = explain(f"x\nremote: {url}", "the server hung up")
    assert "S3" not in str(error) and "cret" not in str(error)


def test_what_is_no_secret_stays_in_errors() -> None:
    text = "https://h:8443/a@b/x.git?service=git-upload-pack, [::1]:22, ssh://h/~x and ann@example.com"
    assert redact(text) == text


def test_a_password_in_the_short_form_is_refused_and_not_shown() -> None:
    with pytest.raises(Stalled) as caught:
        parse_url("alice:S3cret@h:fleet.git")
    assert "S3cret" not in str(caught.value)


def test_who_may_have_meant_a_port_is_told() -> None:
    assert parse_url("git@h:2222/fleet").with_port == "ssh://git@h:2222/fleet"
    for url in ("git@h:fleet/2222", "ssh://git@h:22/2222/fleet", "https://h/2222/fleet", "/2222/fleet"):
        assert parse_url(url).with_port is None


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
