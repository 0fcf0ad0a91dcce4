"""The store of the agent's journal: LMDB, one writer, fsync on every commit."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import lmdb

from tank_agent.errors import Retry, Stalled, TankError, shortage
from tank_agent.journal.store import Table, Write, unreadable
from tank_agent.linux import atomic
from tank_agent.linux.locks import LockFile

# Address space only: the file grows as pages are used. Growing the map later works, but stops readers for it.
MAP_SIZE = 256 << 20
_MAX_MAP_SIZE = 64 << 30
_DATA = "data.mdb"
_LOCK = "agent.lock"
# An empty journal and LMDB's own lock, in bytes.
_ROOM = 128 << 10
# Errors of opening or reading for want of memory, descriptors or rights: the journal itself may be sound.
_NOT_ITS_FAULT = (
    lmdb.MemoryError,
    lmdb.LockError,
    lmdb.ReadonlyError,
    lmdb.ReadersFullError,
    lmdb.TlsFullError,
)


class LmdbStore:
    """Implements `Store` on an LMDB environment in the directory `path`, made if absent.

    The directory is locked against a second opening, by this process or another, until it is closed.

    Raises:
        Stalled: another agent has it open.
        UnreadableJournal: it isn't a readable LMDB environment.
    """

    def __init__(self, path: Path, *, map_size: int = MAP_SIZE) -> None:
        self.place = str(path)
        self._path = path
        self._map_size = map_size
        # Held by every read and by growing the map, which LMDB allows only while no transaction is open
        # (mdb_env_set_mapsize). Reads take microseconds, so one at a time costs nothing.
        self._readers = threading.Lock()
        self._lock = _lock_directory(path)
        with ExitStack() as undo:
            undo.callback(self._lock.close)
            with _explained(path):
                self._environment = self._open()
                undo.callback(self._environment.close)
                self._tables: dict[Table, Any] = {
                    table: self._environment.open_db(table.value.encode()) for table in Table
                }
            undo.pop_all()

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return one value."""
        with self._read() as transaction:
            value: bytes | None = transaction.get(key, db=self._tables[table])
            return value

    def scan(
        self, table: Table, start: bytes = b"", stop: bytes | None = None, limit: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        """Return the entries with `start` <= key < `stop`, in key order, at most `limit` of them."""
        found: list[tuple[bytes, bytes]] = []
        with self._read() as transaction:
            cursor = transaction.cursor(db=self._tables[table])
            if cursor.set_range(start) if start else cursor.first():
                for key, value in cursor:
                    if (stop is not None and key >= stop) or (limit is not None and len(found) >= limit):
                        break
                    found.append((key, value))
        return found

    def keys(self, table: Table) -> list[bytes]:
        """Return every key in order, without reading the values."""
        with self._read() as transaction:
            return list(transaction.cursor(db=self._tables[table]).iternext(keys=True, values=False))

    def write(self, writes: Sequence[Write]) -> None:
        """Make all of the writes durable, or none of them.

        Raises:
            Retry: the disk is full or failed; nothing was stored.
            Stalled: LMDB gave up on the environment.
        """
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for write in writes:
                        if write.value is None:
                            transaction.delete(write.key, db=self._tables[write.table])
                        else:
                            transaction.put(write.key, write.value, db=self._tables[write.table])
                return
            except lmdb.MapFullError as error:
                self._grow(error)
            except (lmdb.PanicError, lmdb.CorruptedError, lmdb.PageNotFoundError) as error:
                message = f"cannot write the journal in {self._path}: {error}"
                raise Stalled(message, hint="restart the agent") from error
            except lmdb.Error as error:
                raise Retry(
                    f"cannot write the journal in {self._path}: {error}",
                    hint="make room on that disk; pods go on as they are until then",
                ) from error

    def close(self) -> None:
        """Close the environment and unlock the directory."""
        with self._readers:
            self._environment.close()
        self._lock.close()

    def _open(self) -> Any:
        data = self._path / _DATA
        # A power cut leaves an empty file if it was just made.
        new = not data.exists() or data.stat().st_size == 0
        if new:
            _check_room(self._path)
        environment = lmdb.open(
            str(self._path), map_size=self._map_size, max_dbs=len(Table) + 3, mode=0o600, readahead=False
        )
        self._map_size = environment.info()["map_size"]
        # LMDB maps the file without looking at its length; a page behind the end would kill us with SIGBUS.
        expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if not new and data.stat().st_size < expected:
            environment.close()
            raise unreadable(self.place, f"it has {data.stat().st_size} bytes of {expected}")
        environment.reader_check()
        if new:
            # Some file systems can't sync a directory.
            for directory in (self._path, self._path.parent):
                with suppress(OSError):
                    atomic.sync_directory(directory)
        return environment

    @contextmanager
    def _read(self) -> Iterator[Any]:
        with _explained(self._path), self._readers, self._environment.begin() as transaction:
            yield transaction

    def _grow(self, cause: lmdb.MapFullError) -> None:
        if self._map_size >= _MAX_MAP_SIZE:
            raise Stalled(f"the journal in {self._path} is larger than {_MAX_MAP_SIZE >> 30} GiB") from cause
        with self._readers:
            self._environment.set_mapsize(self._map_size * 2)
        self._map_size *= 2


def _lock_directory(path: Path) -> LockFile:
    """Lock a directory, made if absent.

    A lock of flock(2) belongs to the opened file, not to the process, so it also stops this process:
    py-lmdb 1.4 would open an environment twice, and closing one would break the other.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return LockFile(path / _LOCK, f"{os.getpid()}\n".encode())
    except BlockingIOError as error:
        holder = ""
        with suppress(OSError), (path / _LOCK).open("rb") as file:
            holder = file.read(32).decode(errors="replace").strip()
        raise Stalled(
            f"another tank-agent (pid {holder or 'unknown'}) uses the journal in {path}",
            hint="stop it first, or give this one a data_dir of its own",
        ) from error
    except OSError as error:
        message, where = f"cannot open the journal: {error.strerror}", str(path)
        if shortage(error) is not None:
            raise Retry(message, where=where, hint="nothing is lost; pods go on as they are") from error
        raise Stalled(message, where=where) from error


def _check_room(path: Path) -> None:
    """Refuse to begin on a full disk: LMDB maps its files, and a missing block is SIGBUS (mmap(2))."""
    with tempfile.TemporaryFile(dir=path) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, _ROOM)
        except OSError as error:
            raise _no_room(path, str(error.strerror)) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the errors of opening and reading into errors with a hint."""
    try:
        yield
    except lmdb.DiskError as error:
        raise _no_room(path, str(error)) from error
    except _NOT_ITS_FAULT as error:
        raise Retry(
            f"cannot open the journal in {path}: {error}",
            hint="the journal is sound, and the machine, or a limit of the agent (ulimit -a, LimitAS=), is"
            " too small",
        ) from error
    except lmdb.Error as error:
        raise unreadable(str(path), str(error)) from error


def _no_room(path: Path, why: str) -> TankError:
    return Retry(f"cannot open the journal in {path}: {why}", hint="make room on that disk; nothing is lost")
