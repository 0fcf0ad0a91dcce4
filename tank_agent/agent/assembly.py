"""The agent: every part made and joined together, in the order in which they need each other."""

from __future__ import annotations

import os
import platform
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from tank_agent import __version__
from tank_agent.agent import logging as logs
from tank_agent.agent import structs
from tank_agent.agent.lifecycle import SIGNALS, Lifecycle, Running
from tank_agent.agent.unable import as_trouble, unable
from tank_agent.api.server import ApiServer
from tank_agent.control.images import Images
from tank_agent.control.pods import Service
from tank_agent.control.sessions import Interactive
from tank_agent.control.sources import GitOps
from tank_agent.errors import InvalidSpec, Retry, Stalled, TankError
from tank_agent.image.store.store import ImageStore
from tank_agent.intake.events import record_for_pods
from tank_agent.intake.git import GitFollower
from tank_agent.intake.loop import SourceLoop
from tank_agent.intake.seeding import Seeding
from tank_agent.journal.journal import Journal, owner_is_there
from tank_agent.journal.lmdb import LmdbStore
from tank_agent.journal.store import MemoryStore, UnreadableJournal
from tank_agent.linux.clock import SystemClock, boot_id
from tank_agent.linux.locks import LockFile
from tank_agent.linux.process import version as program_version
from tank_agent.linux.systemd import Notifier
from tank_agent.linux.wakeups import CaughtSignals
from tank_agent.network.host_facts import make_host_facts
from tank_agent.network.pod_network import PodNetworks
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.networks import Networks
from tank_agent.reconcile.pulls import Pulls
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.reconcile.steps import Machine, Steps
from tank_agent.runtime.container.adopt import adopt_all
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.launch import Seccomp, Tools
from tank_agent.runtime.limits import cgroup
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.security import apparmor
from tank_agent.runtime.security.seccomp import profile_of
from tank_agent.runtime.security.seccomp_cache import SeccompCache
from tank_agent.runtime.session.exec import Executor
from tank_agent.runtime.session.log_rotation import Rotation
from tank_agent.settings.settings import Settings
from tank_agent.source.directory import DirectorySource
from tank_agent.source.files import parser_for
from tank_agent.source.seed import SeedSource
from tank_agent.source.watch import DirectoryWatcher
from tank_agent.spec.model import Security
from tank_agent.spec.selectors import Host, selects

_log = structlog.get_logger()
_DRAIN_DEADLINE = 120.0
_LOCK = "agent.lock"
# What the agent makes in data_dir and run_dir; an older one may have left it open to others.
_CLOSED_DATA = (
    "base", "cache", "git", "images", "journal", "logs", "overlay", "skeleton", "trash", "volumes",
)  # fmt: skip
_CLOSED_RUN = ("cgroup-view", "containers", "crun", "exec", "netns", "pods")
# How long to wait before the next try where the machine does not let us work, in seconds.
_START_AGAIN = 5.0


def run(load: Callable[[], Settings], *, stop_pods: bool) -> int:
    """Run the agent until SIGTERM or SIGINT, and return its exit code.

    Containers go on when it ends, unless `stop_pods` is set. `load` reads the settings, now and on SIGHUP.

    Raises:
        InvalidSpec: the settings are wrong.
        Stalled: this machine cannot run containers, or another agent uses one of the directories.
    """
    settings = load()
    _prepare()
    notifier = Notifier(os.environ)
    with CaughtSignals(SIGNALS) as signals, ExitStack() as stack:
        running = _start(settings, signals, notifier, stack, stop_pods=stop_pods)
        if running is not None:
            _log.info("agent started", version=__version__, pods_dir=str(settings.pods_dir), pid=os.getpid())
            Lifecycle(running, settings, load, notifier).serve(signals)
            _log.info("agent stops", pods="stopping" if stop_pods else "go on")
    _log.info("agent stopped")
    return 0


