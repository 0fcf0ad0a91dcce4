"""What systemd and its user ask of a running agent: readiness, watchdog, reload, and the end."""

from __future__ import annotations

import signal
from collections.abc import Callable
from operator import attrgetter

import structlog
from msgspec import Struct

from tank_agent.errors import TankError
from tank_agent.intake.loop import SourceLoop
from tank_agent.linux.systemd import Notifier
from tank_agent.linux.wakeups import CaughtSignals
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.runtime.container.containers import Containers
from tank_agent.runtime.session.log_rotation import Rotation
from tank_agent.settings.settings import Settings

_log = structlog.get_logger()
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How often `systemctl status` gets fresh figures, in seconds.
_TICK = 10.0
# What `_reload` applies; whatever else is in agent.toml counts when the agent is started again.
_LIVE = frozenset({"seed_dir", "reconcile", "logs", "file", "seeds", "seed_problems"})
# What needs a restart in a table that does not, and what users know another way.
_FOR_RESTART_BELOW = ("reconcile.workers",)
_NAMES = {"image": "image or registry"}


class Running(Struct, frozen=True, kw_only=True):
    """The parts of a running agent that signals concern; `plant_seeds` takes settings and a cause."""

    reconciler: Reconciler
    sources: SourceLoop
    backoff: Backoff
    containers: Containers
    rotation: Rotation
    plant_seeds: Callable[[Settings, str], None]

    def alive(self) -> bool:
        """Return whether every thread that the agent cannot do without still runs and takes its locks."""
        self.reconciler.idle()
        return all(part.alive() for part in (self.reconciler, self.sources, self.containers, self.rotation))


class Lifecycle:
    """Serves signals and the watchdog until the agent is asked to end.

    Args:
        running: the parts.
        settings: what they were made with.
        load: reads the settings again.
        notifier: systemd.
    """

    def __init__(
        self, running: Running, settings: Settings, load: Callable[[], Settings], notifier: Notifier
    ) -> None:
        self._running = running
        self._settings = settings
        self._load = load
        self._notifier = notifier

    def serve(self, signals: CaughtSignals) -> None:
        """Say that the agent is ready, and block until SIGTERM or SIGINT."""
        self._notifier.ready(self._summary())
        while True:
            number = signals.wait(min(self._notifier.watchdog or _TICK, _TICK))
            if number == signal.SIGHUP:
                self._notifier.reloading()
                self._notifier.ready(self._reload())
            elif number is not None:
                self._notifier.stopping()
                return
            if not self._running.alive():
                # systemd restarts the agent when it is no longer fed; the pods go on.
                _log.critical("a thread of the agent has ended by a bug; waiting for the watchdog")
                continue
            self._notifier.alive()
            if number is None:
                self._notifier.status(self._summary())

    def _reload(self) -> str:
        """Read the configuration again, apply what can be, and return a line about it."""
        try:
            wanted = self._load()
        except TankError as error:
            _log.error("cannot reload; the former configuration stays", error=str(error))
            return f"{self._summary()}; agent.toml has errors, the former one counts"
        running, paces = self._running, wanted.reconcile
        running.backoff.become(
            Backoff(base=paces.backoff_base, cap=paces.backoff_cap, stable_after=paces.stable_after)
        )
        running.sources.set_resync(paces.resync)
        running.rotation.set_limits(max_size=wanted.logs.max_size, max_files=wanted.logs.max_files)
        running.plant_seeds(wanted, "reload")
        for_restart = needs_restart(self._settings, wanted)
        _log.info("reloaded", needs_restart=list(for_restart))
        if not for_restart:
            return self._summary()
        changed = (
            f"{self._summary()}; changed and waiting for a restart of the agent: {', '.join(for_restart)}"
        )
        if {"data_dir", "run_dir"} & set(for_restart):
            changed += "; with other directories it will not know the pods that run: stop them before"
        return changed

    def _summary(self) -> str:
        return f"{len(self._running.reconciler.known_pods())} pods"


def needs_restart(former: Settings, wanted: Settings) -> tuple[str, ...]:
    """Return the keys that differ and count only when the agent is started again."""
    keys = [key for key in Settings.__struct_fields__ if key not in _LIVE]
    changed = [
        key for key in (*keys, *_FOR_RESTART_BELOW) if attrgetter(key)(former) != attrgetter(key)(wanted)
    ]
    return tuple(_NAMES.get(key, key) for key in changed)
