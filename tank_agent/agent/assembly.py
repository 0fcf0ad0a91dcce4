"""Make the parts of an agent in the order in which they need each other."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import structlog
from msgspec import Struct

from tank_agent.agent.outward import start_outward
from tank_agent.api.server import ApiServer
from tank_agent.control.images import Images
from tank_agent.control.pods import Service
from tank_agent.control.sessions import Sessions
from tank_agent.control.sources import Sources
from tank_agent.control.volumes import Storage
from tank_agent.errors import Retry, Stalled, TankError
from tank_agent.image.store.store import ImageStore
from tank_agent.intake.intake import Intake
from tank_agent.journal.journal import Journal
from tank_agent.journal.lmdb import LmdbStore
from tank_agent.journal.store import UnreadableJournal
from tank_agent.linux.clock import Clock, boot_id
from tank_agent.linux.locks import LockFile
from tank_agent.network.addresses import Pool
from tank_agent.network.bridges import group_of
from tank_agent.network.host_facts import HostFacts, make_host_facts
from tank_agent.network.host_side import HostSide, Reservation
from tank_agent.network.pod_network import PodNetworks
from tank_agent.network.shim import HostAccess
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.counters import Counters
from tank_agent.reconcile.fills import Fills
from tank_agent.reconcile.image_checks import ImageChecks
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.networks import Networks
from tank_agent.reconcile.probes import Probes
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.reconcile.steps import Steps, keep_reservation
from tank_agent.runtime.container.adopt import adopt_all
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.launch import Tools
from tank_agent.runtime.health.command import probe_executor
from tank_agent.runtime.mounts.fill import Filler
from tank_agent.runtime.mounts.snapshots import SnapshotStore
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.runtime.security import apparmor
from tank_agent.runtime.session.exec import Executor
from tank_agent.runtime.session.log_rotation import Rotation
from tank_agent.settings.settings import Settings
from tank_agent.source.git.follower import GitFollower
from tank_agent.source.kinds import owner_is_there
from tank_agent.spec.model import Host
from tank_agent.spec.reference import is_digest

_log = structlog.get_logger()
_DRAIN_DEADLINE = 120.0
_LOCK = "agent.lock"
# Directories in data_dir and run_dir that an older version may have left open to others.
_CLOSED_DATA = (
    "base", "cache", "git", "images", "journal", "logs", "overlay", "skeleton", "snapshots", "trash",
    "volumes", "volumes-shared",
)  # fmt: skip
_CLOSED_RUN = ("cgroup-view", "containers", "crun", "exec", "filling", "netns", "pods", "probes", "secrets")


class Running(Struct, frozen=True, kw_only=True):
    """The parts of a running agent that signals concern."""

    machine: Machine
    reconciler: Reconciler
    intake: Intake
    rotation: Rotation
    image_checks: ImageChecks

    def alive(self) -> bool:
        """Return whether every thread that the agent cannot do without still runs and takes its locks."""
        self.reconciler.idle()
        machine = self.machine
        own = (self.reconciler, self.intake, self.rotation, self.image_checks)
        parts = (*own, machine.containers, machine.probes)
        return all(part.alive() for part in parts)


class Parts(Struct, frozen=True, kw_only=True):
    """The loop and its workers, before any source is read."""

    machine: Machine
    reconciler: Reconciler
    tools: Tools
    store: ImageStore
    secrets: Secrets
    lock: LockFile


@contextmanager
def running(settings: Settings, *, stop_pods: bool) -> Iterator[Running]:
    """Start all parts, and end them in the opposite order."""
    with ExitStack() as stack:
        parts = take_over(settings, stack)
        machine, reconciler = parts.machine, parts.reconciler
        if stop_pods:
            stack.callback(end_pods, parts)
        apparmor.load_default()
        host = Host(name=platform.node(), labels=settings.labels)
        started: ApiServer | None = None

        def resync() -> None:
            if started is not None:
                _mend_run_dir(settings.run_dir, parts.lock, started)
            reconciler.resync()
            checks.resync()

        intake = Intake(
            settings,
            host,
            machine.journal,
            wake=reconciler.wake,
            resync=resync,
            secrets=parts.secrets,
        )
        stack.callback(intake.close)
        checks = _image_checks(settings, parts, intake)
        stack.callback(checks.close)
        intake.start()
        reconciler.start()
        reconciler.resync("agent start")
        checks.start()
        limits = settings.logs
        rotation = Rotation(machine.containers, max_size=limits.max_size, max_files=limits.max_files)
        rotation.start()
        stack.callback(rotation.close)
        service = _service(settings, parts, intake, checks, host)
        server = ApiServer(service, settings.run_dir / "tank.sock")
        stack.callback(service.sessions.visits.close)
        stack.callback(server.stop)
        _mend_run_dir(settings.run_dir, parts.lock, server)
        started = server
        start_outward(settings, service, stack)
        yield Running(
            machine=machine,
            reconciler=reconciler,
            intake=intake,
            rotation=rotation,
            image_checks=checks,
        )


def _service(settings: Settings, parts: Parts, intake: Intake, checks: ImageChecks, host: Host) -> Service:
    machine, reconciler = parts.machine, parts.reconciler
    return Service(
        settings,
        machine,
        reconciler,
        parts.tools.versions,
        sessions=_sessions(settings, machine, parts.tools, reconciler),
        images=Images(parts.store, machine, reconciler, checks),
        sources=Sources(
            machine.journal,
            intake,
            next((one for one in intake.followers if isinstance(one, GitFollower)), None),
            host,
            places={one.source: one.place for one in intake.followers if one.place is not None},
            snapshots=machine.snapshots.store.by_generation,
        ),
        storage=Storage(machine.journal, machine.containers, machine.snapshots),
    )


def _image_checks(settings: Settings, parts: Parts, intake: Intake) -> ImageChecks:
    machine = parts.machine

    def runs(pod: str) -> dict[str, str]:
        """Return the digests of a pod's runs; older agents had them in the names of images only."""
        records = [live.record for live in machine.containers.runs(pod) if live.exit is None]
        found = {one.container: one.digest or one.image.rpartition("@")[2] for one in records}
        return {container: digest for container, digest in found.items() if is_digest(digest)}

    return ImageChecks(
        machine.journal,
        parts.store,
        machine.pulls,
        clock=machine.clock,
        check=settings.image.check,
        wake=parts.reconciler.wake,
        suspended=intake.suspended,
        runs=runs,
    )


