"""Every key of podman-systemd.unit(5) in podman 5.4 (Debian 13): what becomes of it, in one table a section.

A `Rule` makes keys of a pod of it; a `Named` says why there are none, as a loss or as a note. The rules of a
section run in the order of its table, whatever the unit's is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from tank_agent.convert.quadlet import process, security, storage
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.network import Joining
from tank_agent.convert.quadlet.unit import Entry

Action = Callable[[ContainerDraft, Entry, str], None]


class Rule(NamedTuple):
    """What makes keys of a pod of a key: it takes the last value, each one, or each word of each."""

    take: Literal["last", "each", "words"]
    action: Action


class Named(NamedTuple):
    """A key that becomes none of a pod's, with the sentence about it."""

    kind: Literal["lost", "note"]
    message: str


def _join(action: Callable[[Joining, Entry, str], None]) -> Action:
    return lambda draft, entry, text: action(_joining(draft), entry, text)


def _resolver(key: str) -> Action:
    return lambda draft, entry, text: _joining(draft).resolver(key, entry, text)


def _joining(draft: ContainerDraft) -> Joining:
    return Joining(draft.unit, draft.units, draft.pod, draft.remarks)


def _nothing(_draft: ContainerDraft, _entry: Entry, _text: str) -> None:
    """Do nothing: `convert` reads the key, or the agent does so anyway."""


def _lost(message: str) -> Named:
    return Named("lost", message)


def _note(message: str) -> Named:
    return Named("note", message)


_LABEL = _note("does nothing here: no tool reads labels of these containers")
_ARGUMENTS = _lost("is of podman, which runs none of these containers")
_CONF = _lost("is of podman's containers.conf; write what it sets into the pod file")
_SELINUX = _note("does nothing here: no label of SELinux is set")
_IDS = _lost('has no counterpart; security.userns = "auto" maps users to those without rights on the host')
_HEALTH_LOG = _note("does nothing here: `tank status` and `tank events` say what the probe said")
_LOGS = _note("does nothing here: the agent keeps what it prints, for `tank logs` and the journal")
_BUILT = _note("does nothing here: no image is built on this machine")
_FETCH = _lost("is no part of a pod; credentials and mirrors of registries are in [image] of agent.toml")
_POOL = _lost("addresses of a bridge are of the pool in [network.bridge] of agent.toml")
_MANAGED = _lost(
    "is of podman's volumes; mount it on the host (/etc/fstab), and give that directory as host of the volume"
)
_KUBE = _lost("is of Kubernetes's YAML, which is not read here")
_NETWORK_KEYS: dict[str, Rule | Named] = {
    "Network": Rule("each", _join(Joining.join)),
    "NetworkAlias": Rule("each", _join(Joining.alias)),
    "IP": Rule("last", _join(Joining.address)),
    "IP6": Rule("last", _join(Joining.address)),
    "DNS": Rule("each", _join(Joining.name_server)),
    "DNSOption": Rule("each", _resolver("dns_options")),
    "DNSSearch": Rule("each", _resolver("dns_search")),
    "AddHost": Rule("each", _join(Joining.host)),
    "PublishPort": Rule("each", _join(Joining.publish)),
}
_IDENTITIES: dict[str, Rule | Named] = {
    "UserNS": Rule("last", security.user_namespace),
    "UIDMap": _IDS,
    "GIDMap": _IDS,
    "SubUIDMap": _IDS,
    "SubGIDMap": _IDS,
}
_OF_PODMAN: dict[str, Rule | Named] = {"GlobalArgs": _ARGUMENTS, "ContainersConfModule": _CONF}

