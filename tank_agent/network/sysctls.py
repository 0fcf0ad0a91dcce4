"""Kernel parameters of pods' network namespaces: written as these are made, and put right again.

Everything here works on the namespace of the calling thread, and never on the machine's (proc_sys(5)).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping

from tank_agent.errors import Stalled, TankError
from tank_agent.linux import fault
from tank_agent.linux.namespaces import read_network_sysctl, set_network_sysctl
from tank_agent.spec.sysctls import interface_of, is_network_sysctl, network_sysctl_path

NO_SYSCTLS: Mapping[str, str] = {}
# To switch forwarding resets others to their defaults (kernel, networking/ip-sysctl.rst), so it goes first.
_RESETTING = ("ip_forward", "forwarding")


def network_sysctls(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of the network namespace, in the order of writing."""
    names = sorted(filter(is_network_sysctl, sysctls), key=_resets, reverse=True)
    return {name: sysctls[name] for name in names}


def _resets(name: str) -> bool:
    return name.rpartition(".")[2] in _RESETTING


def before_interfaces(sysctls: Mapping[str, str]) -> Callable[[], None]:
    """Return a function that writes, in a new namespace, what belongs to no interface that is made later."""

    def prepare() -> None:
        _check_namespace()
        for name, value in sysctls.items():
            if interface_of(name) is None:
                _write(name, value)

    return prepare


class SysctlMemory:
    """What the kernel made of the values of one namespace: it may round them, or write them otherwise."""

    def __init__(self, inode: int | None) -> None:
        self.inode = inode
        self._read: dict[str, str] = {}

    def write(self, sysctls: Mapping[str, str]) -> None:
        """Write what is not right, and remember what can be read then; Stalled if the kernel refuses it."""
        _check_namespace()
        for name, value in sysctls.items():
            if self._is_wrong(name, value):
                _write(name, value)
            found = _read(name)
            if found is not None:
                self._read[name] = found
        fault.point("network:sysctls-written")

    def differences(self, sysctls: Mapping[str, str]) -> Iterator[str]:
        """Yield a sentence on each parameter that is not as it was written."""
        for name, value in sysctls.items():
            if self._is_wrong(name, value):
                yield f"{name} is {_read(name)} instead of {value}"

    def _is_wrong(self, name: str, value: str) -> bool:
        found = _read(name)
        # Some can only be written.
        return found is not None and found not in (value, self._read.get(name))


def _check_namespace() -> None:
    """Raise RuntimeError in the machine's own network."""
    # The main thread never leaves it.
    if os.stat("/proc/thread-self/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino:  # noqa: PTH116
        raise RuntimeError("sysctls of a pod would be written to the machine's own network")


def _read(name: str) -> str | None:
    try:
        return " ".join(read_network_sysctl(_path(name)).split())
    except FileNotFoundError:
        # Only a write tells it: the interface may be about to be made.
        return ""
    except (OSError, UnicodeDecodeError):
        return None


def _write(name: str, value: str) -> None:
    try:
        set_network_sysctl(_path(name), value)
    except FileNotFoundError as error:
        raise _unknown(name) from error
    except OSError as error:
        raise _refused(name, value, error) from error


def _path(name: str) -> str:
    try:
        return network_sysctl_path(name)
    except ValueError as error:
        raise Stalled(f"sysctl {error}") from error


def _unknown(name: str) -> TankError:
    interface = interface_of(name)
    if interface is not None and not os.path.exists(f"/proc/sys/net/ipv4/conf/{interface}"):
        return Stalled(f"sysctl {name}: the pod has no interface {interface}")
    hint = f"it may be one of the whole machine (`sysctl {name}`), or of a module that is not loaded"
    return Stalled(f"sysctl {name}: this kernel has none of that name for a pod", hint=hint)


def _refused(name: str, value: str, error: OSError) -> TankError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Stalled(
            f"sysctl {name}: it can only be read in a pod", hint="leave it out, or set it on the machine"
        )
    return Stalled(
        f"sysctl {name}: the kernel refuses {value!r}: {error.strerror}", hint="see proc_sys_net(5)"
    )