def make_host_side(settings: Settings, journal: Journal, host: HostFacts) -> HostSide:
    """Return what makes bridges and publishes ports, with the addresses that pods have by the journal."""
    bridge = settings.network.bridge
    pool = Pool(
        ipv4=IPv4Network(bridge.pool),
        prefix=bridge.prefix,
        ipv6=IPv6Network(bridge.ipv6) if bridge.ipv6 is not None else None,
    )
    known = {
        name: Reservation(leases=status.leases, ports=status.ports, aliases=status.aliases)
        for name, status in journal.statuses().items()
        if status.leases or status.ports
    }
    return HostSide(pool, bridge.publish, known, host.uplink, group_of(settings.run_dir))


def _secrets(settings: Settings, journal: Journal) -> Secrets:
    return Secrets(
        settings.secrets.identities,
        keep_once=journal.keep_once,
        own=(settings.data_dir, settings.run_dir),
        containers=partial(_open_to_containers, journal),
    )


def _open_to_containers(journal: Journal) -> frozenset[str]:
    """Return the paths of the host that containers may write to."""
    return frozenset(
        volume.host
        for desired in journal.desired().values()
        for volume in desired.pod.volumes
        if volume.host is not None
        and any(
            mount.volume == volume.name and not mount.read_only
            for container in desired.pod.containers
            for mount in container.mounts
        )
    )


