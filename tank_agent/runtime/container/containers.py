"""All containers of this agent: made, started, stopped, watched, adopted and removed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from tank_agent.errors import TankError
from tank_agent.linux import pidfd
from tank_agent.linux.fault import point
from tank_agent.linux.mount_namespaces import MountWatch
from tank_agent.retry import Pace, spread
from tank_agent.runtime.container import conmon, instance, removal
from tank_agent.runtime.container.control import Control
from tank_agent.runtime.container.ending import read_exit, unknown_exit
from tank_agent.runtime.container.exits import ExitWatcher
from tank_agent.runtime.container.instance import ChangeFailure, State, Stopping, Unmounted
from tank_agent.runtime.container.launch import Launch, make_bundle, record_of
from tank_agent.runtime.container.live import Live
from tank_agent.runtime.container.tools import Tools
from tank_agent.runtime.limits import limits
from tank_agent.runtime.mounts import mounting
from tank_agent.runtime.mounts.rootfs import MOUNT_POINT
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.security import user_namespace
from tank_agent.runtime.security.user_namespace import free_range
from tank_agent.runtime.session.attach import Consoles
from tank_agent.runtime.session.output import last_bytes
from tank_agent.spec.model import Container, Volume
from tank_agent.spec.signals import signal_number

_log = structlog.get_logger()
# How long a killed process may take to be gone before it is killed again.
_KILL_AGAIN = 5.0
# Of a change, of a limit or a mount, that the kernel refused.
_CHANGE_PACE = Pace(base=1.0, cap=30.0)
# How much of a terminal's output a new agent takes from the log, for those who attach later, in bytes.
_SHOWN_AGAIN = 16 << 10


class Containers:
    """Makes, watches and removes runs. Calls for different pods may come from different threads.

    Args:
        run_dir: runs live in its `containers` directory.
        data_dir: logs go to `logs/<pod>/<container>.log`.
        tools: what runs are made with.
        wake: called with a pod's name when one of its runs has ended.
        now: Unix time.
    """

    def __init__(
        self,
        run_dir: Path,
        data_dir: Path,
        tools: Tools,
        *,
        wake: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.directory = run_dir / "containers"
        self.logs = data_dir / "logs"
        self._make_directory()
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._tools = tools
        self._wake = wake
        self._now = now
        self.control = Control()
        self.consoles = Consoles(self.control)
        self._watcher = ExitWatcher()
        self._mounts = MountWatch()
        self._limit_swap = limits.has_swap_limit(tools.cgroups)
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, Live]] = {}
        # Held where an end is dealt with: by events, by the resync, and by who gives its descriptors back.
        self._ends = threading.RLock()

    def runs(self, pod: str) -> tuple[Live, ...]:
        """Return a pod's runs; touches no disk."""
        with self._lock:
            return tuple(self._runs.get(pod, {}).values())

    def pods(self) -> frozenset[str]:
        """Return the pods that have a run."""
        with self._lock:
            return frozenset(self._runs)

    def processes(self) -> dict[str, tuple[int, ...]]:
        """Return the main processes that live, of every pod that has a run."""
        with self._lock:
            runs = {pod: tuple(found.values()) for pod, found in self._runs.items()}
        return {
            pod: tuple(run.pid for run in found if run.pid is not None and run.process is not None)
            for pod, found in runs.items()
        }

    def create(self, launch: Launch) -> Live:
        """Make a run up to the point where its program waits to be started.

        What is left of a run that fails half-way is in `runs` as PARTIAL.

        Raises:
            StartFailed: the runtime refused it.
            Stalled, Retry: as `make_bundle`.
        """
        run = self._begin(launch)
        try:
            seccomp = self._tools.seccomp(launch.container.security)
            make_bundle(
                launch,
                instance=run.record.id,
                bundle=run.directory,
                cgroup=run.record.cgroup,
                root_filesystems=self._tools.root_filesystems,
                volumes=self._tools.volumes,
                seccomp=seccomp,
                limits=limits.effective(self._tools.cgroups, launch.container.limits),
                limit_swap=self._limit_swap,
                apparmor=self._tools.apparmor(launch.container.security),
                ids=run.record.ids,
            )
            run.record = msgspec.structs.replace(run.record, root=_identity(run.directory / MOUNT_POINT))
            self._keep(run)
            point("runtime:bundle-made")
            log = self.log(launch.pod, launch.container.name)
            log.parent.mkdir(mode=0o700, exist_ok=True)
            run.pid = conmon.create(
                self._tools.conmon,
                self._tools.crun,
                run.directory,
                run.record,
                log,
                place=self._tools.cgroups.place_monitor,
            )
            point("runtime:created")
        finally:
            if run.record.ids is not None:
                user_namespace.take_back_null_device()
            # The container holds them by now, or there is none.
            removal.detach(run.directory, self._tools)
        self._open(run)
        if run.record.terminal:
            # Before its program begins, so that not one byte of it is missed.
            self.consoles.open(run.directory)
        if seccomp.profile is not None and seccomp.compiled is None:
            self._tools.learn_seccomp(seccomp.profile, self._tools.crun.root / run.record.id / "seccomp.bpf")
        return run

    def start(self, run: Live) -> None:
        """Let a created run's program begin, and watch for its end.

        Raises:
            StartFailed: the runtime refused it.
        """
        self._tools.crun.start(run.record.id)
        point("runtime:started")
        run.started = True
        self._watch(run)

    def log(self, pod: str, container: str) -> Path:
        """Return the file that a container's output goes to, over all its runs."""
        return self.logs / pod / f"{container}.log"

    def stop(self, run: Live) -> None:
        """Send a run its stop signal; from now on its deadline counts."""
        if run.process is not None:
            pidfd.send_signal(run.process, run.record.stop_signal)
        point("runtime:signalled")
        self._note(run, Stopping(deadline=time.monotonic() + run.record.stop_grace))

    def kill(self, run: Live) -> None:
        """Send SIGKILL to a run, and to what else is in its cgroup if its main process is gone."""
        alive = run.process is not None and pidfd.send_signal(run.process, signal.SIGKILL)
        if not alive:
            removal.kill_group(run.record.cgroup, self._tools)
        # Afterwards, so that what was frozen does nothing more than die.
        self._tools.cgroups.thaw(run.record.cgroup)
        self._note(run, Stopping(deadline=time.monotonic() + _KILL_AGAIN, killed=True))

    def _note(self, run: Live, stopping: Stopping) -> None:
        """Remember that a run was asked to end; the next agent, where nothing can be written, asks again."""
        run.stopping = stopping
        try:
            instance.write(run.directory, instance.STOPPING, stopping)
        except OSError as error:
            _log.warning("cannot note that a container ends", id=run.record.id, error=str(error))

    def remove(self, run: Live) -> None:
        """Remove everything that a run made, except its log. Can be repeated after a crash.

        Raises:
            Retry: something of it is still busy.
        """
        removal.remove(run, self._tools, forget=lambda: self._forget(run))

    def change(self, run: Live, container: Container, settings: str) -> None:
        """Change a run's limits and how it is stopped, while it runs; `settings` is the hash of both.

        Raises:
            Stalled, Retry: as `limits.write`; it is remembered, and shown.
        """
        record = run.record
        try:
            limits.write(self._tools.cgroups, record.cgroup, container.limits)
        except TankError as error:
            known = run.failure
            if known is None or known.settings != settings:
                known = ChangeFailure(settings=settings)
            run.failure = known.again(str(error), _CHANGE_PACE, time.monotonic(), spread(record.id))
            raise
        chosen = container.stop_signal
        run.record = msgspec.structs.replace(
            record,
            settings=settings,
            limits=container.limits,
            stop_signal=signal_number(chosen) if chosen is not None else record.image_stop_signal,
            stop_grace=container.stop_grace,
        )
        self._keep(run)
        run.drift = run.failure = None

    def look(self, pod: str, files: Path) -> None:
        """Notice which mounts the runs of a pod lost; `files` is the directory with the pod's files."""
        for run in self.runs(pod):
            # Another thread may close the run's own; a number that is used again must not lead elsewhere.
            with self._ends:
                process = os.dup(run.process) if run.process is not None else None
            if process is None or run.state is not State.RUNNING:
                continue
            try:
                run.looked = True
                paths = mounting.lost(process, run.record, files)
                known = run.unmounted or Unmounted(paths=paths)
                run.unmounted = msgspec.structs.replace(known, paths=paths) if paths else None
            except OSError:
                # It ended meanwhile; else there is another look.
                run.looked = False
            finally:
                os.close(process)

    def mount_again(self, run: Live, container: Container, volumes: Sequence[Volume], files: Path) -> None:
        """Bring back the mounts that a run lost, while it goes on.

        Raises:
            Stalled, Retry: as `mounting.mount_again`; it is remembered, and shown.
        """
        if run.process is None:
            return
        try:
            mounting.mount_again(
                run.process,
                run.record,
                run.directory,
                wanted=container.mounts,
                volumes=volumes,
                files=files,
                binder=self.volumes,
            )
        except TankError as error:
            known = run.unmounted or Unmounted(paths=())
            run.unmounted = known.again(str(error), _CHANGE_PACE, time.monotonic(), spread(run.record.id))
            raise
        run.unmounted = None

    def usage(self, pod: str) -> dict[str, limits.Usage]:
        """Return what the containers of a pod that run use now, by name."""
        found = {}
        for run in self.runs(pod):
            used = limits.usage(self._tools.cgroups, run.record.cgroup)
            if used is not None and run.state is State.RUNNING:
                found[run.record.container] = used
        return found

    @property
    def volumes(self) -> Volumes:
        """Return the volumes that runs are made with."""
        return self._tools.volumes

    def told_out_of_memory(self, run: Live) -> None:
        """Forget that a process of a run was killed for want of memory, so that the next time is seen."""
        (run.directory / conmon.OUT_OF_MEMORY).unlink(missing_ok=True)
        run.out_of_memory = False

    def check(self) -> frozenset[str]:
        """Notice what no event told: runs whose end was missed, monitors that hang, limits that were lost.

        For the resync. Returns the pods whose mounts are to be looked at.
        """
        with self._lock:
            runs = [run for runs in self._runs.values() for run in runs.values()]
        changed = self._mounts.changed()
        self._tools.crun.sweep()
        with self._ends:
            alive = self._deal_with_ends(runs)
        for run in runs:
            if run.record.id in changed:
                run.looked = False
            if run.record.id in alive:
                run.drift = limits.lost(self._tools.cgroups, run.record.cgroup, run.record.limits)
                run.out_of_memory = os.path.exists(f"{run.directory}/{conmon.OUT_OF_MEMORY}")
                self._mend(run)
        return frozenset(run.record.pod for run in runs if run.state is State.RUNNING and not run.looked)

    def _mend(self, run: Live) -> None:
        """Make a run's directory again: conmon writes there how it ended."""
        if os.path.exists(f"{run.directory}/{instance.RECORD}"):
            return
        try:
            self._make_directory()
            self._keep(run)
        except OSError as error:
            _log.warning("cannot write what was removed", id=run.record.id, error=str(error))

    def alive(self) -> bool:
        """Return whether the threads that watch and serve containers run."""
        return self._watcher.alive() and self.consoles.alive()

    def close(self) -> None:
        """Stop watching. Containers go on."""
        self._watcher.close()
        self._mounts.close()
        self.consoles.stop()
        self._tools.root_filesystems.close()
        self._tools.crun.sweep(at_rest=True)
        with self._lock:
            runs = [run for runs in self._runs.values() for run in runs.values()]
            self._runs.clear()
        for run in runs:
            run.close()

    def adopt(self, run: Live) -> None:
        """Take over a run that a former agent made; `tank_agent.runtime.container.adopt` found it."""
        with self._lock:
            self._runs.setdefault(run.record.pod, {})[run.record.id] = run
        if run.started and run.exit is None:
            self._mend(run)
            self._watch(run)
            if run.record.terminal and run.monitor is not None:
                printed = last_bytes(self.log(run.record.pod, run.record.container), _SHOWN_AGAIN)
                self.consoles.open(run.directory, printed)

    def _deal_with_ends(self, runs: Sequence[Live]) -> set[str]:
        """Deal with the ends that no event told of, and return the runs that go on; with `_ends` held."""
        ended = pidfd.which_ended([fd for run in runs for fd in (run.monitor, run.process) if fd is not None])
        alive = set()
        for run in runs:
            if run.state is not State.RUNNING or run.process is None or run.monitor is None:
                continue
            if run.monitor in ended:
                self._monitor_ended(run)
            elif run.process in ended:
                # The monitor follows within milliseconds; one that has not long after hangs.
                run.ended_at = run.ended_at or time.monotonic()
                if run.ended_at + _KILL_AGAIN < time.monotonic():
                    pidfd.send_signal(run.monitor, signal.SIGKILL)
            else:
                alive.add(run.record.id)
        return alive

    def _begin(self, launch: Launch) -> Live:
        identifier = instance.new_id(launch.pod, launch.container.name)
        cgroup = self._tools.cgroups.path(launch.pod, identifier)
        record = record_of(launch, identifier=identifier, cgroup=cgroup, created_at=self._now())
        run = Live(record=record, directory=self.directory / identifier)
        with self._lock:
            if launch.container.security.userns == "auto":
                used = [other.record.ids for runs in self._runs.values() for other in runs.values()]
                run.record = msgspec.structs.replace(record, ids=free_range(used))
            self._runs.setdefault(launch.pod, {})[identifier] = run
        self._make_directory()
        run.directory.mkdir(mode=0o700)
        if run.record.ids is not None:
            # crun goes through it as the root of the container; nobody else may.
            os.chown(run.directory, run.record.ids.base, run.record.ids.base)
        point("runtime:bundle-begun")
        instance.write(run.directory, instance.RECORD, run.record)
        return run

    def _make_directory(self) -> None:
        # Anybody may have removed it since.
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.directory.chmod(0o711)

    def _keep(self, run: Live) -> None:
        """Write a run's record, and beside what it writes itself: anybody may remove what is in run_dir."""
        for directory in (run.directory, self._tools.root_filesystems.private(run.record.id)):
            instance.write(directory, instance.RECORD, run.record)

    def _open(self, run: Live) -> None:
        run.process = pidfd.open_process(run.pid) if run.pid else None
        monitor = instance.read_number(run.directory / conmon.MONITOR_PID)
        run.monitor = pidfd.open_process(monitor) if monitor else None

    def _watch(self, run: Live) -> None:
        if run.pid is not None and run.process is not None:
            try:
                self._mounts.watch(run.record.id, run.pid)
            except OSError as error:
                # Its end must be seen all the same.
                _log.warning("cannot watch a container's mounts", id=run.record.id, error=str(error))
        if run.monitor is not None:
            self._watcher.watch(run.monitor, lambda: self._monitor_ended(run))
        else:
            self._go_on_without_monitor(run)

    def _monitor_ended(self, run: Live) -> None:
        """Deal with the end of a monitor, of which an event and the resync may tell at once."""
        with self._ends:
            if run.monitor is not None and run.exit is None:
                self._go_on_without_monitor(run)

    def _go_on_without_monitor(self, run: Live) -> None:
        """Find out whether the container ended, or only its monitor."""
        with self._ends:
            exit_ = read_exit(run.directory, run.process, self._now())
            if exit_ is None and run.process is not None and not pidfd.ended(run.process):
                run.lost = True
                monitor, run.monitor = run.monitor, None
                self._close_monitor(monitor)
                self._watcher.watch(run.process, lambda: self._orphan_ended(run))
            else:
                run.exit = exit_ or unknown_exit(run.process, self._now())
                self._mounts.forget(run.record.id)
        self._wake(run.record.pod)

    def _orphan_ended(self, run: Live) -> None:
        run.exit = unknown_exit(run.process, self._now())
        self._mounts.forget(run.record.id)
        self._wake(run.record.pod)

    def _close_monitor(self, monitor: int | None) -> None:
        if monitor is not None:
            self._watcher.forget(monitor)
            os.close(monitor)

    def _forget(self, run: Live) -> None:
        self.consoles.close(run.directory)
        with self._ends:
            for descriptor in (run.monitor, run.process):
                if descriptor is not None:
                    self._watcher.forget(descriptor)
            run.close()
        self._mounts.forget(run.record.id)
        with self._lock:
            runs = self._runs.get(run.record.pod, {})
            runs.pop(run.record.id, None)
            if not runs:
                self._runs.pop(run.record.pod, None)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
