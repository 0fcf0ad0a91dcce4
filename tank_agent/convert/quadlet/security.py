"""Rights and limits of a container: capabilities, devices, namespaces, labels, memory, CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tank_agent.convert.quadlet.amounts import size, truth
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.unit import Entry
from tank_agent.spec.quantities import PIDS_MAX, format_memory, parse_memory

Action = Callable[[ContainerDraft, Entry, str], None]


def capability(which: str) -> Action:
    """Return the action that adds or drops a capability."""

    def action(draft: ContainerDraft, entry: Entry, word: str) -> None:
        name = word.upper().removeprefix("CAP_")
        draft.add("security", "capabilities", which, name)

    return action


def device(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Let the container see and use a device."""
    if text.startswith("-"):
        draft.lost(entry, f"{text[1:]} must be on the machine here, or the container doesn't start")
        text = text[1:]
    if "=" in text and not text.startswith("/"):
        draft.add("security", "devices", text)
        return
    source, *rest = text.split(":")
    target = rest[0] if rest and rest[0].startswith("/") else source
    access = rest[-1] if rest and not rest[-1].startswith("/") else ""
    access = "" if set(access) == set("rwm") else access
    word = f"{source}:{target}:{access}" if access else source if target == source else f"{source}:{target}"
    draft.add("security", "devices", word)


def user_namespace(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Run as users of the host, or as users without rights there."""
    mode, colon, options = text.partition(":")
    if mode == "auto":
        draft.put("security", "userns", "auto")
        if colon:
            draft.lost(entry, f"which users it gets is chosen here, {options} is left out")
    elif mode in ("host", ""):
        pass
    elif mode == "keep-id" and draft.units.user.number:
        draft.put("user", draft.units.user.number)
        message = (
            f"runs as {draft.units.user.number}, who owns {draft.units.user.home}, as its files are theirs"
        )
        draft.note(entry, message)
    elif mode in ("keep-id", "nomap"):
        message = "maps the user of a rootless podman; the agent is root, and users are the host's"
        draft.lost(entry, f'{mode} {message}: give user = "UID:GID", as the owner of its files')
    else:
        draft.lost(entry, f'{mode} has no counterpart; security.userns is "host" or "auto"')


def no_new_privileges(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Say that it is always so."""
    if not truth(text):
        draft.lost(entry, "no container gains privileges here; only security.privileged takes that away")


def read_only(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Forbid writing to the root file system."""
    if truth(text):
        draft.put("read_only", True)


def read_only_tmpfs(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Say that a root file system that can't be written has /tmp, /run and /var/tmp in memory."""
    if not truth(text) and truth(draft.unit.text("Container", "ReadOnly")):
        draft.lost(entry, "with read_only, what is for scratch files is in memory, and can be written")


def shm_size(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set the size of /dev/shm."""
    draft.put("shm_size", size(text))


def ulimit(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set a limit of setrlimit(2)."""
    name, _, value = text.partition("=")
    if not value or name == "host":
        draft.lost(entry, "the host's limits are not taken over; name each, such as nofile = 65536")
        return
    numbers = [_number(part) for part in value.split(":")]
    same = len(set(numbers)) == 1
    draft.put("ulimits", name, numbers[0] if same else {"soft": numbers[0], "hard": numbers[1]})


def _number(text: str) -> int | str:
    return "unlimited" if text in ("-1", "unlimited") else int(text)


def sysctl(draft: ContainerDraft, entry: Entry, word: str) -> None:
    """Set a parameter of the kernel, of the pod's namespaces."""
    name, _, value = word.partition("=")
    draft.pod.keys.setdefault("sysctls", {})[name] = value


def pids(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Limit processes and threads; none is the most that there can be."""
    number = int(text)
    draft.put("limits", "pids", number if 0 < number <= PIDS_MAX else PIDS_MAX)


def memory(key: str) -> Action:
    """Return the action that sets a limit of memory."""

    def action(draft: ContainerDraft, entry: Entry, text: str) -> None:
        if text == "infinity":
            return
        if text.endswith("%"):
            draft.lost(entry, "is a share of the machine's memory; write a size in limits")
            return
        draft.put("limits", key, size(text))

    return action


def swap(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Limit swap; podman's number is that of memory and swap together."""
    limit = draft.get("limits", "memory")
    if text == "-1" or limit is None:
        draft.lost(entry, "write limits.swap, which is swap alone, beside limits.memory")
        return
    draft.put("limits", "swap", format_memory(max(0, parse_memory(size(text)) - parse_memory(limit))))


def cpus(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Limit CPU time; systemd has a percentage."""
    cores = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    draft.put("limits", "cpu", int(cores) if cores == int(cores) else cores)


def cpu_weight(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set the share of CPU time."""
    draft.put("limits", "cpu_weight", int(text))


def cpu_shares(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set the share of CPU time by cgroup v1's number, as crun converts it."""
    draft.put("limits", "cpu_weight", max(1, 1 + ((int(text) - 2) * 9999) // 262142))


def cpu_set(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Set the CPUs that it may run on."""
    draft.put("limits", "cpus", ",".join(text.split()))


def seccomp(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Filter system calls by a profile."""
    draft.put("security", "seccomp", text)


def security_option(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Do what `--security-opt` asks for."""
    name, _, value = text.replace(":", "=", 1).partition("=")
    if name == "no-new-privileges" or (name == "label" and value):
        return
    if name in ("seccomp", "apparmor"):
        draft.put("security", name, value)
    else:
        draft.lost(entry, f"{name} has no counterpart; [containers.security] has what can be changed")


def flag(key: str) -> Callable[[ContainerDraft, Entry, str], None]:
    """Return the action that sets a key of the container to true."""

    def action(draft: ContainerDraft, entry: Entry, text: str) -> None:
        if not text or truth(text):
            draft.put(*key.split("."), True)

    return action


def put(*path: str) -> Callable[[ContainerDraft, Entry, str], None]:
    """Return the action that sets a key of the container to the text."""

    def action(draft: ContainerDraft, entry: Entry, text: str) -> None:
        draft.put(*path, text)

    return action


def add(*path: str) -> Any:
    """Return the action that adds the text to a list of the container."""

    def action(draft: ContainerDraft, entry: Entry, text: str) -> None:
        draft.add(*path, text)

    return action
