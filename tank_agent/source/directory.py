"""pods.d: a directory whose files are the pods, mirrored as it is now."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from tank_agent.errors import Problem
from tank_agent.linux.paths import directory_identity
from tank_agent.source.files import Listing, PodFile, PodFiles, parse_bytes, parser_for
from tank_agent.source.follower import Inbox, ReadingFollower
from tank_agent.source.kinds import DIRECTORY
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.source.watch import DirectoryWatcher

# Editors that keep a backup move the file away before they write the new one. A file that is missing for
# longer than this is gone.
VANISHED_FOR = 0.2
IDENTITY_KEY = "dir.identity"
_log = structlog.get_logger()


class DirectorySource:
    """Takes snapshots of one directory of pod files; to be used by one thread at a time.

    Args:
        path: the directory; made absolute, but links in it are kept, since the owner names are for people.
        remember: keeps the identity of the directory over restarts (`Journal.remember`).
        recall: returns it (`Journal.recall`).
        clock: Unix time in seconds, as files have it.
        monotonic: seconds for measuring how long a file has been missing.
        parse: makes a PodFile of a file's bytes.
        optional: a directory that is not there, and that no pod is known to have come from, is no problem.
    """

    def __init__(
        self,
        path: Path,
        *,
        remember: Callable[[str, bytes], None],
        recall: Callable[[str], bytes],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        parse: Callable[[bytes, str], PodFile] = parse_bytes,
        optional: bool = False,
    ) -> None:
        self.path = path.absolute()
        self._optional = optional
        self._files = PodFiles(self.path, clock=clock, parse=parse)
        self._remember = remember
        self._recall = recall
        self._monotonic = monotonic
        self._present: Mapping[str, PodFile] = {}
        self._missing: dict[str, tuple[PodFile, float]] = {}
        self._settled_in: float | None = None
        self._last: tuple[object, Snapshot] | None = None

    def settle_after(self) -> float | None:
        """Return in how many seconds to take another snapshot, whatever the watcher says; None: no need.

        A file that has just changed or vanished may do so again without a trace.
        """
        return self._settled_in

    def snapshot(self) -> Snapshot:
        """Return what the directory declares now; the same object as before if nothing changed."""
        self._settled_in = None
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._optional and not self._recall(IDENTITY_KEY):
                return self._unavailable(None)
            return self._unavailable(_NOT_THERE)
        except OSError as error:
            return self._unavailable(_cannot_read(error))
        try:
            # All of one snapshot comes through one descriptor: what is mounted here meanwhile can't mix in.
            listing = self._files.list(fd)
            identity = directory_identity(fd)
        except OSError as error:
            return self._unavailable(_cannot_read(error))
        finally:
            os.close(fd)
        return self._judge(listing, identity)

    def _judge(self, listing: Listing, identity: bytes) -> Snapshot:
        known = self._recall(IDENTITY_KEY)
        if any(file.pods for file in listing.files.values()):
            if identity != known:
                self._remember(IDENTITY_KEY, identity)
        elif known and identity != known:
            problems = tuple(problem for file in listing.files.values() for problem in file.problems)
            return self._unavailable(_REPLACED, problems)
        missing = self._note_missing(listing.files)
        if known and not listing.files and not missing:
            # Emptied in place: its pods go, and with them what identifies this directory.
            self._remember(IDENTITY_KEY, b"")
        delays = [delay for delay in (listing.settled_in, self._missing_delay()) if delay is not None]
        self._settled_in = max(delays, default=None)
        state = (tuple(listing.files.values()), missing)
        if self._last is None or self._last[0] != state:
            self._last = (state, _snapshot(listing.files, missing))
        return self._last[1]

    def _note_missing(self, files: Mapping[str, PodFile]) -> frozenset[str]:
        """Return the files that went away so recently that they may come back."""
        now = self._monotonic()
        for name, file in self._present.items():
            if name not in files:
                self._missing.setdefault(name, (file, now))
        if self._missing:
            arrived = _arrived(self._present, files)
            self._missing = {
                name: (file, since)
                for name, (file, since) in self._missing.items()
                if name not in files and now - since < VANISHED_FOR and not _moved(file, arrived)
            }
        self._present = files
        return frozenset(file.file for file, _ in self._missing.values())

    def _missing_delay(self) -> float | None:
        now = self._monotonic()
        return max(
            (max(since + VANISHED_FOR - now, 0.0) for _, since in self._missing.values()), default=None
        )

    def _unavailable(self, message: str | None, others: tuple[Problem, ...] = ()) -> Snapshot:
        problems = others if message is None else (Problem(str(self.path), 0, "", message), *others)
        if self._last is None or self._last[0] != problems:
            snapshot = Snapshot(source=DIRECTORY.name, revision="", problems=problems, available=False)
            self._last = (problems, snapshot)
        return self._last[1]


def snapshot_of_texts(
    files: Mapping[str, str], parse: Callable[[bytes, str], PodFile] = parse_bytes
) -> Snapshot:
    """Return the snapshot of a directory with just these files (absolute path → text), for `tank plan`."""
    return _snapshot({file: parse(text.encode(), file) for file, text in sorted(files.items())}, frozenset())


_NOT_THERE = "is not there; the pods that came from it go on. Create it again, or mount it"
_REPLACED = (
    "has no pods, and is not the directory that the running pods came from: it looks unmounted or replaced;"
    " those pods go on. Mount it again, or put a pod file in it to make it count, or remove each pod with"
    " `tank delete NAME`"
)


def _arrived(before: Mapping[str, PodFile], after: Mapping[str, PodFile]) -> frozenset[str]:
    """Return the pods that a file declares now and did not before."""
    return frozenset(
        found.pod.name
        for name, file in after.items()
        if before.get(name) is not file
        for found in file.pods
        if name not in before or all(found.pod.name != old.pod.name for old in before[name].pods)
    )


def _moved(file: PodFile, arrived: frozenset[str]) -> bool:
    """Return whether all that a missing file declared stands elsewhere now: it was renamed, not lost."""
    return not file.problems and all(found.pod.name in arrived for found in file.pods)


def _cannot_read(error: OSError) -> str:
    return f"can't be read ({error.strerror}); the pods that came from it go on"


def _snapshot(files: Mapping[str, PodFile], missing: frozenset[str]) -> Snapshot:
    digest = hashlib.sha256()
    pods: list[Declared] = []
    problems: list[Problem] = []
    unreadable = {DIRECTORY.owner(file) for file in missing}
    for file in files.values():
        digest.update(f"{file.file}\0{file.revision}\n".encode())
        owner = DIRECTORY.owner(file.file)
        for found in file.pods:
            pods.append(
                Declared(pod=found.pod, owner=owner, revision=file.revision, file=file.file, line=found.line)
            )
        if file.problems:
            problems += file.problems
            unreadable.add(owner)
    return Snapshot(
        source=DIRECTORY.name,
        revision=digest.hexdigest()[:12],
        pods=tuple(pods),
        problems=tuple(problems),
        unreadable=frozenset(unreadable),
    )


class DirectoryFollower(ReadingFollower):
    """Mirrors pods_dir; it is read whenever a watch or the resync says so."""

    slow = "the files of pods_dir are still being looked at"
    slow_hint = "they change all the time, or their disk does not answer; what runs goes on"

    def __init__(self, inbox: Inbox) -> None:
        settings = inbox.settings
        directory = DirectorySource(
            settings.pods_dir,
            remember=inbox.remember,
            recall=inbox.recall,
            parse=parser_for(inbox.host),
            # Where all pods come from git, nobody needs the directory.
            optional=settings.git is not None,
        )
        super().__init__(DIRECTORY.name, directory, inbox)
        self.place = str(settings.pods_dir)
        self._watcher = DirectoryWatcher(settings.pods_dir, self.wake, _log_watch)

    def start(self) -> None:
        """Begin to watch before the first look: what changes in between is seen twice, never missed."""
        self._watcher.start()
        super().start()

    def close(self) -> None:
        """End the watch and the thread."""
        self._watcher.stop()
        super().close()


def _log_watch(trouble: str | None) -> None:
    if trouble is not None:
        _log.warning("changes in pods_dir are seen at the next resync only", trouble=trouble)
    else:
        _log.info("pods_dir is watched")
