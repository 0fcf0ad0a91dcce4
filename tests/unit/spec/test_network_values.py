"""Addresses, names and options of a pod's network: what is read, and what a refusal says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tank_agent.spec.network_values import (
    domain,
    extra_host,
    interface_name,
    parse_address,
    parse_interface,
    resolver_option,
)
from tank_agent.spec.values import named


@pytest.mark.parametrize("word", ["dhcp", "DHCP", "auto", "dhcp6"])
def test_dhcp_is_said_in_one_sentence(word: str) -> None:
    with pytest.raises(ValueError, match="there is no DHCP here; write an address") as caught:
        parse_interface(word)
    assert str(caught.value).endswith('"10.0.0.5/24"')


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (parse_interface, "10.0.0.5", 'write it as "10.0.0.5/24"'),
        (parse_interface, "fd00::5", 'write it as "fd00::5/64"'),
        (parse_interface, "10.0.0.5/255.255.255.0", "is not an address with prefix length"),
        (parse_address, "10.0.0.1/24", 'write only "10.0.0.1"'),
        (parse_address, "fe80::1%eth0", "has a zone"),
        (interface_name, "lo", "the kernel's own"),
        (interface_name, "a" * 16, "use 1 to 15"),
        (named, "Front End", 'such as "front-end"'),
        (named, "", "is not a name"),
        (named, "a" * 64, "use 1 to 63"),
        (domain, "two words", "is not a domain"),
        (domain, "", "is not a domain"),
        (domain, "a" * 64, "is not a domain"),
        (resolver_option, "ndots", 'needs a number up to 15; write it as "ndots:2"'),
        (resolver_option, "ndots:99", "needs a number up to 15"),
        (resolver_option, "attempts:six", "needs a number up to 5"),
        (resolver_option, "ndot:1", 'did you mean "ndots:2"?'),
        (resolver_option, "rotates", 'did you mean "rotate"?'),
        (resolver_option, "rotate:1", 'takes no number; write "rotate"'),
        (resolver_option, "", 'write one such as "ndots:2"'),
        (resolver_option, "rotate\nnameserver 1.2.3.4", "is not an option of resolv.conf"),
    ],
)
def test_what_is_refused(read: Callable[[str], object], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read(text)


@pytest.mark.parametrize("name", ["a b", "", "a..b", "-a", "a\nb", "localhost", "LocalHost", "ip6-loopback"])
def test_names_that_no_hosts_file_can_have(name: str) -> None:
    with pytest.raises(ValueError, match=r"is not a host name|is the pod itself"):
        extra_host((name, "10.0.0.1"))


def test_what_is_taken() -> None:
    assert [domain(text) for text in ("lan", "a.b.", ".", "_x.lan")] == ["lan", "a.b.", ".", "_x.lan"]
    assert [resolver_option(text) for text in ("ndots:02", "use-vc")] == ["ndots:2", "use-vc"]
    assert named("a" * 63) == "a" * 63
    extra_host(("nas.lan", "10.0.0.1"))
