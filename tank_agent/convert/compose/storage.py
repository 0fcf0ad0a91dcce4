"""Mounts of a service: volumes, directories of the host, file systems in memory, configs and secrets."""

from __future__ import annotations

import posixpath
import re

from msgspec import Struct
from msgspec.structs import replace

from tank_agent.convert.compose import values
from tank_agent.convert.compose.mount_keys import MOUNT
from tank_agent.convert.compose.process import beside_name
from tank_agent.convert.compose.service import (
    ComposeService,
    Stack,
    Table,
    each,
    is_privileged,
    mapped,
    note,
)
from tank_agent.convert.model import Value
from tank_agent.convert.names import valid
from tank_agent.spec.beside import FILE_MAX
from tank_agent.spec.findings import show
from tank_agent.spec.paths import is_reserved

_SOCKETS = ("/docker.sock", "/podman.sock", "/containerd.sock")
_DOCKER_DIRECTORY = "/var/lib/docker"
_NO_DOCKER = (
    "is docker's own, and pods are none of docker's: what looks at containers there does not see them; "
    "`tank status -o json` and [web] in agent.toml tell of pods"
)
# docker's default is half of the memory of the machine; what is not used takes none.
_TMPFS = "1G"
_SHM = "/dev/shm"  # noqa: S108 - a place in the container
_SECRETS = "/etc/tank/secrets"
_EFFECTLESS = (
    *("rw", "z", "Z", "cached", "delegated", "consistent", "nocopy", "private", "rprivate", "volume-nocopy"),
    "",
)
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


class ServiceMount(Struct, frozen=True):
    """A mount of compose in either form: what, where, and how."""

    kind: str
    source: str
    target: str
    read_only: bool = False
    modes: tuple[str, ...] = ()
    more: dict[str, Value] = {}


def read_volume(value: Value) -> ServiceMount:
    """Return a mount of `volumes`, in its short or its long form."""
    if isinstance(value.plain, dict):
        given = value.plain
        if "target" not in given or not values.text(given["target"]):
            raise ValueError("names no target")
        return ServiceMount(
            kind=values.text(given["type"]) if "type" in given else "volume",
            source=values.text(given.get("source", Value(None, value.place))),
            target=values.text(given["target"]),
            read_only="read_only" in given and values.boolean(given["read_only"]),
            more={name: one for name, one in given.items() if name not in _PLAIN},
        )
    word = values.text(value)
    if _WINDOWS.match(word):
        raise ValueError(f"{show(word)} is a path of Windows")
    parts = word.split(":")
    if len(parts) > 3 or not word or not all(parts[:2]):
        raise ValueError(f"{show(word)} is no volume of compose")
    if len(parts) == 1:
        return ServiceMount("volume", "", parts[0])
    modes = tuple(parts[2].split(",")) if len(parts) == 3 else ()
    kind = "bind" if parts[0].startswith(("/", ".", "~")) else "volume"
    return ServiceMount(kind, parts[0], parts[1], "ro" in modes, tuple(one for one in modes if one != "ro"))


_PLAIN = ("type", "source", "target", "read_only")


def named_volumes(value: Value) -> set[str]:
    """Return the named volumes that a service mounts; what can't be read is said later."""
    found = set()
    for one in value.plain if isinstance(value.plain, tuple) else ():
        try:
            volume = read_volume(one)
        except ValueError:
            continue
        if volume.kind == "volume" and volume.source:
            found.add(volume.source)
    return found


def volumes(service: ComposeService, key: str, value: Value) -> None:
    """Take mounts, each for itself."""
    for one in values.items(value):
        try:
            found = read_volume(one)
        except ValueError as error:
            service.lost(key, one, f"{error}; nothing was made of it")
            continue
        add_volume(service, key, one, found)


