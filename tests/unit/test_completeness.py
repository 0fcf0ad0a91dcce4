"""Whatever can be written in a file does something: no key that is accepted and forgotten on the way."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.agent.lifecycle import _FOR_RESTART_BELOW, _LIVE, needs_restart
from tank_agent.api.types import PHASES
from tank_agent.reconcile.changes import changes, row_of
from tank_agent.reconcile.core.phase import Phase
from tank_agent.settings.settings import Settings, SettingsTable, load_settings
from tank_agent.spec.file import PodTable
from tank_agent.spec.parse import ParsedPod, parse_pod_file
from tank_agent.spec.render import render_pod

BASE = """
name = "web"
[network]
[[network.nics]]
name = "eth0"
ip = ["10.0.0.5/24"]
[[volumes]]
name = "data"
[[volumes]]
name = "other"
[[containers]]
name = "app"
image = "docker.io/library/nginx:1"
[[containers.mounts]]
volume = "data"
path = "/data"
"""
# Of every key, a value that is not its default; the place is where it is put into BASE.
OTHER: dict[str, Any] = {
    "name": "db",
    "restart": "never",
    "hosts": ["edge-*"],
    "labels": {"site": "fra"},
    "network": "host",
    "network.dns": ["10.0.0.1"],
    "network.nics": [],
    "network.nics.name": "eth1",
    "network.nics.parent": "eno1",
    "network.nics.ip": "10.0.0.6/24",
    "network.nics.gateway": "10.0.0.1",
    "volumes": [],
    "volumes.name": "third",
    "volumes.host": "/srv",
    "containers": [],
    "containers.name": "main",
    "containers.image": "docker.io/library/nginx:2",
    "containers.rootfs": "/srv/root",
    "containers.pull": "always",
    "containers.command": ["/bin/db"],
    "containers.args": ["-v"],
    "containers.env": {"A": "1"},
    "containers.working_dir": "/srv",
    "containers.user": "1000",
    "containers.tty": True,
    "containers.stop_signal": "SIGINT",
    "containers.stop_grace": "3s",
    "containers.mounts": [],
    "containers.mounts.volume": "other",
    "containers.mounts.path": "/elsewhere",
    "containers.mounts.read_only": True,
    "containers.limits": {"memory": "64M"},
    "containers.limits.memory": "64M",
    "containers.limits.pids": 5,
    "containers.limits.cpu": 0.5,
    "containers.limits.cpu.quota": 50_000,
    "containers.limits.cpu.period": 50_000,
    "containers.security": {"privileged": True},
    "containers.security.capabilities": {"add": ["NET_ADMIN"]},
    "containers.security.capabilities.add": ["NET_ADMIN"],
    "containers.security.capabilities.drop": ["CHOWN"],
    "containers.security.read_only_root": True,
    "containers.security.privileged": True,
    "containers.security.apparmor": "unconfined",
    "containers.security.seccomp": "unconfined",
    "containers.security.devices": ["/dev/fuse"],
    "containers.security.userns": "auto",
}
# Keys with only one value, and those whose table needs something beside them.
ONE_VALUE = {"network.nics.mode"}
BESIDE: dict[str, dict[str, Any]] = {"containers.limits.cpu.period": {"cpu": {"quota": 50_000}}}
# Another value for what can't be left out; and what only says which machines it is for.
LISTS = {"network.nics", "volumes", "containers", "containers.mounts"}
SELECTORS = {"hosts", "labels"}


def keys_of(kind: Any, path: str = "") -> Iterator[str]:
    """Yield every key that a table of a file takes, and of the tables in it."""
    for inner in tables_in(kind):
        for field in msgspec.structs.fields(inner):
            key = f"{path}.{field.encode_name}".lstrip(".")
            yield key
            yield from keys_of(field.type, key)


def tables_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
    for argument in getattr(kind, "__args__", ()):
        yield from tables_in(argument)


def parsed(document: dict[str, Any]) -> ParsedPod:
    import tomlkit

    found = parse_pod_file(tomlkit.dumps(document), "web.toml")
    assert found.problems == (), found.problems
    return found.pods[0]


def with_value(key: str, value: Any) -> dict[str, Any]:
    document = tomllib.loads(BASE)
    *tables, last = key.split(".")
    table = document
    for name in tables:
        below = table.setdefault(name, BESIDE.get(key, {}).get(name, {}))
        table = below[0] if isinstance(below, list) else below
    table[last] = value
    if key == "containers.rootfs":
        del table["image"]
        table["command"] = ["/bin/app"]
    if key == "volumes.name":
        document["containers"][0]["mounts"][0]["volume"] = value
    return document


def test_every_key_of_a_pod_file_is_looked_at() -> None:
    assert set(keys_of(PodTable)) == OTHER.keys() | ONE_VALUE


@pytest.mark.parametrize("key", sorted(OTHER.keys() - LISTS))
def test_every_key_of_a_pod_file_changes_the_pod_and_reads_back(key: str) -> None:
    before, after = parsed(tomllib.loads(BASE)), parsed(with_value(key, OTHER[key]))
    if key in SELECTORS:
        assert after.selector != before.selector
        return
    assert after.pod != before.pod
    assert parse_pod_file(render_pod(after.pod), "web.toml").pods[0].pod == after.pod
    assert row_of(key).key in key
    # A plan shows it, unless it is another pod.
    assert key == "name" or changes(before.pod, after.pod)


def test_every_phase_can_be_waited_for() -> None:
    assert set(PHASES) == {phase.value for phase in Phase}
    assert len(PHASES) == len(set(PHASES))


class Unlike:
    """Equal to nothing, and so are its attributes."""

    def __getattr__(self, name: str) -> object:
        return object()


@pytest.mark.parametrize("key", Settings.__struct_fields__)
def test_every_setting_is_live_or_waits_for_a_restart(key: str) -> None:
    former = Settings()
    wanted = msgspec.structs.replace(former, **{key: Unlike()})
    found = needs_restart(former, wanted)
    if key in _LIVE:
        assert found == tuple(name for name in _FOR_RESTART_BELOW if name.startswith(f"{key}."))
    else:
        assert len(found) == 1 and key in found[0]


def test_every_key_of_agent_toml_reaches_the_settings(tmp_path: Path) -> None:
    other: dict[str, str] = {
        "data_dir": '"/srv/data"',
        "run_dir": '"/srv/run"',
        "pods_dir": '"/srv/pods.d"',
        "seed_dir": '"/srv/seed.d"',
        "git": '{ url = "https://git.example/fleet.git" }',
        "host": '{ dns = ["10.0.0.1"] }',
        "reconcile": '{ resync = "5s" }',
        "logs": "{ max_files = 2 }",
        "image": '{ pull = "always" }',
        "registry": '{ "example.com" = { insecure = true } }',
        "labels": '{ site = "fra" }',
    }
    names = {field.encode_name for field in msgspec.structs.fields(SettingsTable)}
    assert names - {"pods"} == other.keys()
    for key, value in other.items():
        file = tmp_path / "agent.toml"
        file.write_text(f"{key} = {value}\n")
        loaded = load_settings(file, environ={})
        assert msgspec.structs.replace(loaded, file=None) != Settings(), key
