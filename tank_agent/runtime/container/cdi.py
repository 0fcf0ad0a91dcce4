"""Devices of the Container Device Interface, as files of their vendors describe them (CDI, SPEC.md).

The files are read anew at each start of a container that names such a device. They may give it any path of
the host and let programs run as root, so only those count that nobody but root could have written.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux import paths
from tank_agent.runtime.container.devices import Granted, bounded, described, look_at
from tank_agent.runtime.container.oci import BindMount, Device, Hook
from tank_agent.spec.devices import is_own, parse_cdi_name
from tank_agent.spec.paths import check_path, is_kernel_path_of_host, is_reserved

# SPEC.md: what stands in a later directory counts more.
DIRECTORIES = (Path("/etc/cdi"), Path("/var/run/cdi"))
_SUFFIXES = (".json", ".yaml")
_FILES_MOST, _SIZE_MOST, _WORD_MOST = 100, 1 << 20, 4096
# Of one container, all its CDI devices together.
_EDITS_MOST = 512
_LISTED_MOST = 10
_VERSION = re.compile(r"[01]\.[0-9]+\.[0-9]+(?:[-+].*)?")
_VARIABLE = re.compile(r"[^=\0]+=[^\0]*")
_STEPS = ("createRuntime", "createContainer", "startContainer")
# Seconds; the agent waits a little longer for the whole step.
_HOOK_TIMEOUT = 20
# timeout(1) of GNU coreutils ends a program with all that it started; the runtime would leave those behind,
# and conmon then waits for them. Its arguments: seconds, program, and what that gets.
_HOOK_SCRIPT = (
    'timeout --signal=KILL "$@"; code=$?; [ $code = 137 ] && echo "$2 was killed, perhaps after $1 s" || '
    '[ $code = 0 ] || echo "$2 ended with exit code $code"; exit $code'
)
_HOOK_ENV = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
_OPTIONS = frozenset({
    "bind", "rbind", "ro", "rw", "nosuid", "nodev", "noexec", "private", "rprivate", "relatime", "noatime",
})  # fmt: skip


class _Node(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class _Mount(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    host_path: str
    container_path: str
    type: str = ""
    options: tuple[str, ...] = ()


class _Hook(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    hook_name: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class _Edits(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    env: tuple[str, ...] = ()
    device_nodes: tuple[_Node, ...] = ()
    mounts: tuple[_Mount, ...] = ()
    hooks: tuple[_Hook, ...] = ()
    additional_gids: tuple[int, ...] = ()
    intel_rdt: dict[str, Any] | None = None
    net_devices: tuple[dict[str, Any], ...] = ()


class _Named(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    name: str
    container_edits: _Edits = _Edits()
    annotations: dict[str, str] = {}


class _File(Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A CDI file; unknown keys are errors, as SPEC.md has it."""

    cdi_version: str
    kind: str
    devices: tuple[_Named, ...]
    container_edits: _Edits = _Edits()
    annotations: dict[str, str] = {}


# Made while the module is imported, in one thread: msgspec prepares structs as it first reads one, and
# crashes if two threads do so at once.
_DECODER = msgspec.json.Decoder(_File)


class _Found(Struct, frozen=True):
    path: Path
    # That of the directory.
    priority: int
    content: _File


class _Library(Struct, frozen=True):
    """The files of some kinds, and why others don't count."""

    files: Sequence[_Found]
    troubles: Sequence[str]
    directories: Sequence[Path]


class _Refused(ValueError):
    """A file that does not count."""


def add(
    granted: Granted,
    names: Sequence[str],
    owner: tuple[int, int],
    directories: Sequence[Path] = DIRECTORIES,
) -> Granted:
    """Add what CDI files say of some devices, by their checked names, to what a container is given.

    Args:
        owner: uid and gid of the container's user, who gets the nodes for which the file names nobody.

    Raises:
        Stalled: no file has such a device, two have it, or what the file asks for is not there.
    """
    wanted = [(name, *parse_cdi_name(name)) for name in names]
    library = _files(directories, {kind for _, kind, _ in wanted})
    edits: list[tuple[Path, _Edits]] = []
    used: set[Path] = set()
    for name, kind, device in wanted:
        found, described_by = _choose(name, kind, device, library)
        if found.path not in used:
            used.add(found.path)
            edits.append((found.path, found.content.container_edits))
        edits.append((found.path, described_by.container_edits))
    return _apply(granted, edits, owner)


