"""What the integration tests share: they are for root, and each has an agent of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent
from tests.support.order import Order
from tests.support.services import services_layout
from tests.support.trees import big_directory


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "the integration tests make containers: run them as root (./dev test does)"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """Return a running agent without pods, that restarts without delay and resyncs every second."""
    with running_agent(tmp_path) as started:
        yield started


@pytest.fixture
def order(agent: Agent) -> Order:
    """Return the place where the programs of the agent's pods write down when they begin and end."""
    return Order(agent)


@pytest.fixture
def open_home() -> Iterator[Path]:
    """Return a directory that every user may go through; pytest's own are closed."""
    home = Path(tempfile.mkdtemp(prefix="tank-open-"))
    home.chmod(0o711)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def open_agent(open_home: Path) -> Iterator[Agent]:
    """Return a running agent whose directories are closed to other users by nobody but itself."""
    with running_agent(open_home) as started:
        yield started


@pytest.fixture(scope="session")
def services() -> Iterator[Path]:
    """Return a layout with images of nginx and PostgreSQL, in good and in bad versions."""
    with big_directory("tank-services") as place:
        yield services_layout(place / "layout")
