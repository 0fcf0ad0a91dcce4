"""Pods written as a compose project: docker-compose takes it, and they come back as the same pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tank_agent.convert.compose.convert import convert
from tank_agent.convert.compose.read import read_project
from tank_agent.convert.compose.service import Given
from tank_agent.convert.compose.write import write
from tank_agent.convert.leaving import Exported, Leaving
from tank_agent.convert.model import Conversion
from tank_agent.spec.model import content_hash
from tank_agent.spec.parse import pod_from_mapping
from tests.support.compose import compose_2, config
from tests.support.leaving import BRIDGED, IMAGE, WITH_VOLUMES, write_into

HEALTH = {
    "exec": ["/bin/sh", "-c", 'test -e /ok && echo "$X"'],
    "interval": "10s",
    "timeout": "3s",
    "retries": 4,
    "start_period": "20s",
    "on_failure": "none",
}
CONTAINER: dict[str, Any] = {
    "name": "web",
    "image": IMAGE,
    "pull": "always",
    "command": ["/bin/sh", "-c"],
    "args": ["echo \"a\\b\" $HOME ${X} 100% 'x'", "", "two words", "tab\tnew\nline"],
    "env": {"A": "1", "B": 'two "words" $HOME', "C": "", "D": "yes"},
    "working_dir": "/srv",
    "user": "1000:1000",
    "groups": ["44"],
    "tty": True,
    "stop_signal": "SIGINT",
    "stop_grace": "25s",
    "shm_size": "128M",
    "ulimits": {"nofile": {"soft": 1024, "hard": 2048}},
    "limits": {
        "memory": "256M",
        "swap": "64M",
        "memory_reservation": "128M",
        "pids": 100,
        "cpu": 1.5,
        "cpus": "0",
    },
    "security": {
        "capabilities": {"add": ["NET_ADMIN"], "drop": ["CHOWN"]},
        "seccomp": "/etc/seccomp.json",
        "apparmor": "mine",
        "devices": ["/dev/fuse", "/dev/ttyACM0:/dev/tty0:rw"],
    },
    "health": HEALTH,
}
PODS: dict[str, list[dict[str, Any]]] = {
    "all of a container": [{"name": "web", "network": "none", "containers": [CONTAINER]}],
    "ports and names": [BRIDGED],
    "volumes": WITH_VOLUMES,
    "several pods": [
        {"name": "app", "network": {"bridges": ["front"]}, "ports": ["80:80"], "after": ["db"],
         "containers": [{"name": "app", "image": IMAGE}]},
        {"name": "db", "network": {"bridges": ["front"]}, "containers": [{"name": "db", "image": IMAGE}]},
    ],
}  # fmt: skip


def exported(pods: list[dict[str, Any]], directory: Path) -> Exported:
    return write_into(directory, write([Leaving(pod=pod_from_mapping(pod), file="x.toml") for pod in pods]))


def imported(directory: Path) -> Conversion:
    project = read_project([str(directory)], environ={})
    given = Given(
        environment={}, home="/root", read=lambda path: Path(path).read_bytes(), exists=lambda _: True
    )
    return convert(project, given)


@pytest.mark.parametrize("name", list(PODS))
def test_what_is_written_comes_back(name: str, tmp_path: Path) -> None:
    made = exported(PODS[name], tmp_path)
    assert made.remarks == ()
    found = imported(tmp_path)
    assert [str(one) for one in found.remarks if one.kind == "lost"] == []
    back = {file.name: pod_from_mapping({"name": file.name, **file.pod}) for file in found.files}
    for given in PODS[name]:
        pod = pod_from_mapping(given)
        assert back[pod.name] == pod
        assert content_hash(back[pod.name]) == content_hash(pod)


@pytest.mark.machine
@pytest.mark.parametrize("name", list(PODS))
def test_docker_compose_takes_what_is_written(name: str, tmp_path: Path) -> None:
    exported(PODS[name], tmp_path)
    found = config(compose_2(), tmp_path)
    assert isinstance(found, dict), found
    assert found["services"].keys() == {pod["name"] for pod in PODS[name]}
    for pod in PODS[name]:
        (one,) = pod["containers"]
        service = found["services"][pod["name"]]
        assert service["image"] == IMAGE
        environment = {key: text.replace("$$", "$") for key, text in service.get("environment", {}).items()}
        assert environment == one.get("env", {})
        command = [text.replace("$$", "$") for text in service.get("command") or ()]
        assert command == one.get("args", [])


@pytest.mark.machine
def test_containers_of_a_pod_share_the_network_of_one(tmp_path: Path) -> None:
    pod = {
        "name": "shop",
        "ports": ["80:80"],
        "containers": [
            {"name": "migrate", "image": IMAGE, "init": True},
            {"name": "app", "image": IMAGE},
            {"name": "side", "image": IMAGE, "after": ["app"]},
        ],
    }
    exported([pod], tmp_path)
    found = config(compose_2(), tmp_path)
    assert isinstance(found, dict), found
    services = found["services"]
    assert services.keys() == {"shop", "shop-migrate", "shop-side"}
    assert services["shop-side"]["network_mode"] == "service:shop"
    assert services["shop"]["depends_on"]["shop-migrate"]["condition"] == "service_completed_successfully"
    assert services["shop-side"]["depends_on"]["shop"]["condition"] == "service_started"
    assert "ports" not in services["shop-side"]
    pod["containers"].insert(0, {"name": "early", "image": IMAGE, "after": ["app"]})  # type: ignore[attr-defined]
    exported([pod], tmp_path)
    found = config(compose_2(), tmp_path)
    assert isinstance(found, dict), found
    assert found["services"]["shop-early"]["network_mode"] == "service:shop"


def test_files_and_secrets(tmp_path: Path) -> None:
    pod = {
        "name": "web",
        "files": [{"name": "conf", "content": "price = $5\n"}, {"name": "bytes", "base64": "AP8="}],
        "secrets": [{"name": "pw", "host": "/etc/keys/pw"}],
        "containers": [
            {
                "name": "web",
                "image": IMAGE,
                "mounts": [
                    {"file": "conf", "path": "/etc/conf"},
                    {"file": "bytes", "path": "/etc/bytes"},
                    {"secret": "pw", "owner": "1000:1000", "mode": "0440"},
                ],
            }
        ],
    }
    made = exported([pod], tmp_path)
    assert made.files["configs/bytes"] == b"\x00\xff"
    text = made.files["compose.yaml"].decode()
    assert "content: |\n      price = $$5\n" in text
    assert "file: /etc/keys/pw\n" in text
    assert made.remarks == ()


def test_what_docker_does_not_restart_is_said(tmp_path: Path) -> None:
    pod = {"name": "a", "containers": [{"name": "a", "image": IMAGE, "health": {"exec": ["true"]}}]}
    assert [one.key for one in exported([pod], tmp_path).remarks] == ["containers[0].health.on_failure"]
