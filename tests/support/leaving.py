"""Pods that leave for other tools: those that the tests of several formats share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tank_agent.convert.leaving import Exported

IMAGE = "docker.io/library/app:1"
# With ports, and all that a network in bridges can have.
BRIDGED: dict[str, Any] = {
    "name": "web",
    "restart": "on-failure",
    "network": {
        "bridges": ["front", "back"],
        "aliases": ["my_db", "other.lan"],
        "dns": ["10.0.0.1"],
        "dns_search": ["lan"],
        "dns_options": ["ndots:2"],
        "extra_hosts": {"nas.lan": "192.168.1.3", "me": "host-gateway"},
    },
    "ports": ["8080:80", "127.0.0.1:53:53/udp", "[::1]:8443:443", "9000-9002:9000-9002"],
    "sysctls": {"net.core.somaxconn": "1024"},
    "hostname": "edge",
    "containers": [{"name": "web", "image": IMAGE}],
}
# With volumes of each kind, one of them shared.
WITH_VOLUMES: list[dict[str, Any]] = [
    {
        "name": "web",
        "network": "host",
        "volumes": [
            {"name": "dir", "host": "/srv/dir"},
            {"name": "both", "shared": True},
            {"name": "own"},
        ],
        "containers": [
            {
                "name": "web",
                "image": IMAGE,
                "mounts": [
                    {"volume": "dir", "path": "/dir", "read_only": True},
                    {"volume": "both", "path": "/both"},
                    {"volume": "own", "path": "/own", "subpath": "in/side"},
                    {"tmpfs": "64M", "path": "/cache"},
                ],
            }
        ],
    },
    {
        "name": "other",
        "network": "host",
        "restart": "never",
        "volumes": [{"name": "both", "shared": True}],
        "containers": [{"name": "other", "image": IMAGE, "mounts": [{"volume": "both", "path": "/b"}]}],
    },
]


def write_into(directory: Path, made: Exported) -> Exported:
    """Write the files of an export below a directory, and return it."""
    for name, content in made.files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return made
