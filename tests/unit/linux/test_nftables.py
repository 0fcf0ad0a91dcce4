"""Rules by libnftables or the program nft, and machines that have not what they need."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.linux import nftables, process
from tank_agent.linux.namespaces import in_thread, leave_network
from tank_agent.network.firewall import TABLE, BridgeNetworks, Forward, script

T = TypeVar("T")

BRIDGE = BridgeNetworks(interface="tank-default", networks=("10.89.0.0/24", "fd00::/64"))
FORWARDS = [
    Forward(protocol="tcp", address=None, port=port, target="10.89.0.2", target_port=80)
    for port in (8080, 8081)
]

# Uses up all descriptors but one, with which the socket of libnftables could be opened, or not.
SCARCE = """
import contextlib, os, resource, sys
from tank_agent.errors import Retry
from tank_agent.linux import nftables
nftables.require()
resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
held = []
with contextlib.suppress(OSError):
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
for descriptor in held[:int(sys.argv[1])]:
    os.close(descriptor)
try:
    nftables.run("list tables")
except Retry as error:
    print("said:", error)
"""


def elsewhere(function: Callable[[], T]) -> T:
    """Run a function in a network namespace of its own."""

    def run() -> T:
        leave_network()
        return function()

    return in_thread(run)


@pytest.fixture(params=["libnftables", "nft"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "nft":
        monkeypatch.setattr(nftables, "_library", lambda: None)
    return str(request.param)


@pytest.mark.machine
def test_either_way_the_table_is_the_same(means: str) -> None:
    def written() -> str:
        nftables.run(script([BRIDGE], FORWARDS))
        return nftables.run(f"list table {TABLE}")

    assert nftables.means() == means
    assert "tcp . 8080 : 10.89.0.2 . 80" in elsewhere(written)


@pytest.mark.machine
def test_a_refusal_is_short(means: str) -> None:
    listed = ", ".join(f"tcp . {port} : 10.0.0.1 . {port}" for port in range(1, 500))
    kind = "type inet_proto . inet_service : ipv4_addr . inet_service"
    wrong = f"table inet tank {{ map any4 {{ {kind}; elements = {{ {listed} ; }}\n}}"

    def refused() -> str:
        with pytest.raises(Retry) as error:
            nftables.run(wrong)
        return error.value.message

    message = elsewhere(refused)
    assert message.startswith("nftables refuses the rules: syntax error")
    assert len(message) < 300


@pytest.mark.machine
def test_a_change_is_counted() -> None:
    def counted() -> list[int | None]:
        nft = nftables.PacketFilter()
        try:
            before, again = nft.generation(), nft.generation()
            nft.run("table inet tank {}")
            return [before, again, nft.generation()]
        finally:
            nft.close()

    before, again, after = elsewhere(counted)
    assert before == again != after


def test_without_both_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(nftables, "_library", lambda: None)
    monkeypatch.setattr(process, "ENVIRONMENT", {"PATH": str(tmp_path)})
    assert nftables.means() is None
    with pytest.raises(Stalled) as error:
        nftables.run("list tables")
    assert error.value.message == "pods in bridges and ports need nftables, which is not installed"
    assert error.value.hint == "apt install nftables"


@pytest.mark.parametrize("number", [errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT])
def test_a_kernel_without_netfilter(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The library would end this process."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(nftables, "require", lambda: None)
    monkeypatch.setattr(nftables.socket, "socket", refuse)
    for ask in (nftables.PacketFilter().generation, lambda: nftables.run("list tables")):
        with pytest.raises(Stalled) as error:
            ask()
        assert error.value.message == "pods in bridges and ports need nf_tables, which this kernel has not"
    assert not nftables.PacketFilter().has_table("tank")


def test_a_kernel_without_nf_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = process.Finished(1, "", "netlink: Error: cache initialization failed: Invalid argument\n")
    monkeypatch.setattr(nftables, "require", lambda: None)
    monkeypatch.setattr(nftables, "_library", lambda: None)
    monkeypatch.setattr(process, "run", lambda *_, **__: failed)
    monkeypatch.setattr(nftables.PacketFilter, "_ask", lambda *_: None)
    with pytest.raises(Stalled) as error:
        nftables.run("list tables")
    assert "modprobe nf_tables" in (error.value.hint or "")


def test_without_permission_it_is_not_the_kernels_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def send(self, _: bytes) -> None: ...

        def recv(self, _: int) -> bytes:
            return nftables._HEADER.pack(36, nftables.NLMSG_ERROR, 0, 1, 0) + (-errno.EPERM).to_bytes(
                4, sys.byteorder, signed=True
            )

    refusing: Any = Refusing()
    monkeypatch.setattr(nftables.PacketFilter, "_open_netlink", lambda _: refusing)
    with pytest.raises(TankError) as error:
        nftables.PacketFilter().generation()
    assert "Operation not permitted" in error.value.message


@pytest.mark.machine
@pytest.mark.parametrize("left", [0, 1, 5])
def test_without_descriptors_the_agent_lives(left: int) -> None:
    """The library calls exit(3) where it gets no socket."""
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", SCARCE, str(left)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("said: Too many open files")
