"""Pods written as units: podman's generator takes them, and they come back as the same pods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tank_agent.convert.leaving import Exported, Leaving
from tank_agent.convert.quadlet.calendar import cron, times
from tank_agent.convert.quadlet.convert import convert
from tank_agent.convert.quadlet.unit import words_of
from tank_agent.convert.quadlet.write import value, word, write
from tank_agent.spec.model import Pod, content_hash
from tank_agent.spec.parse import pod_from_mapping
from tests.support.leaving import BRIDGED, IMAGE, WITH_VOLUMES, write_into
from tests.support.quadlet import generate

HEALTH = {
    "exec": ["/bin/sh", "-c", "test -e '/ok' && echo \"$X\" 100% \\n"],
    "interval": "10s",
    "timeout": "3s",
    "retries": 4,
    "start_period": "20s",
    "on_failure": "restart",
}
CONTAINER = {
    "name": "web",
    "image": IMAGE,
    "pull": "always",
    "command": ["/bin/sh", "-c"],
    "args": ["echo \"a\\b\" $HOME ${X} 100% 'x'", "two words", "tab\tnew\nline"],
    "env": {"A": "1", "B": 'two "words" $HOME %h', "C": ""},
    "working_dir": "/srv",
    "user": "1000:1000",
    "groups": ["44"],
    "tty": True,
    "stop_signal": "SIGINT",
    "stop_grace": "25s",
    "read_only": True,
    "shm_size": "128M",
    "ulimits": {"nofile": {"soft": 1024, "hard": 2048}, "memlock": "unlimited"},
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
        "userns": "auto",
    },
    "health": HEALTH,
}
PODS: dict[str, list[dict[str, Any]]] = {
    "all of a container": [{"name": "web", "network": "none", "containers": [CONTAINER]}],
    "ports and names": [{**BRIDGED, "update": {"image": "digest"}}],
    "volumes": WITH_VOLUMES,
    "a pod of several": [
        {
            "name": "shop",
            "network": {"bridges": ["front"]},
            "ports": ["80:80"],
            "after": ["db"],
            "containers": [
                {"name": "app", "image": IMAGE, "after": ["side"]},
                {"name": "side", "image": IMAGE, "args": ["side"]},
            ],
        },
        {
            "name": "db",
            "network": {"bridges": ["front"]},
            "containers": [{"name": "db", "image": IMAGE}],
        },
    ],
    "a job": [
        {
            "name": "backup",
            "network": "none",
            "schedule": "*/20 3-5 * * 1,2",
            "time_zone": "Europe/Berlin",
            "catch_up": True,
            "timeout": "1h30m",
            "containers": [{"name": "backup", "image": IMAGE}],
        }
    ],
}


def exported(pods: list[dict[str, Any]], directory: Path) -> tuple[list[Pod], Exported]:
    given = [pod_from_mapping(pod) for pod in pods]
    return given, write_into(directory, write([Leaving(pod=pod, file="x.toml") for pod in given]))


@pytest.mark.parametrize("name", list(PODS))
def test_what_is_written_comes_back(name: str, tmp_path: Path) -> None:
    given, made = exported(PODS[name], tmp_path)
    assert made.remarks == ()
    found = convert([tmp_path], "/root")
    assert [str(one) for one in found.remarks if one.kind == "lost"] == []
    back = {file.name: pod_from_mapping({"name": file.name, **file.pod}) for file in found.files}
    for pod in given:
        assert back[pod.name] == pod
        assert content_hash(back[pod.name]) == content_hash(pod)


@pytest.mark.machine
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(PODS))
def test_podman_takes_what_is_written(name: str, tmp_path: Path) -> None:
    given, _ = exported(PODS[name], tmp_path)
    made = generate(tmp_path)
    assert not [line for line in made.said.splitlines() if "Loading" not in line]
    for pod in given:
        alone = len(pod.containers) == 1
        for one in pod.containers:
            words = made.command(f"{pod.name if alone else f'{pod.name}-{one.name}'}.service")
            at = words.index(IMAGE)
            assert tuple(words[at + 1 :]) == (one.args or ())
            env = [words[index + 1] for index, text in enumerate(words[:at]) if text == "--env"]
            assert dict(text.split("=", 1) for text in env) == one.env


def test_files_are_beside_and_secrets_are_named(tmp_path: Path) -> None:
    _, made = exported(
        [
            {
                "name": "web",
                "files": [{"name": "conf", "content": "a=1\n"}],
                "secrets": [{"name": "pw", "host": "/etc/keys/pw"}],
                "containers": [
                    {
                        "name": "web",
                        "image": IMAGE,
                        "mounts": [
                            {"file": "conf", "path": "/etc/conf", "mode": "0600"},
                            {"secret": "pw", "owner": "1000:1000", "mode": "0440"},
                        ],
                    }
                ],
            }
        ],
        tmp_path,
    )
    assert made.files["web-files/conf"] == b"a=1\n"
    text = made.files["web.container"].decode()
    assert "Volume=./web-files/conf:/etc/conf:ro\n" in text
    assert "Secret=web-pw,target=/run/secrets/pw,uid=1000,gid=1000,mode=0440\n" in text
    assert [one.key for one in made.remarks] == ["secrets[0].host", "containers[0].mounts[0]"]


def test_an_init_container_runs_once_before_the_others(tmp_path: Path) -> None:
    _, made = exported(
        [
            {
                "name": "web",
                "containers": [
                    {"name": "migrate", "image": IMAGE, "init": True},
                    {"name": "app", "image": IMAGE},
                ],
            }
        ],
        tmp_path,
    )
    assert b"Type=oneshot\nRemainAfterExit=yes\n" in made.files["web-migrate.container"]
    assert b"Requires=web-migrate.service\nAfter=web-migrate.service\n" in made.files["web-app.container"]


@pytest.mark.machine
@pytest.mark.timeout(600)
def test_an_empty_word_is_said_which_podman_drops(tmp_path: Path) -> None:
    pod = {"name": "a", "containers": [{"name": "a", "image": IMAGE, "args": ["x", "", "y"]}]}
    _, made = exported([pod], tmp_path)
    assert [one.key for one in made.remarks] == ["containers[0].args"]
    assert generate(tmp_path).command("a.service")[-1] == "x"


@pytest.mark.parametrize("text", ["a", "a b", "", "'", '"', "\\", "$X", "${X}", "100%", "\t\n", "ä", "a\\nb"])
def test_words_and_values_are_read_as_they_were(text: str) -> None:
    (back,) = words_of(word(text))
    assert back.replace("%%", "%").replace("$$", "$") == text
    assert value(text).replace("%%", "%").replace("$$", "$") == text


@pytest.mark.parametrize(
    "fields", ["0 3 * * *", "*/15 * * * *", "0 */6 * * *", "5 1-5 1,15 * *", "0 4 * 1,7 *"]
)
def test_times_come_back(fields: str) -> None:
    (time,) = times(fields)
    assert cron(time) == (fields, "")


def test_days_of_both_kinds_are_two_times() -> None:
    assert times("0 3 1 * mon-wed") == ["*-*-01 03:00:00", "Mon,Tue,Wed *-*-* 03:00:00"]
