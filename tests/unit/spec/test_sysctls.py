"""Names of kernel parameters: both forms of sysctl(8), and nothing outside of a pod's own namespaces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.spec.sysctls import (
    interface_of,
    is_network_sysctl,
    network_sysctl_path,
    sysctl_name,
    sysctl_value,
)


@pytest.mark.parametrize(
    ("given", "name", "path", "interface"),
    [
        ("net.core.somaxconn", "net.core.somaxconn", "core/somaxconn", None),
        ("net/core/somaxconn", "net.core.somaxconn", "core/somaxconn", None),
        ("net.ipv4.conf.all.forwarding", "net.ipv4.conf.all.forwarding", "ipv4/conf/all/forwarding", None),
        (
            "net/ipv4/conf/eth0.1/forwarding",
            "net.ipv4.conf.eth0/1.forwarding",
            "ipv4/conf/eth0.1/forwarding",
            "eth0.1",
        ),
        (
            "net.ipv4.conf.eth0/1.forwarding",
            "net.ipv4.conf.eth0/1.forwarding",
            "ipv4/conf/eth0.1/forwarding",
            "eth0.1",
        ),
        ("net.ipv6.neigh.eth0.ucast_solicit", "net.ipv6.neigh.eth0.ucast_solicit", None, "eth0"),
    ],
)
def test_both_forms_of_a_name(given: str, name: str, path: str | None, interface: str | None) -> None:
    assert sysctl_name(given) == sysctl_name(name) == name
    assert path is None or network_sysctl_path(given) == path
    assert interface_of(given) == interface_of(name) == interface
    assert is_network_sysctl(given)


@pytest.mark.parametrize("name", ["kernel.shmmax", "kernel/sem", "fs.mqueue.msg_max"])
def test_those_of_ipc_are_a_containers_own(name: str) -> None:
    assert sysctl_name(name) == name.replace("/", ".")
    assert not is_network_sysctl(name)
    with pytest.raises(ValueError, match="network"):
        network_sysctl_path(name)


@pytest.mark.parametrize(
    "name",
    [
        "", "net", "net.", "net.x", "net..core.x", "net.core/../x.y", "net/../kernel/core_pattern",
        "net/ipv4/conf/../../../kernel/core_pattern", "net.ipv4.conf.//.x", "net/./core/x", "/net/core/x",
        "net.core.x\n", "net.core.x y", "net.core.\0", "vm.swappiness", "kernel.core_pattern", "kernel.shmax",
        "fs.mqueue.a.b", "fs.file-max", "NET.core.x", "net.core." + "x" * 300,
    ],
)  # fmt: skip
def test_what_is_none_of_a_pods_own_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        sysctl_name(name)
    with pytest.raises(ValueError, match=r"."):
        network_sysctl_path(name)


def test_a_typing_error_is_answered_with_the_name_that_was_meant() -> None:
    with pytest.raises(ValueError, match=r'did you mean "kernel\.shmmax"'):
        sysctl_name("kernel.shmax")
    with pytest.raises(ValueError, match=r"sysctl -w vm\.swappiness"):
        sysctl_name("vm.swappiness")


@pytest.mark.parametrize("name", ["accept_ra", "autoconf", "disable_ipv6"])
def test_what_the_agent_sets_itself_is_refused_for_an_interface(name: str) -> None:
    with pytest.raises(ValueError, match="by the agent"):
        sysctl_name(f"net.ipv6.conf.eth0.{name}")
    assert sysctl_name(f"net.ipv6.conf.all.{name}")


@given(st.text(alphabet="net.core/ip./46a\0\n", max_size=40).map("net/{}".format))
def test_no_name_leads_out_of_its_directory(name: str) -> None:
    try:
        path = network_sysctl_path(name)
    except ValueError:
        return
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\0" not in path


def test_a_value_is_one_line() -> None:
    assert sysctl_value(" 32768\t60999 ") == "32768 60999"
    for wrong in ("", " ", "1\n2", "x" * 2000, "\0", "\u0661"):
        with pytest.raises(ValueError, match="value"):
            sysctl_value(wrong)
