"""Proxies, authorities and credentials: read from files, and never shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tank_agent.errors import Stalled, TankError
from tank_agent.settings.git import GitSettings
from tank_agent.source.git.access import Access, load_access, proxy_for
from tank_agent.source.git.address import parse_url


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
        (
            f"# Zertifizierungsstelle für Prüfungen\n{_BROKEN}".encode(),
            "holds a certificate that can't be read",
        ),
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
