"""All containers of this agent: creation, start, stop, live change, check and removal."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from tank_agent.errors import Retry, TankError
from tank_agent.linux import mounts, pidfd
from tank_agent.linux.fault import point
from tank_agent.linux.paths import Closing
from tank_agent.linux.trees import remove_tree
from tank_agent.retry import Pace, spread
from tank_agent.runtime.container import conmon, devices
from tank_agent.runtime.container.conmon import ConmonControl
from tank_agent.runtime.container.exits import RunWatcher
from tank_agent.runtime.container.launch import Launch, Tools, make_bundle, record_of
from tank_agent.runtime.limits import limits, measure
from tank_agent.runtime.limits.measure import KilledProcesses, Measured, OpenFiles, Sample
from tank_agent.runtime.mounts import restore, tmpfs
from tank_agent.runtime.mounts.contents import Payload
from tank_agent.runtime.mounts.rootfs import MOUNT_POINT
from tank_agent.runtime.run import (
    RECORD,
    STOPPING,
    ChangeFailure,
    LiveRun,
    RunState,
    Stopping,
    Undelivered,
    Unmounted,
    new_id,
    read_number,
    write_file,
)
from tank_agent.runtime.security import user_namespace
from tank_agent.runtime.session.attach import Consoles
from tank_agent.runtime.session.log_reader import last_bytes
from tank_agent.runtime.session.run_logs import log_file, make_room
from tank_agent.spec.model import Container, Volume
from tank_agent.spec.values import signal_number

_log = structlog.get_logger()
# How long a killed process may take to be gone before it is killed again, in seconds.
_KILL_AGAIN = 5.0
# For a limit or a mount that the kernel refused.
_CHANGE_PACE = Pace(base=1.0, cap=30.0)
# How much of a terminal's output a new agent takes from the log, for those who attach later, in bytes.
_SHOWN_AGAIN = 16 << 10


class Containers:
    """Makes, watches and removes runs. Calls for different pods may come from different threads.

    Runs live in `run_dir/containers`, their logs in `data_dir/logs/<pod>/<container>.log`.

    Args:
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
        self.volumes = tools.volumes
        self._now = now
        self.control = ConmonControl()
        self.consoles = Consoles(self.control)
        self._watcher = RunWatcher(wake, now)
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, LiveRun]] = {}
        self._after_others: set[str] = set()
        self._killed = KilledProcesses(tools.cgroups)

    def runs(self, pod: str) -> tuple[LiveRun, ...]:
        """Return a pod's runs; touches no disk."""
        with self._lock:
            return tuple(self._runs.get(pod, {}).values())

    def pods(self) -> frozenset[str]:
        """Return the pods that have a run."""
        with self._lock:
            return frozenset(self._runs)

    def after_others(self) -> frozenset[str]:
        """Return the pods with a run that started after other pods."""
        with self._lock:
            return frozenset(self._after_others)

    def processes(self) -> dict[str, tuple[int, ...]]:
        """Return the main processes of the runs of every pod."""
        with self._lock:
            return {
                pod: tuple(run.pid for run in runs.values() if run.pid and run.process is not None)
                for pod, runs in self._runs.items()
            }

    def sysctls(self) -> dict[str, Mapping[str, str]]:
        """Return the sysctls that pods' networks were made with, of those that have any."""
        with self._lock:
            return {
                pod: run.record.sysctls
                for pod, runs in self._runs.items()
                for run in runs.values()
                if run.record.sysctls
            }

    def create(self, launch: Launch) -> LiveRun:
        """Make a run up to the point where its program waits to be started.

        A run that fails half-way stays in `runs` as PARTIAL.
        """
        run, tools = self._begin(launch), self._tools
        try:
            seccomp, contents = make_bundle(launch, run.record, run.directory, tools)
            status = (run.directory / MOUNT_POINT).stat()
            root = (status.st_dev, status.st_ino)
            run.record = msgspec.structs.replace(run.record, root=root, contents=contents)
            self._keep(run)
            point("runtime:bundle-made")
            log = self.log(launch.pod, launch.container.name, launch.job_run)
            (self.logs / launch.pod).mkdir(mode=0o700, exist_ok=True)
            if launch.job_run:
                make_room(self.logs / launch.pod, launch.job_run)
            run.pid = conmon.create(tools, run, log)
            point("runtime:created")
            if limits.needs_writing(run.record.limits):
                limits.write(tools.cgroups, run.record.cgroup, run.record.limits)
        finally:
            if run.record.ids is not None:
                user_namespace.take_back_null_device()
            # By now the container holds its mounts, or there is no container.
            self._detach(run)
        run.process = pidfd.open_process(run.pid)
        monitor = read_number(run.directory / conmon.MONITOR_PID)
        run.monitor = pidfd.open_process(monitor) if monitor else None
        if run.record.terminal:
            # Before its program begins, so that not one byte of it is missed.
            self.consoles.open(run.directory)
        if seccomp.profile is not None and seccomp.compiled is None:
            tools.seccomp.learn(seccomp.profile, tools.crun.root / run.record.id / "seccomp.bpf")
        return run

    def start(self, run: LiveRun) -> None:
        """Let a created run's program begin, and watch for its end."""
        self._tools.crun.start(run.record.id)
        point("runtime:started")
        run.started, run.alive_since = True, time.monotonic()
        self._watcher.watch(run)

    def log(self, pod: str, container: str, job_run: int = 0) -> Path:
        """Return the file with the output of a container, over its restarts; of a job, those of one run."""
        return log_file(self.logs / pod, container, job_run)

    def stop(self, run: LiveRun, unhealthy: str = "") -> None:
        """Send a run its stop signal; its grace begins now. `unhealthy` is why, if its probe failed."""
        if run.process is not None:
            pidfd.send_signal(run.process, run.record.stop_signal)
        point("runtime:signalled")
        deadline = time.monotonic() + run.record.stop_grace
        self._note(run, Stopping(deadline=deadline, unhealthy=unhealthy))

    def kill(self, run: LiveRun) -> None:
        """Send SIGKILL to a run, or to all that is left in its cgroup if its main process has ended."""
        alive = run.process is not None and pidfd.send_signal(run.process, signal.SIGKILL)
        if not alive:
            self._kill_group(run)
        # Afterwards, so that a frozen process does nothing but end.
        self._tools.cgroups.thaw(run.record.cgroup)
        unhealthy = run.stopping.unhealthy if run.stopping is not None else ""
        deadline = time.monotonic() + _KILL_AGAIN
        self._note(run, Stopping(deadline=deadline, killed=True, unhealthy=unhealthy))

    def _note(self, run: LiveRun, stopping: Stopping) -> None:
        """Remember a stop; if it cannot be written, the next agent stops the run again."""
        run.stopping = stopping
        try:
            write_file(run.directory, STOPPING, stopping)
        except OSError as error:
            _log.warning("cannot note that a container ends", id=run.record.id, error=str(error))

    def remove(self, run: LiveRun) -> None:
        """Remove everything that a run made, except its log. Can be repeated after a crash."""
        tools, cgroup = self._tools, run.record.cgroup
        self._killed.look(run)
        if not run.started:
            # The runtime may hang, or still be making it.
            conmon.end_unstarted(run.directory)
        self._delete(run)
        point("runtime:deleted")
        if run.monitor is not None and not pidfd.wait(run.monitor, conmon.ENDS_WITHIN_MS):
            # It did not end after its container.
            pidfd.send_signal(run.monitor, signal.SIGKILL)
            pidfd.wait(run.monitor, conmon.ENDS_WITHIN_MS)
        self._kill_group(run)
        self._detach(run)
        point("runtime:detached")
        tools.root_filesystems.remove(run.record.id)
        tools.contents.remove(run.record.id)
        if not tools.cgroups.remove(cgroup):
            raise Retry(f"container {run.record.container}: its cgroup is still busy")
        if run.record.limits.memory_reservation is not None:
            limits.protect(tools.cgroups, cgroup)
        point("runtime:cgroup-removed")
        self.consoles.close(run.directory)
        self._watcher.forget(run)
        with self._lock:
            runs = self._runs.get(run.record.pod, {})
            if runs.pop(run.record.id, None) is not None:
                self._killed.keep(run)
            if not runs:
                self._runs.pop(run.record.pod, None)
                self._after_others.discard(run.record.pod)
        # A volume that is still mounted there would be removed with it.
        mounts.unmount_tree(run.directory)
        # The record goes last, since by it the next agent knows what to remove.
        for entry in run.directory.iterdir() if run.directory.exists() else ():
            if entry.name != RECORD:
                remove_tree(entry)
        remove_tree(run.directory)
        point("runtime:removed")

    def _delete(self, run: LiveRun) -> None:
        """Let crun remove a run; remove it without crun where that fails, as when its own files are gone."""
        tools, cgroup = self._tools, run.record.cgroup
        try:
            tools.crun.delete(run.record.id)
        except TankError as error:
            self._kill_group(run)
            tools.cgroups.thaw(cgroup)
            alive = run.process is not None and not pidfd.wait(run.process, conmon.ENDS_WITHIN_MS)
            if alive or tools.cgroups.processes(cgroup):
                raise
            _log.warning("crun cannot delete a container; removed it", id=run.record.id, error=str(error))
            tools.crun.forget(run.record.id)

    def _kill_group(self, run: LiveRun) -> None:
        pidfd.signal_all(lambda: self._tools.cgroups.processes(run.record.cgroup), signal.SIGKILL)

    def _detach(self, run: LiveRun) -> None:
        """Detach a bundle's mounts from the host's tree; the container keeps them."""
        self._tools.volumes.detach(run.directory)
        tmpfs.detach(run.directory)
        self._tools.root_filesystems.detach(run.directory)
        for name in (user_namespace.SYSFS, devices.NODES):
            mounts.unmount_all(run.directory / name)

    def change(self, run: LiveRun, container: Container, settings: str) -> None:
        """Change a run's limits and how it is stopped, while it runs; `settings` is the hash of both.

        A failure is also kept in `failure`, and a failure of `restore_mounts` in `unmounted`.
        """
        record = run.record
        try:
            limits.write(self._tools.cgroups, record.cgroup, container.limits, record.limits)
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
        """Find out which mounts the runs of a pod lost; `files` is the directory with the pod's files."""
        for run in self.runs(pod):
            if run.state is not RunState.RUNNING or (process := self._watcher.process_of(run)) is None:
                continue
            with Closing(process):
                try:
                    run.looked = True
                    contents = self._tools.contents.sources(run.record, run.directory)
                    paths = restore.lost(process, run.record, files, contents)
                    known = run.unmounted or Unmounted(paths=paths)
                    run.unmounted = msgspec.structs.replace(known, paths=paths) if paths else None
                except OSError:
                    # It ended meanwhile, or the next check looks again.
                    run.looked = False

    def restore_mounts(
        self, run: LiveRun, container: Container, volumes: Sequence[Volume], files: Path
    ) -> None:
        """Mount again what a run lost, while it goes on."""
        wanted = tmpfs.mounts_of(container)
        contents = self._tools.contents.sources(run.record, run.directory)
        try:
            restore.restore(run, wanted, volumes, files, self.volumes, contents=contents)
        except TankError as error:
            known = run.unmounted or Unmounted(paths=())
            run.unmounted = known.again(str(error), _CHANGE_PACE, time.monotonic(), spread(run.record.id))
            raise
        run.unmounted = None

    def deliver(
        self,
        run: LiveRun,
        container: Container,
        volumes: Sequence[Volume],
        payloads: Mapping[str, Payload],
        *,
        wanted: dict[str, str],
        signals: Collection[int],
    ) -> None:
        """Put new content at paths of a run, while it goes on, and then send it signals.

        Each file is replaced in one moment. A failure is also kept in `undelivered`, with the digests that
        are `wanted`. If the agent is killed meanwhile, the next one does it again, with the signals.
        """
        files, identifier = self._tools.contents, run.record.id
        try:
            # Whatever becomes of it, what is there is not as it was.
            self._note_contents(run, dict.fromkeys(payloads, ""))
            digests = {
                path: files.write_again(identifier, run.directory, path, payload)
                for path, payload in payloads.items()
            }
            new = {path: files.source(identifier, run.directory, path, of) for path, of in digests.items()}
            stacked = restore.replace_contents(run, tmpfs.mounts_of(container), volumes, self.volumes, new)
            point("runtime:content-mounted")
        except TankError as error:
            known = run.undelivered
            if known is None or known.contents != wanted:
                known = Undelivered(contents=wanted)
            run.undelivered = known.again(str(error), _CHANGE_PACE, time.monotonic(), spread(identifier))
            raise
        for number in signals:
            if run.process is not None:
                pidfd.send_signal(run.process, number)
        point("runtime:content-signalled")
        self._note_contents(run, digests)
        files.keep_only(run.record, run.directory, stacked=stacked)
        run.undelivered = None

    def _note_contents(self, run: LiveRun, digests: Mapping[str, str]) -> None:
        contents = {**run.record.contents, **digests}
        run.record = msgspec.structs.replace(run.record, contents=contents)
        self._keep(run)

    def samples(self) -> list[Sample]:
        """Return what every container that runs has used, as little as a history of it needs."""
        running = (run.record for run in self._all() if run.state is RunState.RUNNING)
        return [
            Sample(record.pod, record.container, record.id, *used)
            for record in running
            if (used := measure.sample(self._tools.cgroups, record.cgroup)) is not None
        ]

    def measured(self, pod: str, *, again: bool = False) -> dict[str, Measured]:
        """Return what the containers of a pod that run have used, by name; `again`: it is asked regularly."""
        groups, found = self._tools.cgroups, dict[str, Measured]()
        for run in self.runs(pod):
            if run.state is RunState.RUNNING:
                opened = OpenFiles.of(groups, run) if again else None
                if (used := measure.measure(groups, run.record.cgroup, opened)) is not None:
                    found[run.record.container] = used
        return found

    def killed(self, pod: str) -> dict[str, int]:
        """Return how many processes were killed as memory ran out, by container (`KilledProcesses`)."""
        with self._lock:
            return self._killed.of(pod, self._runs.get(pod, {}).values())

    def forget(self, pod: str) -> None:
        """Forget what was counted of a pod that is gone."""
        with self._lock:
            self._killed.forget(pod)

    def clear_out_of_memory(self, run: LiveRun) -> None:
        """Forget that a process of a run was killed as memory ran out, so that the next time is seen."""
        (run.directory / conmon.OUT_OF_MEMORY).unlink(missing_ok=True)
        run.out_of_memory = False
        self._killed.look(run)

    def check(self) -> frozenset[str]:
        """Find what no event reported: missed ends, hanging monitors, lost limits and files.

        For the resync. Returns the pods whose mounts are to be checked by `look`.
        """
        runs = self._all()
        changed = self._watcher.changed_mounts()
        self._tools.crun.sweep()
        alive = self._watcher.check(runs)
        for run in runs:
            if run.record.id in changed:
                run.looked = False
            if run.record.id in alive:
                run.drift = limits.lost(self._tools.cgroups, run.record.cgroup, run.record.limits)
                run.out_of_memory = os.path.exists(f"{run.directory}/{conmon.OUT_OF_MEMORY}")
                self._mend(run)
        return frozenset(run.record.pod for run in runs if run.state is RunState.RUNNING and not run.looked)

    def _mend(self, run: LiveRun) -> None:
        """Make a run's directory again where it is gone: conmon writes the exit there."""
        if os.path.exists(f"{run.directory}/{RECORD}"):
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
        self.consoles.stop()
        self._tools.root_filesystems.close()
        self._tools.crun.sweep(at_rest=True)
        runs = self._all()
        with self._lock:
            self._runs.clear()
        for run in runs:
            run.close()

    def adopt(self, run: LiveRun) -> None:
        """Take over a run of a former agent."""
        run.adopted, run.alive_since = True, time.monotonic() if run.started else None
        self._killed.look(run)
        with self._lock:
            self._add(run)
        if run.started and run.exit is None:
            self._mend(run)
            self._watcher.watch(run)
            if run.record.terminal and run.monitor is not None:
                record = run.record
                printed = last_bytes(self.log(record.pod, record.container, record.job_run), _SHOWN_AGAIN)
                self.consoles.open(run.directory, printed)

    def _add(self, run: LiveRun) -> None:
        """Remember a run; the lock is held."""
        self._runs.setdefault(run.record.pod, {})[run.record.id] = run
        if run.record.pods_after:
            self._after_others.add(run.record.pod)

    def _all(self) -> list[LiveRun]:
        with self._lock:
            return [run for runs in self._runs.values() for run in runs.values()]

    def _begin(self, launch: Launch) -> LiveRun:
        identifier = new_id(launch.pod, launch.container.name)
        cgroup = self._tools.cgroups.path(launch.pod, identifier)
        record = record_of(launch, identifier=identifier, cgroup=cgroup, created_at=self._now())
        run = LiveRun(record=record, directory=self.directory / identifier)
        with self._lock:
            if launch.container.security.userns == "auto":
                used = [other.record.ids for runs in self._runs.values() for other in runs.values()]
                run.record = msgspec.structs.replace(record, ids=user_namespace.free_range(used))
            self._add(run)
        self._make_directory()
        run.directory.mkdir(mode=0o700)
        if run.record.ids is not None:
            # crun enters it as the root of the container; no other user may.
            os.chown(run.directory, run.record.ids.base, run.record.ids.base)
        point("runtime:bundle-begun")
        write_file(run.directory, RECORD, run.record)
        return run

    def _make_directory(self) -> None:
        # It may have been removed since.
        self.directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.directory.chmod(0o711)

    def _keep(self, run: LiveRun) -> None:
        """Write a run's record, also beside its overlay, since files in run_dir may be removed."""
        for directory in (run.directory, self._tools.root_filesystems.private(run.record.id)):
            write_file(directory, RECORD, run.record)
