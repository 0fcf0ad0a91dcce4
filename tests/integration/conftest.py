"""What the integration tests share: they are for root, and each has an agent of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "the integration tests make containers: run them as root (./dev test does)"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return a running agent without pods, that restarts without delay and resyncs every second."""
    with running_agent(tmp_path) as started:
        yield started