def _start(
    settings: Settings, signals: CaughtSignals, notifier: Notifier, stack: ExitStack, *, stop_pods: bool
) -> Running | None:
    """Start all parts as soon as the machine lets us; None if the agent is to end before.

    Meanwhile whoever asks is told what is wrong.
    """
    logged = ""
    while True:
        try:
            return stack.enter_context(_running(settings, stop_pods=stop_pods))
        except (Retry, UnreadableJournal, OSError, MemoryError, RuntimeError) as error:
            trouble = as_trouble(error)
        # Once, not at each try: a full disk is not helped by a log that grows for hours.
        if logged != str(trouble):
            logged = str(trouble)
            _log.error("cannot work yet; trying again every few seconds", trouble=logged)
        server = ApiServer(unable(trouble), settings.run_dir / "tank.sock")
        with suppress(OSError, RuntimeError, TankError):
            server.start()
        notifier.ready(f"cannot work yet: {trouble.message}")
        number = signals.wait(_START_AGAIN)
        server.stop()
        notifier.alive()
        if number is not None and number != signal.SIGHUP:
            notifier.stopping()
            return None


def drain(load: Callable[[], Settings], directories: Callable[[], Settings]) -> int:
    """Take over the pods that a former agent left running, stop them, and return 0 if all of them ended.

    They stay desired: the next agent starts them again. Where `load` finds errors in the settings, which must
    keep no machine from going down in order, `directories` has to do.

    Raises:
        Stalled: an agent runs; it must be stopped first.
    """
    _prepare()
    try:
        settings = load()
    except InvalidSpec as error:
        _log.error("the settings have errors; stopping pods with the defaults", error=str(error))
        settings = directories()
    known = _last_data_dir(settings.run_dir)
    if known is not None:
        # Whatever the settings have become since.
        settings = msgspec.structs.replace(settings, data_dir=known)
    with ExitStack() as stack:
        try:
            parts = _take_over(settings, stack, spare=Journal(MemoryStore(), clock=SystemClock().wall))
            parts.reconciler.start()
        except (OSError, MemoryError, RuntimeError) as error:
            raise as_trouble(error) from error
        return 0 if _end_pods(parts) else 1


def _prepare() -> None:
    logs.configure()
    if os.geteuid() != 0:
        raise Stalled("the agent must be run as root", hint="sudo tank agent")
    # What the agent makes is for root, whatever umask it was started with.
    os.umask(0o077)
    structs.prepare()


class _Parts(Struct, frozen=True, kw_only=True):
    """The loop and what it works with, before anything tells it what to do."""

    machine: Machine
    reconciler: Reconciler
    tools: Tools
    store: ImageStore
    lock: LockFile


@contextmanager
def _running(settings: Settings, *, stop_pods: bool) -> Iterator[Running]:
    """Start all parts, and end them in the opposite order."""
    with ExitStack() as stack:
        parts = _take_over(settings, stack)
        machine, reconciler = parts.machine, parts.reconciler
        if stop_pods:
            stack.callback(_end_pods, parts)
        apparmor.load_default()
        host = Host(name=platform.node(), labels=settings.labels)
        mending: list[Callable[[], object]] = []
        sources, seeding = _sources(settings, host, machine.journal, reconciler, stack, mending=mending)
        git = _follow_git(settings, host, machine.journal, sources, stack)
        reconciler.start()
        reconciler.resync("agent start")
        rotation = _rotation(settings, machine.containers, stack)
        service = Service(
            settings,
            machine,
            reconciler,
            lambda: _tool_versions(parts.tools),
            sessions=_interactive(settings, machine, parts.tools, reconciler),
            images=Images(parts.store, machine, reconciler),
            sources=GitOps(
                machine.journal, sources, git, host, directories=(settings.pods_dir, settings.seed_dir)
            ),
        )
        server = ApiServer(service, settings.run_dir / "tank.sock")
        stack.callback(server.stop)
        mend = partial(_mend_run_dir, settings.run_dir, parts.lock, server)
        mend()
        mending.append(mend)

        def plant_seeds(wanted: Settings, cause: str) -> None:
            seeding.plant(_seeds(wanted, host), cause)

        yield Running(
            reconciler=reconciler,
            sources=sources,
            backoff=machine.backoff,
            containers=machine.containers,
            rotation=rotation,
            plant_seeds=plant_seeds,
        )


