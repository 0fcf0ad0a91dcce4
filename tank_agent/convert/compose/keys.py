"""The keys of a compose service, each with what it becomes; docs/import.md has this table."""

from __future__ import annotations

from tank_agent.convert.compose import limits, network, order, process, storage, values
from tank_agent.convert.compose.mount_keys import MOUNT
from tank_agent.convert.compose.service import ComposeKey, ComposeService, Table, lost, mapped, note
from tank_agent.convert.model import Value

_IO = "there are no limits of I/O here"
_NAMESPACES = "a container has namespaces of its own here, and sees no others"
_LABELS = "labels do nothing here, and nothing in these files reads them"


def _effectless(service: ComposeService, key: str, value: Value) -> None:
    """Say nothing: another key, or another module, is about it."""


def _labels(service: ComposeService, key: str, value: Value) -> None:
    """Say what labels were for: they are lost if a service of the stack reads them from docker."""
    names = [name for name, _ in values.pairs(value)]
    stack = service.stack
    if not names or all(name.startswith("com.docker.compose") for name in names):
        return
    if any(name.startswith("traefik.") for name in names):
        what = (
            "traefik reads no pods: give it a file of its own (providers.file) with the url "
            f"http://{service.draft.name}:PORT"
        )
        used = stack.reads_labels("traefik")
    elif any(name.startswith(("caddy", "nginx-proxy", "homepage.", "tsdproxy.")) for name in names):
        what = f"what reads them from docker finds no pods: write {service.draft.name} into its own file"
        used = stack.reads_labels("")
    elif any("watchtower" in name or "diun" in name for name in names):
        what = 'image = "digest" in [update] follows a tag; watchtower sees no pods'
        used = stack.reads_labels("")
    else:
        what, used = _LABELS, stack.reads_labels("")
    stack.remark("lost" if used else "note", service.origin(key, value).key, value, what)


def _private(sentence: str, *usual: str) -> ComposeKey:
    """Return a key that says nothing with one of some values, and is lost with all others."""

    def act(service: ComposeService, key: str, value: Value) -> None:
        word = values.text(value)
        if word not in ("", *usual):
            service.lost(key, value, f'"{word}": {sentence}')

    return mapped(f"nothing if it is the usual; else lost: {sentence}", act)


def _platform(service: ComposeService, key: str, value: Value) -> None:
    service.note(key, value, "the image of this machine's architecture is taken")


def _shell(service: ComposeService, key: str, value: Value) -> None:
    service.lost(key, value, "there are no hooks: a container with init = true runs before the others")


def _oom(service: ComposeService, key: str, value: Value) -> None:
    if value.plain not in (None, False, 0):
        service.lost(key, value, "the kernel's choice is by memory and memory_reservation alone")


