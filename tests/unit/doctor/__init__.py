"""Tests of tank_agent/doctor."""

from __future__ import annotations

from tank_agent.doctor import Check


def assert_bad(check: Check, result: str, found: str) -> None:
    assert check.result == result
    assert found in check.found
    assert check.fix
