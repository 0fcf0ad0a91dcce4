"""Checks a container's `[containers.security]` table, and makes the normalised Security of it."""

from __future__ import annotations

import re

from tank_agent.spec.file import SecurityTable
from tank_agent.spec.findings import Finding, KeyPath, closest, show
from tank_agent.spec.model import Security
from tank_agent.spec.reference import check_path

# linux/capability.h, in the order of their numbers.
_NUMBERED = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES = tuple(f"CAP_{name}" for name in _NUMBERED.split())
ALL = "ALL"
_DEVICE = re.compile(r"/dev/[A-Za-z0-9_.:@+-]+(?:/[A-Za-z0-9_.:@+-]+)*")
# As the kernel lists them; a space would end the name where it is written to the kernel.
_APPARMOR = re.compile(r"[!-~]{1,255}")
# /dev of a container holds these already, or is made of them by the runtime.
_OWN_DEVICES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/console", "/dev/ptmx", "/dev/fd")  # noqa: S108


def check_security(table: SecurityTable | None, path: KeyPath, findings: list[Finding]) -> Security:
    """Return what a table asks for; what is wrong with it goes to `findings`."""
    if table is None:
        return Security()
    capabilities = table.capabilities
    add = _names(capabilities.add if capabilities else (), (*path, "capabilities", "add"), findings)
    drop = _names(capabilities.drop if capabilities else (), (*path, "capabilities", "drop"), findings)
    for name in sorted((set(add) & set(drop)) - {ALL}):
        findings.append(Finding((*path, "capabilities"), f"{show(name)} is both added and dropped"))
    _check_seccomp(table.seccomp, (*path, "seccomp"), findings)
    _check_apparmor(table.apparmor, (*path, "apparmor"), findings)
    _check_devices(table.devices, (*path, "devices"), findings)
    if table.privileged and (add or drop or table.devices or table.seccomp != "default"):
        message = "gives everything already; remove it, or capabilities, devices and seccomp"
        findings.append(Finding((*path, "privileged"), message))
    if table.privileged and table.userns == "auto":
        message = "takes from root what privileged gives it; remove one of them"
        findings.append(Finding((*path, "userns"), message))
    return Security(
        add=add,
        drop=drop,
        read_only_root=table.read_only_root,
        privileged=table.privileged,
        seccomp=table.seccomp,
        apparmor=table.apparmor,
        devices=tuple(sorted(set(table.devices))),
        userns=table.userns,
    )


def _names(written: tuple[str, ...], path: KeyPath, findings: list[Finding]) -> tuple[str, ...]:
    """Return capabilities as the kernel calls them, each once, in order; "ALL" stands for all of them."""
    found = set()
    for index, word in enumerate(written):
        name = word.strip().upper()
        name = name if name == ALL or name.startswith("CAP_") else f"CAP_{name}"
        if name in CAPABILITIES or name == ALL:
            found.add(name)
        else:
            guess = closest(name, CAPABILITIES)
            right = f"did you mean {show(guess.removeprefix('CAP_'))}?" if guess else "see capabilities(7)"
            findings.append(Finding((*path, index), f"{show(word)} is not a capability; {right}"))
    return (ALL,) if ALL in found else tuple(sorted(found))


def _check_seccomp(value: str, path: KeyPath, findings: list[Finding]) -> None:
    if value in ("default", "unconfined"):
        return
    wrong = check_path(value)
    if wrong:
        message = f'{show(value)} is no profile; write "default", "unconfined" or the absolute path of one'
        findings.append(Finding(path, message))


def _check_apparmor(value: str, path: KeyPath, findings: list[Finding]) -> None:
    if not _APPARMOR.fullmatch(value):
        message = f'{show(value)} is no profile; write "default", "unconfined" or the name of a loaded one'
        findings.append(Finding(path, message))


def _check_devices(devices: tuple[str, ...], path: KeyPath, findings: list[Finding]) -> None:
    for index, device in enumerate(devices):
        if not _DEVICE.fullmatch(device) or ".." in device.split("/") or "." in device.split("/"):
            message = f'{show(device)} is not a device; write its path below /dev, such as "/dev/fuse"'
            findings.append(Finding((*path, index), message))
        elif any(device == own or device.startswith(f"{own}/") for own in _OWN_DEVICES):
            findings.append(Finding((*path, index), f"{show(device)} is the container's own already"))
