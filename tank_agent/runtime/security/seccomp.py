"""The seccomp profile of a container: the default one, a file of the host, or none; and its compiled form.

`syscalls` has the table behind the default one; the form is OCI's (config-linux.md, "Seccomp").
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux import atomic, paths
from tank_agent.linux.paths import Closing
from tank_agent.runtime.container.oci import CAPABILITIES, Seccomp, capabilities
from tank_agent.runtime.security import syscalls
from tank_agent.spec.model import Security

_ENOSYS = 38
_EPERM = 1
_EAFNOSUPPORT = 97
# One architecture only: the kernel's 32-bit entries are attack surface that server images don't need.
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_PROFILE_LIMIT = 1 << 20
_INSTRUCTION = 8  # bytes; struct sock_filter (linux/filter.h)
_LARGEST_PROGRAM = 4096 * _INSTRUCTION  # BPF_MAXINSNS (linux/bpf_common.h)
_DIGEST = 32  # bytes of SHA-256 in front of the cached program
_KEPT = 32  # cached programs; old ones are of former versions of crun or of the agent

Rule = dict[str, Any]
_log = structlog.get_logger()


class _Profile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The accepted part of OCI's linux.seccomp; a listener of the host is not in it."""

    defaultAction: str  # noqa: N815
    defaultErrnoRet: int | None = None  # noqa: N815
    architectures: list[str] = []
    flags: list[str] = []
    syscalls: list[dict[str, Any]] = []


class SeccompCache:
    """Chooses profiles, and keeps what crun compiled from them in `data_dir/cache`. For any thread.

    Compiling is the largest part of a container's start. crun does so at each `create`, leaves the program
    in its state directory, and takes it back by an annotation, so once on a machine is enough.

    A file is a SHA-256 digest and the program that it covers, private to root. One that is damaged, too big
    or of another owner counts as absent: the next start compiles again and replaces it.

    Args:
        crun_version: asked each time, since crun may be installed after the agent.
        machine: as uname(2) names it.
    """

    def __init__(self, data_dir: Path, *, crun_version: Callable[[], str], machine: str) -> None:
        self._directory = data_dir / "cache"
        self._crun_version = crun_version
        self._machine = machine
        self._annotations: dict[str, str] = {}

    def choose(self, security: Security) -> Seccomp:
        """Return the profile that a container is to have."""
        profile = profile_of(security, self._machine)
        return Seccomp(profile=profile, compiled=self.annotation_for(profile) if profile else None)

    def annotation_for(self, profile: dict[str, Any]) -> str | None:
        """Return the value of `SECCOMP_ANNOTATION` for a profile, or None if it was not learnt yet."""
        key = self._key(profile)
        if known := self._annotations.get(key):
            return known
        content = _read_private(self._path(key), _DIGEST + _LARGEST_PROGRAM)
        digest, program = content[:_DIGEST], content[_DIGEST:]
        if not _is_program(program) or hashlib.sha256(program).digest() != digest:
            return None
        return self._remember(key, program)

    def learn(self, profile: dict[str, Any], bpf_path: Path) -> bool:
        """Keep the program that crun left at `bpf_path` for a container that was made without the annotation.

        False if there is no usable program, as with a crun that was built without seccomp, or it cannot be
        written: the next start is only slower.
        """
        program = _read_private(bpf_path, _LARGEST_PROGRAM)
        if not _is_program(program):
            return False
        key = self._key(profile)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Not durable: a file that a power cut left empty or torn fails its digest, and is compiled again.
            atomic.write(self._path(key), hashlib.sha256(program).digest() + program)
            with suppress(FileNotFoundError):
                # Another start may remove them, too.
                files = sorted(self._directory.glob("seccomp-*.bpf"), key=lambda path: -path.stat().st_mtime)
                for path in files[_KEPT:]:
                    path.unlink()
        except OSError as error:
            _log.warning("cannot keep the compiled seccomp profile", error=str(error))
            return False
        self._remember(key, program)
        return True

    def _key(self, profile: dict[str, Any]) -> str:
        encoded = msgspec.json.encode(profile, order="deterministic")
        build = f"{self._crun_version()}\n{self._machine}\n"
        return hashlib.sha256(build.encode() + encoded).hexdigest()

    def _path(self, key: str) -> Path:
        return self._directory / f"seccomp-{key}.bpf"

    def _remember(self, key: str, program: bytes) -> str:
        if len(self._annotations) >= _KEPT:
            self._annotations.clear()
        annotation = base64.b64encode(program).decode()
        self._annotations[key] = annotation
        return annotation


