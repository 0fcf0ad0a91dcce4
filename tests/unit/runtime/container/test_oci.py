"""The configuration that the runtime gets, whole: what hardens a container is not changed by accident.

`oci_default.json` is that of a container that asks for nothing. A line that changes there is a decision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.image.parameters import Identity
from tank_agent.linux.namespaces import IdRange
from tank_agent.runtime.container.oci import BindMount, Sandbox, Seccomp, configuration
from tank_agent.spec.model import Container, CpuLimit, Limits, Security

GOLDEN = Path(__file__).with_name("oci_default.json")
SANDBOX = Sandbox(
    argv=("/bin/app", "--flag"),
    env=("PATH=/bin", "HOME=/"),
    cwd="/srv",
    identity=Identity(uid=0, gid=0, groups=(), home="/"),
    open_files=524288,
    apparmor="tank-default",
    container=Container(name="app"),
    hostname="web",
    rootfs=Path("/run/tank/containers/x/rootfs"),
    netns=Path("/run/tank/netns/web"),
    cgroup="/tank/web/x",
    limits=Limits(memory=64 << 20, pids=100, cpu=CpuLimit(quota=50_000)),
    limit_swap=True,
    mounts=(
        BindMount(source=Path("/run/tank/pods/web/hosts"), target="/etc/hosts", read_only=True),
        BindMount(source=Path("/run/tank/containers/x/volumes/0/v"), target="/data"),
    ),
    seccomp=Seccomp(profile={"defaultAction": "SCMP_ACT_ERRNO"}, compiled=None),
)


def made(security: Security | None = None, **sandbox: Any) -> dict[str, Any]:
    """Return the configuration of a container with a security table, as JSON reads it."""
    chosen = security or Security()
    around = msgspec.structs.replace(SANDBOX, container=Container(name="app", security=chosen), **sandbox)
    return dict(json.loads(msgspec.json.encode(configuration(around))))


def test_the_default_container_is_the_golden_one() -> None:
    golden = json.loads(GOLDEN.read_text())
    found = made()
    assert sorted(found) == sorted(golden)
    for key, value in golden.items():
        # One after another, so that a failure shows what differs and not all of it.
        assert found[key] == value, key


@pytest.mark.parametrize(
    ("security", "sandbox", "paths"),
    [
        (Security(read_only_root=True), {}, {"root.readonly"}),
        (
            Security(drop=("ALL",)),
            {},
            {f"process.capabilities.{kind}" for kind in ("bounding", "effective", "permitted")},
        ),
        (Security(), {"netns": None}, {"linux.namespaces"}),
        (
            Security(userns="auto"),
            {"ids": IdRange(base=0x7000_0000, size=65536), "sysfs": Path("/run/tank/containers/x/sysfs")},
            {"linux.namespaces", "linux.uidMappings", "linux.gidMappings", "mounts"},
        ),
        (
            Security(privileged=True),
            {},
            {
                *(f"process.capabilities.{kind}" for kind in ("bounding", "effective", "permitted")),
                "process.noNewPrivileges",
                "linux.maskedPaths",
                "linux.readonlyPaths",
                "linux.resources.devices",
                "mounts",
            },
        ),
    ],
)
def test_an_opt_out_changes_what_it_names_and_nothing_else(
    security: Security, sandbox: dict[str, Any], paths: set[str]
) -> None:
    assert set(differences(made(), made(security, **sandbox))) == paths


def differences(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the dotted paths of what differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in sorted(one.keys() | other.keys())
            for found in differences(one.get(key), other.get(key), f"{prefix}.{key}".lstrip("."))
        ]
    return [] if one == other else [prefix]


def test_no_profile_is_written_where_there_is_none() -> None:
    sandbox = msgspec.structs.replace(SANDBOX, apparmor=None)
    assert "apparmorProfile" not in configuration(sandbox)["process"]
