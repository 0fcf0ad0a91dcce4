"""A cache of compiled seccomp profiles, since compiling is the largest part of a container's start.

crun compiles a profile with libseccomp at each `create`, leaves the program in its state directory, and takes
it back from an annotation: so each profile is compiled once on a machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tank_agent.linux import atomic
from tank_agent.linux.paths import Closing

_log = structlog.get_logger()
# Read by crun at create; crun exec uses the same program again.
ANNOTATION = "run.oci.seccomp_bpf_data"
_INSTRUCTION = 8  # bytes; struct sock_filter (linux/filter.h)
_LARGEST_PROGRAM = 4096 * _INSTRUCTION  # BPF_MAXINSNS (linux/bpf_common.h)
_DIGEST = 32  # bytes of SHA-256 in front of the cached program
_KEPT = 32  # cached programs; old ones are of former versions of crun or of us


class SeccompCache:
    """Keeps the BPF programs that crun compiled, in `data_dir/cache`. Safe to use from any thread.

    A file is a SHA-256 digest and the program that it covers, private to root. One that is damaged, too big
    or of another owner counts as absent: the next start compiles again and replaces it.
    """

    def __init__(self, data_dir: Path, *, crun_version: str, machine: str) -> None:
        self._directory = data_dir / "cache"
        self._build = f"{crun_version}\n{machine}\n"
        self._annotations: dict[str, str] = {}

    def annotation_for(self, profile: dict[str, Any]) -> str | None:
        """Return the value of `ANNOTATION` for a profile, or None if it was not learnt yet."""
        key = self._key(profile)
        known = self._annotations.get(key)
        if known is not None:
            return known
        program = _read_cached(self._path(key))
        return None if program is None else self._remember(key, program)

    def learn(self, profile: dict[str, Any], bpf_path: Path) -> bool:
        """Keep the program that crun left at `bpf_path` for a container that was made without the annotation.

        False if there is no usable program, as with a crun that was built without seccomp, or it cannot be
        written: the next start is only slower.
        """
        program = _read_bounded(bpf_path, _LARGEST_PROGRAM) or b""
        if not _is_program(program):
            return False
        key = self._key(profile)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not durable: a file that a power cut left empty or torn fails its digest, and is compiled again.
            atomic.write(self._path(key), hashlib.sha256(program).digest() + program)
            files = sorted(self._directory.glob("seccomp-*.bpf"), key=_modified, reverse=True)
            for path in files[_KEPT:]:
                path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot keep the compiled seccomp profile", error=str(error))
            return False
        self._remember(key, program)
        return True

    def _key(self, profile: dict[str, Any]) -> str:
        encoded = msgspec.json.encode(profile, order="deterministic")
        return hashlib.sha256(self._build.encode() + encoded).hexdigest()

    def _path(self, key: str) -> Path:
        return self._directory / f"seccomp-{key}.bpf"

    def _remember(self, key: str, program: bytes) -> str:
        if len(self._annotations) >= _KEPT:
            self._annotations.clear()
        annotation = base64.b64encode(program).decode()
        self._annotations[key] = annotation
        return annotation


def _read_cached(path: Path) -> bytes | None:
    content = _read_bounded(path, _DIGEST + _LARGEST_PROGRAM) or b""
    digest, program = content[:_DIGEST], content[_DIGEST:]
    return program if _is_program(program) and hashlib.sha256(program).digest() == digest else None


def _is_program(program: bytes) -> bool:
    return 0 < len(program) <= _LARGEST_PROGRAM and len(program) % _INSTRUCTION == 0


def _read_bounded(path: Path, limit: int) -> bytes | None:
    """Return the content of a private regular file; None if it is absent, too large or not private."""
    try:
        # Without O_NONBLOCK a FIFO would hold us.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # Absent, a symlink or unreadable: the cache only saves time, so each of them means "compile".
        return None
    with Closing(fd):
        status = os.fstat(fd)
        writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or writable_by_others:
            return None
        content = os.read(fd, limit + 1)
    return content if len(content) <= limit else None


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
