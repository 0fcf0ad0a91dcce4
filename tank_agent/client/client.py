"""The agent's verbs as methods: `Client().apply(…)`, `.status()`, `.wait(…)` and so on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, overload

import msgspec

from tank_agent.api import storage, types
from tank_agent.api.reports import PlanReport, PodReport, SourcesReport
from tank_agent.client.asking import Asking
from tank_agent.client.fast import http
from tank_agent.client.not_reached import NotReached
from tank_agent.client.progress import with_progress
from tank_agent.errors import AgentUnreachable, PodNotFound
from tank_agent.spec.beside import Sent
from tank_agent.spec.model import Pod, PullPolicy

if TYPE_CHECKING:
    from tank_agent.client.fast.results import Result
    from tank_agent.client.fast.streams import Stream
    from tank_agent.client.logs import LogLine

# Seconds for which "no such pod" may be wrong: a file that was just saved is a pod a moment later.
_APPEARS_WITHIN = 2.0
_RETRY_EVERY = 0.1


class Client(Asking):
    """Talks to an agent, from any thread. To one on this machine, each call makes a connection of its own.

    Over ssh, a connection is kept for the next call once its answer is read, and shared by all clients of the
    process.

    Args:
        socket: the agent's socket; default $TANK_SOCKET, else /run/tank/tank.sock.
        timeout: seconds within which the agent has to answer.
        host: another machine, as ssh://[USER@]HOST[:PORT]; default $TANK_HOST if there is no socket.

    Every method raises AgentUnreachable if nobody answers, and else the TankError that the agent raised.
    """

    list = types.Calls.list_pods

    def apply(
        self, pods: Pod | Mapping[str, object] | os.PathLike[str] | str | bytes, *, file: str | None = None
    ) -> Sequence[types.AppliedPod]:
        """Create or replace pods.

        Args:
            pods: a Pod, a mapping with the pod file's keys, a path, or TOML. A str with a line break or an
                equals sign is TOML, any other is a path; bytes are TOML. Only with a path are the files sent
                along that the pod file names beside it.
            file: the name in messages; default the path.

        Raises:
            InvalidSpec: with every problem; nothing was stored.
            OwnedElsewhere: a file or git owns one of the pods; nothing was stored.
        """
        # No other call reads files.
        from tank_agent.client.pod_files import pod_text

        text, name, beside = pod_text(pods)
        query = {"file": file or name}
        if beside is None:
            return self.ask(types.APPLY, query=query, body=text)
        from tank_agent.api.wire import decode_text

        asked = types.ApplyRequest(decode_text(text, file or name), beside)
        return self.ask(types.APPLY_WITH_FILES, query=query, body=msgspec.json.encode(asked))

    def delete(self, name: str) -> bool:
        """Remove a pod; False if there was none.

        Raises:
            OwnedElsewhere: a file or git owns it.
        """
        return self.ask(types.DELETE, {"name": name}).deleted

    def pull_image(
        self,
        reference: str,
        *,
        policy: PullPolicy = "always",
        progress: Callable[[storage.PullReport], None] = lambda _: None,
    ) -> storage.ListedImage:
        """Fetch an image, and return it.

        Args:
            policy: "always" asks the registry also for an image that is here, "missing" does not.
            progress: called a few times a second.

        Raises:
            Stalled: there is no such image, or it is refused.
            Retry: it failed for now.
        """
        query = {"reference": reference, "policy": policy}
        for line in with_progress(self._lines(types.PULL_IMAGE, query, self._timeout), progress):
            if line.image is not None:
                return line.image
        raise http.lost(self.address)

    def update_images(
        self,
        name: str,
        *,
        force: bool = False,
        progress: Callable[[storage.PullReport], None] = lambda _: None,
    ) -> storage.ImageUpdate:
        """Look now for newer images behind the tags of a pod, fetch them, and make them an update of it.

        Args:
            force: tries an image again that failed in this pod.
            progress: called a few times a second.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: the pod is held, an image failed in it before, or can't be had.
            Retry: it failed for now.
        """
        query, names = {"force": "1"} if force else {}, {"name": name}
        lines = self._lines(types.UPDATE_IMAGES, query, self._timeout, names)
        for line in with_progress(lines, progress):
            if line.update is not None:
                return line.update
        raise http.lost(self.address)

    def remove_image(self, reference: str) -> storage.RemovedImages:
        """Remove a name or, by its digest, an image.

        Raises:
            ImageInUse: a pod runs it, is to run it, or did before its last change.
            Stalled: there is no such image.
        """
        return self.ask(types.REMOVE_IMAGE, query={"reference": reference})

    def remove_volume(self, pod: str, name: str) -> bool:
        """Remove a managed volume with what is in it, and its snapshots; False if there was none.

        Args:
            name: "data@7" removes only that snapshot, "data.failed-7" the data that was put aside.

        Raises:
            VolumeInUse: its pod is desired with it, or runs; or an update may go back to the snapshot.
        """
        return self.ask(types.REMOVE_VOLUME, {"pod": pod, "name": name}).deleted

    def remove_shared_volume(self, name: str) -> bool:
        """Remove a volume that pods share, with what is in it; False if there was none.

        Raises:
            VolumeInUse: a pod has it, or had it in its last good revision, or still runs with it.
        """
        return self.ask(types.REMOVE_SHARED_VOLUME, {"name": name}).deleted

    def take_snapshot(self, pod: str, name: str, *, force: bool = False) -> storage.ListedSnapshot:
        """Copy a managed volume, and return when that is done.

        Args:
            force: also while a container runs with it: files are then copied one after the other.

        Raises:
            VolumeInUse: a container runs with it, or ran meanwhile.
        """
        names = {"pod": pod, "name": name}
        return self.ask(types.TAKE_SNAPSHOT, names, {"force": "1"} if force else {})

    def restore_volume(self, pod: str, name: str, snapshot: str) -> storage.RestoredVolume:
        """Put a snapshot, by its id, in place of its volume, whose data is kept beside it.

        Raises:
            VolumeInUse: a container runs with it.
            Stalled: there is no such snapshot.
        """
        return self.ask(types.RESTORE_VOLUME, {"pod": pod, "name": name}, {"id": snapshot})

    @overload
    def status(self, name: None = None, *, everywhere: bool = False) -> Sequence[PodReport]: ...
    @overload
    def status(self, name: str) -> PodReport: ...
    def status(self, name: str | None = None, *, everywhere: bool = False) -> Sequence[PodReport] | PodReport:
        """Return the status of all pods, or of one.

        Args:
            everywhere: also of the pods that files declare for other machines only; their phase is elsewhere.

        Raises:
            PodNotFound: there is none of that name.
        """
        if name is not None:
            return self.ask(types.POD_STATUS, {"name": name})
        return self.ask(types.STATUS, query={"everywhere": "1"} if everywhere else {})

    def wait(self, name: str, phase: str = "running", timeout: float = 60.0) -> PodReport:
        """Wait until a pod's current spec is in a phase, and return its status.

        Args:
            phase: one of the phases, "ready", or "deleted": nothing of the pod is left.
            timeout: seconds, during which the agent may restart.

        Raises:
            NotReached: the time has passed.
            PodNotFound: there is no such pod, also not a moment later.
        """
        began = time.monotonic()
        found: PodReport | None = None
        while True:
            waited = time.monotonic() - began
            left = max(0.0, timeout - waited)
            try:
                found = self.look(name, phase, min(types.WAIT_SLICE, left))
            except PodNotFound:
                if waited >= min(timeout, _APPEARS_WITHIN):
                    raise
                time.sleep(_RETRY_EVERY)
            except AgentUnreachable:
                if found is None or left == 0:
                    raise
                time.sleep(_RETRY_EVERY)
            else:
                if found.phase == phase or (phase == types.READY and found.ready):
                    return found
                if left == 0:
                    raise NotReached(found, phase, timeout)

    def look(self, name: str, phase: str, timeout: float) -> PodReport:
        """Return a pod's status once it is in a phase, or as it is `timeout` seconds later (at most 30).

        Raises:
            PodNotFound: there is none of that name.
        """
        query = {"phase": phase, "timeout": f"{timeout:.3f}"}
        return self.ask(types.WAIT, {"name": name}, query, within=timeout + self._timeout)

    def events(
        self,
        *,
        follow: bool = False,
        after: int = 0,
        pod: str | None = None,
        by: str | None = None,
        kinds: Collection[str] = (),
        since: float | None = None,
        tail: int | None = None,
    ) -> Iterator[types.ListedEvent]:
        """Yield events with a number above `after`, oldest first; with `follow`, also those still to come.

        `by` is the user who asked for them, `kinds` are their types (none: all), `since` is Unix time, and
        `tail` leaves only so many of the past.

        Raises:
            AgentUnreachable: also when the agent ends while it is followed.
            PodNotFound: there is no such pod, no event of one either, and it is not followed.
        """
        from tank_agent.client.logs import event_query

        query = event_query(follow=follow, after=after, pod=pod, by=by, kinds=kinds, since=since, tail=tail)
        for event in self._lines(types.EVENTS, query, None if follow else self._timeout):
            # An older agent knows no `by`, and sends all.
            if by in (None, event.by):
                yield event
        if follow:
            raise AgentUnreachable("the agent ended", where=self.address, hint="follow again when it is back")

    def copy(self, source: str, target: str, *, owners: bool = False, follow: bool = False) -> Sequence[str]:
        """Copy between a path here and `NAME[/CONTAINER]:PATH`, as `tank cp`; return notes on what was left.

        Args:
            owners: keep owners and set-user-ID bits.
            follow: copy what the link `source` leads to.

        Raises:
            CannotCopy: one of the two places is at fault, or what comes from the container.
            NotRunning: the container does not run.
        """
        from tank_agent.client.copying import copy

        notes: list[str] = []
        copy(self.address, source, target, note=notes.append, owners=owners, follow=follow)
        return notes

    def exec(
        self,
        name: str,
        argv: Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | Sequence[str] = (),
        tty: bool | None = None,
        stdin: Stream | None = None,
        stdout: Stream | None = None,
        stderr: Stream | None = None,
        detach_keys: str = "ctrl-p,ctrl-q",
        wait: float | None = None,
    ) -> Result:
        """Run a command in a container, beside its main process, and return how it ended.

        Args:
            name: `POD` or `POD/CONTAINER`.
            argv: looked up on the container's PATH.
            cwd: default the container's own.
            env: added to the container's own and stronger, as a mapping or as NAME=VALUE strings.
            tty: whether the command gets a terminal; default if stdin is one.
            stdin, stdout, stderr: descriptors, or objects with `fileno()`; default this process's own.
            detach_keys: leave the command running; "none" for no such keys.
            wait: seconds to wait for a container that is about to start; default 30.

        Raises:
            CommandNotFound, CannotRun: the container has no such command, or it cannot be executed.
            NotRunning: the container has no live process.
            AgentUnreachable: also when the agent ends meanwhile.
        """
        from tank_agent.client.fast.start import exec_command

        return exec_command(
            self.address,
            name,
            argv,
            cwd=cwd,
            env=[f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else env,
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=detach_keys,
            wait=wait,
        )

    def attach(
        self,
        name: str,
        *,
        stdin: Stream | None = None,
        stdout: Stream | None = None,
        detach_keys: str = "ctrl-p,ctrl-q",
        wait: float | None = None,
    ) -> Result:
        """Take over the terminal of a container's main process until it ends, or the user leaves.

        Raises:
            NotATty: the container was not declared with `tty = true`.
            NotRunning: the container has no live process.
            AgentUnreachable: also when the agent ends meanwhile; the container continues.
        """
        from tank_agent.client.fast.start import attach

        path = self.address
        return attach(path, name, stdin=stdin, stdout=stdout, detach_keys=detach_keys, wait=wait)

    def logs(
        self,
        name: str,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: float | None = None,
        run: int | None = None,
    ) -> Iterator[LogLine]:
        """Yield the output of a pod's containers, over all their runs, in the order of time.

        Of a job, it is that of one run.

        Args:
            name: `POD` for all of its containers, or `POD/CONTAINER`.
            follow: continue with new output until the pod has ended or is gone.
            tail: begin with this number of lines of each container.
            since: Unix time of the first line.
            run: the number of a job's run, -1 for the last, -2 for the one before; default the last one, and
                with `follow` the one under way, or the next.

        Raises:
            PodNotFound: there is no such pod or container.
            Stalled: there is no such run.
        """
        from tank_agent.client.logs import open_logs

        path = self.address
        _, lines = open_logs(path, name, follow=follow, tail=tail, since=since, run=run)
        return lines

    def metrics(self) -> str:
        """Return the metrics of the agent and its pods, in Prometheus' text format.

        Raises:
            TankError: the agent is of a version that has none.
        """
        answered = self._ask(types.METRICS.method, types.METRICS.path, b"", self._timeout)
        return http.whole(answered, self.address).decode(errors="replace")

    def plan(
        self, files: Mapping[str, str] | None = None, *, git: str | None = None, beside: Sent | None = None
    ) -> PlanReport:
        """Return what would be done if pods_dir held `files` (absolute path → text).

        `beside` are the files that these name. With `git`, if the repository were at this branch, tag or
        commit; without both, what is pending now.

        Raises:
            Stalled: there is no such branch, tag or commit, or no repository.
            Retry: the repository has not answered in time.
        """
        asked = types.PlanRequest(dict(files) if files is not None else None, git, beside or Sent())
        body = msgspec.json.encode(asked)
        within = self._timeout + (types.SOURCES_WITHIN if git is not None else 0.0)
        return self.ask(types.PLAN, body=body, within=within)

    def suspend(self, name: str | None = None) -> SourcesReport:
        """Let a pod stay as it is, whatever its file says; without a name, all pods. Returns `sources()`.

        Raises:
            PodNotFound: there is none of that name.
            Stalled: it follows no file.
        """
        return self.ask(types.SUSPEND) if name is None else self.ask(types.SUSPEND_POD, {"name": name})

    def resume(self, name: str | None = None) -> SourcesReport:
        """Let a suspended or pinned pod follow its file again; without a name, all. Returns `sources()`.

        Raises:
            PodNotFound: there is none of that name.
        """
        return self.ask(types.RESUME) if name is None else self.ask(types.RESUME_POD, {"name": name})

    def rollback(
        self, name: str, to: int | str | None = None, *, force: bool = False, with_data: bool = False
    ) -> types.ListedRevision:
        """Give a pod an older spec, pin it there if it follows a file, and return that revision.

        Args:
            to: a generation, or a commit; default the last one before the present that did not fail.
            force: also to one that failed as an update.
            with_data: also put back the snapshots of its volumes.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: there is no such revision, it is the present one, it failed, or has no snapshot.
        """
        query = {} if to is None else {"to": str(to)}
        query |= {"force": "1"} if force else {}
        query |= {"with_data": "1"} if with_data else {}
        return self.ask(types.ROLLBACK, {"name": name}, query)

    def sync(
        self, wait: float | None = None, *, confirm: str | None = None, within: float | None = None
    ) -> Sequence[PodReport]:
        """Look at every source now; with `wait`, until all pods are settled too, at most that many seconds.

        Args:
            within: seconds for looking at the sources if `wait` is None; default 30.
            confirm: a commit of git that waits for a confirmation; "" is the one that waits now.

        Returns the status of all pods.

        Raises:
            Stalled: sources are suspended, or no such commit waits.
            Retry: a source has not answered in time.
        """
        query = {} if wait is None else {"wait": f"{wait:.3f}"}
        query |= {} if confirm is None else {"confirm": confirm}
        query |= {} if within is None else {"within": f"{within:.3f}"}
        within = max(wait or 0.0, within or 0.0, types.SOURCES_WITHIN) + self._timeout
        return self.ask(types.SYNC, query=query, within=within)
