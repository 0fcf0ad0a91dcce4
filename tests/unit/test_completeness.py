"""Whatever can be written in a file does something: no key that is accepted and forgotten on the way."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomlkit

from tank_agent.agent.lifecycle import needs_restart
from tank_agent.api.types import PHASES
from tank_agent.reconcile.core.changes import changes, row_of
from tank_agent.reconcile.core.phase import Phase
from tank_agent.settings.settings import Settings, load_settings
from tank_agent.spec.file import PodTable
from tank_agent.spec.keys import DeclaredKey, keys_of, tables_in
from tank_agent.spec.model import Pod
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
# Keys with only one value, and those whose table needs something beside them.
ONE_VALUE = {"network.nics.mode"}
ONE_VALUE_FIELDS = {("Nic", "mode")}
BESIDE: dict[str, dict[str, Any]] = {"containers.limits.cpu.period": {"cpu": {"quota": 50_000}}}
# Where the first example of a key is what BASE or the default says, or where there is none: another value.
OTHER_THAN_THE_EXAMPLE: dict[str, Any] = {
    "restart": "never",
    "network": "host",
    "network.nics": [],
    "network.nics.name": "eth1",
    "network.nics.ip": "10.0.0.6/24",
    "volumes": [],
    "volumes.name": "third",
    "containers": [],
    "containers.stop_signal": "SIGINT",
    "containers.stop_grace": "3s",
    "containers.mounts": [],
    "containers.mounts.volume": "other",
    "containers.limits": {"memory": "64M"},
    "containers.limits.cpu.period": 50_000,
    "containers.security": {"privileged": True},
    "containers.security.capabilities": {"add": ["NET_ADMIN"]},
    "containers.security.apparmor": "unconfined",
    "containers.security.seccomp": "unconfined",
}
# Another value for what can't be left out; and what only says which machines it is for.
LISTS = {"network.nics", "volumes", "containers", "containers.mounts"}
SELECTORS = {"hosts", "labels"}
# Of pods that have no interfaces on the LAN.
BRIDGED = {"network.bridges", "ports"}


def declared_in(kind: type[msgspec.Struct], path: str = "") -> Iterator[tuple[str, DeclaredKey]]:
    """Yield every key that a table of a file takes, and of the tables in it, with its path."""
    for declared in keys_of(kind):
        yield f"{path}{declared.name}", declared
        for table in declared.tables:
            yield from declared_in(table, f"{path}{declared.name}.")


# Of every key, a value that is not its default; the path is where it is put into BASE.
OTHER: dict[str, Any] = {
    path: OTHER_THAN_THE_EXAMPLE.get(path, declared.example)
    for path, declared in declared_in(PodTable)
    if path not in ONE_VALUE
}


def parsed(document: dict[str, Any]) -> ParsedPod:
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
    if key in BRIDGED:
        del document["network"]
        table = document if key == "ports" else document.setdefault("network", {})
    table[last] = value
    if key == "containers.rootfs":
        del table["image"]
        table["command"] = ["/bin/app"]
    if key == "volumes.name":
        document["containers"][0]["mounts"][0]["volume"] = value
    return document


def test_every_key_of_a_pod_file_is_looked_at() -> None:
    assert OTHER.keys() >= OTHER_THAN_THE_EXAMPLE.keys()
    assert [key for key, value in OTHER.items() if value is None] == [], "declare an example"


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


PACKAGE = Path(__file__).parents[2] / "tank_agent"
# The rooms that make what is desired true.
ACTING = ("image", "network", "reconcile", "runtime")
READ = {
    node.attr
    for room in ACTING
    for path in (PACKAGE / room).rglob("*.py")
    for node in ast.walk(ast.parse(path.read_bytes()))
    if isinstance(node, ast.Attribute)
}


def model_fields(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    for field in msgspec.structs.fields(kind):
        yield kind.__name__, field.name
        for table in tables_in(field.type):
            yield from model_fields(table)


@pytest.mark.parametrize(("kind", "field"), sorted(set(model_fields(Pod))))
def test_every_field_of_a_pod_is_read_where_pods_are_run(kind: str, field: str) -> None:
    assert field in READ or (kind, field) in ONE_VALUE_FIELDS


def test_every_phase_can_be_waited_for() -> None:
    assert set(PHASES) == {phase.value for phase in Phase}
    assert len(PHASES) == len(set(PHASES))


# Where the first example of a setting is its default, or where there is none: another value.
OTHER_SETTING_THAN_THE_EXAMPLE: dict[str, Any] = {
    "data_dir": "/srv/data",
    "run_dir": "/srv/run",
    "pods_dir": "/srv/pods.d",
    "seed_dir": "/srv/seed.d",
    "git.url": "https://other.example/fleet.git",
    "git.poll": "5s",
    "git.timeout": "5s",
    "git.depth": 7,
    "git.max_size": "5M",
    "git.max_file": "5K",
    "git.transport": "git",
    "git.run_as": "git",
    "host.adapter": "static",
    "reconcile.resync": "5s",
    "reconcile.backoff_base": "5s",
    "reconcile.backoff_cap": "5s",
    "reconcile.stable_after": "5s",
    "reconcile.workers": 5,
    "logs.max_size": "5M",
    "logs.max_files": 2,
    "image.pull": "always",
    "image.auth_files": ["/srv/auth.json"],
    "image.parallel": 5,
    "image.attempts": 2,
    "image.connect_timeout": "5s",
    "image.read_timeout": "5s",
    "image.minimum_rate": "5K",
    "image.image_size": "5M",
    "image.limits.size": "5M",
    "image.limits.file_size": "5M",
    "image.limits.entries": 5,
    "image.limits.depth": 5,
    "image.limits.headers": "5K",
    "image.limits.cpu_time": "5s",
    "image.limits.memory": "500M",
    "image.limits.stall": "5s",
}
# Of every setting, a value that is not its default.
OTHER_SETTINGS: dict[str, Any] = {
    path: OTHER_SETTING_THAN_THE_EXAMPLE.get(path, declared.example)
    for path, declared in declared_in(Settings)
    if not declared.tables
}
# What some of them need beside them.
BESIDE_SETTINGS = {
    "git.password_file": 'git.username = "deploy"',
    "git.verify.mode": 'git.verify.keyring = "/srv/keys"',
    "git.webhook.listen": 'git.webhook.secret_file = "/srv/secret"',
}
# A reload applies these; all others wait for the agent's next start.
LIVE = {"seed_dir", "logs.max_size", "logs.max_files", "network.host_access"} | {
    f"reconcile.{name}" for name in ("resync", "backoff_base", "backoff_cap", "stable_after")
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


def loaded(directory: Path, *lines: str) -> Settings:
    file = directory / "agent.toml"
    file.write_text("\n".join(line for line in lines if line) + "\n")
    return load_settings(file, environ={})


def test_every_setting_is_looked_at() -> None:
    assert OTHER_SETTINGS.keys() >= OTHER_SETTING_THAN_THE_EXAMPLE.keys()
    assert [key for key, value in OTHER_SETTINGS.items() if value is None] == [], "declare an example"


@pytest.mark.parametrize("key", OTHER_SETTINGS)
def test_every_setting_reaches_the_settings_and_is_live_or_waits_for_a_restart(
    key: str, directory: Path
) -> None:
    url = 'git.url = "https://git.example/fleet.git"' if key.startswith("git.") else ""
    beside = BESIDE_SETTINGS.get(key, "")
    name = key.replace("registry.", 'registry."example.com".')
    line = f"{name} = {tomlkit.item(OTHER_SETTINGS[key], _parent=tomlkit.inline_table()).as_string()}"
    former = loaded(directory, url, beside)
    wanted = loaded(directory, "" if key == "git.url" else url, beside, line)
    assert wanted != former
    found = needs_restart(former, wanted)
    assert bool(found) is (key not in LIVE)
    if key not in LIVE:
        # By the name of its table, or its own where others of the table are live.
        assert len(found) == 1 and any(f"{key}.".startswith(f"{each}.") for each in found[0].split(" or "))
