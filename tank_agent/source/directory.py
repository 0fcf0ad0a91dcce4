"""pods.d: a directory whose files are the pods, mirrored as it is now."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import structlog

from tank_agent.errors import Problem
from tank_agent.source.files import (
    VANISHED_FOR,
    Parse,
    PodFile,
    PodFiles,
    only_beside,
    parse_bytes,
    parser_for,
)
from tank_agent.source.follower import Inbox, ReadingFollower
from tank_agent.source.kinds import DIRECTORY
from tank_agent.source.snapshot import Snapshot
from tank_agent.source.watch import DirectoryWatcher
from tank_agent.spec.beside import Beside, nothing_beside
from tank_agent.spec.findings import printable

IDENTITY_KEY = "dir.identity"
_log = structlog.get_logger()


class DirectorySource:
    """Takes snapshots of one directory of pod files; to be used by one thread at a time.

    Args:
        path: the directory; made absolute, but links in it are kept, since people read the names of owners.
        remember, recall: keep the identity of the directory over restarts (`Journal.remember`).
        monotonic: seconds for measuring how long a file has been missing.
        parse: makes a PodFile of a file's bytes.
        optional: a missing directory is no problem, unless pods are known to have come from it.
        owners: returns the owners of pods now; a file that pods came from counts as a pod file.

    Attributes:
        beside: the files that the pod files name, as paths from the directory.
    """

    def __init__(
        self,
        path: Path,
        *,
        remember: Callable[[str, bytes], None],
        recall: Callable[[str], bytes],
        monotonic: Callable[[], float] = time.monotonic,
        parse: Parse = parse_bytes,
        optional: bool = False,
        owners: Callable[[], Collection[str]] = lambda: (),
    ) -> None:
        self.path = path.absolute()
        self.beside: frozenset[str] = frozenset()
        self._optional = optional
        self._owners = owners
        self._files = PodFiles(self.path, parse, monotonic=monotonic)
        self._remember = remember
        self._recall = recall
        self._monotonic = monotonic
        self._present: Mapping[str, PodFile] = {}
        self._missing: dict[str, tuple[PodFile, float]] = {}
        self._settled_in: float | None = None
        self._last: tuple[object, Snapshot] | None = None

    def settle_after(self) -> float | None:
        """Return in how many seconds to take another snapshot even without an event; None: no need.

        A file that has just changed or vanished can change again without a trace.
        """
        return self._settled_in

    def snapshot(self) -> Snapshot:
        """Return what the directory declares now; the same object as before if nothing changed."""
        self._settled_in = None
        try:
            listing = self._files.list()
        except FileNotFoundError:
            optional = self._optional and not self._recall(IDENTITY_KEY)
            return self._unavailable(None if optional else _NOT_THERE)
        except OSError as error:
            message = f"can't be read ({error.strerror}); the pods that came from it go on"
            return self._unavailable(message)
        self.beside = frozenset(path for file in listing.files.values() for path in file.beside)
        known, identity = self._recall(IDENTITY_KEY), listing.identity
        if any(file.pods for file in listing.files.values()):
            if identity != known:
                self._remember(IDENTITY_KEY, identity)
        elif known and identity != known:
            others = self._only_beside(listing.files)
            problems = tuple(
                problem
                for file in listing.files.values()
                if file.file not in others
                for problem in file.problems
            )
            return self._unavailable(_REPLACED, problems)
        missing = self._note_missing(listing.files)
        if known and not listing.files and not missing:
            # Emptied in place: its pods are removed, and with them the reason to know this directory.
            self._remember(IDENTITY_KEY, b"")
        now = self._monotonic()
        delays = [max(since + VANISHED_FOR - now, 0.0) for _, since in self._missing.values()]
        self._settled_in = max((*delays, *listing.delays), default=None)
        others = self._only_beside(listing.files)
        overlooked = tuple(f"{self.path}/{printable(name)}" for name in listing.overlooked)
        state = (tuple(listing.files.values()), missing, others, overlooked)
        if self._last is None or self._last[0] != state:
            self._last = (state, _snapshot(listing.files, missing, others, overlooked))
        return self._last[1]

    def _only_beside(self, files: Mapping[str, PodFile]) -> frozenset[str]:
        """Return the files that are no pod files, but only beside one, which may be about to come back."""
        others = only_beside([*files.values(), *(file for file, _ in self._missing.values())])
        if others:
            owners = self._owners()
            others = frozenset(file for file in others if DIRECTORY.owner(file) not in owners)
        return others

    def _note_missing(self, files: Mapping[str, PodFile]) -> frozenset[str]:
        """Return the files that went away so recently that they may come back."""
        now = self._monotonic()
        for name, file in self._present.items():
            if name not in files:
                self._missing.setdefault(name, (file, now))
        if self._missing:
            arrived = {pod for _, pod in _declared(files) - _declared(self._present)}
            self._missing = {
                name: (file, since)
                for name, (file, since) in self._missing.items()
                if name not in files and now - since < VANISHED_FOR and not _moved(file, arrived)
            }
        self._present = files
        return frozenset(file.file for file, _ in self._missing.values())

    def _unavailable(self, message: str | None, others: tuple[Problem, ...] = ()) -> Snapshot:
        problems = others if message is None else (Problem(str(self.path), 0, "", message), *others)
        if self._last is None or self._last[0] != problems:
            snapshot = Snapshot(source=DIRECTORY.name, revision="", problems=problems, available=False)
            self._last = (problems, snapshot)
        return self._last[1]


def snapshot_of_texts(
    files: Mapping[str, str],
    parse: Parse = parse_bytes,
    beside: Beside = nothing_beside,
    owners: Collection[str] = (),
) -> Snapshot:
    """Return the snapshot of a directory with just these files (absolute path → text), for `tank plan`.

    `owners` are those of pods now: a file that pods came from counts as a pod file.
    """
    parsed = {file: parse(text.encode(), file, beside) for file, text in sorted(files.items())}
    others = only_beside(parsed.values())
    others -= {file for file in others if DIRECTORY.owner(file) in owners}
    return _snapshot(parsed, frozenset(), others)


_NOT_THERE = "is not there; the pods that came from it go on. Create it again, or mount it"
_REPLACED = (
    "has no pods, and is not the directory that the running pods came from: it looks unmounted or replaced;"
    " those pods go on. Mount it again, or put a pod file in it to make it count, or remove each pod with"
    " `tank delete NAME`"
)


def _declared(files: Mapping[str, PodFile]) -> set[tuple[str, str]]:
    """Return each file with each pod that it declares."""
    return {(name, found.pod.name) for name, file in files.items() for found in file.pods}


def _moved(file: PodFile, arrived: AbstractSet[str]) -> bool:
    """Return whether another file declares all pods of a missing one now: it was renamed, not lost."""
    return not file.problems and all(found.pod.name in arrived for found in file.pods)


def _snapshot(
    files: Mapping[str, PodFile],
    missing: frozenset[str],
    others: frozenset[str],
    overlooked: tuple[str, ...] = (),
) -> Snapshot:
    """Return the snapshot of pod files; `missing` may come back, and `others` are only beside a pod file.

    `overlooked` are files that may be taken for pod files.
    """
    digest = hashlib.sha256()
    for file in files.values():
        digest.update(f"{file.file}\0{file.revision}\n".encode())
    # A file that is only beside another may have been a pod file, whose pods nobody took away.
    broken = {file.file for file in files.values() if file.problems}
    return Snapshot(
        source=DIRECTORY.name,
        revision=digest.hexdigest()[:12],
        pods=tuple(pod for file in files.values() for pod in file.declared(DIRECTORY.owner(file.file))),
        problems=tuple(
            problem for file in files.values() if file.file not in others for problem in file.problems
        ),
        unreadable=frozenset(map(DIRECTORY.owner, broken | missing)),
        overlooked=overlooked,
        elsewhere=tuple(pod for file in files.values() for pod in file.not_here(DIRECTORY.owner(file.file))),
    )


class DirectoryFollower(ReadingFollower):
    """Mirrors pods_dir; it reads the directory after each event of the watcher and at each resync."""

    slow = "the files of pods_dir are still being looked at"
    slow_hint = "they change all the time, or their disk does not answer; what runs goes on"

    def __init__(self, inbox: Inbox) -> None:
        settings = inbox.settings
        self._directory = directory = DirectorySource(
            settings.pods_dir,
            remember=inbox.remember,
            recall=inbox.recall,
            parse=parser_for(inbox.host),
            # Where all pods come from git, nobody needs the directory.
            optional=settings.git is not None,
            owners=lambda: {pod.owner for pod in inbox.owned()},
        )
        super().__init__(DIRECTORY.name, self._snapshot, inbox, settle_after=directory.settle_after)
        self.place = str(settings.pods_dir)
        self._watcher = DirectoryWatcher(settings.pods_dir, self.wake, _log_watch)

    def start(self) -> None:
        """Watch before the first look: a change in between is seen twice, and never missed."""
        self._watcher.start()
        super().start()

    def _snapshot(self) -> Snapshot:
        snapshot = self._directory.snapshot()
        self._watcher.watch_beside(self._directory.beside)
        return snapshot

    def close(self) -> None:
        """End the watcher and the thread."""
        self._watcher.stop()
        super().close()


def _log_watch(trouble: str | None) -> None:
    if trouble is not None:
        _log.warning("changes in pods_dir are seen at the next resync only", trouble=trouble)
    else:
        _log.info("pods_dir is watched")