def _take_over(settings: Settings, stack: ExitStack, *, spare: Journal | None = None) -> _Parts:
    """Make the loop, and take over what a former agent left; `spare` is for a journal that can't be had."""
    _close_directories(settings.data_dir, settings.run_dir)
    lock = _sole_user(settings.run_dir, settings.data_dir)
    stack.callback(lock.close)
    clock, boot = SystemClock(), boot_id()
    journal = _journal(settings, clock, spare)
    stack.callback(journal.close)
    tools = _tools(settings, cgroup.detect(settings.run_dir))
    wakeups = _Wakeups()
    containers = Containers(
        settings.run_dir, settings.data_dir, tools, wake=lambda pod: wakeups.wake(pod, "container ended")
    )
    stack.callback(containers.close)
    host = make_host_facts(settings.host.adapter, settings.host.uplink, settings.host.dns)
    networks = Networks(PodNetworks(settings.run_dir, host), host, settings.run_dir, clock)
    paces = settings.reconcile
    backoff = Backoff(base=paces.backoff_base, cap=paces.backoff_cap, stable_after=paces.stable_after)
    store = ImageStore(settings.data_dir, settings.image)
    stack.callback(store.close)
    pulls = Pulls(
        store,
        clock,
        backoff,
        wakeups.wake,
        policy=settings.image.pull,
        prepare=store.sweep,
        report=partial(record_for_pods, journal),
    )
    stack.callback(pulls.close)
    machine = Machine(
        journal=journal,
        containers=containers,
        networks=networks,
        pulls=pulls,
        clock=clock,
        boot_id=boot,
        backoff=backoff,
    )
    reconciler = Reconciler(machine, Steps(machine), workers=paces.workers)
    wakeups.target = reconciler
    adopted = adopt_all(containers, tools, clock.wall())
    networks.adopt(containers.processes())
    _log.info("took over", runs=len(adopted), pods=len(containers.pods()))
    stack.callback(reconciler.close)
    return _Parts(machine=machine, reconciler=reconciler, tools=tools, store=store, lock=lock)


def _journal(settings: Settings, clock: SystemClock, spare: Journal | None) -> Journal:
    owner_exists = partial(owner_is_there, follows_git=settings.git is not None)
    try:
        return Journal(LmdbStore(settings.data_dir / "journal"), clock=clock.wall, owner_exists=owner_exists)
    except (Retry, UnreadableJournal) as error:
        if spare is None:
            raise
        _log.error("stopping pods without the journal", error=str(error))
        return spare


