"""One machine for all system tests: booted once, the package installed by apt. Each test removes its pods."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.deb import build
from tests.support.installed import Installed
from tests.support.machine import running_machine

# Emulated machines are slow; on a busy host several times slower than that.
TEST_SECONDS = 1200
MAKE_SECONDS = 1800
_ORDER = (
    "test_package",
    "test_machine",
    "test_parameters",
    "test_configuration",
    "test_power",
    "test_updates",
    "test_removal",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give system tests the time that they need, and run those that end the package last."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    ordered = sorted(ours, key=lambda item: _ORDER.index(item.path.stem))
    for item in ordered:
        # The first one makes disk, package and machine, where they are missing.
        item.add_marker(pytest.mark.timeout(MAKE_SECONDS if item is ordered[0] else TEST_SECONDS))
    following = iter(ordered)
    items[:] = [next(following) if item in ours else item for item in items]


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "the system tests boot machines: run them as root (./dev test does)"


@pytest.fixture(scope="session")
def package() -> Path:
    """Return the package of the sources as they stand."""
    return build()


@pytest.fixture(scope="session")
def installed(package: Path) -> Iterator[Installed]:
    """Return a machine in which apt installed the package."""
    with running_machine() as machine:
        made = Installed(machine)
        made.install(package)
        yield made


@pytest.fixture
def machine(installed: Installed) -> Iterator[Installed]:
    """Return the machine with a running agent and no pods; what the test declares in files is removed."""
    # A test that failed with the machine off is no reason for the next to fail.
    installed.vm.switch_on()
    yield installed
    installed.vm.switch_on()
    installed.clean()
