"""Answers of Kubernetes to each key of a pod file."""

from __future__ import annotations

from tank_agent.convert.leaving import SAID_BY_ALL, Answers, without_nics, without_rollouts

_UPDATES = "a Deployment's own strategy counts; nothing goes back by itself"
_NICS = "an address on the LAN is a matter of the cluster's network (Multus, for one)"
_PLAIN = "the Secret has a placeholder; put the plain text there, and keep that out of git"
_CPUSET = "which CPUs a container runs on is decided by the kubelet (cpu-manager-policy)"
_SECCOMP = "a profile is a file of the node, named in securityContext.seccompProfile.localhostProfile"

_SAID = """
    containers.security.userns containers.health.http containers.health.http.port
    containers.health.http.path containers.health.http.headers containers.health.http.tls
    containers.health.tcp containers.health.start_interval schedule time_zone catch_up timeout
"""
ANSWERS = Answers(
    said=(*SAID_BY_ALL, *_SAID.split()),
    lost={
        "containers.rootfs": "Kubernetes runs images; podman import makes one of a directory in a tar",
        "containers.stop_signal": "the image's STOPSIGNAL counts; lifecycle.stopSignal is off by default",
        "containers.mounts.on_change": "the kubelet writes the new content, and restarts nothing for it",
        "containers.mounts.from_image": "a volume begins empty there; an init container may copy into it",
        "containers.mounts.owner": "a mounted file is root's; fsGroup of the pod gives it a group",
        "containers.ulimits": "Kubernetes has no limits of setrlimit(2); the node's container runtime has",
        "containers.ulimits.soft": "see ulimits",
        "containers.ulimits.hard": "see ulimits",
        "containers.limits.pids": "the kubelet has one for all pods (podPidsLimit)",
        "containers.limits.swap": "the kubelet decides about swap (memorySwap)",
        "containers.limits.cpu_weight": "resources.requests.cpu is its share there: write one",
        "containers.limits.cpus": _CPUSET,
        "containers.security.devices": "a device needs a device plugin of the cluster",
        "containers.after": "containers of one pod start in the order of the file, without a wait",
        "network.bridges": "all pods of a cluster reach each other; a NetworkPolicy keeps them apart",
        "network.aliases": "there the name of a Service is what others find; write one for each",
        **without_nics(_NICS),
        "volumes.snapshot": "write a VolumeSnapshot, if the cluster's storage has them",
        **dict.fromkeys(("secrets.source", "secrets.age", "secrets.host"), _PLAIN),
        "after": "pods start in no order there; let the program try again, or an init container wait",
        **without_rollouts(_UPDATES),
        "update.image": "no tag is followed there; `kubectl rollout restart` with imagePullPolicy: Always",
        "hosts": "write a nodeSelector with kubernetes.io/hostname",
        "labels": "write a nodeSelector, and label the nodes",
    },
)
