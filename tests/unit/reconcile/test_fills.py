"""Volumes are filled once, by work that nobody's worker waits for, and all that wait are woken at its end."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from tank_agent.errors import Retry
from tank_agent.linux.clock import Clock
from tank_agent.linux.tree_walk import WalkCancelledError
from tank_agent.reconcile.fills import FILLED, NOT_FILLED, Fills
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.mounts.fill import FirstContent
from tank_agent.runtime.mounts.snapshots import CopyJob
from tank_agent.spec.model import Container, Mount, Volume
from tests.support.agent import wait_for
from tests.support.fake_runtime import launch


class FakeFiller:
    """Makes names of volumes once it is let; `error` is what the next one ends with."""

    def __init__(self) -> None:
        self.volumes: set[tuple[str | None, str]] = set()
        self.go = threading.Event()
        self.error: Exception | None = None
        self.filled = 0
        self.nothing_there = False

    def is_made(self, pod: str | None, volume: str) -> bool:
        return (pod, volume) in self.volumes

    def open(self, _: Launch, mount: Mount, pod: str | None) -> FirstContent | None:
        if self.nothing_there:
            return None
        source = os.open("/", os.O_PATH)
        volume = mount.volume or ""
        return FirstContent(pod=pod, volume=volume, path=mount.path, source=source, layers=(), inodes=())

    def fill(self, filling: FirstContent, job: CopyJob) -> None:
        while not self.go.wait(0.01):
            if job.is_cancelled():
                raise WalkCancelledError("it was cancelled")
        error, self.error = self.error, None
        if error is not None:
            raise error
        self.filled += 1
        self.volumes.add((filling.pod, filling.volume))


class World:
    def __init__(self) -> None:
        self.filler = FakeFiller()
        self.woken: list[tuple[str, str]] = []
        self.snapshots = Snapshots(cast(Any, None), Clock(), lambda *_: None)
        self.fills = Fills(cast(Any, self.filler), self.snapshots, self.wake)

    def wake(self, pod: str, cause: str) -> None:
        self.woken.append((pod, cause))

    def begin(self, pod: str, *, shared: bool = False) -> bool:
        mount = Mount(volume="data", path="/srv", from_image=True)
        container = Container(name="app", image="app:1", mounts=(mount,))
        volumes = (Volume(name="data", shared=shared),)
        return self.fills.made(launch(pod=pod, container=container, volumes=volumes))

    def end(self) -> None:
        self.filler.go.set()
        wait_for(lambda: not self.fills.waits("web"), "it ends")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_container_waits_for_its_volume_and_its_pod_is_woken() -> None:
    world, before = World(), descriptors()
    assert not world.begin("web")
    assert not world.begin("web")
    assert world.fills.waits("web") == {"app": "volume data, which gets what the image has at /srv"}
    assert world.fills.waits("db") == {}
    world.end()
    assert world.begin("web")
    assert (world.woken, world.filler.filled) == ([("web", FILLED)], 1)
    assert descriptors() == before


def test_pods_with_one_shared_volume_wait_for_one_job() -> None:
    world = World()
    assert not world.begin("web", shared=True)
    assert not world.begin("db", shared=True)
    # The one that began it goes, and the other still gets it.
    world.fills.forget("web")
    assert list(world.fills.waits("db")) == ["app"]
    world.filler.go.set()
    wait_for(lambda: world.woken, "it ends")
    assert (world.woken, world.filler.filled) == ([("db", FILLED)], 1)


def test_a_failure_is_said_once_and_the_next_start_tries_again() -> None:
    world = World()
    world.filler.error = Retry("no room")
    assert not world.begin("web")
    world.filler.go.set()
    wait_for(lambda: world.woken, "it ends")
    assert world.woken == [("web", NOT_FILLED)]
    assert world.fills.waits("web") == {}
    with pytest.raises(Retry, match="no room"):
        world.begin("web")
    assert not world.begin("web")
    wait_for(lambda: world.filler.filled, "the second try")


def test_a_bug_is_a_failure_too() -> None:
    world = World()
    world.filler.error = ValueError("oops")
    assert not world.begin("web")
    world.filler.go.set()
    wait_for(lambda: world.woken, "it ends")
    with pytest.raises(Retry, match=r"cannot fill it: ValueError\('oops'\)"):
        world.begin("web")


def test_what_nobody_waits_for_any_more_is_cancelled() -> None:
    world, before = World(), descriptors()
    assert not world.begin("web")
    world.fills.forget("web")
    wait_for(lambda: descriptors() == before, "it ends")
    assert (world.filler.filled, world.woken) == (0, [])
    world.filler.go.set()
    # A new pod of that name begins anew.
    wait_for(lambda: world.begin("web"), "it is made")


def test_where_the_image_has_nothing_the_container_starts_at_once() -> None:
    world = World()
    world.filler.nothing_there = True
    assert world.begin("web")


def test_the_end_of_the_agent_cancels_it() -> None:
    world, before = World(), descriptors()
    assert not world.begin("web")
    world.fills.close()
    world.snapshots.close()
    assert descriptors() == before
    assert world.filler.filled == 0
    with pytest.raises(Retry, match="the agent is being stopped"):
        world.begin("db")
    assert descriptors() == before