def add_volume(service: ComposeService, key: str, value: Value, given: ServiceMount) -> None:
    """Add one mount."""
    target = values.in_path(given.target)
    if given.source.startswith("/") and is_reserved(target):
        _reserved(service, key, value, given, target)
        return
    if given.kind == "bind":
        _bind(service, key, value, given, target)
    elif given.kind == "volume":
        _named(service, key, value, given, target)
    elif given.kind == "tmpfs":
        _tmpfs_mount(service, key, value, given, target)
    else:
        service.lost(key, value, f"a mount of the type {show(given.kind)} is not known here; leave it out")
        return
    for mode in given.modes:
        if mode not in _EFFECTLESS:
            service.lost(key, value, f"{show(mode)} of a mount is not known here; it is mounted without")


def _reserved(service: ComposeService, key: str, value: Value, given: ServiceMount, target: str) -> None:
    own = {"/sys": "/sys", "/proc": "/proc"}
    if own.get(target) == given.source.rstrip("/") and given.read_only:
        service.note(key, value, f"a container has {target} anyway, its own")
    elif target in ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname"):
        service.lost(
            key, value, f"{target} is written by the agent; extra_hosts and dns in [network] are in it"
        )
    elif target.startswith("/dev"):
        message = "devices are not mounted; write them into devices of [containers.security]"
        service.lost(key, value, message)
    else:
        service.lost(key, value, f"nothing can be mounted at {target}; mount it elsewhere")


def _bind(service: ComposeService, key: str, value: Value, given: ServiceMount, target: str) -> None:
    stack = service.stack
    path = values.path_from(stack.project.directory, stack.given.home, given.source)
    if path.endswith(_SOCKETS) or path == _DOCKER_DIRECTORY or path.startswith(f"{_DOCKER_DIRECTORY}/"):
        service.lost(key, value, f"{path} {_NO_DOCKER}")
    else:
        _name_missing(service, key, value, path)
    if path == "/":
        service.lost(
            key, value, "the machine's root directory can't be mounted as a whole; mount parts of it"
        )
        return
    name = valid(posixpath.basename(path), "host")
    path = _behind_links(service, key, value, path)
    volume = service.volume(key, value, ("host", path), name, host=path)
    _mount(service, key, value, given, target, volume=volume)
    each(service, key, given.more, MOUNT)


def _behind_links(service: ComposeService, key: str, value: Value, path: str) -> str:
    """Return what docker takes by a path: a pod takes none that leads through a link."""
    if (real := service.stack.given.real(path)) != path:
        service.note(key, value, f"{path} leads to {real}, which is written, since a pod follows no link")
    return real


def _name_missing(service: ComposeService, key: str, value: Value, path: str) -> None:
    stack = service.stack
    if path == "/" or stack.given.exists(path) or path in stack.missing:
        return
    stack.missing[path] = None
    # What has an ending is probably a file, which docker makes a directory of all the same.
    what = f"mkdir -p {path}"
    if re.search(r"\.[a-z]{2,5}$", posixpath.basename(path)):
        what = f"put the file there, or `{what}`"
    service.note(key, value, f"{path} is not there yet, and is not made here as docker does: {what}")


def _named(service: ComposeService, key: str, value: Value, given: ServiceMount, target: str) -> None:
    """Take a named volume, or one without a name, which belongs to the container alone."""
    stack, name = service.stack, given.source
    if not name:
        last = posixpath.basename(target) or "data"
        volume = service.volume(key, value, ("anonymous", f"{service.name} {target}"), valid(last, "data"))
        _mount(service, key, value, given, target, volume=volume, managed=True)
        each(service, key, given.more, MOUNT)
        return
    definition = stack.project.volumes.get(name)
    keys = _definition(definition)
    options = keys.get("driver_opts")
    opts = {one: values.text(text) for one, text in values.mapping(options).items()} if options else {}
    driver = values.text(keys["driver"]) if "driver" in keys else "local"
    device = opts.get("device", "")
    if driver in ("local", "") and opts.get("type") == "tmpfs":
        _tmpfs_mount(service, key, value, given, target)
        return
    if driver in ("local", "") and device and "bind" in opts.get("o", "").split(","):
        bind = ServiceMount("bind", device, given.target, given.read_only, given.modes, given.more)
        _bind(service, key, value, bind, target)
        return
    if driver not in ("local", "") or device:
        managed, path = False, f"/mnt/{valid(name, 'volume')}"
        what = device or f"the driver {driver}"
        stack.remark(
            "lost",
            f"volumes.{name}",
            options or keys.get("driver", value),
            f"is of {what}, which nothing mounts here: mount it at {path} of the machine (/etc/fstab)",
        )
        volume = service.volume(key, value, ("host", path), valid(name, "data"), host=path)
    else:
        managed, volume = True, _managed(service, key, value, name, keys)
    _mount(service, key, value, given, target, volume=volume, managed=managed)
    each(service, key, given.more, MOUNT)


