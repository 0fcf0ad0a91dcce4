"""Whether the status of the commit arrives, as the doctor says it."""

from __future__ import annotations

from typing import Any

import pytest

from tank_agent.doctor.commit_status import of_agent

TOLD: dict[str, Any] = {
    "on": True,
    "commit": "a" * 40,
    "state": "success",
    "place": "tank/edge-1 of acme/fleet",
    "error": None,
    "hint": None,
}


@pytest.mark.parametrize(
    ("changes", "result", "found", "fix"),
    [
        ({}, "ok", "tank/edge-1 of acme/fleet: success of aaaaaaaaaaaa", ""),
        ({"commit": None}, "note", "nothing is written yet", "first look"),
        ({"on": False}, "warn", "was started before", "systemctl restart tank-agent"),
        ({"error": "no way", "hint": "see it"}, "warn", "no way", "see it"),
        ({"error": "no way"}, "warn", "no way", "it is tried again by itself"),
    ],
)
def test_what_it_says(changes: dict[str, Any], result: str, found: str, fix: str) -> None:
    check = of_agent(**{**TOLD, **changes})
    assert check.result == result and found in check.found and fix in (check.fix or "")