def _choose(name: str, kind: str, device: str, library: _Library) -> tuple[_Found, _Named]:
    of_kind = [found for found in library.files if found.content.kind == kind]
    having = [(found, one) for found in of_kind for one in found.content.devices if one.name == device]
    if not having:
        raise Stalled(f"no CDI device {name} is known", hint=_hint(kind, of_kind, library))
    highest = max(found.priority for found, _ in having)
    best = [(found, one) for found, one in having if found.priority == highest]
    if len(best) > 1:
        both = " and ".join(str(found.path) for found, _ in best[:2])
        raise Stalled(f"CDI device {name} is in {both}", hint="remove it from one of the files")
    return best[0]


def _hint(kind: str, of_kind: Sequence[_Found], library: _Library) -> str:
    troubles = library.troubles
    if troubles:
        more = f" (and {len(troubles) - 1} more such files)" if len(troubles) > 1 else ""
        return f"this file does not count: {troubles[0]}{more}"
    if of_kind:
        known = sorted({one.name for found in of_kind for one in found.content.devices})
        listed = ", ".join(known[:_LISTED_MOST]) + (", …" if len(known) > _LISTED_MOST else "")
        return f"{of_kind[-1].path} has {listed}"
    where = " or ".join(map(str, library.directories))
    tool = ""
    if kind.startswith("nvidia.com/"):
        tool = ": `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml`"
    return f"no file in {where} is about {kind}; a tool of the device's vendor writes it{tool}"


def _files(directories: Sequence[Path], kinds: set[str]) -> _Library:
    """Read all files of some kinds."""
    files, troubles = [], []
    for priority, directory in enumerate(directories):
        try:
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        except OSError as error:
            troubles.append(f"{directory}: {error.strerror}")
            continue
        with paths.Closing(opened):
            names = sorted(name for name in os.listdir(opened) if name.endswith(_SUFFIXES))  # noqa: PTH208
            if len(names) > _FILES_MOST:
                troubles.append(f"{directory} has more than {_FILES_MOST} files")
            for name in names[:_FILES_MOST]:
                path = directory / name
                try:
                    _refuse_others(opened, f"{directory}")
                    content = _read(opened, name, kinds)
                except (_Refused, paths.NotReadableError) as error:
                    troubles.append(str(error) if str(error).startswith("/") else f"{path}: {error}")
                except OSError as error:
                    troubles.append(f"{path}: {error.strerror}")
                else:
                    if content is not None:
                        files.append(_Found(path, priority, content))
    return _Library(files, troubles, directories)


def _refuse_others(descriptor: int, what: str) -> None:
    status = os.fstat(descriptor)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _Refused(f"{what} must be root's, and no others may write it: `chmod go-w`, `chown root`")


