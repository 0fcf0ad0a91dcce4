"""The process that talks to the remote and parses its answers: bounded, without rights, short-lived.

`child` starts it with a socket as its stdin. The order matters: load the code while it can be read, take the
descriptors, make the file system read-only except for the scratch directory, set limits, give up root, and
read foreign data only then. The agent hashes all objects again: a fault here can stop an update, but cannot
forge one.
"""

from __future__ import annotations

import heapq
import importlib
import os
import pkgutil
import re
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from dulwich.object_store import DiskObjectStore
from dulwich.repo import Repo
from msgspec import Struct

from tank_agent.linux import confine
from tank_agent.source.git.access import NO_MEMORY, Context, GitError, GitTransport, advise
from tank_agent.source.git.child import (
    REQUEST,
    Done,
    Failed,
    Fetch,
    Fetched,
    HelperLimits,
    ListRefs,
    Object,
    Omitted,
    ReadBlobs,
    ReadHistory,
    ReadTree,
    Refs,
    Request,
    Setup,
    receive,
    receive_setup,
    send,
)
from tank_agent.source.git.content import DirectoryMissingError, walk
from tank_agent.source.git.objects import OMITTED, BadObjectError, Kind, object_id, parse_tag, printable
from tank_agent.spec.beside import FILE_MAX

# Directories that every system has and the helper does not need: its own small file system covers one.
_STAGES = ("/mnt", "/media", "/srv")


class Places(Struct, frozen=True, kw_only=True):
    """The directories of the helper: `private` for key files, `local` the remote if it is on this machine."""

    private: Path
    scratch: Path
    objects: Path
    local: Path | None = None


def main(*, reserve: bool = False) -> None:
    """Serve one agent until it hangs up; `reserve` loads the code for a push ahead."""
    confine.die_with_parent()
    # Always needed, and perhaps unreadable for the user that the helper becomes.
    import dulwich.client
    import dulwich.repo  # noqa: F401

    if reserve:
        import tank_agent.source.git.with_dulwich  # noqa: F401

    channel = socket.socket(fileno=os.dup(0))
    devnull = os.open(os.devnull, os.O_RDONLY)
    os.dup2(devnull, 0)
    os.close(devnull)
    try:
        setup, descriptors = receive_setup(channel)
        transport = load_transport(setup)
        load_dulwich()
        session = _Session(setup, transport, give_up_the_rest(setup, descriptors))
        while True:
            session.answer(channel, receive(channel, REQUEST))
    except EOFError:
        pass
    except GitError as error:
        send(channel, Failed(error.kind, error.message, error.hint))


def give_up_the_rest(setup: Setup, descriptors: list[int]) -> Places:
    """Give up all rights that this session does not need, and return the directories in their new places.

    Raises:
        GitError: as root, if the file system cannot be made read-only.
    """
    given = dict(zip(setup.descriptors, descriptors, strict=True))
    limits = setup.limits
    places = _stage(given, setup.user) if os.geteuid() == 0 else _unstaged(given)
    # Each would be a way around the read-only view: its `..` leads to the machine's own mounts.
    for descriptor in descriptors:
        os.close(descriptor)
    confine.limit(memory=limits.memory, cpu_seconds=limits.cpu, file_size=limits.file_size, descriptors=1024)
    if setup.user is not None and os.geteuid() == 0:
        confine.become(*setup.user)
    confine.gain_no_privileges()
    # The change of user undid it.
    confine.die_with_parent()
    os.umask(0o022)
    tempfile.tempdir = os.fspath(places.scratch)
    os.chdir(places.private)
    return places


def load_transport(setup: Setup) -> Callable[[Context], GitTransport]:
    """Return the session's transport, with all its code loaded: another user may not be able to read it."""
    if setup.transport == "git":
        from tank_agent.source.git.with_git import CommandTransport

        return CommandTransport
    from tank_agent.source.git.with_dulwich import DulwichTransport

    return DulwichTransport


def load_dulwich() -> None:
    """Load the parts that dulwich would load later, if only root may read its code, as below /root."""
    import dulwich

    directory = Path(dulwich.__path__[0])
    if all(place.stat().st_mode & 0o005 == 0o005 for place in (directory, *directory.parents)):
        return
    for module in pkgutil.iter_modules(dulwich.__path__, "dulwich."):
        # Some need packages that are not installed.
        with suppress(ImportError):
            if not module.ispkg and module.name not in ("dulwich.cli", "dulwich.__main__"):
                importlib.import_module(module.name)


