"""The process that talks to the remote and parses what it says: bounded, without rights, short-lived.

Started by `child` with a socket as its stdin. Order matters: load the code while it can be read, take the
descriptors, build a view of the file system in which only the scratch directory can be written, set limits,
give up root, and only then look at anything that a stranger wrote. The agent hashes again what it is given:
a mistake here can stop an update but never forge one.
"""

from __future__ import annotations

import heapq
import importlib
import os
import pkgutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dulwich.object_store import DiskObjectStore
from msgspec import Struct

from tank_agent.linux import confine
from tank_agent.source.git.access import Context, GitError, GitTransport, advise
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

# Directories that every system has and that hold nothing we need: our own little tree is mounted over one.
_STAGES = ("/mnt", "/media", "/srv")


class Places(Struct, frozen=True, kw_only=True):
    """Where the helper finds its directories: `private` for key files, `local` the remote if it is here."""

    private: Path
    scratch: Path
    objects: Path
    local: Path | None = None


def main(*, reserve: bool = False) -> None:
    """Serve one agent until it hangs up; `reserve` loads what a push will need before it comes."""
    confine.die_with_parent()
    # Bound to be needed, and perhaps not readable any more once we are somebody else.
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
    except EOFError:
        return
    try:
        transport = load_transport(setup)
        load_dulwich()
        session = _Session(setup, transport, give_up_the_rest(setup, descriptors))
        while True:
            session.answer(channel, receive(channel, REQUEST))
    except EOFError:
        return
    except GitError as error:
        send(channel, Failed(error.kind, error.message, error.hint))


def give_up_the_rest(setup: Setup, descriptors: list[int]) -> Places:
    """Take away all that this session does not need, and return where things are now.

    Raises:
        GitError: as root, if the file system cannot be made read-only.
    """
    given = dict(zip(setup.descriptors, descriptors, strict=True))
    limits = setup.limits
    places = _stage(given, setup.uid) if os.geteuid() == 0 else _unstaged(given)
    # Each is a way round the read-only view: from it, .. leads through the machine's own mounts.
    for descriptor in descriptors:
        os.close(descriptor)
    confine.limit(memory=limits.memory, cpu_seconds=limits.cpu, file_size=limits.file_size, descriptors=1024)
    if setup.uid is not None and setup.gid is not None and os.geteuid() == 0:
        confine.become(setup.uid, setup.gid)
    confine.gain_no_privileges()
    # Cleared by the change of user.
    confine.die_with_parent()
    os.umask(0o022)
    tempfile.tempdir = os.fspath(places.scratch)
    os.chdir(places.private)
    return places


def load_transport(setup: Setup) -> Callable[[Context], GitTransport]:
    """Return what makes the session's transport, with all its code loaded: somebody else may not read it."""
    if setup.transport == "git":
        from tank_agent.source.git.with_git import CommandTransport

        return CommandTransport
    from tank_agent.source.git.with_dulwich import DulwichTransport

    if "http" in setup.remote.scheme:
        import urllib3  # noqa: F401
    return DulwichTransport


def load_dulwich() -> None:
    """Load all of dulwich, which loads parts when it needs them, if only root may read it, as below /root."""
    import dulwich

    directory = Path(dulwich.__path__[0])
    if all(place.stat().st_mode & 0o005 == 0o005 for place in (directory, *directory.parents)):
        return
    for module in pkgutil.iter_modules(dulwich.__path__, "dulwich."):
        # Some need packages that nobody asked for.
        with suppress(ImportError):
            if not module.ispkg and module.name not in ("dulwich.cli", "dulwich.__main__"):
                importlib.import_module(module.name)


def _stage(given: dict[str, int], uid: int | None) -> Places:
    """Mount what was given in a private mount namespace, in which all else is read-only."""
    stage = next((path for path in map(Path, _STAGES) if path.is_dir()), None)
    if stage is None:
        raise GitError("refused", f"none of {', '.join(_STAGES)} exists", hint="create the directory /mnt")
    try:
        confine.write_only_to(given, stage, {"scratch"})
    except OSError as error:
        raise GitError(
            "refused", f"cannot confine the git helper: {error}", hint="see `tank doctor`"
        ) from error
    private = stage / "private"
    private.mkdir(mode=0o700)
    if uid is not None:
        os.chown(private, uid, -1)
    return Places(private=private, **{name: stage / name for name in given})


