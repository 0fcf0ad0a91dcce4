"""Volumes that are filled with what images have, by work in the background that wakes the pods at its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import partial

import structlog
from msgspec import Struct

from tank_agent.errors import Retry, TankError
from tank_agent.linux.tree_walk import WalkCancelledError
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.launch import Launch
from tank_agent.runtime.mounts.fill import Filler, FirstContent
from tank_agent.runtime.mounts.snapshots import CopyJob, amount_text

_log = structlog.get_logger()
FILLED, NOT_FILLED = "volume filled", "volume not filled"
_NOTHING: Mapping[str, str] = {}
# A shared volume is of no pod.
_Key = tuple[str | None, str]


class _Live(Struct, kw_only=True, eq=False):
    """A volume that is being filled, the containers that wait for it, with their pods, and why it failed."""

    filling: FirstContent
    work: CopyJob
    waiting: set[tuple[str, str]]
    error: TankError | None = None


class Fills:
    """The jobs, at most one for each volume, done among the pods' jobs of snapshots."""

    def __init__(self, filler: Filler, snapshots: Snapshots, wake: Callable[[str, str], None]) -> None:
        self._filler, self._snapshots, self._wake = filler, snapshots, wake
        self._lock = threading.Lock()
        self._jobs: dict[_Key, _Live] = {}

    def made(self, launch: Launch) -> bool:
        """Return whether the volumes that a container is to find filled are there; else begin to make them.

        Raises:
            TankError: one could not be made; the next call tries it again.
        """
        shared = {volume.name for volume in launch.volumes if volume.shared}
        ready = True
        for mount in launch.container.mounts:
            if mount.from_image and mount.volume is not None:
                pod = None if mount.volume in shared else launch.pod
                if not self._joined(launch, (pod, mount.volume)):
                    if self._filler.is_made(pod, mount.volume):
                        continue
                    filling = self._filler.open(launch, mount, pod)
                    if filling is None:
                        # It is made empty, with the container.
                        continue
                    self._begin(launch, filling)
                ready = False
        return ready

    def waits(self, pod: str) -> Mapping[str, str]:
        """Return what containers of a pod wait for, in words."""
        if not self._jobs:
            return _NOTHING
        with self._lock:
            found = {}
            for live in self._jobs.values():
                for name, container in live.waiting if live.error is None else ():
                    if name == pod:
                        found[container] = _words(live)
            return found

    def forget(self, pod: str) -> None:
        """Cancel what nobody waits for when a pod is gone."""
        with self._lock:
            for key, live in list(self._jobs.items()):
                live.waiting = {one for one in live.waiting if one[0] != pod}
                if not live.waiting:
                    live.work.cancelled = True
                    if live.error is not None:
                        del self._jobs[key]

    def close(self) -> None:
        """Cancel all; what is half done is removed by the next agent."""
        with self._lock:
            for live in self._jobs.values():
                live.work.cancelled = live.work.closing = True

    def _joined(self, launch: Launch, key: _Key) -> bool:
        """Wait for a job that there is; False if there is none."""
        with self._lock:
            live = self._jobs.get(key)
            if live is None:
                return False
            if live.error is not None:
                del self._jobs[key]
                raise live.error
            if live.work.cancelled:
                # Of a former pod of this name, about to end.
                raise Retry(f"volume {key[1]}: an earlier copy of what the image has is being ended")
            live.waiting.add((launch.pod, launch.container.name))
            return True

    def _begin(self, launch: Launch, filling: FirstContent) -> None:
        key, waiting = (filling.pod, filling.volume), {(launch.pod, launch.container.name)}
        live = _Live(filling=filling, work=CopyJob(), waiting=waiting)
        with self._lock:
            known = self._jobs.get(key)
            if known is None:
                self._jobs[key] = live
            else:
                known.waiting |= waiting
        if known is not None:
            os.close(filling.source)
        elif not self._snapshots.submit(launch.pod, partial(self._run, key, live)):
            self._ended(key, live, None)
            raise Retry("the agent is being stopped")

    def _run(self, key: _Key, live: _Live) -> None:
        error: TankError | None = None
        try:
            self._filler.fill(live.filling, live.work)
        except WalkCancelledError:
            pass
        except TankError as failed:
            error = failed
        except Exception as failed:
            _log.exception("filling a volume failed by a bug", volume=live.filling.volume)
            error = Retry(f"volume {live.filling.volume}: cannot fill it: {failed!r}")
        self._ended(key, live, error)

    def _ended(self, key: _Key, live: _Live, error: TankError | None) -> None:
        os.close(live.filling.source)
        with self._lock:
            live.error = error
            pods = {pod for pod, _ in live.waiting}
            if error is None or not pods:
                del self._jobs[key]
        for pod in pods:
            self._wake(pod, FILLED if error is None else NOT_FILLED)


def _words(live: _Live) -> str:
    done, total = live.work.progress.done, live.work.total
    amount = f" ({amount_text(done)} of {amount_text(total)} so far)" if total else ""
    return f"volume {live.filling.volume}, which gets what the image has at {live.filling.path}{amount}"
