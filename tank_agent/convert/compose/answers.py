"""Answers of compose to each key of a pod file."""

from __future__ import annotations

from tank_agent.convert.leaving import SAID_BY_ALL, Answers, without_nics, without_rollouts

_JOBS = "compose has no schedule; let cron or a timer start `docker compose run`"
_UPDATES = "compose watches no update; it is up to who runs `docker compose up`"
_MACHINES = "a compose file is for whoever runs it; it has no selectors"
_NICS = "write a network with driver macvlan, and its ipv4_address; the service is in the default network"

_SAID = """
    containers.stop_signal containers.mounts.from_image containers.mounts.owner containers.ulimits
    containers.ulimits.soft containers.ulimits.hard containers.limits.pids containers.limits.swap
    containers.limits.cpu_weight containers.limits.cpus containers.security.devices containers.after
    containers.health.start_interval network.bridges network.aliases secrets.host after
"""
ANSWERS = Answers(
    said=(*SAID_BY_ALL, *_SAID.split()),
    lost={
        "containers.rootfs": "compose runs images; make one of it: tar -C DIR -c . | docker import - NAME",
        "containers.mounts.on_change": "compose makes the container anew when the file is another",
        "containers.security.userns": "users are mapped by the daemon (userns-remap), for all containers",
        "containers.health.http": "compose's health check is a command in the container, such as curl -f",
        "containers.health.http.port": "see http",
        "containers.health.http.path": "see http",
        "containers.health.http.headers": "see http",
        "containers.health.http.tls": "see http",
        "containers.health.tcp": "compose's health check is a command in the container, such as nc -z",
        **dict.fromkeys(("schedule", "time_zone", "catch_up", "timeout"), _JOBS),
        **without_nics(_NICS),
        "volumes.snapshot": "compose takes no snapshot before an update",
        "secrets.source": "write the plain text into the file that secrets name, and keep it out of git",
        "secrets.age": "write the plain text into the file that secrets name, and keep it out of git",
        **without_rollouts(_UPDATES),
        "update.image": "docker follows no tag; `docker compose pull` and `up` do it",
        **dict.fromkeys(("hosts", "labels"), _MACHINES),
    },
)
