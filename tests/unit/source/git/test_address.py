"""Addresses and settings of repositories: what is followed, and what is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tank_agent.errors import Stalled, TankError
from tank_agent.settings.git import GitSettings, GitVerify, GitWebhook, problems
from tank_agent.source.git.access import Access, GitError, explain, load_access, proxy_for
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
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://p:3128"}, "http://p:3128"),
        ({"https_proxy": "p:3128", "HTTPS_PROXY": "http://other"}, "http://p:3128"),
        ({"ALL_PROXY": "socks5h://p:1080"}, "socks5h://p:1080"),
        ({"HTTP_PROXY": "http://p:3128"}, None),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "a.example,.git.example"}, None),
        ({"HTTPS_PROXY": "http://p:3128", "no_proxy": "other.example"}, "http://p:3128"),
        ({"HTTPS_PROXY": ""}, None),
    ],
)
def test_the_environment_names_a_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(parse_url("https://www.git.example/fleet.git")) == proxy


def test_a_proxy_that_is_no_url_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "ftp://alice:S3cret@p")
    with pytest.raises(Stalled, match="ftp://p is not a proxy's URL") as caught:
        proxy_for(parse_url("https://git.example/fleet.git"))
    assert "S3cret" not in str(caught.value)


_KEY = "-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n"
_BROKEN = "-----BEGIN CERTIFICATE-----\nMIGH\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"hello", "holds no certificate in PEM"),
        (b"\x30\x82\xff\x00", "holds no certificate in PEM"),
        (_KEY.encode(), "holds a key, but no certificate"),
        (_BROKEN.encode(), "holds a certificate that can't be read"),
        (None, "Is a directory"),
    ],
)
def test_a_file_of_authorities_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    settings = GitSettings(url="https://h/x", ca_file=str(file))
    with pytest.raises(Stalled) as caught:
        load_access(settings, parse_url(settings.url))
    assert "git.ca_file" in str(caught.value) and str(file) in str(caught.value)
    assert words in str(caught.value) and caught.value.hint


def test_files_of_windows_editors_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xef\xbb\xbft0ken\r\n")
    settings = GitSettings(url="https://h/x", token_file=str(file))
    assert load_access(settings, parse_url(settings.url)).password == "t0ken"


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