def _is_program(program: bytes) -> bool:
    return 0 < len(program) <= _LARGEST_PROGRAM and len(program) % _INSTRUCTION == 0


def _read_private(path: Path, limit: int) -> bytes:
    """Return the content of a private regular file; empty if it is absent, too large or not private."""
    # Without O_NONBLOCK a FIFO would block the agent.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    # The cache only saves time, so every failure means "compile".
    with suppress(OSError, paths.NotReadableError), Closing(os.open(path, flags)) as descriptor:
        status = os.fstat(descriptor)
        if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return paths.read_regular(descriptor, limit=limit, name=str(path))
    return b""


def profile_of(security: Security, machine: str) -> dict[str, Any] | None:
    """Return a container's profile as an OCI `linux.seccomp` object; None for no filter."""
    if security.privileged or security.seccomp == "unconfined":
        return None
    if security.seccomp == "default":
        return default_profile(machine, capabilities(security) - frozenset(CAPABILITIES))
    return _read(security.seccomp)


def _read(path: str) -> dict[str, Any]:
    where = f"seccomp profile {path}"
    try:
        with Closing(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)) as descriptor:
            content = paths.read_regular(descriptor, limit=_PROFILE_LIMIT, name=path)
        decoded = msgspec.json.decode(content, type=_Profile)
    except OSError as error:
        raise Stalled(f"cannot read it: {error.strerror}", where=where) from error
    except (ValueError, msgspec.DecodeError) as error:
        hint = "it must be JSON in the form of linux.seccomp of the OCI runtime specification"
        raise Stalled(str(error), where=where, hint=hint) from error
    return dict(msgspec.to_builtins(decoded))


def _allow(names: Collection[str], *conditions: dict[str, Any]) -> Rule:
    arguments = {"args": list(conditions)} if conditions else {}
    return {"names": sorted(names), "action": "SCMP_ACT_ALLOW", **arguments}


def _refuse(names: Collection[str], number: int, *conditions: dict[str, Any]) -> Rule:
    return {**_allow(names, *conditions), "action": "SCMP_ACT_ERRNO", "errnoRet": number}


def _argument(comparison: str, value: int, **more: int) -> dict[str, Any]:
    """Return a condition on a call's first argument."""
    return {"index": 0, "value": value, **more, "op": f"SCMP_CMP_{comparison}"}


# PER_LINUX, perhaps with PER_LINUX32 (0x8) and UNAME26 (0x20000); 0xffffffff only asks (personality(2)).
# Not ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC: they undo the protections of the programs started after.
_PERSONALITIES = (_argument("MASKED_EQ", 0xFFFF_FFFF & ~0x20008, valueTwo=0), _argument("EQ", 0xFFFF_FFFF))


def default_profile(machine: str, extra_capabilities: Collection[str] = ()) -> dict[str, Any]:
    """Return the default profile as an OCI `linux.seccomp` object.

    `machine` is "x86_64" or "aarch64", as in uname(2); `extra_capabilities` are those beyond the default set,
    such as "CAP_SYS_ADMIN", which open their calls.
    """
    if machine not in _ARCHITECTURES:
        hint = f"tank-agent runs on {' and '.join(sorted(_ARCHITECTURES))}"
        raise Stalled(f"no seccomp profile for machine {machine!r}", hint=hint)
    opened = frozenset[str]().union(
        *(syscalls.CAPABILITY_ALLOWED.get(name, frozenset()) for name in extra_capabilities)
    )
    allowed = syscalls.ALLOWED | syscalls.MACHINE_ALLOWED[machine] | opened
    rules = [
        _allow(allowed),
        _refuse(syscalls.REFUSED - opened, _EPERM),
        *_clone_rules(namespaces="CAP_SYS_ADMIN" in extra_capabilities),
        *(_allow(["personality"], condition) for condition in _PERSONALITIES),
        *(_allow(["socket"], _argument("EQ", family)) for family in syscalls.SOCKET_FAMILIES),
        _refuse(["socket"], _EAFNOSUPPORT, _argument("GT", max(syscalls.SOCKET_FAMILIES))),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _clone_rules(*, namespaces: bool) -> list[Rule]:
    if namespaces:
        return [_allow(["clone"])]
    flags = syscalls.NAMESPACE_FLAGS
    refused = (_refuse(["clone"], _EPERM, _argument("MASKED_EQ", flag, valueTwo=flag)) for flag in flags)
    return [_allow(["clone"], _argument("MASKED_EQ", sum(flags), valueTwo=0)), *refused]
