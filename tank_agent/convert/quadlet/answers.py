"""Answers of Quadlet to each key of a pod file."""

from __future__ import annotations

from tank_agent.convert.leaving import SAID_BY_ALL, Answers, without_nics, without_rollouts

_UPDATES = "nothing watches an update there; `podman auto-update` goes back only if a unit doesn't start"
_NICS = "write a .network with Driver=macvlan, Options=parent=… and Subnet=, and Network=NAME.network:ip=…"
_PROBE = "podman's health check is a command in the container"
_STORE = "podman keeps secrets itself: podman secret create NAME FILE, with the plain text"

_SAID = """
    containers.rootfs containers.stop_signal containers.mounts.from_image containers.mounts.owner
    containers.ulimits containers.ulimits.soft containers.ulimits.hard containers.limits.pids
    containers.limits.swap containers.limits.cpu_weight containers.limits.cpus
    containers.security.devices containers.security.userns containers.after schedule time_zone
    catch_up timeout network.bridges network.aliases after update.image
"""
ANSWERS = Answers(
    said=(*SAID_BY_ALL, *_SAID.split()),
    lost={
        "containers.mounts.on_change": "nothing watches the file there; `systemctl restart` takes a new one",
        "containers.health.http": f"{_PROBE}, such as curl -f http://localhost:PORT/",
        "containers.health.http.port": _PROBE,
        "containers.health.http.path": _PROBE,
        "containers.health.http.headers": _PROBE,
        "containers.health.http.tls": _PROBE,
        "containers.health.tcp": f"{_PROBE}, such as nc -z localhost PORT",
        "containers.health.start_interval": "podman asks at one interval, from the start on",
        **without_nics(_NICS),
        "volumes.snapshot": "podman takes no snapshot before an update",
        **dict.fromkeys(("secrets.source", "secrets.age", "secrets.host"), _STORE),
        **without_rollouts(_UPDATES),
        "hosts": "a unit is for the machine that it is on; ConditionHost= is systemd's word for one name",
        "labels": "a unit is for the machine that it is on",
    },
)