SERVICE: Table = {
    "annotations": note("annotations do nothing here"),
    "attach": note("`tank logs` shows what a container prints"),
    "blkio_config": lost(_IO),
    "build": mapped(
        "lost: images are built elsewhere; without `image`, a `docker-archive:` to save it to", process.build
    ),
    "cap_add": limits.capabilities("add"),
    "cap_drop": limits.capabilities("drop"),
    "cgroup": _private(_NAMESPACES, "private"),
    "cgroup_parent": lost("cgroups are the agent's"),
    "command": mapped("`args`, or `command` where the entrypoint is emptied", process.command),
    "configs": mapped("`[[files]]` and a mount", storage.configs),
    "container_name": mapped("one of `aliases`", network.container_name),
    "cpu_count": lost("is for Windows"),
    "cpu_percent": lost("is for Windows"),
    "cpu_period": mapped("`limits.cpu`", limits.cpu_period),
    "cpu_quota": mapped("`limits.cpu`", limits.cpu_quota),
    "cpu_rt_period": lost("there is no real-time scheduling of containers"),
    "cpu_rt_runtime": lost("there is no real-time scheduling of containers"),
    "cpu_shares": mapped("`limits.cpu_weight`, where 1024 are 100", limits.cpu_shares),
    "cpus": mapped("`limits.cpu`", limits.cpus),
    "cpuset": mapped("`limits.cpus`", limits.cpuset),
    "credential_spec": lost("is for Windows"),
    "depends_on": mapped("`after`; within a pod `after` of the container, or `init`", order.depends_on),
    "deploy": mapped("see below", limits.deploy),
    "develop": note("`docker compose watch` is for whoever builds the image"),
    "device_cgroup_rules": lost(
        "write the devices, or their directory, into devices of [containers.security]"
    ),
    "devices": mapped("`devices`", storage.device_entries),
    "dns": mapped("`dns`", network.dns),
    "dns_opt": mapped("`dns_options`", network.dns_opt),
    "dns_search": mapped("`dns_search`", network.dns_search),
    "domainname": lost("a pod has a host name without a domain; dns_search in [network] completes names"),
    "entrypoint": mapped("`command`", process.entrypoint),
    "env_file": mapped("`env_file`, with the files beside the pod file", process.env_file),
    "environment": mapped("`env`", process.environment),
    "expose": mapped("nothing: pods of one bridge reach all of each other's ports", _effectless),
    "extends": mapped("read with its file", _effectless),
    "external_links": lost("name the pod, or write it into extra_hosts of [network]"),
    "extra_hosts": mapped("`extra_hosts`", network.extra_hosts),
    "gpus": mapped("`devices` by CDI", limits.gpus),
    "group_add": mapped("`groups`", process.group_add),
    "healthcheck": mapped(
        '`health`, with `on_failure = "none"`, since docker restarts nothing', process.healthcheck
    ),
    "hostname": mapped("`hostname`", network.hostname),
    "image": mapped("`image`", process.image),
    "init": mapped("lost: the program is process 1", process.init),
    "ipc": _private(_NAMESPACES, "private", "shareable"),
    "isolation": note("is for Windows"),
    "label_file": mapped("as labels", _labels),
    "labels": mapped("nothing; lost if a service of the stack reads them from docker", _labels),
    "links": mapped("`aliases` of the other pod, where the link has a name of its own", network.links),
    "logging": mapped("nothing: the agent keeps what is printed; lost if it goes elsewhere", limits.logging),
    "mac_address": lost("a MAC address follows from the machine, the pod and the interface, and stays"),
    "mem_limit": mapped("`limits.memory`", limits.memory),
    "mem_reservation": mapped("`limits.memory_reservation`", limits.reservation),
    "mem_swappiness": lost("it is the machine's"),
    "memswap_limit": mapped("`limits.swap`, which is the swap alone", limits.memswap),
    "models": lost("models are run by a service of its own here"),
    "network_mode": mapped("`network`, or one pod for both", network.network_mode),
    "networks": mapped("`bridges`, `aliases`; `[[network.nics]]` for macvlan", network.networks),
    "oom_kill_disable": mapped("lost: memory and memory_reservation decide", _oom),
    "oom_score_adj": mapped("lost: memory and memory_reservation decide", _oom),
    "pid": _private(_NAMESPACES, "private"),
    "pids_limit": mapped("`limits.pids`", limits.pids),
    "platform": mapped("nothing: this machine's is taken", _platform),
    "ports": mapped("`ports`", network.ports),
    "post_start": mapped("lost: there are no hooks, but containers with init = true", _shell),
    "pre_start": mapped("lost: there are no hooks, but containers with init = true", _shell),
    "pre_stop": mapped("lost: there are no hooks, but containers with init = true", _shell),
    "privileged": mapped("`privileged`", limits.privileged),
    "profiles": mapped("services of other profiles are left out; `--profile` chooses", _effectless),
    "provider": lost("compose runs a program for it, and nothing does it here"),
    "pull_policy": mapped("`pull`", process.pull_policy),
    "pull_refresh_after": note('image = "digest" in [update] follows the tag'),
    "read_only": mapped("`read_only`", limits.read_only),
    "restart": mapped('`restart`; without it `"never"`, as in compose', process.restart),
    "runtime": mapped("nothing, or `devices` by CDI for nvidia", limits.runtime),
    "scale": mapped("one pod; more are lost", limits.scale),
    "secrets": mapped("`[[secrets]]` with `host` and a mount", storage.secrets),
    "security_opt": mapped("`seccomp`, `apparmor`; `no-new-privileges` holds anyway", limits.security_opt),
    "shm_size": mapped("`shm_size`", limits.shm_size),
    "stdin_open": mapped("`tty`", process.stdin_open),
    "stop_grace_period": mapped("`stop_grace`", process.stop_grace_period),
    "stop_signal": mapped("`stop_signal`", process.stop_signal),
    "storage_opt": lost("a container's own layer has no limit of its own"),
    "sysctls": mapped("`sysctls`", limits.sysctls),
    "tmpfs": mapped("a mount of a `tmpfs`, of 1G where no size is given", storage.tmpfs),
    "tty": mapped("`tty`", process.tty),
    "ulimits": mapped("`ulimits`", limits.ulimits),
    "use_api_socket": lost("there is no docker here whose API it could use"),
    "user": mapped("`user`", process.user),
    "userns_mode": mapped("nothing if it is host, which is the usual", limits.userns_mode),
    "uts": _private(_NAMESPACES, "private"),
    "volume_driver": lost("volumes are of the driver local"),
    "volumes": mapped("`[[volumes]]` and mounts", storage.volumes),
    "volumes_from": mapped("the other service's mounts", storage.volumes_from),
    "working_dir": mapped("`working_dir`", process.working_dir),
}

# By the title that docs/import.md has for each.
TABLES: dict[str, Table] = {
    "services": SERVICE,
    "depends_on": order.DEPENDENCY,
    "deploy": limits.DEPLOY,
    "healthcheck": process.HEALTHCHECK,
    "networks of a service": network.NETWORK,
    "long form of volumes": MOUNT,
    "networks": network.TOP,
    "volumes, configs, secrets": storage.TOP,
}
