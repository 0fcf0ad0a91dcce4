"""The agent's verbs as methods: `Client().apply(…)`, `.status()`, `.wait(…)` and so on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar, overload

import msgspec

from tank_agent.api import types
from tank_agent.api.reports import PodReport, SourcesReport
from tank_agent.client.fast import http
from tank_agent.errors import AgentUnreachable, InvalidSpec, PodNotFound, Problem, TankError
from tank_agent.spec.model import Pod, PullPolicy

if TYPE_CHECKING:
    from tank_agent.client.fast.results import Result
    from tank_agent.client.fast.streams import Stream
    from tank_agent.client.logs import LogLine

_T = TypeVar("_T")

_STDIN = "<stdin>"

# Seconds for which "no such pod" may be wrong: a file that was just saved is a pod a moment later.
_APPEARS_WITHIN = 2.0
_RETRY_EVERY = 0.1


class NotReached(TankError):
    """A wait has ended and the pod, with this `status`, is in another phase.

    `timeout` is how many seconds the wait took; None if the pod can't reach the phase at all.
    """

    reason = "not-reached"

    def __init__(self, status: PodReport, phase: str, timeout: float | None) -> None:
        message = f"{status.name} is {status.phase}, not {phase}"
        if timeout is not None:
            message += f", after {timeout:g} s"
        if status.error:
            message += f": {status.error}"
        hint = f"see `tank status {status.name}` and `tank events --pod {status.name}`"
        super().__init__(message, hint=hint)
        self.status = status


class Client(types.Calls):
    """Talks to the agent of this machine. Holds no connection, and may be used from any thread.

    Args:
        socket: the agent's socket; default $TANK_SOCKET, else /run/tank/tank.sock.
        timeout: seconds within which the agent has to answer.

    Every method raises AgentUnreachable if nobody answers, and else the TankError that the agent raised.
    """

    def __init__(self, socket: str | os.PathLike[str] | None = None, timeout: float = 30.0) -> None:
        self.socket = Path(http.socket_path(socket))
        self._timeout = timeout

    list = types.Calls.list_pods

    def apply(
        self, pods: Pod | Mapping[str, object] | os.PathLike[str] | str | bytes, *, file: str | None = None
    ) -> Sequence[types.AppliedPod]:
        """Create or replace pods.

        Args:
            pods: a Pod, a mapping with the pod file's keys, a path, or TOML. A str with a line break or an
                equals sign is TOML, any other is a path; bytes are TOML.
            file: the name in messages; default the path.

        Raises:
            InvalidSpec: with every problem; nothing was stored.
            OwnedElsewhere: a file or git owns one of the pods; nothing was stored.
        """
        text, name = _pod_text(pods)
        return self.ask(types.APPLY, query={"file": file or name}, body=text)

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
        progress: Callable[[types.PullReport], None] = lambda _: None,
    ) -> types.ListedImage:
        """Fetch an image, and return it.

        Args:
            policy: "always" asks the registry also for an image that is here, "missing" does not.
            progress: called a few times a second.

        Raises:
            Stalled: there is no such image, or it is refused.
            Retry: it failed for now.
        """
        from tank_agent.api.wire import raised_error

        query = {"reference": reference, "policy": policy}
        for line in self._lines(types.PULL_IMAGE, query, self._timeout):
            if line.error is not None:
                raise raised_error(line.error)
            if line.image is not None:
                return line.image
            if line.progress is not None:
                progress(line.progress)
        raise http.lost(os.fspath(self.socket))

    def remove_image(self, reference: str) -> types.RemovedImages:
        """Remove a name or, by its digest, an image.

        Raises:
            ImageInUse: a pod runs it, is to run it, or did before its last change.
            Stalled: there is no such image.
        """
        return self.ask(types.REMOVE_IMAGE, query={"reference": reference})

    def remove_volume(self, pod: str, name: str) -> bool:
        """Remove a managed volume with what is in it; False if there was none.

        Raises:
            VolumeInUse: its pod is desired with it, or runs.
        """
        return self.ask(types.REMOVE_VOLUME, {"pod": pod, "name": name}).deleted

    @overload
    def status(self, name: None = None) -> Sequence[PodReport]: ...
    @overload
    def status(self, name: str) -> PodReport: ...
    def status(self, name: str | None = None) -> Sequence[PodReport] | PodReport:
        """Return the status of all pods, or of one.

        Raises:
            PodNotFound: there is none of that name.
        """
        return self.ask(types.STATUS) if name is None else self.ask(types.POD_STATUS, {"name": name})

    def wait(self, name: str, phase: str = "running", timeout: float = 60.0) -> PodReport:
        """Wait until a pod's current spec is in a phase, and return its status.

        Args:
            phase: one of the phases, or "deleted": nothing of the pod is left.
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
                if found.phase == phase:
                    return found
                if left == 0:
                    raise NotReached(found, phase, timeout)

    def look(self, name: str, phase: str, timeout: float) -> PodReport:
        """Return a pod's status once it is in a phase, or as it is `timeout` seconds later (at most 30)."""
        query = {"phase": phase, "timeout": f"{timeout:.3f}"}
        return self.ask(types.WAIT, {"name": name}, query, within=timeout + self._timeout)

    def events(
        self, *, follow: bool = False, after: int = 0, pod: str | None = None
    ) -> Iterator[types.ListedEvent]:
        """Yield events with a number above `after`, oldest first; with `follow`, also those still to come.

        Raises:
            AgentUnreachable: also when the agent ends while it is followed.
        """
        query = {"after": str(after)} | ({"follow": "1"} if follow else {}) | ({"pod": pod} if pod else {})
        yield from self._lines(types.EVENTS, query, None if follow else self._timeout)
        if follow:
            raise AgentUnreachable(
                "the agent ended", where=os.fspath(self.socket), hint="follow again when it is back"
            )

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

        Raises:
            CommandNotFound, CannotRun: the container has no such command, or it cannot be executed.
            NotRunning: the container has no live process.
            AgentUnreachable: also when the agent ends meanwhile.
        """
        from tank_agent.client.fast.start import exec_command

        return exec_command(
            os.fspath(self.socket),
            name,
            argv,
            cwd=cwd,
            env=[f"{key}={value}" for key, value in env.items()] if isinstance(env, Mapping) else env,
            tty=tty,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            detach_keys=detach_keys,
        )

    def attach(
        self,
        name: str,
        *,
        stdin: Stream | None = None,
        stdout: Stream | None = None,
        detach_keys: str = "ctrl-p,ctrl-q",
    ) -> Result:
        """Take over the terminal of a container's main process until it ends, or the user leaves.

        Raises:
            NotATty: the container was not declared with `tty = true`.
            NotRunning: the container has no live process.
            AgentUnreachable: also when the agent ends meanwhile; the container continues.
        """
        from tank_agent.client.fast.start import attach

        return attach(os.fspath(self.socket), name, stdin=stdin, stdout=stdout, detach_keys=detach_keys)

    def logs(
        self, name: str, *, follow: bool = False, tail: int | None = None, since: float | None = None
    ) -> Iterator[LogLine]:
        """Yield the output of a pod's containers, over all their runs, in the order of time.

        Args:
            name: `POD` for all of its containers, or `POD/CONTAINER`.
            follow: continue with new output until the pod has ended or is gone.
            tail: begin with this number of lines of each container.
            since: Unix time of the first line.

        Raises:
            PodNotFound: there is no such pod or container.
        """
        from tank_agent.client.logs import open_logs

        _, lines = open_logs(os.fspath(self.socket), name, follow=follow, tail=tail, since=since)
        return lines

    def plan(self, files: Mapping[str, str] | None = None, *, git: str | None = None) -> types.PlanReport:
        """Return what would be done if pods_dir held `files` (absolute path → text).

        With `git`, if the repository were at this branch, tag or commit; without both, what is pending now.
        """
        body = msgspec.json.encode(types.PlanRequest(dict(files) if files is not None else None, git))
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

    def rollback(self, name: str, to: int | str | None = None) -> types.ListedRevision:
        """Give a pod an older spec, pin it there if it follows a file, and return that revision.

        Args:
            to: a generation, or a commit; default the one before the present.

        Raises:
            PodNotFound: there is no such pod.
            Stalled: there is no such revision, or it is the present one.
        """
        return self.ask(types.ROLLBACK, {"name": name}, {} if to is None else {"to": str(to)})

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

    def ask(
        self,
        call: types.Call[_T],
        names: Mapping[str, str] = MappingProxyType({}),
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        within: float | None = None,
    ) -> _T:
        """Make a call with the names for the placeholders of its path, and return its answer."""
        path = call.path.format_map({key: http.quote(text) for key, text in names.items()})
        timeout = within or max(self._timeout, call.patience)
        answered = self._ask(call.method, http.with_query(path, query), body, timeout)
        answer = http.whole(answered, os.fspath(self.socket))
        try:
            return msgspec.json.decode(answer, type=call.answer)
        except msgspec.DecodeError as error:
            raise TankError(
                f"the agent's answer is not understood: {error}",
                hint="agent and client are of different versions, see `tank version`; restart the agent",
            ) from error

    def _ask(self, method: str, target: str, body: bytes, timeout: float | None) -> http.Answered:
        asked = http.ask(os.fspath(self.socket), method, target, body=body, timeout=timeout)
        return asked.answer(expected=200, timeout=timeout)

    def _lines(self, call: types.Call[_T], query: Mapping[str, str], timeout: float | None) -> Iterator[_T]:
        """Yield the answer line by line, as it comes; `timeout` limits the wait for each of them."""
        answered = self._ask(call.method, http.with_query(call.path, query), b"", timeout)
        lines = http.lines(answered, os.fspath(self.socket))
        yield from map(msgspec.json.Decoder(call.answer).decode, lines)


def _pod_text(pods: Pod | Mapping[str, object] | os.PathLike[str] | str | bytes) -> tuple[bytes, str]:
    """Return the TOML to send, and its name in messages."""
    if isinstance(pods, bytes):
        return pods, "<text>"
    if isinstance(pods, str) and ("\n" in pods or "=" in pods):
        return pods.encode(), "<text>"
    if isinstance(pods, str | os.PathLike):
        return read_pod_file(Path(pods)), os.fspath(pods)
    from tank_agent.spec.parse import checked_pod, pod_from_mapping
    from tank_agent.spec.render import render_pod

    pod = checked_pod(pods) if isinstance(pods, Pod) else pod_from_mapping(dict(pods))
    return render_pod(pod).encode(), f"<pod {pod.name}>"


def read_pod_file(path: Path) -> bytes:
    """Read a pod file; `-` is standard input.

    Raises:
        TankError: it can't be read.
        InvalidSpec: it is larger than a pod file may be.
    """
    # It loads ctypes, which commands that read no file should not wait for.
    from tank_agent.linux.given_files import read_given, read_stdin

    name = pod_file_name(path)
    content = read_given(path, types.MAX_POD_FILE) if name != _STDIN else read_stdin(types.MAX_POD_FILE)
    if len(content) > types.MAX_POD_FILE:
        message = f"is larger than the {types.MAX_POD_FILE >> 20} MiB of a pod file"
        raise InvalidSpec((Problem(name, 0, "", message),))
    return content


def pod_file_name(path: Path) -> str:
    """Return the name in messages of a pod file that a user gave."""
    name = os.fspath(path)
    return _STDIN if name == "-" else name