CONTAINER: dict[str, Rule | Named] = {
    "Image": Rule("last", process.image),
    "Rootfs": Rule("last", security.put("rootfs")),
    "Entrypoint": Rule("last", process.entrypoint),
    "Exec": Rule("last", process.arguments),
    "Environment": Rule("words", process.environment),
    "EnvironmentFile": Rule("words", process.environment_file),
    "EnvironmentHost": _lost("no variable of the host gets into a container; name those that it needs"),
    "WorkingDir": Rule("last", security.put("working_dir")),
    "User": Rule("last", process.user),
    "Group": Rule("last", process.group),
    "GroupAdd": Rule("each", security.add("groups")),
    "Timezone": Rule("last", process.time_zone),
    "HealthCmd": Rule("last", process.health),
    "HealthInterval": Rule("last", process.health_time("interval")),
    "HealthTimeout": Rule("last", process.health_time("timeout")),
    "HealthStartPeriod": Rule("last", process.health_time("start_period")),
    "HealthRetries": Rule("last", process.health_retries),
    "HealthOnFailure": Rule("last", process.health_failure),
    "HealthStartupCmd": Rule("last", process.startup_check),
    "HealthStartupInterval": Rule("last", _nothing),
    "HealthStartupRetries": Rule("last", _nothing),
    "HealthStartupSuccess": _lost("one success ends the start here"),
    "HealthStartupTimeout": _lost("the probe has one time, that of HealthTimeout"),
    "HealthLogDestination": _HEALTH_LOG,
    "HealthMaxLogCount": _HEALTH_LOG,
    "HealthMaxLogSize": _HEALTH_LOG,
    "Notify": Rule("last", process.notify),
    "StopSignal": Rule("last", security.put("stop_signal")),
    "StopTimeout": Rule("last", process.stop_timeout),
    "Pull": Rule("last", process.pull),
    "AutoUpdate": Rule("last", process.auto_update),
    "Volume": Rule("each", storage.volume),
    "Mount": Rule("words", storage.mount),
    "Tmpfs": Rule("each", storage.tmpfs),
    "Secret": Rule("words", storage.secret),
    **_NETWORK_KEYS,
    "HostName": Rule("last", lambda draft, entry, text: draft.pod.keys.update(hostname=text)),
    "ExposeHostPort": _note("does nothing here: what listens in a pod is reached from its bridges"),
    "AddCapability": Rule("words", security.capability("add")),
    "DropCapability": Rule("words", security.capability("drop")),
    "AddDevice": Rule("words", security.device),
    "NoNewPrivileges": Rule("last", security.no_new_privileges),
    "SeccompProfile": Rule("last", security.seccomp),
    "Mask": _lost("what podman masks of /proc and /sys is masked here, and no more"),
    "Unmask": _lost("what podman masks of /proc and /sys is masked here; only security.privileged shows it"),
    "SecurityLabelDisable": _SELINUX,
    "SecurityLabelFileType": _SELINUX,
    "SecurityLabelLevel": _SELINUX,
    "SecurityLabelNested": _SELINUX,
    "SecurityLabelType": _SELINUX,
    **_IDENTITIES,
    "ReadOnly": Rule("last", security.read_only),
    "ReadOnlyTmpfs": Rule("last", security.read_only_tmpfs),
    "RunInit": Rule("last", process.run_init),
    "ShmSize": Rule("last", security.shm_size),
    "Sysctl": Rule("words", security.sysctl),
    "Ulimit": Rule("each", security.ulimit),
    "PidsLimit": Rule("last", security.pids),
    "CgroupsMode": _note("does nothing here: the agent gives each container its cgroup"),
    "ContainerName": Rule("last", _nothing),
    "Pod": Rule("last", _nothing),
    "StartWithPod": Rule("last", _nothing),
    "PodmanArgs": Rule("last", _nothing),
    "ServiceName": Rule("last", _nothing),
    "Label": _LABEL,
    "Annotation": _note("does nothing here: no tool reads annotations of these containers"),
    "LogDriver": _LOGS,
    "LogOpt": _LOGS,
    **_OF_PODMAN,
}
POD: dict[str, Rule | Named] = {
    **_NETWORK_KEYS,
    "Volume": Rule("each", storage.volume),
    "ShmSize": Rule("last", security.shm_size),
    **_IDENTITIES,
    "PodName": Rule("last", _nothing),
    "PodmanArgs": Rule("last", _nothing),
    "ServiceName": Rule("last", _nothing),
    **_OF_PODMAN,
}
NETWORK: dict[str, Rule | Named] = {
    "NetworkName": Rule("last", _nothing),
    "Driver": Rule("last", _nothing),
    "Options": Rule("last", _nothing),
    "Subnet": _POOL,
    "Gateway": _POOL,
    "IPRange": _POOL,
    "IPv6": _lost("give ipv6 in [network.bridge] of agent.toml, which is for all bridges"),
    "IPAMDriver": _POOL,
    "Internal": _lost("every bridge leads out; a pod that must not has no ports, and a firewall on the host"),
    "DisableDNS": _lost("pods of one bridge reach each other by their names"),
    "DNS": _lost("name servers are of each pod: dns in its [network]"),
    "Label": _LABEL,
    "ServiceName": Rule("last", _nothing),
    "PodmanArgs": _ARGUMENTS,
    **_OF_PODMAN,
}
VOLUME: dict[str, Rule | Named] = {
    "VolumeName": Rule("last", _nothing),
    "Device": Rule("last", _nothing),
    "Type": Rule("last", _nothing),
    "Options": Rule("last", _nothing),
    "Copy": Rule("last", _nothing),
    "Driver": Rule("last", _nothing),
    "Image": _MANAGED,
    "User": _lost("a managed volume is the container's user's; for another owner, chown it once"),
    "Group": _lost("a managed volume is the container's user's; for another group, chown it once"),
    "Label": _LABEL,
    "ServiceName": Rule("last", _nothing),
    "PodmanArgs": _ARGUMENTS,
    **_OF_PODMAN,
}
IMAGE: dict[str, Rule | Named] = {
    "Image": Rule("last", _nothing),
    "ImageTag": Rule("last", _nothing),
    "AllTags": _note("does nothing here: an image is pulled when a pod names it"),
    **dict.fromkeys(("Arch", "OS", "Variant", "AuthFile", "CertDir", "Creds", "DecryptionKey"), _FETCH),
    "TLSVerify": _FETCH,
    "ServiceName": Rule("last", _nothing),
    "PodmanArgs": _ARGUMENTS,
    **_OF_PODMAN,
}
BUILD: dict[str, Rule | Named] = {
    "ImageTag": Rule("last", _nothing),
    **dict.fromkeys(
        (
            "Annotation", "Arch", "AuthFile", "DNS", "DNSOption", "DNSSearch", "Environment", "File",
            "ForceRM", "GroupAdd", "Label", "Network", "Pull", "Secret", "SetWorkingDirectory", "Target",
            "TLSVerify", "Variant", "Volume", "PodmanArgs", "GlobalArgs", "ContainersConfModule",
        ),
        _BUILT,
    ),
    "ServiceName": Rule("last", _nothing),
}  # fmt: skip
KUBE: dict[str, Rule | Named] = dict.fromkeys(
    (
        "AutoUpdate", "ConfigMap", "ContainersConfModule", "ExitCodePropagation", "GlobalArgs",
        "KubeDownForce", "LogDriver", "Network", "PodmanArgs", "PublishPort", "SetWorkingDirectory", "UserNS",
        "Yaml", "ServiceName",
    ),
    _KUBE,
)  # fmt: skip
QUADLET: dict[str, Rule | Named] = {
    "DefaultDependencies": _note("does nothing here: the agent starts after the network")
}
SECTIONS = {
    "Container": CONTAINER,
    "Pod": POD,
    "Network": NETWORK,
    "Volume": VOLUME,
    "Image": IMAGE,
    "Build": BUILD,
    "Kube": KUBE,
    "Quadlet": QUADLET,
}