def _managed(service: ComposeService, key: str, value: Value, name: str, keys: dict[str, Value]) -> str:
    stack, plain = service.stack, valid(name, "data")
    external = keys.get("external")
    if external is not None and external.plain not in (False, None):
        known = keys.get("name")
        if isinstance(external.plain, dict):
            known = external.plain.get("name", known)
        outer = valid(values.text(known), plain) if known is not None else plain
        stack.remark(
            "note",
            f"volumes.{name}",
            external,
            f"is the shared volume {outer} here, which all stacks that name it have; docker's data of it is "
            f"copied by `cp -a /var/lib/docker/volumes/…/_data/. /var/lib/tank/volumes-shared/{outer}/`",
        )
        return service.volume(key, value, ("named", name), outer, shared=True)
    if name in stack.shared:
        # A name of its own has no project's before it, so that other projects may mean the same.
        known = keys.get("name")
        outer = valid(f"{stack.name}-{plain}" if known is None else values.text(known), plain)
        return service.volume(key, value, ("named", name), outer, shared=True)
    return service.volume(key, value, ("named", name), plain)


def _definition(value: Value | None) -> dict[str, Value]:
    return value.plain if value is not None and isinstance(value.plain, dict) else {}


def _mount(
    service: ComposeService,
    key: str,
    value: Value,
    given: ServiceMount,
    target: str,
    *,
    volume: str,
    managed: bool = False,
) -> None:
    mount: dict[str, object] = {"volume": volume, "path": target}
    if given.read_only:
        mount["read_only"] = True
    for kind in ("volume", "bind"):
        inner = given.more.get(kind)
        if inner is not None and isinstance(inner.plain, dict) and "subpath" in inner.plain:
            mount["subpath"] = values.text(inner.plain["subpath"])
    if managed and "subpath" not in mount and _begins_with_image(given):
        mount["from_image"] = True
    service.add(key, value, "mounts", mount)


def _begins_with_image(given: ServiceMount) -> bool:
    inner = given.more.get("volume")
    options = inner.plain if inner is not None and isinstance(inner.plain, dict) else {}
    never = "nocopy" in options and values.boolean(options["nocopy"])
    return not never and not {"nocopy", "volume-nocopy"} & set(given.modes)


def _tmpfs_mount(service: ComposeService, key: str, value: Value, given: ServiceMount, target: str) -> None:
    size = 0
    inner = given.more.get("tmpfs")
    for name, one in values.mapping(inner).items() if inner is not None else ():
        if name == "size":
            size = values.size(one)
        else:
            service.lost(
                f"{key}.tmpfs.{name}", one, "is not known of a tmpfs here; its owner is as in the image"
            )
    _add_tmpfs(service, key, value, target, size)


def _add_tmpfs(service: ComposeService, key: str, value: Value, target: str, size: int) -> None:
    if target == _SHM:
        service.put(key, value, "shm_size", values.size_text(size) if size > 0 else _TMPFS)
        return
    made = values.size_text(max(size, 4096)) if size > 0 else _TMPFS
    service.add(key, value, "mounts", {"tmpfs": made, "path": target})


