"""What podman's generator makes of a unit is what our pod file says, for every part that both have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tank_agent.convert.quadlet.convert import convert
from tank_agent.convert.quadlet.podman_args import flags_of
from tank_agent.spec.model import Container, Pod
from tank_agent.spec.parse import pod_from_mapping
from tests.support.quadlet import Generated, generate

# The first of them fetches podman's package.
pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]

UNITS = {
    "image and words": "Image=docker.io/library/app:1\nExec=serve --name \"a b\" 'c d' x\\x20y",
    "an entrypoint": 'Image=docker.io/library/app:1\nEntrypoint=["/bin/sh", "-c"]\nExec="echo hi"',
    "one word as entrypoint": "Image=docker.io/library/app:1\nEntrypoint=/bin/serve",
    "variables": (
        'Image=docker.io/library/app:1\nEnvironment=A=1 "B=two words" C=\nEnvironment=D=x=y\n'
        "Environment='E=single' F=%%h"
    ),
    "variables that are taken back": (
        "Image=docker.io/library/app:1\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2"
    ),
    "ports": (
        "Image=docker.io/library/app:1\nPublishPort=8080:80\nPublishPort=127.0.0.1:53:53/udp\n"
        "PublishPort=9000-9002:9000-9002\nPublishPort=[::1]:8443:443/tcp"
    ),
    "directories": (
        "Image=docker.io/library/app:1\nVolume=/srv/data:/data\nVolume=/etc/app:/etc/app:ro,z\n"
        "Volume=./here:/here\nTmpfs=/run/app:size=64M\nTmpfs=/cache:size=1g,mode=1777"
    ),
    "mounts": (
        "Image=docker.io/library/app:1\nMount=type=bind,src=/srv/a,dst=/a,ro\n"
        "Mount=type=volume,source=named,destination=/v\nMount=type=tmpfs,dst=/t,tmpfs-size=16m"
    ),
    "a named volume": "Image=docker.io/library/app:1\nVolume=data:/data:Z",
    "capabilities": (
        "Image=docker.io/library/app:1\nDropCapability=ALL\nAddCapability=CAP_NET_ADMIN CHOWN\n"
        "AddCapability=sys_time"
    ),
    "users": "Image=docker.io/library/app:1\nUser=1000\nGroup=2000\nGroupAdd=44\nWorkingDir=/srv",
    "limits": (
        "Image=docker.io/library/app:1\nPidsLimit=100\nShmSize=128m\nUlimit=nofile=1024:2048\n"
        "Ulimit=nproc=64\nPodmanArgs=--memory=512m --cpus 1.5\nSysctl=net.core.somaxconn=1024"
    ),
    "a health check": (
        "Image=docker.io/library/app:1\nHealthCmd=pg_isready -U app\nHealthInterval=15s\n"
        "HealthTimeout=4s\nHealthRetries=7\nHealthStartPeriod=1m30s\nHealthOnFailure=kill"
    ),
    "the end": "Image=docker.io/library/app:1\nStopSignal=SIGINT\nStopTimeout=25",
    "names": (
        "Image=docker.io/library/app:1\nNetwork=front\nNetwork=back\nDNS=10.0.0.1\nDNSSearch=lan\n"
        "DNSOption=ndots:2\nAddHost=nas.lan:192.168.1.3"
    ),
    "the host's network": "Image=docker.io/library/app:1\nNetwork=host",
    "no network": "Image=docker.io/library/app:1\nNetwork=none",
    "read-only": "Image=docker.io/library/app:1\nReadOnly=true\nNoNewPrivileges=true\nPull=always",
    "devices": "Image=docker.io/library/app:1\nAddDevice=/dev/fuse\nAddDevice=/dev/ttyACM0:/dev/tty0:rw",
    "continued lines": "Image=docker.io/library/app:1\nExec=a \\\n  b \\\n# comment\n  c\n",
    "specifiers": "Image=docker.io/library/app:1\nExec=%%h\nEnvironment=NAME=%p",
}
# What podman does when nothing is said, and flags of the generator itself.
_PLUMBING = {
    "--name", "--cidfile", "--replace", "--rm", "--cgroups", "--sdnotify", "--detach", "--label",
    "--security-opt", "--network-alias",
}  # fmt: skip
_NAMES = {"--volume", "--mount", "--tmpfs"}


def both(text: str, directory: Path) -> tuple[Pod, Generated]:
    Path(directory, "app.container").write_text(f"[Container]\n{text}\n[Install]\nWantedBy=default.target\n")
    found = convert([directory], "/root")
    assert not [str(one) for one in found.remarks if one.kind == "lost"]
    (file,) = found.files
    return pod_from_mapping({"name": file.name, **file.pod}), generate(directory)


@pytest.mark.parametrize("name", list(UNITS))
def test_both_say_the_same(name: str, tmp_path: Path) -> None:
    pod, generated = both(UNITS[name], tmp_path)
    assert not [line for line in generated.said.splitlines() if "Loading" not in line]
    words = generated.command("app.service")
    assert words[:2] == ["/usr/bin/podman", "run"]
    theirs = of_podman(words[2:], tmp_path)
    ours = of_pod(pod)
    assert {key: ours[key] for key in theirs} == theirs


def of_podman(words: Sequence[str], directory: Path) -> dict[str, Any]:
    """Return what a command line of podman says, in the words of `of_pod`."""
    found: dict[str, Any] = {}
    flags = flags_of(words)
    rest: list[str] = []
    for name, value in flags:
        if not name.startswith("-") or rest:
            rest += [name] if not rest or not value else [name, value]
        elif name not in _PLUMBING:
            key = "mounts" if name in _NAMES else name
            text = f"{name} {value}" if name in _NAMES else value.removeprefix("cap_")
            found.setdefault(key, []).append(text.removesuffix("/tcp"))
    at = list(words).index(rest[0])
    return {**{key: sorted(values) for key, values in found.items()}, "argv": list(words[at:])} | {
        "mounts": sorted(_mount(text, directory) for text in found.pop("mounts", []))
    }


def _mount(text: str, directory: Path) -> str:
    flag, _, value = text.partition(" ")
    if flag == "--tmpfs":
        path, _, options = value.partition(":")
        size = next(word[5:] for word in options.split(",") if word.startswith("size="))
        return f"tmpfs {size.upper()} {path}"
    if flag == "--volume":
        source, path, *options = value.split(":")
        words = ",".join(options).split(",")
        return f"{source} {path}{' ro' if 'ro' in words else ''}"
    given = dict(word.partition("=")[::2] for word in value.split(","))
    path = given.get("dst") or given["destination"]
    if given["type"] == "tmpfs":
        return f"tmpfs {given['tmpfs-size'].upper()} {path}"
    return f"{given.get('src') or given['source']} {path}{' ro' if 'ro' in given else ''}"


def of_pod(pod: Pod) -> dict[str, Any]:
    """Return what a pod says by the flags of podman that say the same."""
    (one,) = pod.containers
    health, limits = one.health, one.limits
    said: dict[str, Any] = {
        "argv": [one.image, *(one.args or ())],
        "--entrypoint": [_entrypoint(one)],
        "--env": sorted(f"{key}={value}" for key, value in one.env.items()),
        "--publish": sorted(str(port) for port in pod.ports),
        "mounts": sorted(_ours(pod, one)),
        "--cap-add": sorted(name.removeprefix("CAP_").lower() for name in one.security.add),
        "--cap-drop": sorted(name.lower() for name in one.security.drop),
        "--user": [one.user],
        "--group-add": sorted(one.groups),
        "--workdir": [one.working_dir],
        "--pids-limit": [str(limits.pids)],
        "--memory": [f"{(limits.memory or 0) >> 20}m"],
        "--cpus": [str((limits.cpu.quota if limits.cpu else 0) / 100_000)],
        "--shm-size": [f"{(one.shm_size or 0) >> 20}m"],
        "--ulimit": sorted(_ulimit(key, item.soft, item.hard) for key, item in one.ulimits.items()),
        "--sysctl": sorted(f"{key}={value}" for key, value in pod.sysctls.items()),
        "--stop-signal": [one.stop_signal],
        "--stop-timeout": [f"{one.stop_grace:.0f}"],
        "--network": sorted(pod.network.bridges) or [pod.network.mode],
        "--dns": list(pod.network.dns),
        "--dns-search": list(pod.network.dns_search),
        "--dns-option": list(pod.network.dns_options),
        "--add-host": [f"{key}:{value}" for key, value in pod.network.extra_hosts.items()],
        "--read-only": [""] if one.security.read_only_root else [],
        "--pull": [one.pull],
        "--device": sorted(one.security.devices),
    }
    if health is not None:
        assert health.exec is not None and health.exec[:2] == ("/bin/sh", "-c")
        said |= {
            "--health-cmd": [health.exec[2]],
            "--health-interval": [f"{health.interval:.0f}s"],
            "--health-timeout": [f"{health.timeout:.0f}s"],
            "--health-retries": [str(health.retries)],
            "--health-start-period": ["1m30s"] if health.start_period == 90 else [],
            "--health-on-failure": ["kill"] if health.on_failure == "restart" else [],
        }
    return said


def _entrypoint(one: Container) -> str | None:
    words = one.command or ()
    return "[" + ", ".join(f'"{word}"' for word in words) + "]" if len(words) > 1 else "".join(words)


def _ulimit(name: str, soft: int, hard: int) -> str:
    return f"{name}={soft}" if soft == hard else f"{name}={soft}:{hard}"


def _ours(pod: Pod, one: Container) -> list[str]:
    volumes = {volume.name: volume.host or volume.name for volume in pod.volumes}
    found = []
    for mount in one.mounts:
        if mount.tmpfs is not None:
            size = f"{mount.tmpfs >> 30}G" if mount.tmpfs % (1 << 30) == 0 else f"{mount.tmpfs >> 20}M"
            found.append(f"tmpfs {size} {mount.path}")
        elif mount.volume is not None:
            found.append(f"{volumes[mount.volume]} {mount.path}{' ro' if mount.read_only else ''}")
    return found
