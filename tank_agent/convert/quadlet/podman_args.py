"""Flags of `podman run` and `podman pod create` that PodmanArgs= passes on: what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tank_agent.convert.quadlet import process, security, storage
from tank_agent.convert.quadlet.keys import CONTAINER, Action, Named, Rule


def _of(key: str) -> Action | Named:
    rule = CONTAINER[key]
    return rule.action if isinstance(rule, Rule) else rule


_NOTHING = Named("note", "does nothing here")
_IO = Named("lost", "limits of disks have no counterpart here")
_SHORT = {
    "-e": "--env", "-v": "--volume", "-p": "--publish", "-u": "--user", "-w": "--workdir", "-m": "--memory",
    "-c": "--cpu-shares", "-t": "--tty", "-i": "--interactive", "-h": "--hostname", "-l": "--label",
    "-d": "--detach",
}  # fmt: skip
# Flags that stand alone; all others take a value, after = or as the next word.
_ALONE = {
    "--tty", "--interactive", "--privileged", "--read-only", "--init", "--rm", "--replace", "--env-host",
    "--no-healthcheck", "--no-hosts", "--detach", "--quiet", "--read-only-tmpfs", "--oom-kill-disable",
    "--http-proxy", "--tls-verify", "--no-hostname", "--rmi", "--sig-proxy",
}  # fmt: skip

FLAGS: dict[str, Action | Named] = {
    "--add-host": _of("AddHost"),
    "--annotation": _of("Annotation"),
    "--blkio-weight": _IO,
    "--cap-add": security.capability("add"),
    "--cap-drop": security.capability("drop"),
    "--cgroupns": _NOTHING,
    "--cgroups": _NOTHING,
    "--conmon-pidfile": _NOTHING,
    "--cpu-shares": security.cpu_shares,
    "--cpus": security.cpus,
    "--cpuset-cpus": security.cpu_set,
    "--detach": _NOTHING,
    "--device": _of("AddDevice"),
    "--device-read-bps": _IO,
    "--device-write-bps": _IO,
    "--dns": _of("DNS"),
    "--dns-option": _of("DNSOption"),
    "--dns-search": _of("DNSSearch"),
    "--entrypoint": _of("Entrypoint"),
    "--env": _of("Environment"),
    "--env-file": _of("EnvironmentFile"),
    "--env-host": _of("EnvironmentHost"),
    "--expose": _of("ExposeHostPort"),
    "--gpus": lambda draft, entry, text: draft.add("security", "devices", f"nvidia.com/gpu={text}"),
    "--group-add": _of("GroupAdd"),
    "--health-cmd": _of("HealthCmd"),
    "--health-interval": _of("HealthInterval"),
    "--health-on-failure": _of("HealthOnFailure"),
    "--health-retries": _of("HealthRetries"),
    "--health-start-period": _of("HealthStartPeriod"),
    "--health-timeout": _of("HealthTimeout"),
    "--hostname": _of("HostName"),
    "--init": lambda draft, entry, text: process.run_init(draft, entry, text or "true"),
    "--interactive": _NOTHING,
    "--ip": _of("IP"),
    "--ip6": _of("IP6"),
    "--label": _of("Label"),
    "--log-driver": _of("LogDriver"),
    "--log-opt": _of("LogOpt"),
    "--memory": security.memory("memory"),
    "--memory-reservation": security.memory("memory_reservation"),
    "--memory-swap": security.swap,
    "--mount": _of("Mount"),
    "--network": _of("Network"),
    "--network-alias": _of("NetworkAlias"),
    "--no-healthcheck": lambda draft, entry, text: draft.put("health", {"image": False}),
    "--pids-limit": _of("PidsLimit"),
    "--privileged": security.flag("security.privileged"),
    "--publish": _of("PublishPort"),
    "--pull": _of("Pull"),
    "--quiet": _NOTHING,
    "--read-only": security.flag("read_only"),
    "--replace": _NOTHING,
    "--restart": Named("note", "does nothing here: [Service] Restart= counts"),
    "--rm": _NOTHING,
    "--secret": storage.secret,
    "--security-opt": security.security_option,
    "--shm-size": _of("ShmSize"),
    "--stop-signal": _of("StopSignal"),
    "--stop-timeout": _of("StopTimeout"),
    "--sysctl": _of("Sysctl"),
    "--tmpfs": _of("Tmpfs"),
    "--tty": security.flag("tty"),
    "--tz": _of("Timezone"),
    "--ulimit": _of("Ulimit"),
    "--user": _of("User"),
    "--userns": _of("UserNS"),
    "--volume": _of("Volume"),
    "--workdir": _of("WorkingDir"),
}
UNKNOWN = Named("lost", "is a flag of podman that has no counterpart in a pod file")


def flags_of(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield each flag by its long name, with its value; what is no flag has its own text for a name."""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("--"):
            name, equals, value = word.partition("=")
        elif len(word) > 1 and word[0] == "-":
            name, value = _SHORT.get(word[:2], word[:2]), word[2:].removeprefix("=")
            equals = "=" if value else ""
            if name in _ALONE and value:
                # Several letters, as in -it.
                waiting.insert(0, f"-{value}")
                value = ""
        else:
            name, equals, value = word, "", ""
        if not equals and name.startswith("-") and name not in _ALONE and waiting:
            value = waiting.pop(0)
        yield name, value