def _make_directory(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    # Members of the group must reach the socket, and nobody may list what is there.
    directory.chmod(0o711)


def _rotation(settings: Settings, containers: Containers, stack: ExitStack) -> Rotation:
    """Begin to rotate logs."""
    limits = settings.logs
    rotation = Rotation(containers, max_size=limits.max_size, max_files=limits.max_files)
    rotation.start()
    stack.callback(rotation.close)
    return rotation


def _mend_run_dir(run_dir: Path, lock: LockFile, server: ApiServer) -> None:
    """Make again what the agent itself needs there; somebody may have emptied it."""
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


def _interactive(settings: Settings, machine: Machine, tools: Tools, reconciler: Reconciler) -> Interactive:
    """End what sessions of a former agent left."""
    containers = machine.containers
    executor = Executor(tools.crun, settings.run_dir, tools.cgroups)
    runs = [run for pod in containers.pods() for run in containers.runs(pod)]
    executor.sweep(
        lambda: {pid for run in runs for pid in tools.cgroups.processes(run.record.cgroup) if pid != run.pid}
    )
    return Interactive(machine.journal, containers, reconciler, executor)


def _close_directories(data_dir: Path, run_dir: Path) -> None:
    """Make the agent's two directories, and close to others what an older version left open in them.

    By name: either may be a directory that others use, too, such as /run.
    """
    for directory, names in ((data_dir, _CLOSED_DATA), (run_dir, _CLOSED_RUN)):
        _make_directory(directory)
        for entry in (directory / name for name in names):
            if entry.is_dir() and not entry.is_symlink():
                entry.chmod(0o700)


class _Wakeups:
    """Stands for the reconciler in the parts that must be made before it."""

    def __init__(self) -> None:
        self.target: Reconciler | None = None

    def wake(self, pod: str, cause: str) -> None:
        """Pass a wish on; what comes before the loop exists is seen by its first look at everything."""
        if self.target is not None:
            self.target.wake(pod, cause)


def _sole_user(run_dir: Path, data_dir: Path) -> LockFile:
    """Hold the run_dir, so that two agents never adopt each other's containers, and note the data_dir there.

    Raises:
        Stalled: another agent holds it.
    """
    try:
        # For who drains.
        return LockFile(run_dir / _LOCK, os.fsencode(data_dir))
    except BlockingIOError:
        raise Stalled(
            f"another agent runs with {run_dir}", hint="give this one a --run-dir of its own"
        ) from None


def _last_data_dir(run_dir: Path) -> Path | None:
    """Return the data_dir of the last agent that used a run_dir; None if there was none since the boot."""
    try:
        noted = Path(os.fsdecode((run_dir / _LOCK).read_bytes()))
    except OSError:
        return None
    return noted if noted.is_absolute() and noted.is_dir() else None


def _tools(settings: Settings, cgroups: CgroupHost) -> Tools:
    machine = platform.machine()
    crun = Crun("crun", settings.run_dir, cgroups)

    # crun may come, or be mended, after the agent.
    @lru_cache(maxsize=2)
    def cache(crun_version: str) -> SeccompCache:
        return SeccompCache(settings.data_dir, crun_version=crun_version, machine=machine)

    def seccomp(security: Security) -> Seccomp:
        profile = profile_of(security, machine)
        compiled = cache(crun.version()).annotation_for(profile) if profile else None
        return Seccomp(profile=profile, compiled=compiled)

    return Tools(
        crun=crun,
        conmon="conmon",
        cgroups=cgroups,
        root_filesystems=RootFilesystems(settings.data_dir),
        volumes=Volumes(settings.data_dir, settings.run_dir),
        seccomp=seccomp,
        learn_seccomp=lambda profile, bpf: cache(crun.version()).learn(profile, bpf),
        apparmor=apparmor.profile_of,
    )


def _tool_versions(tools: Tools) -> dict[str, str]:
    said = {"crun": program_version("crun"), "conmon": program_version(tools.conmon)}
    return {name: text.partition("\n")[0].rpartition(" ")[2] for name, text in said.items()}


def _sources(
    settings: Settings,
    host: Host,
    journal: Journal,
    reconciler: Reconciler,
    stack: ExitStack,
    *,
    mending: Sequence[Callable[[], object]],
) -> tuple[SourceLoop, Seeding]:
    """Read all files once, and begin to follow pods_dir; each resync calls all of `mending` too."""
    directory = DirectorySource(
        settings.pods_dir,
        remember=journal.remember,
        recall=journal.recall,
        parse=parser_for(host),
        # Where all pods come from git, nobody needs the directory.
        optional=settings.git is not None,
    )

    def resync() -> None:
        for mend in mending:
            mend()
        seeding.catch_up()
        reconciler.resync()

    loop = SourceLoop(
        [directory],
        journal,
        wake=reconciler.wake,
        each_resync=resync,
        resync=settings.reconcile.resync,
        clock=SystemClock(),
    )
    seeding = Seeding(journal, reconciler.wake, loop.suspended, loop.unstored.note)
    watcher = DirectoryWatcher(settings.pods_dir, loop.notify, _tell_watch)
    # Watching begins before the first look: what changes in between is seen twice, never missed.
    watcher.start()
    stack.callback(watcher.stop)
    loop.start()
    stack.callback(loop.close)
    seeding.plant(_seeds(settings, host), "agent start")
    return loop, seeding


def _tell_watch(trouble: str | None) -> None:
    if trouble is not None:
        _log.warning("changes in pods_dir are seen at the next resync only", trouble=trouble)
    else:
        _log.info("pods_dir is watched")


def _follow_git(
    settings: Settings, host: Host, journal: Journal, loop: SourceLoop, stack: ExitStack
) -> GitFollower | None:
    """Begin to follow the repository that agent.toml names."""
    if settings.git is None:
        return None
    follower = GitFollower(
        settings.git,
        directory=settings.data_dir / "git",
        host=host,
        journal=journal,
        publish=loop.publish,
        suspended=loop.suspended,
    )
    follower.start()
    stack.callback(follower.close)
    return follower


def _seeds(settings: Settings, host: Host) -> SeedSource:
    """Return the seeds of seed_dir and of agent.toml that are for this machine."""
    return SeedSource(
        settings.seed_dir,
        pods=tuple(seed.pod for seed in settings.seeds if selects(seed.selector, host)),
        problems=settings.seed_problems,
        config_file=str(settings.file or ""),
        parse=parser_for(host),
    )


def _end_pods(parts: _Parts) -> bool:
    if not parts.reconciler.alive():
        # It never got that far.
        return False
    ended = parts.reconciler.drain(_DRAIN_DEADLINE)
    if not ended:
        _log.error("some pods did not stop in time; the next agent takes them over")
    parts.tools.cgroups.remove_base()
    return ended
