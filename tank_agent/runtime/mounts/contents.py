"""Files and secrets of a pod, as regular files that only the agent writes, each bound read-only at one path.

Files are below the run's directory. Secrets are below run_dir/secrets, a file system in memory that is never
swapped out. A file is complete before it has its name, which holds the digest of its content; it never
changes afterwards, so what a container has mounted is as whole as it was delivered.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog
from msgspec import Struct

from tank_agent.errors import Retry
from tank_agent.linux import mounts
from tank_agent.linux.fault import point
from tank_agent.linux.paths import Closing
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime.run import RunRecord

_log = structlog.get_logger()
_FILES, _SECRETS, _NEW = "contents", "secrets", ".new"
# Bytes of all secrets of this machine's runs; each is at most 256 KiB.
_SIZE = 64 << 20
_OF_TMPFS = f"size={_SIZE},noswap"
_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


class Payload(Struct, frozen=True, kw_only=True):
    """What is at one path of a container; `read` returns the bytes and their digest, or raises TankError.

    It is read as it is written, so that no plain text of a secret is kept.
    """

    read: Callable[[], tuple[bytes, str]]
    secret: bool = False


class Owned(Struct, frozen=True, kw_only=True):
    """The owner of a file on the host, and its permissions."""

    uid: int = 0
    gid: int = 0
    mode: int = 0o644


class Contents:
    """Writes and removes the files of runs. Calls for different runs may come from different threads."""

    def __init__(self, run_dir: Path) -> None:
        self._secrets = run_dir / _SECRETS
        # Held while the file system of secrets is mounted or unmounted, or a directory is made in it.
        self._lock = threading.Lock()
        self._told = False

    def write(self, run: str, bundle: Path, path: str, content: Payload, owned: Owned) -> str:
        """Write what belongs at a path of a run, and return its digest. Can be repeated.

        Raises:
            TankError: the secret can't be had.
            Retry: the file can't be written.
        """
        data, digest = content.read()
        try:
            directory = self._directory(run) if content.secret else bundle / _FILES
            if not content.secret:
                directory.mkdir(mode=0o700, exist_ok=True)
            file = directory / _name(path, digest)
            # It is complete, and to replace it would unmount what is mounted on it.
            if not os.path.lexists(file):
                _write(file, data, owned)
        except OSError as error:
            full = content.secret and error.errno == errno.ENOSPC
            hint = f"all secrets of this machine have {_SIZE >> 20} MiB together" if full else None
            raise Retry(f"mount {path}: cannot write its content: {error.strerror}", hint=hint) from error
        point("runtime:content-written")
        return digest

    def write_again(self, run: str, bundle: Path, path: str, payload: Payload) -> str:
        """Do as `write` does, with the owner and the permissions of the file that the run had there."""
        directory = self._secrets / run if payload.secret else bundle / _FILES
        try:
            # What an agent left that was killed as it wrote is nobody's yet.
            written = (file for file in directory.glob(f"{_name(path, '')}*") if file.suffix != _NEW)
            former = min(written, default=None)
            found = former.stat(follow_symlinks=False) if former is not None else None
        except OSError as error:
            raise Retry(f"mount {path}: cannot read the former file: {error.strerror}") from error
        if found is None:
            hint = "a restart of the container makes all its mounts anew"
            raise Retry(f"mount {path}: the agent's own file was removed", hint=hint)
        owned = Owned(uid=found.st_uid, gid=found.st_gid, mode=stat.S_IMODE(found.st_mode))
        return self.write(run, bundle, path, payload, owned)

    def source(self, run: str, bundle: Path, path: str, digest: str) -> Path | None:
        """Return the file that a run has at a path; None if it is not known, or was removed."""
        name = _name(path, digest)
        found = (directory / name for directory in (bundle / _FILES, self._secrets / run))
        return next((file for file in found if os.path.lexists(file)), None)

    def open(self, run: str, bundle: Path, path: str, digest: str, stack: ExitStack) -> int:
        """Return a descriptor (O_PATH) of the file that was written for a path; `stack` closes it."""
        file = self.source(run, bundle, path, digest)
        if file is None:
            raise Retry(f"mount {path}: its content was removed while the container was made")
        found = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, found)
        return found

    def sources(self, record: RunRecord, bundle: Path) -> dict[str, Path | None]:
        """Return the files that a run has, by their paths in the container; of none that is on its way."""
        known = record.contents.items()
        return {path: self.source(record.id, bundle, path, digest) for path, digest in known if digest}

    def keep_only(self, record: RunRecord, bundle: Path, *, stacked: int) -> None:
        """Remove the files that a run had before; containers that still have one open go on with it.

        Those stay that are below others at a path, where `stacked` are, at most: of two, that is the oldest.
        """
        if stacked > 2:
            return
        kept = {_name(path, digest) for path, digest in record.contents.items()}
        for directory in (bundle / _FILES, self._secrets / record.id):
            with suppress(FileNotFoundError):
                entries = sorted(directory.iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
                seen = set[str]()
                for entry in entries:
                    path = entry.name.partition("-")[0]
                    if entry.name not in kept and not (stacked == 2 and path not in seen):
                        entry.unlink(missing_ok=True)
                    seen.add(path)

    def remove(self, run: str) -> None:
        """Remove the secrets of a run; its files go with its bundle."""
        if os.path.lexists(self._secrets / run):
            self._remove((run,))

    def sweep(self, runs: Collection[str]) -> None:
        """Remove the secrets of all but these runs, which a killed agent left."""
        with suppress(FileNotFoundError):
            self._remove([entry.name for entry in self._secrets.iterdir() if entry.name not in runs])

    def _remove(self, runs: Collection[str]) -> None:
        with self._lock:
            _make_writable(self._secrets)
            for run in runs:
                remove_tree(self._secrets / run)
            point("runtime:secrets-removed")
            # Without secrets there is nothing mounted.
            with suppress(OSError):
                if not any(self._secrets.iterdir()):
                    mounts.unmount_all(self._secrets)
                    self._secrets.rmdir()

    def _directory(self, run: str) -> Path:
        with self._lock:
            self._secrets.mkdir(mode=0o700, exist_ok=True)
            if not _is_mounted(self._secrets):
                self._mount()
            _make_writable(self._secrets)
            directory = self._secrets / run
            directory.mkdir(mode=0o700, exist_ok=True)
            return directory

    def _mount(self) -> None:
        try:
            # Linux 6.4, kernel Documentation/filesystems/tmpfs.rst.
            mounts.mount("tank-secrets", self._secrets, "tmpfs", _FLAGS, f"mode=0700,{_OF_TMPFS}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # It is never swapped out either, but it has no limit of its own.
            mounts.mount("tank-secrets", self._secrets, "ramfs", _FLAGS, "mode=0700")
            if not self._told:
                _log.info("this kernel has no tmpfs without swap (Linux 6.4); secrets are in a ramfs")
            self._told = True
        point("runtime:secrets-mounted")


def _name(path: str, digest: str) -> str:
    return f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}-{digest[:32]}"


def _write(file: Path, data: bytes, owned: Owned) -> None:
    temporary = file.with_name(f"{file.name}{_NEW}")
    # Of an agent that was killed right here.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fchown(opened.fileno(), owned.uid, owned.gid)
        os.fchmod(opened.fileno(), owned.mode)
    temporary.rename(file)


def _make_writable(secrets: Path) -> None:
    """Undo what a container with CAP_SYS_ADMIN did to the file system of all secrets by remounting its own.

    Init programs make all file systems read-only as they end.
    """
    found = os.statvfs(secrets)
    # A ramfs has no size.
    size = found.f_blocks * found.f_frsize
    if (found.f_flag & os.ST_RDONLY or 0 < size < _SIZE) and _is_mounted(secrets):
        options = _OF_TMPFS if size else ""
        mounts.mount("tank-secrets", secrets, "none", mounts.MS_REMOUNT | _FLAGS, options)
        _log.warning("a container had changed the file system of all secrets; it is as it was")


def _is_mounted(directory: Path) -> bool:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with Closing(os.open(directory, flags)) as found:
        return mounts.place_of(found).is_root
