"""Limits and rights of a service: memory, CPU, devices, capabilities, profiles; and `deploy`."""

from __future__ import annotations

import re

from tank_agent.convert.compose import values
from tank_agent.convert.compose.service import (
    ComposeKey,
    ComposeService,
    Table,
    each,
    group,
    is_privileged,
    mapped,
    note,
)
from tank_agent.convert.model import Value
from tank_agent.spec.findings import show
from tank_agent.spec.quantities import MEMORY_MIN, PIDS_MAX

_GPU = "nvidia.com/gpu"
_EFFECTLESS = "does nothing without a swarm"


def memory(service: ComposeService, key: str, value: Value) -> None:
    """Limit memory."""
    size = values.size(value)
    if size > 0:
        if size < MEMORY_MIN:
            service.note(key, value, "is less than a container starts in; 4M is taken")
        service.put(key, value, "limits.memory", values.size_text(max(size, MEMORY_MIN)))


def reservation(service: ComposeService, key: str, value: Value) -> None:
    """Reserve memory."""
    size = values.size(value)
    if size > 0:
        service.put(key, value, "limits.memory_reservation", values.size_text(size))


def memswap(service: ComposeService, key: str, value: Value) -> None:
    """Limit swap, which docker counts together with memory."""
    total, given = values.size(value), service.keys.get("mem_limit")
    limit = values.size(given) if given is not None else 0
    if total > 0 and limit > 0:
        service.put(key, value, "limits.swap", values.size_text(max(total - limit, 0)))
    elif total == -1 and limit > 0:
        service.put(key, value, "limits.swap", "1T")
    elif total:
        service.lost(key, value, "counts beside a limit of memory, and there is none")


def cpus(service: ComposeService, key: str, value: Value) -> None:
    """Limit CPU time to a number of cores."""
    cores = values.number(value)
    if cores > 0:
        service.put(key, value, "limits.cpu", cores if cores != int(cores) else int(cores))


def cpu_quota(service: ComposeService, key: str, value: Value) -> None:
    """Limit CPU time as the kernel counts it."""
    quota = values.whole(value)
    period = service.keys.get("cpu_period")
    if quota > 0:
        made = {"quota": quota, "period": values.whole(period) if period is not None else 100_000}
        service.put(key, value, "limits.cpu", made)


