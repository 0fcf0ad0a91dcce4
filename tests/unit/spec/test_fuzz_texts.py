"""A few seconds of what `./dev fuzz` does with texts and requests, with a fixed seed."""

from __future__ import annotations

import pytest

from tests.fuzz import agent_toml, api_requests, pod_files, webhook


@pytest.mark.parametrize(
    ("fuzzer", "rounds"), [(pod_files, 700), (agent_toml, 300), (api_requests, 600), (webhook, 300)]
)
def test_no_input_is_a_fault(fuzzer: object, rounds: int) -> None:
    fuzzer.fuzz(seed=1, seconds=None, rounds=rounds)  # type: ignore[attr-defined]
