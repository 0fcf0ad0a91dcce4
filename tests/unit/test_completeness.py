"""Whatever can be written in a file does something: no key that is accepted and forgotten on the way."""

from __future__ import annotations

import ast
import base64
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
[[files]]
name = "conf"
content = "before"
[[secrets]]
name = "key"
host = "/etc/keys/before"
[[containers]]
name = "app"
image = "docker.io/library/nginx:1"
[[containers.mounts]]
volume = "data"
path = "/data"
[[containers]]
name = "cache"
image = "docker.io/library/redis:8"
"""
# Keys with only one value, and those whose table needs something beside them.
ONE_VALUE = {"network.nics.mode"}
ONE_VALUE_FIELDS = {("Nic", "mode")}
BESIDE: dict[str, dict[str, Any]] = {
    "containers.limits.cpu.period": {"cpu": {"quota": 50_000}},
    **{f"containers.health.http.{key}": {"http": {"port": 80}} for key in ("path", "headers", "tls")},
    "containers.ulimits.soft": {"ulimits": {"nofile": {"hard": 2048}}},
    "containers.ulimits.hard": {"ulimits": {"nofile": {"soft": 1024}}},
}
# Tables whose keys are names: the one that is looked at.
NAMED = {"ulimits": "nofile"}
# What must be in the table, and in place of what is there, for a key to make sense.
INSTEAD: dict[str, dict[str, Any]] = {
    **{key: {"schedule": "0 4 * * *"} for key in ("time_zone", "catch_up", "timeout")},
    **{f"files.{key}": {"name": "conf"} for key in ("source", "base64")},
    **{f"secrets.{key}": {"name": "key"} for key in ("source", "age", "host")},
    "containers.limits.swap": {"memory": "64M"},
    **{f"containers.mounts.{key}": {"path": "/x"} for key in ("file", "secret", "tmpfs")},
    **{f"containers.mounts.{key}": {"path": "/x", "file": "conf"} for key in ("on_change", "mode", "owner")},
}
AGE = b"age-encryption.org/v1\n-> X25519 x\n"
ARMOR = (
    "-----BEGIN AGE ENCRYPTED FILE-----\n"
    f"{base64.b64encode(AGE).decode()}\n-----END AGE ENCRYPTED FILE-----\n"
)
FILES = {"app.env": b"LOG_LEVEL=debug", "nginx.conf": b"after", "secrets/db-password.age": AGE}
# Where the first example of a key is what BASE or the default says, or where there is none: another value.
OTHER_THAN_THE_EXAMPLE: dict[str, Any] = {
    "restart": "never",
    "network": "host",
    "network.nics": [],
    "network.nics.name": "eth1",
    "network.nics.ip": "10.0.0.6/24",
    "volumes": [],
    "volumes.name": "third",
    "files": [],
    "secrets": [],
    "secrets.age": ARMOR,
    "containers.mounts.file": "conf",
    "containers.mounts.secret": "key",
    # What every machine that runs tests allows.
    "containers.ulimits": {"nofile": 512},
    "containers.ulimits.soft": 512,
    "containers.ulimits.hard": 4096,
    "update": {"max_restarts": 0},
    "containers": [],
    "containers.stop_signal": "SIGINT",
    "containers.stop_grace": "3s",
    "containers.mounts": [],
    "containers.mounts.volume": "other",
    "containers.limits": {"memory": "64M"},
    "containers.limits.cpu.period": 50_000,
    "containers.health": {"exec": ["/bin/true"]},
    "containers.security": {"privileged": True},
    "containers.security.capabilities": {"add": ["NET_ADMIN"]},
    "containers.security.apparmor": "unconfined",
    "containers.security.seccomp": "unconfined",
}
# Another value for what can't be left out; and what only says which machines it is for.
LISTS = {"network.nics", "volumes", "files", "secrets", "containers", "containers.mounts"}
SELECTORS = {"hosts", "labels"}
# Of pods that have no interfaces on the LAN.
BRIDGED = {"network.bridges", "network.aliases", "ports"}


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
    found = parse_pod_file(tomlkit.dumps(document), "web.toml", beside=FILES.__getitem__)
    assert found.problems == (), found.problems
    return found.pods[0]


def with_value(key: str, value: Any) -> dict[str, Any]:
    document = tomllib.loads(BASE)
    *tables, last = key.split(".")
    table = document
    for name in tables:
        below = table.setdefault(name, BESIDE.get(key, {}).get(name, {}))
        table = below[0] if isinstance(below, list) else below
        table = table[NAMED[name]] if name in NAMED else table
    if key in INSTEAD:
        # A pod has what all its other keys need.
        if tables:
            table.clear()
        table.update(INSTEAD[key])
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
# Finds the next time of a job for the loop.
ACTING_FOR_THEM = (PACKAGE / "spec/schedule.py",)
READ = {
    node.attr
    for path in (*(path for room in ACTING for path in (PACKAGE / room).rglob("*.py")), *ACTING_FOR_THEM)
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
    "image.check": "off",
    "git.timeout": "5s",
    "git.depth": 7,
    "git.max_size": "5M",
    "git.max_file": "5K",
    "git.transport": "git",
    "git.run_as": "git",
    "git.status.context": "tank/other",
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
    **{
        f"notify.{key}": 'notify.webhook = "https://hooks.example/T0"'
        for key in ("webhook_token_file", "webhook_ca_file", "webhook_insecure", "events", "after", "pause")
    },
    "git.status.forge": 'git.status.token_file = "/srv/token"',
    "git.status.token_file": 'git.status.forge = "github"',
    **{
        f"git.status.{key}": 'git.status.forge = "github"\ngit.status.token_file = "/srv/token"'
        for key in ("api", "project", "context", "link")
    },
    "git.webhook.listen": 'git.webhook.secret_file = "/srv/secret"',
    "web.token_file": 'web.listen = "127.0.0.1:9470"',
    "web.hosts": 'web.listen = "127.0.0.1:9470"',
}
# Without them there is no table.
NEEDED = {"git.status.forge", "git.status.token_file"}
# A reload applies these; all others wait for the agent's next start.
LIVE = {
    "seed_dir",
    "image.check",
    "logs.max_size",
    "logs.max_files",
    "network.host_access",
    "secrets.identities",
    "volumes.snapshot_keep",
    *(f"reconcile.{name}" for name in ("resync", "backoff_base", "backoff_cap", "stable_after")),
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
    url = 'git.url = "https://git.example/acme/fleet.git"' if key.startswith("git.") else ""
    beside = BESIDE_SETTINGS.get(key, "")
    name = key.replace("registry.", 'registry."example.com".')
    line = f"{name} = {tomlkit.item(OTHER_SETTINGS[key], _parent=tomlkit.inline_table()).as_string()}"
    former = loaded(directory, url, "" if key in NEEDED else beside)
    wanted = loaded(directory, "" if key == "git.url" else url, beside, line)
    assert wanted != former
    found = needs_restart(former, wanted)
    assert bool(found) is (key not in LIVE)
    if key not in LIVE:
        # By the name of its table, or its own where others of the table are live.
        assert len(found) == 1 and any(f"{key}.".startswith(f"{each}.") for each in found[0].split(" or "))
