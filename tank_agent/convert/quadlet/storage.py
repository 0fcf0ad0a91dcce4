"""Volume=, Mount=, Tmpfs= and Secret= of a container, and the units of volumes that they name."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping

from tank_agent.convert.names import valid
from tank_agent.convert.quadlet.amounts import size, truth
from tank_agent.convert.quadlet.draft import ContainerDraft
from tank_agent.convert.quadlet.unit import Entry, Unit

# Podman's default is half of the machine's memory.
_TMPFS = "64M"
SECRETS = "/etc/tank/secrets"
_SELINUX = "labels files for SELinux, which a pod has no key for and needs none: it runs unconfined by it"
# Options of a mount that change nothing here.
_SILENT = {
    "rw",
    "rbind",
    "bind",
    "copy",
    "rprivate",
    "private",
    "nosuid",
    "nodev",
    "dev",
    "suid",
    "exec",
    "ro",
    "nocopy",
}
_OPTIONS = {
    "z": _SELINUX,
    "Z": _SELINUX,
}
_LOST_OPTIONS = {
    "O": "is an overlay over the directory; the container gets the directory itself, and may write to it",
    "U": "changes the owner at each start; do it once: chown -R",
    "idmap": "maps users of the files; the container sees the numbers that are on the disk",
    "noexec": "forbids programs there; a mount here has no such key",
    **dict.fromkeys(
        ("shared", "rshared", "slave", "rslave", "unbindable", "runbindable"),
        "passes on mounts; a volume here shows what is mounted on the host when the container starts",
    ),
}  # fmt: skip
_NO_DEVICES = ("/dev/shm", "/dev/log", "/dev/mqueue", "/dev/hugepages")  # noqa: S108
_SOCKETS = ("podman.sock", "docker.sock")


def volume(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Mount what `[SOURCE:]PATH[:OPTIONS]` names."""
    parts = text.split(":")
    if len(parts) == 1:
        source, path, options = "", parts[0], ""
    else:
        source, path, options = parts[0], parts[1], ":".join(parts[2:])
    if source.startswith("/dev/") and path.startswith("/dev/") and not source.startswith(_NO_DEVICES):
        draft.note(
            entry, "devices are given as such, not as a volume, which would leave the right to use them"
        )
        draft.add("security", "devices", source if source == path else f"{source}:{path}")
        return
    words = [word for word in options.split(",") if word]
    _options(draft, entry, words)
    _mounted(draft, entry, source, path, words, read_only="ro" in words)


def _options(draft: ContainerDraft, entry: Entry, words: list[str]) -> None:
    for word in words:
        name = word.partition("=")[0]
        if name in _OPTIONS:
            draft.note(entry, f"{name} {_OPTIONS[name]}")
        elif name == "idmap" and _has_own_users(draft):
            draft.note(entry, 'a volume shows its users\' own numbers in a container with userns = "auto"')
        elif name in _LOST_OPTIONS:
            draft.lost(entry, f"{name} {_LOST_OPTIONS[name]}")
        elif name not in _SILENT:
            draft.lost(entry, f"the option {word} has no counterpart; the volume is mounted without it")


def _has_own_users(draft: ContainerDraft) -> bool:
    pod = draft.units.named(draft.unit.text("Container", "Pod"))
    modes = (draft.unit.text("Container", "UserNS"), pod.text("Pod", "UserNS") if pod else "")
    return any(mode.startswith("auto") for mode in modes)


def _mounted(
    draft: ContainerDraft,
    entry: Entry,
    source: str,
    path: str,
    words: list[str],
    *,
    read_only: bool,
    subpath: str = "",
) -> None:
    name = _volume_name(draft, entry, source, path)
    keys: dict[str, object] = {"volume": name}
    keys |= {"read_only": True} if read_only else {}
    keys |= {"subpath": subpath} if subpath else {}
    if not subpath and "nocopy" not in words and _begins_with_image(draft, name, source):
        keys["from_image"] = True
    draft.mount(entry, posixpath.normpath(path), **keys)


