"""Our table of system calls beside the one that podman and docker follow: each difference is a decision.

A call that a newer containers-common allows shows up here as an unexplained one. Then it goes into
`tank_agent.runtime.security.syscalls`, or into the list below with why not.
"""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import pytest

from tank_agent.runtime.container.oci import CAPABILITIES
from tank_agent.runtime.security.seccomp import default_profile
from tank_agent.runtime.security.syscalls import CAPABILITY_ALLOWED

# Of Debian's golang-github-containers-common.
PEERS = Path("/usr/share/containers/seccomp.json")
_AUDIT_ARCH_X86_64 = 0xC000003E

# Why we don't allow what they do, with the default capabilities.
ONLY_THEIRS = {
    "clone3": "its flags are behind a pointer, where no filter can look",
    **dict.fromkeys(("epoll_ctl_old", "epoll_wait_old"), "no kernel implements them any more"),
    **dict.fromkeys(
        ("fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree"),
        "mounts; the kernel asks for CAP_SYS_ADMIN, which a user namespace would give",
    ),
    **dict.fromkeys(("pivot_root", "umount2"), "mounts, as above"),
    **dict.fromkeys(("setns", "unshare"), "a user namespace gives every capability in it"),
    "fanotify_mark": "useless without fanotify_init, which both refuse",
    "keyctl": "keyrings are not namespaced",
    "modify_ldt": "16-bit programs; often the way to root in past kernels",
    "pidfd_getfd": "comes with CAP_SYS_PTRACE",
    "reboot": "comes with CAP_SYS_BOOT",
    "syslog": "comes with CAP_SYSLOG",
}
# Why we allow what they don't.
ONLY_OURS = {
    **dict.fromkeys(
        ("cachestat", "fchmodat2", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "mseal"),
        "newer forms of calls that both allow",
    ),
    **dict.fromkeys(
        ("getxattrat", "listxattrat", "removexattrat", "set_mempolicy_home_node", "setxattrat"),
        "newer forms of calls that both allow",
    ),
    "io_pgetevents": "io_getevents, which both allow, with a signal mask",
}
# Beyond that, what a capability that is added opens.
CAPABILITY_ONLY_THEIRS = {("CAP_SYS_MODULE", "query_module"): "no kernel since 2.6 implements it"}
CAPABILITY_ONLY_OURS = {
    ("CAP_BPF", "bpf"): "what the capability is for",
    ("CAP_PERFMON", "perf_event_open"): "what the capability is for",
    ("CAP_SYS_ADMIN", "perf_event_open"): "the kernel takes it for CAP_PERFMON",
    ("CAP_SYS_ADMIN", "quotactl_fd"): "quotactl, which both allow then, by descriptor",
    ("CAP_SYS_NICE", "migrate_pages"): "moves pages of other processes, as the capability says",
    ("CAP_SYS_NICE", "move_pages"): "as migrate_pages",
}


def on_this_machine(names: set[str]) -> set[str]:
    """Leave out the calls that x86_64 has not, such as those of 32-bit machines."""
    library = ctypes.CDLL("libseccomp.so.2")
    resolve = library.seccomp_syscall_resolve_name_arch
    # Below -1 are calls of other machines; -1 is one that is newer than this libseccomp.
    return {name for name in names if resolve(ctypes.c_uint32(_AUDIT_ARCH_X86_64), name.encode()) >= -1}


def allowed(rules: list[dict[str, Any]]) -> set[str]:
    return {name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}


def ours(capabilities: frozenset[str] = frozenset()) -> set[str]:
    return allowed(default_profile("x86_64", capabilities)["syscalls"])


def theirs(capabilities: frozenset[str] = frozenset()) -> set[str]:
    held = capabilities | set(CAPABILITIES)

    def counts(rule: dict[str, Any]) -> bool:
        includes, excludes = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            "amd64" in includes.get("arches", ["amd64"])
            and held >= set(includes.get("caps", ()))
            and not held & set(excludes.get("caps", ()))
        )

    return on_this_machine(
        allowed([rule for rule in json.loads(PEERS.read_text())["syscalls"] if counts(rule)])
    )


@pytest.mark.machine
def test_every_call_that_only_the_peers_allow_is_a_decision() -> None:
    assert theirs() - ours() - ONLY_THEIRS.keys() == set(), "new calls: allow them, or say above why not"
    assert not ours() & ONLY_THEIRS.keys(), "allowed by now; take it off the list"


@pytest.mark.machine
def test_every_call_that_only_we_allow_is_a_decision() -> None:
    assert ours() - theirs() - ONLY_OURS.keys() == set(), "say above why we allow more"
    assert ONLY_OURS.keys() <= ours(), "not allowed any more; take it off the list"


@pytest.mark.parametrize("capability", sorted(CAPABILITY_ALLOWED))
@pytest.mark.machine
def test_what_a_capability_opens_beyond_or_below_the_peers_is_a_decision(capability: str) -> None:
    added = frozenset({capability})
    more_ours, more_theirs = ours(added) - ours(), theirs(added) - theirs()
    # Not equal: a newer containers-common may have followed.
    assert more_ours - theirs(added) <= {name for held, name in CAPABILITY_ONLY_OURS if held == capability}
    assert more_theirs - ours(added) <= {name for held, name in CAPABILITY_ONLY_THEIRS if held == capability}
    assert {name for held, name in CAPABILITY_ONLY_OURS if held == capability} <= more_ours
