"""The agent as a process: its start, its service until a signal, and the drain of its pods."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from operator import attrgetter
from typing import NoReturn, cast

import msgspec
import structlog

from tank_agent import __version__
from tank_agent.agent import assembly
from tank_agent.agent import logging as logs
from tank_agent.agent.assembly import Running
from tank_agent.agent.outward import told_of_start
from tank_agent.api.server import ApiServer
from tank_agent.api.wire import subclasses
from tank_agent.control.pods import Service
from tank_agent.errors import InvalidSpec, Retry, Stalled, TankError, shortage
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore, UnreadableJournal
from tank_agent.linux.clock import Clock
from tank_agent.linux.systemd import Notifier
from tank_agent.linux.wakeups import CaughtSignals
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.settings.declaration import for_restart
from tank_agent.settings.settings import Settings

# Seconds between two tries to start on a machine that lacks something.
_START_AGAIN = 5.0
_HINT = "pods go on as they are; the agent tries again every few seconds"
_log = structlog.get_logger()
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds between two updates of `systemctl status`.
_TICK = 10.0
# The settings that `_reload` does not apply.
_FOR_RESTART = tuple(for_restart(Settings))


def run(load: Callable[[], Settings], *, stop_pods: bool) -> int:
    """Run the agent until SIGTERM or SIGINT, and return its exit code.

    Containers continue when it ends, unless `stop_pods` is set. `load` reads the settings, now and on SIGHUP.

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
            _serve(running, settings, load, notifier, signals)
            _log.info("agent stops", pods="stopping" if stop_pods else "go on")
    _log.info("agent stopped")
    return 0


def _start(
    settings: Settings, signals: CaughtSignals, notifier: Notifier, stack: ExitStack, *, stop_pods: bool
) -> Running | None:
    """Start all parts as soon as that is possible, and answer requests with the error until then.

    Returns None if the agent is asked to end before.
    """
    logged, told = "", told_of_start(settings)
    while True:
        try:
            running = stack.enter_context(assembly.running(settings, stop_pods=stop_pods))
            told.can()
            return running
        except (Retry, UnreadableJournal, OSError, MemoryError, RuntimeError) as error:
            trouble = as_trouble(error)
        # Once, not at each try, since a log that grows for hours would fill a full disk further.
        if logged != str(trouble):
            logged = str(trouble)
            _log.error("cannot work yet; trying again every few seconds", trouble=logged)
        told.cannot(trouble)
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

    They stay desired: the next agent starts them again. If `load` finds errors in the settings, which must
    keep no machine from an orderly shutdown, the defaults with the `directories` serve.

    Raises:
        Stalled: an agent runs; it must be stopped first.
    """
    _prepare()
    try:
        settings = load()
    except InvalidSpec as error:
        _log.error("the settings have errors; stopping pods with the defaults", error=str(error))
        settings = directories()
    known = assembly.last_data_dir(settings.run_dir)
    if known is not None:
        # The settings may have changed since.
        settings = msgspec.structs.replace(settings, data_dir=known)
    with ExitStack() as stack:
        try:
            parts = assembly.take_over(settings, stack, spare=Journal(MemoryStore(), clock=Clock().wall))
            parts.reconciler.start()
        except (OSError, MemoryError, RuntimeError) as error:
            raise as_trouble(error) from error
        return 0 if assembly.end_pods(parts) else 1


def _prepare() -> None:
    logs.configure()
    if os.geteuid() != 0:
        raise Stalled("the agent must be run as root", hint="sudo tank agent")
    # Files of the agent are for root only, whatever umask it was started with.
    os.umask(0o077)
    prepare_structs()


def _serve(
    running: Running,
    settings: Settings,
    load: Callable[[], Settings],
    notifier: Notifier,
    signals: CaughtSignals,
) -> None:
    """Report that the agent is ready, and serve signals and the watchdog until SIGTERM or SIGINT."""
    remark = ""
    notifier.ready(_summary(running))
    while True:
        number = signals.wait(min(notifier.watchdog or _TICK, _TICK))
        if number == signal.SIGHUP:
            notifier.reloading()
            remark = _reload(running, settings, load)
            notifier.ready(_summary(running) + remark)
        elif number is not None:
            notifier.stopping()
            return
        if not running.alive():
            # systemd restarts an agent that does not feed the watchdog; the pods continue.
            _log.critical("a thread of the agent has ended by a bug; waiting for the watchdog")
            continue
        notifier.alive()
        if number is None:
            notifier.status(_summary(running) + remark)


def _reload(running: Running, settings: Settings, load: Callable[[], Settings]) -> str:
    """Read the configuration again, apply what can be, and return what is to be said until the next time."""
    try:
        wanted = load()
    except TankError as error:
        _log.error("cannot reload; the former configuration stays", error=str(error))
        return "; agent.toml has errors, the former one counts"
    paces = wanted.reconcile
    running.machine.backoff.become(
        Backoff(base=paces.backoff_base, cap=paces.backoff_cap, stable_after=paces.stable_after)
    )
    running.intake.reload(wanted)
    running.machine.networks.set_host_access(enabled=wanted.network.host_access)
    running.image_checks.reload(wanted.image.check)
    running.machine.snapshots.keep_newest = wanted.volumes.snapshot_keep
    running.rotation.set_limits(max_size=wanted.logs.max_size, max_files=wanted.logs.max_files)
    for_restart = needs_restart(settings, wanted)
    _log.info("reloaded", needs_restart=list(for_restart))
    remark = ""
    if for_restart:
        remark += f"; changed and waiting for a restart of the agent: {', '.join(for_restart)}"
    if {"data_dir", "run_dir"} & set(for_restart):
        remark += "; with other directories it will not know the pods that run: stop them before"
    return remark


def _summary(running: Running) -> str:
    return f"{len(running.reconciler.known_pods())} pods"


def needs_restart(former: Settings, wanted: Settings) -> tuple[str, ...]:
    """Return the keys that differ and count only when the agent is started again."""
    return tuple(key for key in _FOR_RESTART if attrgetter(key)(former) != attrgetter(key)(wanted))


def prepare_structs() -> None:
    """Let msgspec prepare every struct of the package that is defined by now, before threads read them.

    It would do so when a struct is first read, in Python code that other threads may interrupt; another first
    reader then finds half of the work, and the process crashes (SIGSEGV, seen with 0.22).
    """
    for kind in set(subclasses(msgspec.Struct)):
        if kind.__module__.startswith("tank_agent."):
            msgspec.json.Decoder(kind)


def as_trouble(error: Exception) -> TankError:
    """Turn an error of the machine, raised while the agent was starting, into one for users.

    Raises:
        Exception: the error itself, if it is a bug.
    """
    if isinstance(error, TankError):
        return error
    if isinstance(error, OSError):
        where = os.fsdecode(error.filename) if error.filename else None
        return Retry(f"cannot start: {error.strerror or error}", where=where, hint=_HINT)
    if shortage(error) is not None:
        limits = "give it more memory, address space or threads (ulimit -a, LimitAS=, TasksMax=)"
        return Retry("cannot start: the machine, or a limit of the agent, is too small", hint=limits)
    raise error


def unable(trouble: TankError) -> Service:
    """Return a service that answers every call with this error."""
    return cast(Service, _Unable(trouble))


class _Unable:
    def __init__(self, trouble: TankError) -> None:
        self._trouble = trouble

    def __getattr__(self, name: str) -> NoReturn:
        raise self._trouble