def _unstaged(given: dict[str, int]) -> Places:
    """Use the directories as they are: without root there is nothing to confine and nobody to protect."""
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
        # The agent kills us at its deadline; this is for the case that it cannot any more.
        signal.setitimer(signal.ITIMER_REAL, self._setup.limits.wall + 5)
        try:
            for reply in self._replies(request):
                send(channel, reply)
        except GitError as error:
            send(channel, Failed(error.kind, error.message, error.hint))
        except MemoryError:
            send(channel, Failed("too-big", "the answer needs more memory than is allowed"))
        except OSError:
            raise
        except Exception as error:
            if isinstance(request, ListRefs | Fetch):
                text = printable(f"{type(error).__name__}: {error}", 200)
                send(channel, Failed("broken", f"the server's answer cannot be used: {text}"))
            else:
                text = printable(
                    str(error) if isinstance(error, BadObjectError) else f"{type(error).__name__}: {error}"
                )
                send(channel, Failed("corrupt", f"the local copy is damaged: {text}"))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _replies(self, request: Request) -> Iterator[Struct]:
        match request:
            case ListRefs() | Fetch():
                yield self._reply_of_remote(request)
            case ReadHistory() | ReadTree():
                reader = ObjectReader(os.fspath(self._places.objects), self._setup.limits)
                try:
                    yield from (
                        reader.history(request) if isinstance(request, ReadHistory) else reader.tree(request)
                    )
                finally:
                    reader.close()
                yield Done()

    def _reply_of_remote(self, request: ListRefs | Fetch) -> Refs | Fetched:
        context = self._context()
        try:
            transport = self._transport(context)
            if isinstance(request, ListRefs):
                return Refs(transport.list_refs(request.names))
            self._stand_on_what_we_have()
            return Fetched(transport.fetch(request.wanted, self._places.scratch))
        except GitError as error:
            raise advise(error, context) from error

    def _stand_on_what_we_have(self) -> None:
        alternates = self._places.scratch / "objects/info/alternates"
        alternates.write_text(f"{self._places.objects}\n", encoding="utf-8")

    def _context(self) -> Context:
        setup, local = self._setup, self._places.local
        if local is not None and not os.access(local, os.R_OK | os.X_OK):
            # Git and dulwich would say that it is no repository.
            hint = "give it to the user who pushes, or let git.run_as read it"
            raise GitError("refused", "the repository may not be read", hint=hint)
        return Context(
            remote=setup.remote,
            access=setup.access,
            private=self._places.private,
            local=local,
            timeout=min(30.0, setup.limits.wall),
            largest_file=setup.limits.blob,
        )


_KINDS: dict[int, Kind] = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_TIP, _OLD = 1, 2


class ObjectReader:
    """One pass over the object store in a directory (`objects` of a bare repository)."""

    def __init__(self, objects: str, limits: HelperLimits) -> None:
        self._store: Any = DiskObjectStore(objects)
        self._limits = limits
        self._omitted = _omitted(Path(objects) / "info" / "omitted")
        self._left = limits.total

    def close(self) -> None:
        """Close the packs."""
        self._store.close()

    def history(self, request: ReadHistory) -> Iterator[Object]:
        """Yield what is needed to judge `tip` against `deployed`: tags, then commits, newest first."""
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
        # First of all, since the walk may end before it: an older commit is found from the deployed one.
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
                    raise GitError(
                        "too-big", f"more than {self._limits.commits} commits since the last deployed one"
                    )
                yield item
            for parent in sent[name]:
                if colours.get(parent, 0) | colours[name] != colours.get(parent, 0):
                    colours[parent] = colours.get(parent, 0) | colours[name]
                    self._push(heap, parent)

    def _commit(self, name: str) -> Object:
        item = self._load(name)
        if item.kind != "commit":
            raise GitError("not-found", "the ref does not name a commit")
        return item

    def _push(self, heap: list[tuple[int, str]], name: str) -> None:
        # Beyond a shallow boundary, and after a re-clone also the deployed commit: the agent sees the hole.
        try:
            _, data = self._store.get_raw(name.encode())
        except KeyError:
            return
        heapq.heappush(heap, (-_time(data), name))

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
                yield self._file(file.id)

    def _file(self, name: str) -> Object | Omitted:
        size = self._omitted.get(name)
        if size is not None and (size == 0 or size > self._limits.blob):
            return Omitted(name, size)
        try:
            item = self._get(name)
        except MemoryError:
            # A few bytes in a pack can stand for gigabytes; the others' files are still to be read.
            return Omitted(name, 0)
        return Omitted(name, len(item.data)) if len(item.data) > self._limits.blob else item

    def _load(self, name: str) -> Object:
        try:
            return self._get(name)
        except MemoryError as error:
            message = f"object {name[:12]} unpacks to more memory than is allowed"
            raise GitError("too-big", message, hint="take it out of the history") from error

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
            raise GitError("too-big", f"{what} more than {self._limits.total >> 20} MiB", hint="see git.path")
        return Object(kind, data)


def _omitted(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return {}
    found = (OMITTED.fullmatch(line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match is not None}


def _parents(data: bytes) -> tuple[str, ...]:
    head = data.partition(b"\n\n")[0]
    return tuple(
        line[7:47].decode("ascii", "replace") for line in head.split(b"\n") if line.startswith(b"parent ")
    )


def _time(data: bytes) -> int:
    for line in data.partition(b"\n\n")[0].split(b"\n"):
        if line.startswith(b"committer "):
            text = line.rsplit(b" ", 2)[-2]
            return int(text) if text.isdigit() else 0
    return 0