def _read(directory: int, name: str, kinds: set[str]) -> _File | None:
    """Return the content of a file; None if it is about none of the kinds."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
    with paths.Closing(paths.open_without_links(directory, name, flags)) as opened:
        _refuse_others(opened, "the file")
        text = paths.read_regular(opened, limit=_SIZE_MOST, name="it")
    # Others need not even be parsed, for which YAML needs its library.
    if not any(kind.encode() in text for kind in kinds):
        return None
    try:
        content = _DECODER.decode(text) if name.endswith(".json") else msgspec.convert(_yaml(text), _File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _Refused(str(error) or "nested too deeply") from error
    _check(content)
    return content


def _yaml(text: bytes) -> Any:
    try:
        yaml = importlib.import_module("yaml")
    except ImportError:
        raise _Refused("reading YAML needs python3-yaml: `apt install python3-yaml`") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # A few aliases of aliases would be more values than memory has.
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise _Refused("has aliases, which no CDI file needs")
            # The library fails in many ways at a text that is not of its tag's kind.
            if getattr(event, "tag", None) is not None:
                raise _Refused(f"has a tag, {event.tag}, which no CDI file needs")
            # It may be a number to the base of 60, which takes a minute.
            if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and len(event.value) > _WORD_MOST:
                raise _Refused(f"has a word of more than {_WORD_MOST} bytes without quotes")
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as error:
        raise _Refused(" ".join(str(error).split())) from None


def _check(content: _File) -> None:
    if not _VERSION.fullmatch(content.cdi_version):
        raise _Refused(f"cdiVersion {content.cdi_version} is not known here; 0.x and 1.x are")
    if not content.devices:
        raise _Refused("has no devices")
    seen = set()
    for device in content.devices:
        try:
            parse_cdi_name(f"{content.kind}={device.name}")
        except ValueError as error:
            raise _Refused(str(error)) from None
        if device.name in seen:
            raise _Refused(f"has device {device.name} twice")
        seen.add(device.name)


def _apply(granted: Granted, edits: Sequence[tuple[Path, _Edits]], owner: tuple[int, int]) -> Granted:
    env = dict(granted.env)
    nodes = {device.path: device for device in granted.devices}
    mounts = {mount.target: mount for mount in granted.mounts}
    groups, hooks = list(granted.groups), list(granted.hooks)
    count = 0
    for path, edit in edits:
        parts = (edit.env, edit.device_nodes, edit.mounts, edit.hooks, edit.additional_gids)
        count += sum(len(part) for part in parts)
        if count > _EDITS_MOST:
            raise Stalled(f"CDI file {path} gives more than {_EDITS_MOST} things", hint="name fewer devices")
        if edit.intel_rdt or edit.net_devices:
            what = "intelRdt" if edit.intel_rdt else "netDevices"
            raise Stalled(f"CDI file {path} asks for {what}, which is not supported here")
        try:
            env.update(_variable(text) for text in edit.env)
            groups += [_id(group) for group in edit.additional_gids if group]
        except ValueError as error:
            raise Stalled(f"CDI file {path}: {error}") from error
        nodes.update((device.path, device) for device in _nodes(path, edit.device_nodes, owner))
        mounts.update((mount.target, mount) for mount in (_mount(path, one) for one in edit.mounts))
        hooks += [_hook(path, one) for one in edit.hooks]
    return Granted(
        devices=bounded(nodes.values()),
        env=env,
        groups=tuple(dict.fromkeys(groups)),
        mounts=tuple(mounts.values()),
        hooks=tuple(hooks),
    )


def _variable(text: str) -> tuple[str, str]:
    if not _VARIABLE.fullmatch(text):
        raise ValueError(f"{text!r} is no NAME=VALUE")
    name, _, value = text.partition("=")
    return name, value


def _id(number: int) -> int:
    if not 0 <= number < 2**32 - 1:
        raise ValueError(f"{number} is no id of a user or group")
    return number


def _mode(number: int | None) -> int:
    if number is None:
        return 0o666
    # Files of Go programs may have the bits of a device's kind there, too.
    if not 0 <= number < 1 << 32:
        raise ValueError(f"{number} are no permissions")
    return stat.S_IMODE(number)


def _nodes(file: Path, nodes: Sequence[_Node], owner: tuple[int, int]) -> Iterator[Device]:
    for node in nodes:
        where = f"CDI file {file}: device {node.path}"
        if not node.path.startswith("/dev/") or check_path(node.path) or is_own(node.path):
            raise Stalled(f"{where} is not at a path that a container may have one at")
        access = {"": "rwm", "none": ""}.get(node.permissions, node.permissions)
        if not set(access) <= set("rwm"):
            raise Stalled(f"{where}: permissions {node.permissions!r} are not of r, w and m")
        kind = {"": "", "c": "c", "u": "c", "b": "b"}.get(node.type)
        if kind is None:
            raise Stalled(f"{where}: a node of type {node.type!r} is no device")
        device = _numbered(where, node, kind, access)
        uid, gid = (
            own if given is None else given for given, own in zip((node.uid, node.gid), owner, strict=True)
        )
        try:
            yield msgspec.structs.replace(device, uid=_id(uid), gid=_id(gid), mode=_mode(node.file_mode))
        except ValueError as error:
            raise Stalled(f"{where}: {error}") from error


def _numbered(where: str, node: _Node, kind: str, access: str) -> Device:
    """Return a node with its numbers: those of the file, or else those that the host's has."""
    if kind and node.major:
        if not (0 < node.major < 1 << 12 and 0 <= node.minor < 1 << 20):
            raise Stalled(f"{where}: there is no device {node.major}:{node.minor}")
        return Device(
            path=node.path, kind=kind, major=node.major, minor=node.minor, mode=0, gid=0, access=access
        )
    host = node.host_path or node.path
    status = look_at(host, f"{where}: {host}")
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise Stalled(f"{where}: {host} is not a device")
    device = described(status, node.path, access)
    if kind not in ("", device.kind):
        raise Stalled(f"{where}: {host} is of type {device.kind}, not {kind}")
    return device


