"""Paths in a container: which are the kernel's, however they are written."""

from __future__ import annotations

import pytest

from tank_agent.spec.paths import is_kernel_path, is_kernel_path_of_host, normal_path


@pytest.mark.parametrize(
    "path", ["/proc", "/proc/self/fd/3", "//proc/self/fd/3", "///sys", "/srv/../dev/fd", "/./proc", "/dev/"]
)
def test_of_the_kernel(path: str) -> None:
    assert is_kernel_path(path)


@pytest.mark.parametrize("path", ["/", "//", "/srv", "/process", "/system", "/srv/proc", "//srv"])
def test_of_the_container(path: str) -> None:
    assert not is_kernel_path(path)


def test_of_the_machine_only_files_in_memory_are_no_files_of_the_kernel() -> None:
    kernels = ["/proc/1/root", "/sys", "/dev", "/dev/shm", "/dev/shm/..", "/dev/shm/../pts", "/dev/shmx"]
    assert all(is_kernel_path_of_host(path) for path in kernels)
    assert not is_kernel_path_of_host("/dev/shm/images/busybox")


def test_the_shortest_form() -> None:
    assert [normal_path(path) for path in ("//srv//x/", "/srv/./y/..", "//")] == ["/srv/x", "/srv", "/"]
