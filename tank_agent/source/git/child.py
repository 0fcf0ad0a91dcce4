"""The agent's side of the helper process: start it, and send requests that have a deadline.

Both sides send msgpack over a socket pair, with its length in front.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from tank_agent.linux import pidfd
from tank_agent.linux.channels import readable
from tank_agent.linux.process import start_helper
from tank_agent.source.git.access import NO_SPACE, TOO_LARGE, Access, Failure, GitError, Wanted
from tank_agent.source.git.address import Remote
from tank_agent.source.git.objects import Commit, Kind, Tag, object_id, parse_commit, parse_tag, printable

FRAME_LIMIT = 64 << 20
_LENGTH = struct.Struct("!I")


class HelperLimits(Struct, frozen=True, kw_only=True):
    """Limits of one session of the helper. Sizes in bytes, times in seconds."""

    file_size: int = 256 << 20
    memory: int = 1 << 30
    cpu: int = 120
    wall: float = 120.0
    entries: int = 100_000
    depth: int = 16
    blob: int = 1 << 20
    total: int = 64 << 20
    commits: int = 100_000


class Setup(Struct, frozen=True, kw_only=True, tag=True):
    """The first message. `descriptors` names the directories that come with it: scratch, objects, local.

    `user` is the (uid, gid) to become, if we are root.
    """

    transport: str
    remote: Remote
    access: Access
    limits: HelperLimits
    descriptors: tuple[str, ...]
    user: tuple[int, int] | None = None


class ListRefs(Struct, frozen=True, tag=True):
    """A request that Refs answers."""

    names: tuple[str, ...]


class Fetch(Struct, frozen=True, tag=True):
    """A request that Fetched answers; the packs are then in the scratch repository."""

    wanted: Wanted


class ReadHistory(Struct, frozen=True, tag=True):
    """A request for the tags and commits that are needed to judge `tip` against `deployed`; `full`: for all.

    Objects and Done answer it.
    """

    tip: str
    deployed: str | None
    full: bool = False


class ReadTree(Struct, frozen=True, tag=True):
    """A request for trees and .toml files not in `known`; Objects, Omitted and Done answer it."""

    tree: str
    path: str
    known: frozenset[bytes]


class ReadBlobs(Struct, frozen=True, tag=True):
    """A request for these blobs, each of at most `largest` bytes; Objects, Omitted and Done answer it."""

    ids: tuple[str, ...]
    largest: int


class Refs(Struct, frozen=True, tag=True):
    """Full ref names and the objects that they point to."""

    ids: dict[str, str]


class Fetched(Struct, frozen=True, tag=True):
    """The name of the object that was fetched."""

    id: str


class Object(Struct, frozen=True, tag=True):
    """One object; the receiver computes its name itself."""

    kind: Kind
    data: bytes


class Omitted(Struct, frozen=True, tag=True):
    """A file that is larger than the limit; size 0 if it does not fit into memory."""

    id: str
    size: int


class Done(Struct, frozen=True, tag=True):
    """The end of an answer."""


class Failed(Struct, frozen=True, tag=True):
    """The error of a request; fields as in GitError."""

    kind: Failure
    message: str
    hint: str | None = None


Request = ListRefs | Fetch | ReadHistory | ReadTree | ReadBlobs
Reply = Refs | Fetched | Object | Omitted | Done | Failed
_Answer = TypeVar("_Answer", Refs, Fetched)

_ENCODER = msgspec.msgpack.Encoder()
SETUP = msgspec.msgpack.Decoder(Setup)
REQUEST: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
REPLY: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def send(channel: socket.socket, message: Struct) -> None:
    """Send one message.

    Raises:
        OSError: nobody reads any more, or not in time.
    """
    body = _ENCODER.encode(message)
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(
    channel: socket.socket, decoder: msgspec.msgpack.Decoder[Any], deadline: float | None = None
) -> Any:
    """Receive one message; `deadline` is on the monotonic clock.

    Raises:
        EOFError: the other side hung up.
        TimeoutError: no whole answer before the deadline.
        OSError: the connection broke.
        ValueError: the frame is too long or not what the decoder expects.
    """
    (length,) = _LENGTH.unpack(_exactly(channel, _LENGTH.size, deadline))
    if length > FRAME_LIMIT:
        raise ValueError("message too long")
    return decoder.decode(_exactly(channel, length, deadline))


def receive_setup(channel: socket.socket) -> tuple[Setup, list[int]]:
    """Receive the first message and its open directories, which come ahead of it; errors as in `receive`."""
    mark, descriptors, _, _ = socket.recv_fds(channel, 1, 8)
    if not mark:
        raise EOFError
    return receive(channel, SETUP), descriptors


def _exactly(channel: socket.socket, size: int, deadline: float | None = None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if deadline is not None:
            # Zero would mean "do not block", which raises another error.
            channel.settimeout(max(0.001, deadline - time.monotonic()))
        part = channel.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


_START = (
    "import json,sys;sys.path[:]=json.loads(sys.argv[1]);from tank_agent.source.git.helper import main;"
    "main(reserve=len(sys.argv)>2)"
)


class Helper:
    """A helper process that waits for its first message; `reserve` loads all code now that may be needed."""

    def __init__(self, *, reserve: bool = False) -> None:
        self.channel, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._reaped = False
        self._errors = os.memfd_create("tank-git-helper", os.MFD_CLOEXEC)
        with theirs:
            self.process = start_helper(
                _START,
                json.dumps([path for path in sys.path if path]),
                *(("reserve",) if reserve else ()),
                channel=theirs,
                output=self._errors,
            )
        self._pidfd = os.pidfd_open(self.process.pid)

    @property
    def usable(self) -> bool:
        """Return whether it still runs; does not reap it."""
        return not pidfd.ended(self._pidfd)

    def last_words(self) -> str:
        """Wait a second for its end, and return the last line that it wrote, as one safe line."""
        readable(self._pidfd, 1.0)
        size = os.fstat(self._errors).st_size
        text = os.pread(self._errors, 4096, max(0, size - 4096)).decode("utf-8", "replace")
        lines = text.strip().splitlines()
        return printable(lines[-1], 200) if lines else ""

    def kill(self) -> None:
        """Kill it and its children; from any thread, also more than once."""
        with self._lock:
            # No other group can have this number before its leader is reaped.
            if not self._reaped:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> int:
        """Kill it if it still runs, reap it, and return its exit code; also more than once."""
        self.kill()
        with self._lock:
            code = self.process.wait()
            if not self._reaped:
                self._reaped = True
                self.channel.close()
                os.close(self._pidfd)
                os.close(self._errors)
        return code


class HelperPool:
    """Starts helpers; if `warm`, one in reserve, since starting Python takes longer than a small fetch."""

    def __init__(self, *, warm: bool = False) -> None:
        self._warm = warm
        self._lock = threading.Lock()
        self._spare: Helper | None = None

    def take(self) -> Helper:
        """Return a helper that the caller closes."""
        with self._lock:
            spare, self._spare = self._spare, None
        if spare is not None and not spare.usable:
            spare.close()
            spare = None
        return spare or Helper()

    def refill(self) -> None:
        """Start the reserve, if there is none; it loads while nobody waits."""
        with self._lock:
            if self._warm and not (self._spare is not None and self._spare.usable):
                if self._spare is not None:
                    self._spare.close()
                self._spare = Helper(reserve=True)

    def close(self) -> None:
        """End the reserve."""
        with self._lock:
            spare, self._spare = self._spare, None
            self._warm = False
        if spare is not None:
            spare.close()


class HelperSession:
    """Sends requests to one helper; to be used by one thread, except `stop`. All requests raise GitError.

    Args:
        descriptors: the directories that `setup` names; they stay the caller's, as the helper does.
    """

    def __init__(self, helper: Helper, setup: Setup, descriptors: Iterable[int]) -> None:
        self._helper = helper
        self._limits = setup.limits
        self._deadline = 0.0
        self._stopped = False
        with self._failures():
            helper.channel.settimeout(setup.limits.wall)
            socket.send_fds(helper.channel, [b"\0"], list(descriptors))
            send(helper.channel, setup)

    def stop(self) -> None:
        """Let the request that runs fail; from any thread."""
        self._stopped = True
        self._helper.kill()

    def list_refs(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return the objects that these refs of the remote point to; missing refs are left out."""
        answer = self._ask(ListRefs(names), Refs)
        return {name: answer.ids[name] for name in names if name in answer.ids}

    def fetch(self, wanted: Wanted) -> str:
        """Fetch into the scratch directory, and return the object's name."""
        return self._ask(Fetch(wanted), Fetched).id

    def history(
        self, tip: str, deployed: str | None, *, full: bool = False
    ) -> tuple[list[Tag], dict[str, Commit]]:
        """Return the tags on the way to a commit, and commits by the hashes of their bytes."""
        tags: list[Tag] = []
        commits: dict[str, Commit] = {}
        wanted = tip
        for item in self._stream(ReadHistory(tip, deployed, full)):
            if not isinstance(item, Object):
                raise GitError("corrupt", "unexpected answer")
            name = object_id(item.kind, item.data)
            try:
                if item.kind == "tag" and not commits and name == wanted:
                    tags.append(parse_tag(item.data))
                    wanted = tags[-1].target
                elif item.kind == "commit":
                    commits[name] = parse_commit(item.data)
            except ValueError as error:
                raise GitError("corrupt", f"{error}") from error
        if wanted not in commits:
            raise GitError("corrupt", f"commit {wanted[:12]} is missing")
        return tags, commits

    def tree(self, tree: str, path: str, known: frozenset[bytes]) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return trees and files below a path by the hashes of their bytes, and sizes of too large files."""
        objects: dict[str, bytes] = {}
        omitted: dict[str, int] = {}
        for item in self._stream(ReadTree(tree, path, known)):
            if isinstance(item, Omitted):
                omitted[item.id] = item.size
            elif item.kind in ("tree", "blob"):
                objects[object_id(item.kind, item.data)] = item.data
        return objects, omitted

    def blobs(self, ids: Iterable[str], largest: int) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return blobs by the hashes of their bytes, and the sizes of those larger than `largest`."""
        objects: dict[str, bytes] = {}
        omitted: dict[str, int] = {}
        for item in self._stream(ReadBlobs(tuple(ids), largest)):
            if isinstance(item, Omitted):
                omitted[item.id] = item.size
            elif item.kind == "blob" and len(item.data) <= largest:
                objects[object_id(item.kind, item.data)] = item.data
        return objects, omitted

    def _ask(self, request: Request, expected: type[_Answer]) -> _Answer:
        with self._failures():
            self._send(request)
            answer = self._receive()
        if not isinstance(answer, expected):
            raise GitError("broken", "unexpected answer of the git helper")
        return answer

    def _stream(self, request: Request) -> Iterator[Object | Omitted]:
        total = 0
        with self._failures():
            self._send(request)
            while not isinstance(answer := self._receive(), Done):
                if not isinstance(answer, Object | Omitted):
                    raise GitError("broken", "unexpected answer of the git helper")
                # The helper checks this, too, but an attacker may run in it.
                total += len(answer.data) + 200 if isinstance(answer, Object) else 200
                if total > self._limits.total + 200 * (self._limits.entries + self._limits.commits):
                    raise GitError("too-big", "the git helper sends more than it may")
                yield answer

    def _send(self, request: Request) -> None:
        self._deadline = time.monotonic() + self._limits.wall
        self._helper.channel.settimeout(self._limits.wall)
        send(self._helper.channel, request)

    def _receive(self) -> Reply:
        answer: Reply = receive(self._helper.channel, REPLY, self._deadline)
        if isinstance(answer, Failed):
            hint = answer.hint and printable(answer.hint, 300)
            raise GitError(answer.kind, printable(answer.message, 300), hint)
        return answer

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self._helper.kill()
            message = f"no answer within {self._limits.wall:g} s"
            raise GitError("unreachable", message, "see git.timeout; it is tried again") from error
        except (EOFError, OSError) as error:
            if self._stopped:
                raise GitError("stopped", "stopped") from error
            raise self._obituary() from error
        except ValueError as error:
            self._helper.kill()
            raise GitError("broken", f"the git helper answers nonsense: {printable(str(error))}") from error

    def _obituary(self) -> GitError:
        """Return why the helper ended."""
        words = self._helper.last_words()
        code = self._helper.close()
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and time.monotonic() < self._deadline):
            return GitError("too-big", f"needs more than {self._limits.cpu} s of CPU or too much memory")
        if code == -signal.SIGXFSZ or "File too large" in words:
            return GitError(*TOO_LARGE)
        if "MemoryError" in words or "Cannot allocate memory" in words:
            return GitError("too-big", "needs more memory than is allowed", "see git.max_size")
        if "No space left on device" in words or "Disk quota" in words:
            return GitError(*NO_SPACE)
        return GitError("broken", f"the git helper ended with {code}: {words}")


def helper_user(name: str, local: int | None) -> tuple[int, int] | None:
    """Return the (uid, gid) of the helper; None if we are not root.

    A repository on this machine (`local` is its open directory) is read as its owner, unless that is root.

    Raises:
        GitError: there is no such user, or it is root.
    """
    if os.geteuid() != 0:
        return None
    if local is not None:
        found = os.fstat(local)
        if stat.S_ISDIR(found.st_mode) and found.st_uid != 0:
            return found.st_uid, found.st_gid
    try:
        user = pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError as error:
        raise GitError("refused", f"there is no user {name}", "see git.run_as") from error
    if user.pw_uid == 0:
        raise GitError("refused", "git.run_as is root", "name a user without rights, such as nobody")
    return user.pw_uid, user.pw_gid
