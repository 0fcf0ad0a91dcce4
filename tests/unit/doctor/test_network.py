"""What the doctor says of bridges and ports."""

from __future__ import annotations

import pytest

from tank_agent.doctor import network
from tank_agent.network.obstacles import Obstacle

OBSTACLE = Obstacle(problem="ufw drops it", remedy="ufw route allow", interfaces=frozenset({"tank-default"}))


@pytest.mark.parametrize(
    ("means", "attempt", "result", "words"),
    [
        ("libnftables", None, "ok", ""),
        ("nft", None, "ok", ""),
        (None, "cannot run nft: not installed", "warn", "apt install nftables"),
        ("libnftables", "Operation not supported", "warn", "modprobe nf_tables"),
    ],
)
def test_packet_filter(means: str | None, attempt: str | None, result: str, words: str) -> None:
    check = network.packet_filter(means, attempt)
    assert check.result == result
    assert words in check.fix


def test_bridge() -> None:
    assert network.bridge(None).result == "ok"
    check = network.bridge("Operation not supported")
    assert check.result == "warn"
    assert check.fix.startswith("modprobe bridge")


def test_way_to_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "on_this_machine", lambda _: ())
    assert [check.result for check in network.way_to_pods("eth0")] == ["ok"]
    monkeypatch.setattr(network, "on_this_machine", lambda _: (OBSTACLE, OBSTACLE))
    (check, _) = network.way_to_pods("eth0")
    assert (check.result, check.found, check.fix) == ("warn", "ufw drops it", "ufw route allow")

    def refuse(_: object) -> tuple[Obstacle, ...]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(network, "on_this_machine", refuse)
    assert [check.result for check in network.way_to_pods(None)] == ["warn"]
