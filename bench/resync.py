"""A quiet resync of 1,000 pods: planning alone, and with the looks at real namespaces, mounts and files.

The pods are processes that sleep, each with a mount and a network namespace of its own, and with the pinned
network and the files that the agent makes for it. No image, crun or conmon has a part in a look.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from bench._measure import Table, milliseconds
from tank_agent.journal.journal import Journal
from tank_agent.journal.records import ContainerStatus, Good, PodStatus, Rollout
from tank_agent.journal.store import MemoryStore
from tank_agent.linux import pidfd
from tank_agent.linux.clock import Clock
from tank_agent.linux.libc import CLONE_NEWNET, CLONE_NEWNS, call
from tank_agent.network.addresses import Pool
from tank_agent.network.host_facts import AutoHostFacts
from tank_agent.network.host_side import HostSide
from tank_agent.network.pod_network import PodNetworks
from tank_agent.network.shim import HostAccess
from tank_agent.reconcile.core.hashes import container_hash
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.fills import Fills
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.networks import Networks
from tank_agent.reconcile.probes import Probes
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tank_agent.runtime.run import LiveRun, RunRecord
from tank_agent.spec.model import Container, Pod, content_hash

PODS = int(os.environ.get("TANK_BENCH_PODS", "1000"))
ROUNDS = 50
DESCRIPTORS = 8 * PODS + 1024


class RunningContainers:
    """Reports that every pod runs as it should."""

    def __init__(self, pods: list[Pod]) -> None:
        self._runs = {pod.name: (_live(pod, Path("/nowhere")),) for pod in pods}

    def runs(self, pod: str) -> tuple[LiveRun, ...]:
        """Return a pod's one run."""
        return self._runs[pod]

    def pods(self) -> frozenset[str]:
        """Return all pods."""
        return frozenset(self._runs)

    def check(self) -> frozenset[str]:
        """Notice nothing."""
        return frozenset()


class UsedNetworks:
    """Reports that every pod has the network that it should have."""

    def state(self, pod: str) -> str:
        """Return that a container ran in it."""
        return "used"

    def pods(self) -> frozenset[str]:
        """Return none beyond those that are desired."""
        return frozenset()

    def check_host(self) -> tuple[str, ...]:
        """Notice nothing."""
        return ()

    def is_outdated(self, pod: Pod) -> bool:
        """Return that it was made with the pod's sysctls."""
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def _live(pod: Pod, directory: Path) -> LiveRun:
    container = pod.containers[0]
    record = RunRecord(
        id=f"{pod.name}-1",
        pod=pod.name,
        container=container.name,
        hash=container_hash(pod, container),
        revision="r",
        cgroup="",
        image="",
        stop_signal=15,
        stop_grace=1.0,
        terminal=False,
        created_at=0.0,
    )
    return LiveRun(record=record, directory=directory, started=True, pid=1, process=0, monitor=0)


def _pods() -> list[Pod]:
    return [
        Pod(
            name=f"pod-{number}",
            containers=(Container(name="app", rootfs="/root", command=("/bin/x",), env={"N": str(number)}),),
        )
        for number in range(PODS)
    ]


def _reconciler(pods: list[Pod], containers: object, networks: object) -> Reconciler:
    journal = Journal(MemoryStore(), clock=time.time)
    journal.put_all(pods, "r")
    for pod in pods:
        status = ContainerStatus(
            hash=container_hash(pod, pod.containers[0]), instance=f"{pod.name}-1", started_at=0.0
        )
        # As for a pod that was found to be good long ago.
        rollout = Rollout(generation=1, kind="first", boot_id="boot", outcome="good", begun=0.0)
        good = Good(generation=1, hash=content_hash(pod), at=0.0)
        journal.record(pod.name, PodStatus(containers={"app": status}, rollout=rollout, good=good))
    machine = Machine(
        journal=journal,
        containers=cast(Any, containers),
        networks=cast(Any, networks),
        pulls=cast(Any, SimpleNamespace(policy="missing")),
        probes=Probes(cast(Any, None), Clock(), lambda *_: None, lambda _: None, lambda _: None),
        snapshots=Snapshots(cast(Any, None), Clock(), lambda *_: None),
        fills=Fills(cast(Any, None), cast(Any, None), lambda *_: None),
        secrets=cast(Any, None),
        clock=Clock(),
        boot_id="boot",
        backoff=Backoff(),
        since=0.0,
    )
    return Reconciler(machine, cast(Any, None), workers=0)


