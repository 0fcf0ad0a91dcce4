"""Published ports: what is read, what a refusal says is right, and which can't be had together."""

from __future__ import annotations

import ipaddress
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.spec.model import Port
from tank_agent.spec.ports import clashes, port_text, published_port


@pytest.mark.parametrize(
    ("text", "port", "written"),
    [
        ("8080:80", Port(host=8080, pod=80), "8080:80"),
        ("8080:80/tcp", Port(host=8080, pod=80), "8080:80"),
        ("53:53/udp", Port(host=53, pod=53, protocol="udp"), "53:53/udp"),
        ("127.0.0.1:5432:5432", Port(host=5432, pod=5432, address="127.0.0.1"), "127.0.0.1:5432:5432"),
        ("0.0.0.0:80:80", Port(host=80, pod=80, address="0.0.0.0"), "0.0.0.0:80:80"),
        ("[::]:80:80", Port(host=80, pod=80, address="::"), "[::]:80:80"),
        ("[::1]:8443:443", Port(host=8443, pod=443, address="::1"), "[::1]:8443:443"),
        ("[FD00:0::5]:1:2/udp", Port(host=1, pod=2, address="fd00::5", protocol="udp"), "[fd00::5]:1:2/udp"),
        ("9000-9010:80-90", Port(host=9000, pod=80, count=11), "9000-9010:80-90"),
        ("9000-9000:80", Port(host=9000, pod=80), "9000:80"),
        ("1-65535:1-65535", Port(host=1, pod=1, count=65535), "1-65535:1-65535"),
        ("0008080:0080", Port(host=8080, pod=80), "8080:80"),
    ],
)
def test_a_port(text: str, port: Port, written: str) -> None:
    assert published_port(text) == port
    assert str(port) == written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", '"" is no port; write [ADDRESS:]HOST:POD[/udp], such as "8080:80"'),
        (" ", '" " is no port; write [ADDRESS:]HOST:POD[/udp], such as "8080:80"'),
        ("8080", 'such as "8080:8080"'),
        ("8080-8090", 'such as "8080-8090:8080-8090"'),
        ("53/udp", 'such as "53:53/udp"'),
        ("127.0.0.1:8080", 'such as "127.0.0.1:8080:8080"'),
        ("127.0.0.1::80", 'such as "127.0.0.1:80:80"'),
        ("[::1]:80", 'such as "[::1]:80:80"'),
        (":8080:80", '":8080:80" has an empty address; write one, such as "8080:80"'),
        ("*:8080:80", '"*" is not an address of this machine; write one, such as "8080:80"'),
        (
            "localhost:80:80",
            '"localhost" is not an address of this machine; write one, such as "127.0.0.1:80:80"',
        ),
        ("eth0:80:80/udp", 'such as "127.0.0.1:80:80/udp"'),
        ("256.1.1.1:80:80", '"256.1.1.1" is not an address'),
        ("10.0.0.0/24:80:80", '"10.0.0.0/24" is not an address'),
        ("0:80", '"0" is not the number of a port; they go from 1 to 65535'),
        ("80:0", '"0" is not the number of a port'),
        ("65536:80", '"65536" is not the number of a port'),
        ("80:65536", '"65536" is not the number of a port'),
        ("65530-65540:1-11", '"65540" is not the number of a port'),
        ("9" * 5000 + ":80", "is not the number of a port"),
        (
            "9010-9000:9010-9000",
            '"9010-9000" begins with the higher port; the lower comes first, as in 9000-9010',
        ),
        ("9000-9010:9000-9005", "11 of this machine's ports can't lead to 6"),
        ("9000-9010:80", 'such as "9000-9010:80-90"'),
        ("80:80-90", 'such as "80-90:80-90"'),
        ("65535:1-2", "write ranges of one length"),
        ("80:80/sctp", '"sctp" is not a protocol that ports have; write tcp or udp'),
        ("80:80/", '"" is not a protocol'),
        ("80:80/TCP", '"TCP" is not a protocol that ports have; write "80:80/tcp"'),
        ("80:80/tcp/udp", 'write two ports, "80:80" and "80:80/udp"'),
        ("80:80/udp,tcp", 'write two ports, "80:80" and "80:80/udp"'),
        ("80:80/tcp/tcp", '"tcp/tcp" is not a protocol'),
        ("::1:80:80", 'has an IPv6 address without brackets; write "[::1]:80:80"'),
        ("fd00::5%eth0:80:80/udp", 'write "[fd00::5]:80:80/udp"'),
        ("80:80:80:80", '"80:80:80:80" is no port'),
        ("[fe80::1%eth0]:80:80", 'has a zone, which published ports have not; write "[fe80::1]:80:80"'),
        ("127.0.0.1%lo:80:80", 'write "127.0.0.1:80:80"'),
        ("[127.0.0.1]:80:80", 'only IPv6 addresses have brackets, and they always; write "127.0.0.1:80:80"'),
        ("[::ffff:10.0.0.1]:80:80", 'has an IPv4 address in it; write "10.0.0.1:80:80"'),
        ("[]:80:80", 'such as "80:80"'),
        ("[::1:80:80", "is no port"),
        ("224.0.0.1:80:80", '"224.0.0.1" is not the address of one host'),
        ("255.255.255.255:80:80", "is not the address of one host"),
        (" 8080 :80", 'has spaces in it; write "8080:80"'),
        ("8080:80\n", 'has spaces in it; write "8080:80"'),
        ("-1:80", "is no port"),
        ("\uff18\uff10:80", "is no port"),
        ("80:80/\nudp", "is not a protocol"),
    ],
)
def test_what_is_no_port_says_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        published_port(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (8080, "8080:8080"),
        (0, None),
        (65536, None),
        (True, None),
        (1.5, None),
        (["8080:80"], None),
        ({"target": 80}, "80:80"),
        ({"target": 80, "published": "8080"}, "8080:80"),
        (
            {"target": 80, "published": 8080, "host_ip": "127.0.0.1", "protocol": "udp", "mode": "host"},
            "127.0.0.1:8080:80/udp",
        ),
        ({"target": 80, "host_ip": "::1"}, "[::1]:80:80"),
        (
            {"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.2", "protocol": "TCP"},
            "10.0.0.2:8080:80",
        ),
        ({"target": "80-90", "published": "8080-8090"}, "8080-8090:80-90"),
        ({"target": 80, "published": "8080-8090"}, None),
        ({"published": 80}, None),
        ({}, None),
    ],
)
def test_other_tools_forms_of_a_port(given: Any, text: str | None) -> None:
    assert port_text(given) == text