def _mount(file: Path, mount: _Mount) -> BindMount:
    where = f"CDI file {file}: mount {mount.container_path}"
    options = frozenset(mount.options)
    if mount.type not in ("", "none", "bind") and not options & {"bind", "rbind"}:
        raise Stalled(f"{where}: only paths of the host can be mounted, not type {mount.type!r}")
    if options - _OPTIONS:
        raise Stalled(f"{where}: option {min(options - _OPTIONS)!r} is not supported here")
    wrong = check_path(mount.container_path) or check_path(mount.host_path)
    if wrong or is_reserved(mount.container_path):
        raise Stalled(f"{where}: {wrong or 'nothing may be mounted there'}")
    try:
        opened = paths.open_on_host(mount.host_path, os.O_PATH)
    except OSError as error:
        hint = "is its driver installed? its vendor's tool writes the file anew"
        raise Stalled(f"{where}: {mount.host_path}: {error.strerror}", hint=hint) from error
    with paths.Closing(opened):
        real = Path(f"/proc/self/fd/{opened}").readlink()
    if real == Path("/") or is_kernel_path_of_host(str(real)):
        raise Stalled(f"{where}: {mount.host_path} leads to {real}, which no container may have")
    more = ("noexec",) if "noexec" in options else ()
    return BindMount(
        source=real,
        target=mount.container_path,
        read_only="ro" in options,
        options=("nosuid", "nodev", *more),
    )


def _hook(file: Path, hook: _Hook) -> Hook:
    where = f"CDI file {file}: hook {hook.path}"
    step = next((known for known in _STEPS if known == hook.hook_name), None)
    if step is None:
        raise Stalled(f"{where}: {hook.hook_name!r} is no step that is supported; {', '.join(_STEPS)} are")
    wrong = check_path(hook.path)
    for text in (*hook.args, *hook.env):
        wrong = wrong or ("a zero byte is in it" if "\0" in text else None)
    if wrong or not all(map(_VARIABLE.fullmatch, hook.env)):
        raise Stalled(f"{where}: {wrong or 'its env is not of NAME=VALUE'}")
    # The last step has its program in the container.
    if step != "startContainer":
        try:
            with paths.Closing(os.open(hook.path, os.O_PATH | os.O_CLOEXEC)) as opened:
                _refuse_others(opened, hook.path)
                status = os.fstat(opened)
        except _Refused as error:
            raise Stalled(f"{where}: {error}") from error
        except OSError as error:
            raise Stalled(f"{where}: {error.strerror}", hint="is its package installed?") from error
        if not (stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IXUSR):
            raise Stalled(f"{where} is no program")
    timeout = min(hook.timeout or _HOOK_TIMEOUT, _HOOK_TIMEOUT)
    if timeout < 1:
        raise Stalled(f"{where}: its timeout must be 1 or more seconds")
    path, args, more = hook.path, hook.args or (hook.path,), 0
    if step != "startContainer":
        path, args = "/bin/sh", ("sh", "-c", _HOOK_SCRIPT, "sh", str(timeout), hook.path, *args[1:])
        # The runtime's own comes later.
        more = 2
    return Hook(
        step=step,  # type: ignore[arg-type]
        path=path,
        args=args,
        env=hook.env or _HOOK_ENV,
        timeout=timeout + more,
    )