def _begins_with_image(draft: ContainerDraft, name: str, source: str) -> bool:
    """Return whether podman fills a volume, if it is new, with what the image has."""
    unit = draft.units.named(source) if source.endswith(".volume") else None
    copies = unit.text("Volume", "Copy") if unit is not None else ""
    return "host" not in draft.pod.volumes.get(name, {}) and (not copies or truth(copies))


def _volume_name(draft: ContainerDraft, entry: Entry, source: str, path: str) -> str:
    """Return the pod's volume for a source: a directory, a volume of podman or of a unit, or none."""
    pod = draft.pod
    if source.startswith((".", "/")):
        host = posixpath.normpath(os.path.join(draft.unit.directory, source))
        if host.endswith(_SOCKETS):
            draft.lost(
                entry, "is the socket of podman's API, and no podman runs these pods: nobody answers it"
            )
        wanted, host = posixpath.basename(host) or "root", draft.behind_links(entry, host)
        known = next((name for name, keys in pod.volumes.items() if keys == {"host": host}), None)
        return known or pod.volume(wanted, host=host)
    if not source:
        draft.note(entry, "has no name; its volume is kept here, where podman makes a new one at each start")
        return pod.volume(path)
    return _named(draft, entry, source)


def _named(draft: ContainerDraft, entry: Entry, source: str) -> str:
    pod, store = draft.pod, source
    if source.endswith(".volume"):
        unit = draft.units.named(source)
        if unit is None:
            draft.lost(
                entry, f"there is no {source} among the units; an empty managed volume takes its place"
            )
        else:
            store = unit.text("Volume", "VolumeName") or f"systemd-{unit.name}"
            if bound := bound_directory(unit):
                return pod.volume(unit.name, host=draft.behind_links(entry, posixpath.normpath(bound)))
    known = next((name for name, other in pod.stores.items() if other == store), None)
    if known:
        return known
    name = pod.volume(valid(source.removesuffix(".volume")).removeprefix(f"{pod.name}-"))
    pod.stores[name] = store
    return name


def bound_directory(unit: Unit) -> str:
    """Return the directory of the host that a .volume stands for; "" if it is a volume of podman's own."""
    device = unit.text("Volume", "Device")
    words = {unit.text("Volume", "Type"), *unit.text("Volume", "Options").split(",")}
    return device if device.startswith("/") and {"bind", "rbind"} & words else ""


def fields(text: str) -> dict[str, str]:
    """Return the options of `type=bind,src=/x,ro`; one without a value has ""."""
    return {key.strip(): value for part in text.split(",") if part for key, _, value in [part.partition("=")]}


def _first(given: Mapping[str, str], *keys: str) -> str:
    return next((given[key] for key in keys if key in given), "")


def _is_set(given: Mapping[str, str], *keys: str) -> bool:
    found = next((given[key] for key in keys if key in given), "false")
    return not found or truth(found)


_MOUNT_KEYS = {
    "type", "source", "src", "destination", "dst", "target", "ro", "readonly", "subpath", "volume-subpath",
    "tmpfs-size", "size", "rw",
}  # fmt: skip