def take_over(settings: Settings, stack: ExitStack, *, spare: Journal | None = None) -> Parts:
    """Make the loop, and adopt the pods of a former agent; `spare` stands in for a journal that fails."""
    _close_directories(settings.data_dir, settings.run_dir)
    lock = _sole_user(settings.run_dir, settings.data_dir)
    stack.callback(lock.close)
    clock, boot, counters = Clock(), boot_id(), Counters()
    journal = _journal(settings, clock, spare)
    stack.callback(journal.close)
    tools = Tools.of(settings.data_dir, settings.run_dir)
    secrets = _secrets(settings, journal)
    reconciler: Reconciler | None = None

    def wake(pod: str, cause: str) -> None:
        # A pod that should be woken before the loop exists is seen by its first look at everything.
        if reconciler is not None:
            reconciler.wake(pod, cause)

    containers = Containers(
        settings.run_dir, settings.data_dir, tools, wake=lambda pod: wake(pod, "container ended")
    )
    stack.callback(containers.close)
    host = make_host_facts(settings.host.adapter, settings.host.uplink, settings.host.dns)
    host_side = make_host_side(settings, journal, host)
    pod_networks = PodNetworks(settings.run_dir, host, host_side.leases)
    access = HostAccess(settings.run_dir / "netns", host, enabled=settings.network.host_access)
    keep = partial(keep_reservation, journal)
    networks = Networks(pod_networks, host_side, host, settings.run_dir, clock, access=access, keep=keep)
    stack.callback(networks.close)
    backoff = _backoff(settings)
    store, pulls = _images(settings, journal, backoff, wake, stack, counters=counters)
    probes = _probes(settings, tools, journal, wake, pod_networks, counters=counters)
    stack.callback(probes.close)
    store_of_snapshots = SnapshotStore(settings.data_dir, tools.volumes)
    snapshots = Snapshots(store_of_snapshots, clock, wake, keep_newest=settings.volumes.snapshot_keep)
    stack.callback(snapshots.close)
    fills = Fills(Filler(settings.run_dir, tools.volumes), snapshots, wake)
    stack.callback(fills.close)
    machine = Machine(
        journal=journal,
        containers=containers,
        networks=networks,
        pulls=pulls,
        probes=probes,
        snapshots=snapshots,
        fills=fills,
        secrets=secrets,
        clock=clock,
        boot_id=boot,
        backoff=backoff,
        since=clock.monotonic(),
        counters=counters,
    )
    reconciler = Reconciler(machine, Steps(machine), workers=settings.reconcile.workers)
    adopted = adopt_all(containers, tools, clock.wall())
    _end_commands(probe_executor(tools, settings.run_dir), containers, tools, signal.SIGKILL)
    desired = {name: pod.pod for name, pod in journal.desired().items()}
    networks.adopt(containers.processes(), desired, containers.sysctls())
    _log.info("took over", runs=len(adopted), pods=len(containers.pods()))
    stack.callback(reconciler.close)
    return Parts(machine=machine, reconciler=reconciler, tools=tools, store=store, secrets=secrets, lock=lock)


def _backoff(settings: Settings) -> Backoff:
    paces = settings.reconcile
    return Backoff(base=paces.backoff_base, cap=paces.backoff_cap, stable_after=paces.stable_after)


def _images(
    settings: Settings,
    journal: Journal,
    backoff: Backoff,
    wake: Callable[[str, str], None],
    stack: ExitStack,
    *,
    counters: Counters,
) -> tuple[ImageStore, Pulls]:
    store = ImageStore(settings.data_dir, settings.image)
    stack.callback(store.close)
    pulls = Pulls(
        store,
        Clock(),
        backoff,
        wake,
        policy=settings.image.pull,
        prepare=store.sweep,
        report=journal.record_for_pods,
        counters=counters,
    )
    stack.callback(pulls.close)
    return store, pulls


def _probes(
    settings: Settings,
    tools: Tools,
    journal: Journal,
    wake: Callable[[str, str], None],
    networks: PodNetworks,
    *,
    counters: Counters,
) -> Probes:
    def namespace(pod: str) -> Path | None:
        desired = journal.get(pod)
        host_network = desired is not None and desired.pod.network.mode == "host"
        return None if host_network else networks.path(pod)

    executor = probe_executor(tools, settings.run_dir)
    return Probes(
        executor,
        clock=Clock(),
        wake=wake,
        report=lambda event: journal.try_to_record([event]),
        namespace=namespace,
        counters=counters,
    )


