"""Pods that Python programs build of structs: public, checked as files are, and refused with every detail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tank_agent
from tank_agent import (
    Client,
    ConfigFile,
    Container,
    InvalidSpec,
    Limits,
    Mount,
    Network,
    Nic,
    Pod,
    RestartPolicy,
    Security,
    Ulimit,
    Volume,
)
from tank_agent.spec.parse import checked_pod, parse_pod_file
from tank_agent.spec.render import render_pod
from tests.support.fake_service import FakeService, serving


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with serving(FakeService(), tmp_path / "tank.sock"):
        yield Client(tmp_path / "tank.sock")


def test_every_struct_of_a_pod_can_be_imported_from_the_package() -> None:
    assert all(getattr(tank_agent, name) is not None for name in tank_agent.__all__)
    pod = Pod(
        name="web",
        containers=(
            Container(
                name="app",
                image="docker.io/library/nginx:1",
                mounts=(Mount(volume="data", path="/data"), Mount(file="conf", path="/etc/conf")),
                ulimits={"nofile": Ulimit(soft=1024, hard=2048)},
                limits=Limits(memory=2**28),
                security=Security(drop=("ALL",)),
            ),
        ),
        restart=RestartPolicy.NEVER,
        network=Network(mode="nics", nics=(Nic(name="eth0", ip=("10.0.0.5/24",)),)),
        volumes=(Volume(name="data"),),
        files=(ConfigFile(name="conf", content=b"\xff\0"),),
    )
    assert checked_pod(pod) == pod
    assert parse_pod_file(render_pod(pod), "web.toml").pods[0].pod == pod


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"limits": {"memory": "256M"}}, "containers[0].limits.memory"),
        ({"limits": {"memroy": 1}}, "containers[0].limits.memroy"),
        ({"limits": None}, "containers[0].limits"),
        ({"env": None}, "containers[0].env"),
        ({"env": {"A": 1}}, "containers[0].env"),
        ({"mounts": ({"volume": "data", "path": 1},)}, "containers[0].mounts[0].path"),
        ({"command": "sleep 1"}, "containers[0].command"),
        ({"tty": "yes"}, "containers[0].tty"),
        ({"stop_grace": "10s"}, "containers[0].stop_grace"),
        ({"security": object()}, ""),
        ({"image": b"\xff"}, ""),
    ],
)
def test_a_wrong_type_in_a_struct_is_invalid(client: Client, fields: dict[str, Any], key: str) -> None:
    pod = Pod(name="web", containers=(Container(**{"name": "app", "image": "nginx", **fields}),))
    with pytest.raises(InvalidSpec) as caught:
        client.apply(pod)
    (problem,) = caught.value.problems
    assert problem.key.startswith(key) and problem.message


def test_plain_values_that_mean_a_struct_are_taken() -> None:
    fields: dict[str, Any] = {"limits": {"memory": 2**28}, "command": ["sleep", "1"]}
    pod = checked_pod(Pod(name="web", containers=(Container(name="app", image="nginx", **fields),)))
    assert pod.containers[0].limits == Limits(memory=2**28)
    assert pod.containers[0].command == ("sleep", "1")
