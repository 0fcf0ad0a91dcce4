"""One machine for the system tests of a process, the package installed by apt. Each test removes its pods."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.deb import build
from tests.support.image import image
from tests.support.installed import Installed
from tests.support.machine import running_machine

# Emulated machines are slow; on a busy host several times slower than that.
TEST_SECONDS = 1200
MAKE_SECONDS = 1800
# Two processes share them file by file, so the long ones come first. The last ends the package.
_ORDER = (
    "test_power",
    "test_package",
    "test_machine",
    "test_configuration",
    "test_kubernetes",
    "test_updates",
    "test_parameters",
    "test_removal",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give system tests the time that they need, and run those that end the package last."""
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    ordered = sorted(ours, key=lambda item: _ORDER.index(item.path.stem))
    begun: set[Path] = set()
    for item in ordered:
        # The first one of a process, which begins with a file, makes disk, package and machine, or waits for
        # another that does.
        item.add_marker(pytest.mark.timeout(TEST_SECONDS if item.path in begun else MAKE_SECONDS))
        begun.add(item.path)
    following = iter(ordered)
    items[:] = [next(following) if item in ours else item for item in items]


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    assert os.geteuid() == 0, "the system tests boot machines: run them as root (./dev test does)"


@pytest.fixture(scope="session")
def package() -> Path:
    """Return the package of the sources as they stand; the disk of the machine is made at the same time."""
    with ThreadPoolExecutor() as pool:
        disk = pool.submit(image)
        built = build()
        disk.result()
    return built


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