def tmpfs(service: ComposeService, key: str, value: Value) -> None:
    """Take file systems in memory, of "/run" or "/run:size=64m,mode=1777"."""
    for one in values.items(value):
        path, _, options = values.text(one).partition(":")
        size = 0
        for option in filter(None, options.split(",")):
            name, _, given = option.partition("=")
            if name == "size" and not given.endswith("%"):
                size = values.size(Value(given, one.place))
            elif name in ("mode", "uid", "gid", "size", "nr_inodes", "exec"):
                message = f"{show(option)} of a tmpfs is not known here; its owner and mode are the image's"
                service.lost(key, one, message)
        _add_tmpfs(service, key, one, values.in_path(path), size)


def volumes_from(service: ComposeService, key: str, value: Value) -> None:
    """Mount what another service mounts."""
    for one in values.items(value):
        name, *modes = values.text(one).split(":")
        if name == "container":
            name, *modes = modes or [""]
        other = service.stack.services.get(name)
        mounts = other.keys.get("volumes") if other is not None else None
        if other is None:
            service.lost(key, one, f"there is no service {show(name)} here; write its mounts")
        for item in values.items(mounts) if mounts is not None else ():
            volume = read_volume(item)
            if volume.kind == "volume" and not volume.source:
                service.lost(key, one, "volumes without a name are not shared by pods; give them names")
            else:
                add_volume(service, key, item, replace(volume, read_only=volume.read_only or "ro" in modes))


def configs(service: ComposeService, key: str, value: Value) -> None:
    """Take configs as files of the pod."""
    for one in values.items(value):
        _content(service, key, one, "configs")


def secrets(service: ComposeService, key: str, value: Value) -> None:
    """Take secrets, each a file of the machine."""
    for one in values.items(value):
        _content(service, key, one, "secrets")


def _content(service: ComposeService, key: str, value: Value, kind: str) -> None:
    given = value.plain if isinstance(value.plain, dict) else {"source": value}
    for name in sorted(set(given) - {"source", "target", "uid", "gid", "mode"}):
        service.lost(f"{key}.{name}", given[name], "is not known as a key of compose")
    source = values.text(given["source"]) if "source" in given else ""
    project = service.stack.project
    definition = (project.configs if kind == "configs" else project.secrets).get(source)
    if definition is None:
        raise ValueError(f"there is no {kind.rstrip('s')} {show(source)} in the file")
    name, target = valid(source, "file"), values.text(given["target"]) if "target" in given else ""
    if kind == "configs":
        mount = _config(service, key, value, name, definition)
        path = target or f"/{source}"
        path = path if path.startswith("/") else f"/{path}"
    else:
        mount = _secret(service, key, value, name, definition)
        path = target if target.startswith("/") else f"/run/secrets/{target or source}"
    if mount is None:
        return
    if kind != "secrets" or path != f"/run/secrets/{name}":
        mount["path"] = values.in_path(path)
    if "host" not in mount and "volume" not in mount:
        _owner_and_mode(mount, given)
    service.add(key, value, "mounts", mount)


def _owner_and_mode(mount: dict[str, object], given: dict[str, Value]) -> None:
    uid = values.text(given["uid"]) if "uid" in given else ""
    gid = values.text(given["gid"]) if "gid" in given else ""
    if uid or gid:
        mount["owner"] = f"{uid or 0}:{gid}" if gid else uid
    if "mode" in given:
        mode = given["mode"]
        # YAML reads 0440 as octal; a text has the digits.
        number = mode.plain if isinstance(mode.plain, int) else int(values.text(mode) or "444", 8)
        mount["mode"] = f"{number & 0o777:04o}"


