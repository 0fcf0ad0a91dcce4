"""Addresses of other machines: what is one, what ssh is told of it, and what an ssh that fails means."""

from __future__ import annotations

import pytest

from tank_agent.client.fast import ssh
from tank_agent.client.fast.ssh import HostAddress
from tank_agent.errors import TankError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ssh://edge", ("", "edge", "", "")),
        ("ssh://edge/", ("", "edge", "", "")),
        ("ssh://ann@edge-1.example.com:2222", ("ann", "edge-1.example.com", "2222", "")),
        ("ssh://ann@corp.example@edge", ("ann@corp.example", "edge", "", "")),
        ("ssh://[fd00::7]", ("", "fd00::7", "", "")),
        ("ssh://ann@[fe80::1%eth0]:22/run/my tank.sock", ("ann", "fe80::1%eth0", "22", "/run/my tank.sock")),
        ("ssh://192.0.2.7/x", ("", "192.0.2.7", "", "/x")),
    ],
)
def test_addresses(text: str, parts: tuple[str, str, str, str]) -> None:
    found = ssh.parse(text)
    assert found == HostAddress(*parts)
    assert ssh.parse(f"{found.host}{found.socket}") == found


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "edge",
            "tcp://edge",
            "ssh:edge",
            "ssh://",
            "ssh:///run/tank.sock",
            "ssh://@edge",
            "ssh://edge:",
        ),
        *("ssh://-oProxyCommand=x", "ssh://-l@edge", "ssh://edge:x", "ssh://edge:0", "ssh://edge:65536"),
        *("ssh://a b", "ssh://a\n", "ssh://a\x00b", "ssh://a\x1b", "ssh://$(x)", "ssh://a;b", "ssh://a,b"),
        *("ssh://[::1", "ssh://[::1]x", "ssh://[]", "ssh://[a;b]", "ssh://fd00::7", "ssh://ann:pw@edge"),
        *(
            "ssh://ann:p/pw@edge",
            "ssh://ann:p@pw@edge",
            "ssh://:pw@edge",
            "ssh://ann:pw\n@edge",
            "ann:pw@edge",
        ),
        *(
            "tcp://ann:pw@edge",
            "ssh:ann:pw@edge",
            "SSH://ann:pw@edge:22/run/x",
            "ssh://ann:pw@",
            "ssh://a:/pw@b",
        ),
        *("ssh://edge/a\nb", "ssh://é", "ssh://a'b", "ssh://%h", "ssh://edge:22:22", "ssh://edge:+1"),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(TankError) as caught:
        ssh.parse(text)
    assert caught.value.hint
    assert "pw" not in str(caught.value)


def test_a_port_and_a_path_with_an_at_are_no_password() -> None:
    assert ssh.parse("ssh://edge:22/run/user@1000").socket == "/run/user@1000"
    with pytest.raises(TankError, match="the address of 'edge' is given with a password"):
        ssh.parse("ssh://ann:p/w@edge")


def test_the_socket_of_the_other_machine() -> None:
    assert ssh.address("ssh://edge/run/a", None) == "ssh://edge/run/a"
    assert ssh.address("ssh://edge/run/a", "/run/b") == "ssh://edge/run/b"
    with pytest.raises(TankError, match="absolute"):
        ssh.address("ssh://edge", "tank.sock")


def test_only_constant_words_and_a_quoted_path_reach_the_shell() -> None:
    argv = ssh.parse("ssh://ann@[fd00::7]:22/x'; rm -rf $HOME").argv(batch=False)
    assert argv[-4:] == ["ann", "--", "fd00::7", "tank dial --socket '/x'\"'\"'; rm -rf $HOME'"]
    assert argv[argv.index("-p") + 1] == "22"
    assert "-oBatchMode=yes" not in argv
    argv = ssh.parse("ssh://edge").argv(batch=True)
    assert argv[-3:] == ["--", "edge", "tank dial"]
    assert "-oBatchMode=yes" in argv