@pytest.mark.parametrize("part", [":", "1:", "1", "%:", "[", "[]:", "1-", " ", "1:1/", ".", "::%"])
def test_a_long_text_takes_no_time(part: str) -> None:
    text = part * (900_000 // len(part))
    started = time.process_time()
    for wrong in (text, f"{text}80:80", f"80:{text}", f"[{text}]:80:80"):
        with pytest.raises(ValueError, match="…"):
            published_port(wrong)
    assert time.process_time() - started < 5


ADDRESSES = st.one_of(
    st.none(),
    st.sampled_from(["0.0.0.0", "::", "127.0.0.1", "::1"]),
    st.integers(0x0A000001, 0x0A0000FE).map(lambda number: str(ipaddress.IPv4Address(number))),
    st.integers(1, 5).map(lambda number: str(ipaddress.IPv6Address((0xFD << 120) + number))),
)


@st.composite
def ports(draw: st.DrawFn, last: int = 65535) -> Port:
    count = draw(st.integers(1, 5))
    return Port(
        host=draw(st.integers(1, last - count + 1)),
        pod=draw(st.integers(1, 65536 - count)),
        count=count,
        protocol=draw(st.sampled_from(["tcp", "udp"])),
        address=draw(ADDRESSES),
    )


@given(ports())
def test_a_port_reads_back(port: Port) -> None:
    assert published_port(str(port)) == port


@given(st.text(st.sampled_from("0123456789:[]./-tcpud%f* \n"), max_size=24))
def test_any_text_is_a_port_or_says_why_not(text: str) -> None:
    try:
        port = published_port(text)
    except ValueError as error:
        assert str(error).isprintable()
        right = re.search(r'(?:write|such as) "([^"]*)"$', str(error))
        # What is said to be right is.
        assert right is None or published_port(right[1])
    else:
        assert published_port(str(port)) == port


@pytest.mark.parametrize(
    ("one", "other", "collide"),
    [
        ("80:80", "80:81", True),
        ("80:80", "81:80", False),
        ("80:80", "80:80/udp", False),
        ("80-90:80-90", "90-95:1-6", True),
        ("80-90:80-90", "91:1", False),
        ("80:80", "127.0.0.1:80:80", True),
        ("80:80", "[::1]:80:80", True),
        ("0.0.0.0:80:80", "[::]:80:80", True),
        ("10.0.0.1:80:80", "127.0.0.1:80:80", False),
        ("[::]:80:80", "127.0.0.1:80:80", False),
        ("[::]:80:80", "[::1]:80:80", True),
        ("[::1]:80:80", "[fd00::1]:80:80", False),
    ],
)
def test_two_ports_that_can_not_be_had_together(one: str, other: str, collide: bool) -> None:
    first, second = published_port(one), published_port(other)
    assert first.collides(second) is second.collides(first) is collide
    assert list(clashes([first, second])) == ([(1, 0)] if collide else [])


@given(st.lists(ports(last=20), max_size=8))
def test_clashes_are_those_of_pairs(several: list[Port]) -> None:
    found = list(clashes(several))
    assert all(later > first and several[later].collides(several[first]) for later, first in found)
    pairs = any(one.collides(other) for at, one in enumerate(several) for other in several[:at])
    assert bool(found) is pairs


def test_clashes_of_many_ports_take_no_time() -> None:
    several = [Port(host=1 + at % 60_000, pod=80, address=f"10.0.{at // 60_000}.1") for at in range(100_000)]
    started = time.process_time()
    assert list(clashes(several)) == []
    assert time.process_time() - started < 5
