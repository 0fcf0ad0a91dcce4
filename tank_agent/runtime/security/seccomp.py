"""The seccomp profile of a container: the default one, a file of the host, or none.

`syscalls` has the table behind the default one; the form is OCI's (config-linux.md, "Seccomp").
"""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux import paths
from tank_agent.linux.paths import Closing
from tank_agent.runtime.container.oci import CAPABILITIES, capabilities
from tank_agent.runtime.security import syscalls
from tank_agent.spec.model import Security

_ENOSYS = 38
_EPERM = 1
_EAFNOSUPPORT = 97
# One architecture only: the kernel's 32-bit entries are attack surface that server images don't need.
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_PROFILE_LIMIT = 1 << 20

Rule = dict[str, Any]


class _Profile(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The accepted part of OCI's linux.seccomp; a listener of the host is not in it."""

    defaultAction: str  # noqa: N815
    defaultErrnoRet: int | None = None  # noqa: N815
    architectures: list[str] = []
    flags: list[str] = []
    syscalls: list[dict[str, Any]] = []


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


def default_profile(machine: str, extra_capabilities: Collection[str] = ()) -> dict[str, Any]:
    """Return the profile as an OCI `linux.seccomp` object.

    Args:
        machine: as uname(2) names it, "x86_64" or "aarch64".
        extra_capabilities: beyond the default set, such as "CAP_SYS_ADMIN"; they open their calls.
    """
    if machine not in _ARCHITECTURES:
        raise Stalled(
            f"no seccomp profile for machine {machine!r}",
            hint=f"tank-agent runs on {' and '.join(sorted(_ARCHITECTURES))}",
        )
    opened = frozenset[str]().union(
        *(syscalls.CAPABILITY_ALLOWED.get(name, frozenset()) for name in extra_capabilities)
    )
    allowed = syscalls.ALLOWED | syscalls.MACHINE_ALLOWED[machine] | opened
    rules = [
        _rule(allowed, "SCMP_ACT_ALLOW"),
        _rule(syscalls.REFUSED - opened, "SCMP_ACT_ERRNO", errno=_EPERM),
        *_clone_rules(namespaces="CAP_SYS_ADMIN" in extra_capabilities),
        *_personality_rules(),
        *_socket_rules(),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _ENOSYS,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": rules,
    }


def _rule(
    names: Collection[str], action: str, *args: dict[str, Any], errno: int | None = None
) -> dict[str, Any]:
    rule: Rule = {"names": sorted(names), "action": action}
    if errno is not None:
        rule["errnoRet"] = errno
    if args:
        rule["args"] = list(args)
    return rule


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _clone_rules(*, namespaces: bool) -> list[Rule]:
    if namespaces:
        return [_rule(["clone"], "SCMP_ACT_ALLOW")]
    flags = syscalls.NAMESPACE_FLAGS
    return [
        _rule(["clone"], "SCMP_ACT_ALLOW", _masked(0, sum(flags), 0)),
        *(_rule(["clone"], "SCMP_ACT_ERRNO", _masked(0, flag, flag), errno=_EPERM) for flag in flags),
    ]


def _personality_rules() -> list[Rule]:
    # PER_LINUX, perhaps with PER_LINUX32 (0x8) and UNAME26 (0x20000); 0xffffffff only asks (personality(2)).
    # Not ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC: they undo the protections of the programs started after.
    allowed = (_masked(0, 0xFFFF_FFFF & ~0x20008, 0), _equal(0, 0xFFFF_FFFF))
    return [_rule(["personality"], "SCMP_ACT_ALLOW", condition) for condition in allowed]


def _socket_rules() -> list[Rule]:
    others = {"index": 0, "value": max(syscalls.SOCKET_FAMILIES), "op": "SCMP_CMP_GT"}
    return [
        *(_rule(["socket"], "SCMP_ACT_ALLOW", _equal(0, family)) for family in syscalls.SOCKET_FAMILIES),
        _rule(["socket"], "SCMP_ACT_ERRNO", others, errno=_EAFNOSUPPORT),
    ]