def _stage(given: dict[str, int], user: tuple[int, int] | None) -> Places:
    """Mount the given directories in a private mount namespace, in which all else is read-only."""
    stage = next((path for path in map(Path, _STAGES) if path.is_dir()), None)
    if stage is None:
        raise GitError("refused", f"none of {', '.join(_STAGES)} exists", "create the directory /mnt")
    try:
        confine.write_only_to(given, stage, {"scratch"})
    except OSError as error:
        raise GitError("refused", f"cannot confine the git helper: {error}", "see `tank doctor`") from error
    private = stage / "private"
    private.mkdir(mode=0o700)
    if user is not None:
        os.chown(private, user[0], -1)
    return Places(private=private, **{name: stage / name for name in given})


def _unstaged(given: dict[str, int]) -> Places:
    """Use the directories as they are: without root nothing can be mounted."""
    places = {name: Path(f"/proc/self/fd/{fd}").readlink() for name, fd in given.items()}
    private = places["scratch"] / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    return Places(private=private, **places)


class _Session:
    """Answers requests, one after the other."""

    def __init__(self, setup: Setup, transport: Callable[[Context], GitTransport], places: Places) -> None:
        self._setup = setup
        self._transport = transport
        self._places = places

    def answer(self, channel: socket.socket, request: Request) -> None:
        """Send everything that answers one request; the last message ends the answer."""
        # The agent kills the helper at its deadline; this serves if it cannot any more.
        signal.setitimer(signal.ITIMER_REAL, self._setup.limits.wall + 5)
        try:
            for reply in self._replies(request):
                send(channel, reply)
        except GitError as error:
            send(channel, Failed(error.kind, error.message, error.hint))
        except MemoryError:
            send(channel, Failed(*NO_MEMORY))
        except OSError:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if isinstance(request, ListRefs | Fetch):
                send(channel, Failed("broken", f"the server's answer cannot be used: {printable(text, 200)}"))
            else:
                text = printable(str(error) if isinstance(error, BadObjectError) else text)
                send(channel, Failed("corrupt", f"the local copy is damaged: {text}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _replies(self, request: Request) -> Iterator[Struct]:
        if isinstance(request, ListRefs | Fetch):
            yield self._reply_of_remote(request)
            return
        with closing(ObjectReader(self._places.objects, self._setup.limits)) as reader:
            if isinstance(request, ReadHistory):
                yield from reader.history(request)
            elif isinstance(request, ReadTree):
                yield from reader.tree(request)
            else:
                yield from reader.blobs(request, self._places.local)
        yield Done()

    def _reply_of_remote(self, request: ListRefs | Fetch) -> Refs | Fetched:
        setup, places = self._setup, self._places
        if places.local is not None and not os.access(places.local, os.R_OK | os.X_OK):
            # Git and dulwich would report that it is no repository.
            hint = "give it to the user who pushes, or let git.run_as read it"
            raise GitError("refused", "the repository may not be read", hint)
        context = Context(
            remote=setup.remote,
            access=setup.access,
            private=places.private,
            local=places.local,
            timeout=min(30.0, setup.limits.wall),
            largest_file=max(setup.limits.blob, FILE_MAX),
        )
        try:
            transport = self._transport(context)
            if isinstance(request, ListRefs):
                return Refs(transport.list_refs(request.names))
            # The fetch leaves out what our copy has.
            alternates = places.scratch / "objects/info/alternates"
            alternates.write_text(f"{places.objects}\n", encoding="utf-8")
            return Fetched(transport.fetch(request.wanted, places.scratch))
        except GitError as error:
            raise advise(error, context) from error


_KINDS: dict[int, Kind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_PARENT = re.compile(rb"^parent (.{0,40})", re.MULTILINE)
_TIME = re.compile(rb"^committer (?:.* )?(\d+) [^ \n]*$", re.MULTILINE)
_TIP, _OLD = 1, 2


class ObjectReader:
    """Reads the object store in a directory (`objects` of a bare repository) for one request."""

    def __init__(self, objects: Path, limits: HelperLimits) -> None:
        self._store: Any = DiskObjectStore(os.fspath(objects))
        self._limits = limits
        self._left = limits.total
        file = objects / "info/omitted"
        lines = file.read_text(encoding="ascii").splitlines() if file.exists() else ()
        found = (OMITTED.fullmatch(line) for line in lines)
        self._omitted = {match[1]: int(match[2]) for match in found if match is not None}

    def close(self) -> None:
        """Close the packs."""
        self._store.close()

    def history(self, request: ReadHistory) -> Iterator[Object]:
        """Yield the tags, then the commits, newest first, that `tip` has and `deployed` perhaps lacks."""
        name = request.tip
        for _ in range(4):
            item = self._load(name)
            if item.kind != "tag":
                break
            yield item
            name = parse_tag(item.data).target
        yield from self._commits(name, request)

    def _commits(self, tip: str, request: ReadHistory) -> Iterator[Object]:
        colours = {tip: _TIP}
        deployed = request.deployed if request.deployed != tip else None
        if deployed is not None:
            colours[deployed] = _OLD
        item = self._commit(tip)
        # First, since the walk may end before it if it is older than the deployed commit.
        yield item
        if deployed is None:
            return
        sent = {tip: _parents(item.data)}
        heap: list[tuple[int, str]] = []
        done: dict[str, int] = {}
        for name in colours:
            self._push(heap, name)
        while heap and (request.full or any(colours[name] == _TIP for _, name in heap)):
            _, name = heapq.heappop(heap)
            if done.get(name) == colours[name]:
                continue
            done[name] = colours[name]
            if name not in sent:
                item = self._commit(name)
                sent[name] = _parents(item.data)
                if len(sent) > self._limits.commits:
                    message = f"more than {self._limits.commits} commits since the last deployed one"
                    raise GitError("too-big", message)
                yield item
            for parent in sent[name]:
                before = colours.get(parent, 0)
                colours[parent] = before | colours[name]
                if colours[parent] != before:
                    self._push(heap, parent)

    def _commit(self, name: str) -> Object:
        item = self._load(name)
        if item.kind != "commit":
            raise GitError("not-found", "the ref does not name a commit")
        return item

    def _push(self, heap: list[tuple[int, str]], name: str) -> None:
        # It may lie beyond a shallow boundary, and so may the deployed commit: the agent notices the hole.
        try:
            _, data = self._store.get_raw(name.encode())
        except KeyError:
            return
        at = _TIME.search(data.partition(b"\n\n")[0])
        heapq.heappush(heap, (-int(at[1]) if at is not None else 0, name))

    def tree(self, request: ReadTree) -> Iterator[Object | Omitted]:
        """Yield the trees and .toml files below a path that the agent does not have yet."""
        found: list[Object | Omitted] = []

        def load(name: str) -> bytes:
            item = self._load(name)
            if bytes.fromhex(name) not in request.known:
                found.append(item)
            return item.data

        try:
            files, _ = walk(request.tree, request.path, load, self._limits.entries, self._limits.depth)
        except DirectoryMissingError:
            files = ()
        yield from found
        for file in files:
            if bytes.fromhex(file.id) not in request.known:
                yield self._file(file.id, self._limits.blob)

    def blobs(self, request: ReadBlobs, local: Path | None) -> Iterator[Object | Omitted]:
        """Yield the blobs that the agent asks for; a remote on this machine has what no fetch copied."""
        own = self._store
        for name in request.ids:
            if local is not None and name.encode() not in own:
                with closing(Repo(os.fspath(local))) as remote:
                    self._store = remote.object_store
                    yield self._file(name, request.largest)
                self._store = own
            else:
                yield self._file(name, request.largest)

    def _file(self, name: str, largest: int) -> Object | Omitted:
        size = self._omitted.get(name)
        if size is not None and (size == 0 or size > largest):
            return Omitted(name, size)
        try:
            item = self._get(name)
        except MemoryError:
            # A few bytes in a pack can mean gigabytes; the other files are still read.
            return Omitted(name, 0)
        return Omitted(name, len(item.data)) if len(item.data) > largest else item

    def _load(self, name: str) -> Object:
        try:
            return self._get(name)
        except MemoryError as error:
            message = f"object {name[:12]} unpacks to more memory than is allowed"
            raise GitError("too-big", message, "take it out of the history") from error

    def _get(self, name: str) -> Object:
        try:
            number, data = self._store.get_raw(name.encode())
        except KeyError:
            raise GitError("corrupt", f"object {name[:12]} is missing") from None
        kind = _KINDS[number]
        if object_id(kind, data) != name:
            raise BadObjectError(f"object {name[:12]} is damaged")
        if len(data) <= self._limits.blob or kind != "blob":
            self._left -= len(data)
        if self._left < 0:
            what = "the files are" if kind == "blob" else f"{kind} {name[:12]} and what came before it are"
            raise GitError("too-big", f"{what} more than {self._limits.total >> 20} MiB", "see git.path")
        return Object(kind, data)


def _parents(data: bytes) -> tuple[str, ...]:
    return tuple(name.decode("ascii", "replace") for name in _PARENT.findall(data.partition(b"\n\n")[0]))