def mount(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Mount what `type=…,src=…,dst=…` names."""
    given = fields(text)
    kind = given.get("type", "volume")
    source, path = _first(given, "source", "src"), _first(given, "destination", "dst", "target")
    if kind not in ("bind", "volume", "tmpfs", "ramfs"):
        draft.lost(entry, f"type={kind} has no counterpart; files go into the image, a volume, or [[files]]")
        return
    if not path:
        draft.lost(entry, "has no destination")
        return
    if kind in ("tmpfs", "ramfs"):
        amount = _first(given, "tmpfs-size", "size")
        words = [
            f"{key}={value}"
            for key, value in given.items()
            if key not in _MOUNT_KEYS and key not in ("tmpfs-mode",)
        ]
        words += [f"mode={given['tmpfs-mode']}"] if "tmpfs-mode" in given else []
        tmpfs(draft, entry, f"{path}:{','.join([*words, *([f'size={amount}'] if amount else [])])}")
        return
    words = [key for key in given if key not in _MOUNT_KEYS]
    propagation = _first(given, "bind-propagation")
    words = [propagation if word == "bind-propagation" else word for word in words]
    words = [{"relabel": "Z", "chown": "U", "U": "U"}.get(word, word) for word in words]
    _options(draft, entry, words)
    read_only = _is_set(given, "ro", "readonly")
    subpath = _first(given, "subpath", "volume-subpath").strip("/")
    _mounted(draft, entry, source, path, words, read_only=read_only, subpath=subpath)


def tmpfs(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Mount a file system in memory at `PATH[:OPTIONS]`."""
    path, _, options = text.partition(":")
    amount = ""
    for word in filter(None, options.split(",")):
        name, _, value = word.partition("=")
        if name == "size" and value.endswith("%"):
            draft.lost(
                entry, f"size={value} is a share of memory; {_TMPFS} is given here, change tmpfs to fit"
            )
        elif name == "size":
            amount = size(value)
        elif name in ("mode", "uid", "gid"):
            if word not in ("mode=1777", "mode=01777"):
                draft.lost(entry, f"{word} has no counterpart: everybody may write to a tmpfs, as to /tmp")
        elif name == "noexec" or name not in {*_SILENT, "tmpcopyup", "strictatime", "relatime", "noatime"}:
            draft.lost(entry, f"the option {word} has no counterpart; the tmpfs has none of it")
    if not amount:
        draft.note(entry, f"has no size, and a tmpfs here needs one: {_TMPFS}, change it to fit")
    draft.mount(entry, posixpath.normpath(path), tmpfs=amount or _TMPFS)


def secret(draft: ContainerDraft, entry: Entry, text: str) -> None:
    """Give the container a secret of podman's store: as a file, or as a place for its variable."""
    name, *options = text.split(",")
    given = fields(",".join(options))
    reveal = f"podman secret inspect --showsecret --format '{{{{.SecretData}}}}' {name}"
    if given.get("type", "mount") == "env":
        variable = given.get("target") or name
        draft.lost(
            entry,
            f"a secret is no variable here: if the image knows {variable}_FILE, mount it as a secret; else "
            f"write {variable}=… into {secret_file(draft, variable)}, not kept in git ({reveal})",
        )
        return
    own = valid(name)
    host = f"{SECRETS}/{own}"
    secrets = draft.pod.keys.setdefault("secrets", [])
    if {"name": own, "host": host} not in secrets:
        secrets.append({"name": own, "host": host})
        draft.note(
            entry,
            f"is read from {host}: write its value there ({reveal}), mode 0600; or encrypt it with "
            "`tank secret encrypt`, and give source in place of host",
        )
    target = given.get("target") or name
    path = target if target.startswith("/") else f"/run/secrets/{target}"
    keys: dict[str, object] = {"secret": own}
    owner = ":".join([given.get("uid", "0"), given.get("gid", "0")])
    # Podman gives it to root with 0444, so that any user of the container can read it.
    draft.mount(entry, path, **keys, mode=given.get("mode", "0444").zfill(4), owner=owner)


def secret_file(draft: ContainerDraft, variable: str) -> str:
    """Return the name of the file beside the pod file that the variable's value is to be written to."""
    name = f"{draft.pod.name}-{draft.name}.secret.env"
    files = draft.keys.setdefault("env_file", [])
    if name not in files:
        files.append(name)
    line = f"# {variable}=\n".encode()
    before = draft.pod.beside.get(name, b"# Take the # away, and write the value that podman secret has.\n")
    draft.pod.beside[name] = before if line in before else before + line
    return name