def _journal(settings: Settings, clock: Clock, spare: Journal | None) -> Journal:
    owner_exists = partial(owner_is_there, settings=settings)
    try:
        return Journal(LmdbStore(settings.data_dir / "journal"), clock=clock.wall, owner_exists=owner_exists)
    except (Retry, UnreadableJournal) as error:
        if spare is None:
            raise
        _log.error("stopping pods without the journal", error=str(error))
        return spare


def _make_directory(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # Members of the group must reach the socket, but may not list the directory.
    directory.chmod(0o711)


def _mend_run_dir(run_dir: Path, lock: LockFile, server: ApiServer) -> None:
    """Make the lock file and the socket again if somebody has removed them."""
    try:
        if not run_dir.is_dir():
            _make_directory(run_dir)
        if lock.check():
            _log.warning("the lock file was removed; made again", run_dir=str(run_dir))
        if server.check():
            _log.info("listening", socket=str(server.socket_path))
    except BlockingIOError:
        _log.critical("the lock file was removed, and another agent holds it now", run_dir=str(run_dir))
    except (OSError, TankError) as error:
        _log.error("cannot listen; trying again at each resync", error=str(error))


def _sessions(settings: Settings, machine: Machine, tools: Tools, reconciler: Reconciler) -> Sessions:
    """End the commands that sessions of a former agent left, and return the sessions of this one."""
    executor = Executor(tools.crun, settings.run_dir, tools.cgroups)
    executor.directory.mkdir(mode=0o700, exist_ok=True)
    _end_commands(executor, machine.containers, tools)
    return Sessions(machine.journal, machine.containers, reconciler, executor)


def _end_commands(
    executor: Executor, containers: Containers, tools: Tools, number: signal.Signals = signal.SIGHUP
) -> None:
    """End the commands in containers that a former agent left."""
    runs = [run for pod in containers.pods() for run in containers.runs(pod)]

    def inside() -> set[int]:
        return {pid for run in runs for pid in tools.cgroups.processes(run.record.cgroup) if pid != run.pid}

    executor.sweep(inside, number)


def _close_directories(data_dir: Path, run_dir: Path) -> None:
    """Make the agent's two directories, and close its own entries to others: one of the two may be /run."""
    for directory, names in ((data_dir, _CLOSED_DATA), (run_dir, _CLOSED_RUN)):
        _make_directory(directory)
        for entry in (directory / name for name in names):
            if entry.is_dir() and not entry.is_symlink():
                entry.chmod(0o700)


def _sole_user(run_dir: Path, data_dir: Path) -> LockFile:
    """Hold the run_dir, so that two agents never adopt each other's containers, and note the data_dir there.

    Raises:
        Stalled: another agent holds it.
    """
    try:
        # The note is for `tank agent --drain`.
        return LockFile(run_dir / _LOCK, os.fsencode(data_dir))
    except BlockingIOError:
        raise Stalled(
            f"another agent runs with {run_dir}", hint="give this one a --run-dir of its own"
        ) from None


def last_data_dir(run_dir: Path) -> Path | None:
    """Return the data_dir of the last agent that used a run_dir; None if there was none since the boot."""
    try:
        noted = Path(os.fsdecode((run_dir / _LOCK).read_bytes()))
    except OSError:
        return None
    return noted if noted.is_absolute() and noted.is_dir() else None


def end_pods(parts: Parts) -> bool:
    """Stop all pods, and return whether they ended in time."""
    if not parts.reconciler.alive():
        # The agent ended before it started the loop.
        return False
    ended = parts.reconciler.drain(_DRAIN_DEADLINE)
    if not ended:
        _log.error("some pods did not stop in time; the next agent takes them over")
    parts.tools.cgroups.remove_base()
    return ended
