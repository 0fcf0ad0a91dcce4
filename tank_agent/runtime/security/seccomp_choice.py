"""Which seccomp profile a container gets: ours, none, or a file of the host."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux import paths
from tank_agent.runtime.container.oci import CAPABILITIES, capabilities
from tank_agent.runtime.security.seccomp import default_profile
from tank_agent.spec.model import Security

_PROFILE_LIMIT = 1 << 20


class _Profile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What of OCI's linux.seccomp we take; a listener of the host's is not part of it."""

    defaultAction: str  # noqa: N815
    defaultErrnoRet: int | None = None  # noqa: N815
    architectures: list[str] = []
    flags: list[str] = []
    syscalls: list[dict[str, Any]] = []


def profile_of(security: Security, machine: str) -> dict[str, Any] | None:
    """Return a container's profile as an OCI `linux.seccomp` object; None for no filter.

    Raises:
        Stalled: the profile's file cannot be read, or is none.
    """
    if security.privileged or security.seccomp == "unconfined":
        return None
    if security.seccomp == "default":
        return default_profile(machine, capabilities(security) - frozenset(CAPABILITIES))
    return _read(security.seccomp)


def _read(path: str) -> dict[str, Any]:
    where = f"seccomp profile {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            content = paths.read_regular(descriptor, limit=_PROFILE_LIMIT, name=path)
        finally:
            os.close(descriptor)
        decoded = msgspec.json.decode(content, type=_Profile)
    except OSError as error:
        raise Stalled(f"cannot read it: {error.strerror}", where=where) from error
    except (ValueError, msgspec.DecodeError) as error:
        hint = "it must be JSON in the form of linux.seccomp of the OCI runtime specification"
        raise Stalled(str(error), where=where, hint=hint) from error
    return dict(msgspec.to_builtins(decoded))