def _config(
    service: ComposeService, key: str, value: Value, name: str, definition: Value
) -> dict[str, object] | None:
    keys, stack = _definition(definition), service.stack
    if "content" in keys:
        service.add_pod(key, value, ("files",), {"name": name, "content": values.text(keys["content"])})
    elif "environment" in keys:
        found = stack.given.environment.get(values.text(keys["environment"]))
        if found is None:
            raise ValueError(f"{values.text(keys['environment'])} is not set here")
        service.add_pod(key, value, ("files",), {"name": name, "content": found})
    elif "file" in keys:
        path = values.path_from(stack.project.directory, stack.given.home, values.text(keys["file"]))
        try:
            content = stack.given.read(path)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror or 'cannot be read'}") from None
        if len(content) > FILE_MAX:
            path = _behind_links(service, key, value, path)
            volume = service.volume(key, value, ("host", path), name, host=path)
            return {"volume": volume, "read_only": True}
        beside = beside_name(service, path)
        service.draft.beside[beside] = content
        service.add_pod(key, value, ("files",), {"name": name, "source": beside})
    else:
        raise ValueError("is of a swarm's own store; write it as a file of the pod")
    return {"file": name}


def _secret(
    service: ComposeService, key: str, value: Value, name: str, definition: Value
) -> dict[str, object]:
    keys, stack = _definition(definition), service.stack
    if "file" in keys:
        path = values.path_from(stack.project.directory, stack.given.home, values.text(keys["file"]))
        if not stack.given.exists(path):
            service.note(key, value, f"{path} is not there yet; the pod waits for it")
        path = _behind_links(service, key, value, path)
    else:
        path = f"{_SECRETS}/{name}"
        fill = f"put it into {path}"
        if "environment" in keys:
            fill = f'printf %s "${values.text(keys["environment"])}" > {path}'
        message = f"is read from {path} at each start, since no pod file has a secret in plain text: {fill}"
        service.note(key, value, message)
    service.add_pod(key, value, ("secrets",), {"name": name, "host": path})
    return {"secret": name}


def device_entries(service: ComposeService, key: str, value: Value) -> None:
    """Take devices, "/dev/x:/dev/y:rwm" or of CDI."""
    for one in values.items(value):
        if isinstance(one.plain, dict):
            parts = [
                values.text(one.plain[name])
                for name in ("source", "target", "permissions")
                if name in one.plain
            ]
            word = ":".join(parts)
        else:
            word = values.text(one)
        source, _, rest = word.partition(":")
        target, _, mode = rest.partition(":")
        if rest and target in (source, "") and set(mode or "rwm") == set("rwm"):
            word = source
        elif set(mode) == set("rwm"):
            word = f"{source}:{target}"
        if is_privileged(service):
            if ":" in word or not word.startswith("/"):
                message = f"{show(word)}: a privileged container has all devices, each at its own path"
                service.lost(key, one, message)
            continue
        service.add(key, one, "security.devices", word)


def top_level(stack: Stack) -> None:
    """Remark on the keys of volumes and configs at the top that have nothing here."""
    for table, found in (("volumes", stack.project.volumes), ("configs", stack.project.configs)):
        for name, value in found.items():
            for key, one in _definition(value).items():
                known, where = TOP.get(key), f"{table}.{name}.{key}"
                if key.startswith("x-"):
                    continue
                if known is None:
                    stack.remark(
                        "lost", where, one, "is not known as a key of compose; nothing was made of it"
                    )
                elif known.kind != "mapped":
                    stack.remark(known.kind, where, one, known.becomes)


TOP: Table = {
    "name": mapped("the name of an external volume"),
    "external": mapped("a shared volume of that name"),
    "driver": mapped("a managed volume; lost if it is not local: mount it on the machine"),
    "driver_opts": mapped("`host` of a bind, a `tmpfs`; lost for nfs and others: mount it on the machine"),
    "file": mapped("of configs a file beside the pod file, of secrets `host`"),
    "content": mapped("`content`"),
    "environment": mapped("of configs `content`"),
    "labels": note("labels of it do nothing here"),
    "template_driver": note("there are no templates"),
}
