"""[web] of agent.toml: its checks, each with the line and what is right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import InvalidSpec
from tank_agent.settings.settings import load_settings
from tank_agent.settings.web import WebSettings, host_name


def loaded(text: str, directory: Path) -> WebSettings | None:
    file = directory / "agent.toml"
    file.write_text(text)
    return load_settings(file, environ={}).web


def test_it_is_off_unless_it_is_written(tmp_path: Path) -> None:
    assert loaded("", tmp_path) is None


@pytest.mark.parametrize("listen", ["127.0.0.1:9470", "127.9.9.9:1", "[::1]:9470"])
def test_loopback_needs_no_token(listen: str, tmp_path: Path) -> None:
    assert loaded(f'[web]\nlisten = "{listen}"\n', tmp_path) == WebSettings(listen=listen)


@pytest.mark.parametrize("listen", ["0.0.0.0:9470", "[::]:9470", "192.0.2.1:9470", "[2001:db8::1]:9470"])
def test_every_other_address_needs_one(listen: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec) as caught:
        loaded(f'# a page\n[web]\nlisten = "{listen}"\n', tmp_path)
    [problem] = caught.value.problems
    assert (problem.line, problem.key) == (2, "web.token_file")
    assert f"is needed, since others reach {listen}; write token_file = " in problem.message
    found = loaded(f'[web]\nlisten = "{listen}"\ntoken_file = "/etc/tank/web.token"\n', tmp_path)
    assert found is not None and found.token_file == "/etc/tank/web.token"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("edge-1.lan", "edge-1.lan"),
        ("Edge-1.LAN", "edge-1.lan"),
        ("edge-1.lan.", "edge-1.lan"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("a_b", "a_b"),
    ],
)
def test_hosts_are_compared_in_one_way_of_writing(written: str, read: str, tmp_path: Path) -> None:
    found = loaded(f'[web]\nlisten = "127.0.0.1:1"\nhosts = ["{written}"]\n', tmp_path)
    assert found is not None and found.hosts == (read,)


@pytest.mark.parametrize(
    "written", ["", "*", "*.lan", "a b", "a..b", "-a", "a" * 254, "ä.lan", "a:b", "[::1"]
)
def test_what_is_no_host_is_refused(written: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"3: web\.hosts\[0\]: .*write a name or an address"):
        loaded(f'[web]\nlisten = "127.0.0.1:1"\nhosts = ["{written}"]\n', tmp_path)


@pytest.mark.parametrize("written", ["https://edge-1.lan/", "edge-1.lan:8443", "EDGE-1.lan/status"])
def test_what_is_more_than_a_host_is_answered_with_the_host(written: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r'is more than a name, .* write "edge-1\.lan"'):
        loaded(f'[web]\nlisten = "127.0.0.1:1"\nhosts = ["{written}"]\n', tmp_path)


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("edge:80", "edge"),
        ("[::1]:80", "::1"),
        ("[0:0::1]", "::1"),
        ("127.0.0.1:", "127.0.0.1"),
        ("edge:80:80", None),
        ("edge:x", None),
        ("[edge]", None),
        ("a@b", None),
        ("", None),
    ],
)
def test_a_host_header_is_read_strictly(header: str, host: str | None) -> None:
    assert host_name(header) == host