def cpu_period(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: cpu_quota has it."""


def cpu_shares(service: ComposeService, key: str, value: Value) -> None:
    """Weigh CPU time: 1024 shares are a weight of 100."""
    shares = values.whole(value)
    if shares > 0:
        service.put(key, value, "limits.cpu_weight", min(max(round(shares * 100 / 1024), 1), 10_000))


def cpuset(service: ComposeService, key: str, value: Value) -> None:
    """Choose CPUs."""
    word = values.text(value)
    if word:
        service.put(key, value, "limits.cpus", word)


def pids(service: ComposeService, key: str, value: Value) -> None:
    """Limit processes; docker has no limit where it is not given, and the agent one of 2048."""
    count = values.whole(value)
    service.put(key, value, "limits.pids", count if count > 0 else PIDS_MAX)


def shm_size(service: ComposeService, key: str, value: Value) -> None:
    """Say how much /dev/shm holds."""
    size = values.size(value)
    if size > 0:
        service.put(key, value, "shm_size", values.size_text(size))


def ulimits(service: ComposeService, key: str, value: Value) -> None:
    """Take limits of setrlimit(2)."""
    for name, given in values.mapping(value).items():
        made: object
        if isinstance(given.plain, dict):
            soft, hard = (
                _limit(given.plain[part]) if part in given.plain else None for part in ("soft", "hard")
            )
            soft, hard = soft if soft is not None else hard, hard if hard is not None else soft
            made = soft if soft == hard else {"soft": soft, "hard": hard}
        else:
            made = _limit(given)
        if made is None:
            raise ValueError(f"{name} has no number")
        service.put(f"{key}.{name}", given, ("ulimits", name), made)


def _limit(value: Value) -> int | str:
    if values.text(value) == "unlimited":
        return "unlimited"
    count = values.whole(value)
    return "unlimited" if count == -1 else count


def sysctls(service: ComposeService, key: str, value: Value) -> None:
    """Take parameters of the kernel."""
    for name, given in values.pairs(value):
        service.put_pod(key, given, ("sysctls", name), values.text(given))


def capabilities(kind: str) -> ComposeKey:
    """Return what adds or drops capabilities; what is privileged has all."""

    def act(service: ComposeService, key: str, value: Value) -> None:
        if is_privileged(service):
            if kind == "drop" and values.texts(value):
                service.lost(key, value, "a privileged container has every capability")
            return
        other = service.keys.get("cap_drop" if kind == "add" else "cap_add")
        also = map(_capability, values.texts(other)) if other is not None and kind == "add" else ()
        # docker drops what is both.
        both = set(also) - {"ALL"}
        for word in dict.fromkeys(_capability(one) for one in values.texts(value)):
            if word not in both:
                service.add(key, value, f"security.capabilities.{kind}", word)

    return mapped(f"`capabilities.{kind}`", act)


def _capability(word: str) -> str:
    return word.strip().upper().removeprefix("CAP_")


def privileged(service: ComposeService, key: str, value: Value) -> None:
    """Let it do all that root may."""
    if values.boolean(value):
        service.put(key, value, "security.privileged", True)


def security_opt(service: ComposeService, key: str, value: Value) -> None:
    """Take seccomp and AppArmor; no_new_privileges holds for every container."""
    for one in values.items(value):
        name, _, given = re.sub("^([a-z-]+):", r"\1=", values.text(one)).partition("=")
        if name == "no-new-privileges" and given != "false":
            continue
        if name == "seccomp" and not is_privileged(service):
            if given not in ("unconfined", "builtin"):
                directory, home = service.stack.project.directory, service.stack.given.home
                given = values.path_from(directory, home, given)
            service.put(key, one, "security.seccomp", "default" if given == "builtin" else given)
        elif name == "seccomp":
            continue
        elif name == "apparmor":
            profile = "default" if given == "docker-default" else given
            service.put(key, one, "security.apparmor", profile)
        elif name == "label":
            service.note(key, one, "labels of SELinux do nothing here")
        else:
            service.lost(key, one, f"{show(values.text(one))} has nothing here; the usual hardening holds")


def read_only(service: ComposeService, key: str, value: Value) -> None:
    """Make the root file system one that can't be written."""
    if values.boolean(value):
        service.put(key, value, "read_only", True)


def userns_mode(service: ComposeService, key: str, value: Value) -> None:
    """Take "host", which is the usual."""
    word = values.text(value)
    if word not in ("host", ""):
        raise ValueError(f'{show(word)} has nothing here; userns = "auto" gives a container users of its own')


def runtime(service: ComposeService, key: str, value: Value) -> None:
    """Take NVIDIA's runtime as a device of CDI."""
    word = values.text(value)
    if word == "nvidia":
        if "gpus" not in service.keys and "deploy" not in service.keys:
            _gpu(service, key, value, "all")
    elif word in ("runc", "crun", ""):
        return
    else:
        service.lost(key, value, f"crun runs each container, not {word}")


def gpus(service: ComposeService, key: str, value: Value) -> None:
    """Take GPUs by CDI."""
    if value.plain == "all":
        _gpu(service, key, value, "all")
        return
    for one in values.items(value):
        _devices(service, key, one)


def _gpu(service: ComposeService, key: str, value: Value, name: str) -> None:
    entry = f"{_GPU}={name}"
    at = ("containers", service.container, "security", "devices", "+")
    if not is_privileged(service) and all(
        one.path != at or one.value != entry for one in service.draft.entries
    ):
        service.add(key, value, "security.devices", entry)
        service.note(key, value, "needs `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`, once")


def _devices(service: ComposeService, key: str, value: Value) -> None:
    """Take one request for devices of `gpus` or of `deploy`."""
    given = values.mapping(value)
    driver = values.text(given["driver"]) if "driver" in given else "nvidia"
    capabilities = values.texts(given["capabilities"]) if "capabilities" in given else ["gpu"]
    ids = values.texts(given["device_ids"]) if "device_ids" in given else []
    count = values.text(given["count"]) if "count" in given else "all"
    if driver == "cdi":
        for word in ids:
            service.add(key, value, "security.devices", word)
    elif driver in ("nvidia", "") and ("gpu" in capabilities or "nvidia" in capabilities):
        names = ids or (
            ["all"] if count in ("all", "-1", "") else [str(number) for number in range(min(int(count), 64))]
        )
        for name in names:
            _gpu(service, key, value, name)
    else:
        service.lost(key, value, f"devices of the driver {show(driver)} are named by path or by CDI here")


def _reserved_devices(service: ComposeService, key: str, value: Value) -> None:
    for one in values.items(value):
        _devices(service, key, one)


def scale(service: ComposeService, key: str, value: Value) -> None:
    """Say that there is one of each pod."""
    count = values.whole(value)
    if count > 1:
        service.lost(key, value, f"a machine has one of each pod, not {count}; another one is another file")


def _condition(service: ComposeService, key: str, value: Value) -> None:
    known = {
        **dict.fromkeys(("none", "no"), "never"),
        "on-failure": "on-failure",
        **dict.fromkeys(("any", "always", "unless-stopped", ""), "always"),
    }
    word = values.text(value)
    if word not in known:
        raise ValueError(f"{show(word)} is no condition of compose")
    service.put_pod(key, value, ("restart",), known[word])


def _restart_policy(service: ComposeService, key: str, value: Value) -> None:
    given = values.mapping(value)
    each(service, key, given, _RESTART)
    if "condition" not in given:
        service.put_pod(key, value, ("restart",), "always")


_DELAYS = "the time between restarts is the agent's, [reconcile] in agent.toml"
_RESTART: Table = {
    "condition": mapped("`restart`", _condition),
    "delay": note(_DELAYS),
    "max_attempts": note("is tried on, ever slower, and `tank status` says so"),
    "window": note(_DELAYS),
}
_RESERVED: Table = {
    "memory": mapped("`limits.memory_reservation`", reservation),
    "cpus": note("CPU time is not reserved, in docker compose neither"),
    "devices": mapped("`devices` by CDI", _reserved_devices),
    "generic_resources": note(_EFFECTLESS),
    "pids": note(_EFFECTLESS),
}
_LIMITS: Table = {
    "memory": mapped("`limits.memory`", memory),
    "cpus": mapped("`limits.cpu`", cpus),
    "pids": mapped("`limits.pids`", pids),
}
DEPLOY: Table = {
    "resources": group({"limits": group(_LIMITS), "reservations": group(_RESERVED)}),
    "restart_policy": mapped("`restart`", _restart_policy),
    "replicas": mapped("one pod; more are lost", scale),
    **dict.fromkeys(("mode", "placement", "endpoint_mode"), note(_EFFECTLESS)),
    **dict.fromkeys(
        ("update_config", "rollback_config"),
        note("one machine has one of each pod; [update] of a pod says when an update is good"),
    ),
    "labels": note("labels of a swarm's service do nothing here"),
}


def deploy(service: ComposeService, key: str, value: Value) -> None:
    """Take what `deploy` says on one machine."""
    each(service, key, values.mapping(value), DEPLOY)


def logging(service: ComposeService, key: str, value: Value) -> None:
    """Say where output goes."""
    given = values.mapping(value)
    driver = values.text(given["driver"]) if "driver" in given else "json-file"
    if driver in ("json-file", "local", "none", "journald", ""):
        message = "the agent keeps what is printed: `tank logs`, and [logs] in agent.toml for how much"
        service.note(key, value, message)
    else:
        message = f"output goes to no {driver}: the agent keeps it, `tank logs -f` passes it on"
        service.lost(key, value, message)
