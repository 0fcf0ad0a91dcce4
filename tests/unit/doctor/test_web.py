"""`tank doctor` looks at the token of [web], at who can read it on the way, and at who has its address."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.doctor import Check, web
from tank_agent.settings.web import WebSettings
from tests.support.fake_web import TOKEN


@pytest.fixture
def taken() -> Iterator[str]:
    """Return an address at which this process listens."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


def ours() -> str:
    name = Path("/proc/self/comm").read_text().strip()
    return f"{name} (process {os.getpid()}) listens there"


def answer(check: Check) -> tuple[str, str, str]:
    return check.result, check.found, check.fix


@pytest.mark.parametrize(
    ("content", "mode", "found", "fix"),
    [
        (TOKEN, 0o644, "{0} is open to others: chmod 600 {0}", "chown root:root {0} && chmod 600 {0}"),
        ("short", 0o600, "{0} must hold one word of 16 to 4096 ASCII", "openssl rand -hex 32 makes one"),
        (None, 0o600, "{0} can't be read: No such file", "openssl rand -hex 32 | sudo install -m 600"),
    ],
)
def test_a_token_that_cannot_be_used_is_told(
    content: str | None, mode: int, found: str, fix: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    [check] = web.of_settings(WebSettings(listen="127.0.0.1:9470", token_file=str(file)))
    assert check.result == "warn" and check.found.startswith(f"web.token_file: {found.format(file)}")
    assert check.fix.startswith(fix.format(file)) and "short" not in check.found


@pytest.mark.machine
def test_a_token_of_another_user_is_told(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    os.chown(file, 1000, 1000)
    [check] = web.of_settings(WebSettings(listen="127.0.0.1:9470", token_file=str(file)))
    assert "belongs to user 1000, and not to root" in check.found


@pytest.mark.parametrize(
    ("listen", "told"),
    [("127.0.0.1:9470", False), ("[::1]:9470", False), ("0.0.0.0:9470", True), ("[::]:9470", True)],
)
def test_plain_http_off_loopback_is_remarked(listen: str, told: bool, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    checks = web.of_settings(WebSettings(listen=listen, token_file=str(file)))
    assert [(one.result, "plain HTTP" in one.found, "TLS" in one.fix) for one in checks] == (
        [("note", True, True)] if told else []
    )


def test_without_an_agent_it_is_said_who_has_the_address(taken: str) -> None:
    port = taken.rpartition(":")[2]
    fix = f"`ss -ltnp sport = :{port}` shows who listens there"
    for listen in (taken, f"0.0.0.0:{port}"):
        found = f"cannot listen on {listen}: Address already in use; {ours()}"
        assert answer(web.of_address(listen)) == ("warn", found, fix)


def test_an_address_that_is_free_or_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
    assert answer(web.of_address(listen)) == (
        "ok",
        f"nobody has {listen}, and the agent can listen there",
        "",
    )
    check = web.of_address("192.0.2.1:9470")
    assert check.found == "cannot listen on 192.0.2.1:9470: Cannot assign requested address"
    assert check.fix == "`ip address` shows the addresses of this machine"
    # An address of a network card that is not there.
    assert web.of_address("[fe80::1%tank-no]:9470").result == "warn"


def test_what_the_agent_says_counts(taken: str) -> None:
    assert answer(web.of_agent(taken, at=taken, error=None, hint=None)) == (
        "ok",
        f"the agent listens on {taken}",
        "",
    )
    assert answer(web.of_agent(taken, at=taken, error="no way", hint="see it")) == (
        "warn",
        f"the page is not served: no way; {ours()}",
        "see it; it is tried again at each resync",
    )


def test_an_agent_that_does_not_know_of_it_is_told(taken: str) -> None:
    check = web.of_agent("127.0.0.1:1", at=taken, error=None, hint=None)
    assert "was started before [web] listen = 127.0.0.1:1" in check.found and "restart" in check.fix
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = f"127.0.0.1:{other.getsockname()[1]}"
    check = web.of_agent(free, at=None, error=None, hint=None)
    assert answer(check) == (
        "warn",
        "the agent that runs was started before [web] was written",
        "systemctl restart tank-agent",
    )
    # It would find no place after the restart.
    assert ours() in web.of_agent(taken, at=None, error=None, hint=None).found