def _sleeper(network: Path, files: Path) -> int:
    """Start what stands for a container: it sleeps in namespaces of its own, with the pod's files mounted."""
    ready, wait = os.pipe()
    pid = os.fork()
    if pid == 0:
        fd = os.open(network, os.O_RDONLY)
        call("setns", fd, CLONE_NEWNET)
        call("unshare", CLONE_NEWNS)
        # MS_REC | MS_PRIVATE, then MS_BIND for each.
        call("mount", None, b"/", None, 0x44000, None)
        for name in ("hosts", "hostname", "resolv.conf"):
            call("mount", os.fsencode(files / name), f"/etc/{name}".encode(), None, 0x1000, None)
        os.write(wait, b".")
        os.closerange(3, DESCRIPTORS)
        os.execv("/bin/sleep", ["sleep", "1000000"])
    os.close(wait)
    os.read(ready, 1)
    os.close(ready)
    return pid


@contextlib.contextmanager
def _running(pods: list[Pod]) -> Iterator[tuple[Containers, Networks]]:
    """Make every pod's namespaces, files and process, and remove them afterwards."""
    home = Path(tempfile.mkdtemp(prefix="tank-resync"))
    host = AutoHostFacts()
    host_side = HostSide(Pool(), "0.0.0.0", {})
    made = PodNetworks(home, host, host_side.leases)
    access = HostAccess(home / "netns", host, enabled=False)
    networks = Networks(made, host_side, host, home, Clock(), access=access, keep=lambda *_: None)
    tools = SimpleNamespace(
        cgroups=cgroup.detect(home),
        root_filesystems=RootFilesystems(home),
        volumes=None,
        crun=SimpleNamespace(sweep=lambda **_: None),
        contents=SimpleNamespace(sources=lambda *_: {}),
    )
    containers = Containers(home, home, cast(Any, tools), wake=lambda _: None)
    pids = []
    try:
        for pod in pods:
            networks.make(pod)
            network = networks.namespace(pod)
            assert network is not None
            pid = _sleeper(network, networks.files(pod))
            pids.append(pid)
            run = _live(pod, home)
            run.pid, run.process, run.monitor = pid, pidfd.open_process(pid), pidfd.open_process(pid)
            containers.adopt(run)
        yield containers, networks
    finally:
        containers.close()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for pod in pods:
            networks.remove(pod.name)
        shutil.rmtree(home)


def main() -> None:
    """Measure `Reconciler.resync` when there is nothing to do."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, most), most))
    pods = _pods()
    table = Table(f"A resync of {PODS} pods that are as they should be", "ms")
    plans = _reconciler(pods, RunningContainers(pods), UsedNetworks())
    with _running(pods) as (containers, networks):
        looks = _reconciler(pods, containers, networks)
        table.add("the first, after the agent's start", milliseconds(looks.resync))
        assert looks.resync() == plans.resync() == 0
        for _ in range(ROUNDS):
            table.add("planning alone", milliseconds(plans.resync))
            table.add("with all looks", milliseconds(looks.resync))
            table.add("  of that: containers and their mounts", milliseconds(containers.check))
            table.add(
                "  of that: networks and files", milliseconds(lambda: [networks.check(pod) for pod in pods])
            )
    table.print()


if __name__ == "__main__":
    main()
