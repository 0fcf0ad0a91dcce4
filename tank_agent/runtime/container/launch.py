"""A container's bundle, made of its spec and its image for crun to run."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageHealthcheck
from tank_agent.image.parameters import Identity, RunParameters, resolve_user, with_groups
from tank_agent.linux import paths
from tank_agent.linux.namespaces import IdRange
from tank_agent.linux.process import version
from tank_agent.runtime.container import devices
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.devices import Granted
from tank_agent.runtime.container.oci import Sandbox, Seccomp, configuration
from tank_agent.runtime.limits import cgroup, limits
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.limits.ulimits import check_ulimits
from tank_agent.runtime.mounts import tmpfs
from tank_agent.runtime.mounts.contents import Contents, Owned, Payload
from tank_agent.runtime.mounts.restore import file_mounts
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tank_agent.runtime.mounts.volumes import Volumes, depth, innermost
from tank_agent.runtime.run import RunRecord
from tank_agent.runtime.security import apparmor
from tank_agent.runtime.security.seccomp import SeccompCache
from tank_agent.runtime.security.user_namespace import mapping_of, mount_sysfs
from tank_agent.spec.devices import is_cdi_name
from tank_agent.spec.model import Container, Mount, Security, Volume
from tank_agent.spec.paths import is_kernel_path_of_host, is_reserved
from tank_agent.spec.values import signal_number

_OPEN_FILES = 524_288


class Launch(Struct, frozen=True, kw_only=True):
    """Everything that one run is made of.

    `hash`, `settings`, `image`, `digest` and `healthcheck` are as in its `RunRecord`.
    `layers` are lowest first, `netns` None means the host's network, and `files` is the directory with the
    pod's hosts, hostname and resolv.conf. `pods_after` are the pods that this one starts after. `contents`
    are its files and secrets, by the paths of their mounts. `job_run` is the number of the job's run; 0 for a
    pod that is no job. `hostname` is "" where it is the pod's name.
    """

    pod: str
    container: Container
    volumes: tuple[Volume, ...]
    parameters: RunParameters
    layers: tuple[Path, ...]
    image: str
    netns: Path | None
    files: Path
    hash: str
    revision: str
    settings: str = ""
    image_stop_signal: str | None = None
    healthcheck: ImageHealthcheck | None = None
    digest: str = ""
    pods_after: tuple[str, ...] = ()
    contents: Mapping[str, Payload] = msgspec.field(default_factory=dict)
    job_run: int = 0
    sysctls: Mapping[str, str] = msgspec.field(default_factory=dict)
    hostname: str = ""


def record_of(launch: Launch, *, identifier: str, cgroup: str, created_at: float) -> RunRecord:
    """Return the record of a run that is to begin."""
    container = launch.container
    image_stop_signal: int = signal.SIGTERM
    # The image's may be nonsense, which matters only if the pod's file has none.
    with contextlib.suppress(ValueError):
        image_stop_signal = signal_number(launch.image_stop_signal or "SIGTERM")
    mounted = {mount.volume for mount in container.mounts}
    return RunRecord(
        id=identifier,
        pod=launch.pod,
        container=container.name,
        hash=launch.hash,
        revision=launch.revision,
        cgroup=cgroup,
        image=launch.image,
        digest=launch.digest,
        stop_signal=signal_number(launch.parameters.stop_signal),
        stop_grace=container.stop_grace,
        terminal=container.tty,
        created_at=created_at,
        settings=launch.settings,
        limits=container.limits,
        image_stop_signal=image_stop_signal,
        volumes=tuple(sorted((one.path for one in container.mounts if one.volume is not None), key=depth)),
        shared=tuple(volume.name for volume in launch.volumes if volume.shared and volume.name in mounted),
        healthcheck=launch.healthcheck,
        after=container.after,
        pods_after=launch.pods_after,
        job_run=launch.job_run,
        sysctls=launch.sysctls,
    )


class Tools(Struct, frozen=True, kw_only=True):
    """The parts of the agent that runs are made with, and removed by."""

    crun: Crun
    conmon: str
    cgroups: CgroupHost
    root_filesystems: RootFilesystems
    volumes: Volumes
    seccomp: SeccompCache
    contents: Contents
    apparmor: Callable[[Security], str | None] = apparmor.profile_of

    @classmethod
    def of(cls, data_dir: Path, run_dir: Path) -> Tools:
        """Make the tools of an agent with these directories."""
        cgroups = cgroup.detect(run_dir)
        crun = Crun("crun", run_dir, cgroups)
        return cls(
            crun=crun,
            conmon="conmon",
            cgroups=cgroups,
            root_filesystems=RootFilesystems(data_dir),
            volumes=Volumes(data_dir, run_dir),
            seccomp=SeccompCache(data_dir, crun_version=crun.version, machine=platform.machine()),
            contents=Contents(run_dir),
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of crun and conmon."""
        texts = {"crun": version("crun"), "conmon": version(self.conmon)}
        return {name: text.partition("\n")[0].rpartition(" ")[2] for name, text in texts.items()}


class Made(NamedTuple):
    """The seccomp profile of a bundle, and the digests of its files and secrets by path."""

    seccomp: Seccomp
    contents: dict[str, str]


def make_bundle(launch: Launch, record: RunRecord, bundle: Path, tools: Tools) -> Made:
    """Mount a run's root file system and volumes, write its files, and config.json."""
    security, ids = launch.container.security, record.ids
    seccomp, apparmor_profile = tools.seccomp.choose(security), tools.apparmor(security)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    if launch.container.ulimits:
        check_ulimits(launch.container.ulimits)
    with contextlib.ExitStack() as stack:
        layers = launch.layers
        if launch.container.rootfs is not None:
            layers = (stack.enter_context(open_rootfs(launch.container.rootfs, tools.volumes)),)
        mapping = stack.enter_context(mapping_of(ids)) if ids is not None else None
        rootfs = tools.root_filesystems.mount(record.id, layers, bundle, mapping)
        identity, wanted, owners = _prepare(rootfs, launch, ids)
        by_crun, by_us = tmpfs.split(wanted, mapped=ids is not None)
        given = dict(tmpfs.make(by_us, bundle, stack))
        contents: dict[str, str] = {}
        for declared, mount in zip(launch.container.mounts, wanted, strict=False):
            path = declared.path
            if path in owners:
                digest = tools.contents.write(record.id, bundle, path, launch.contents[path], owners[path])
                contents[path] = digest
                given[mount.path] = tools.contents.open(record.id, bundle, path, digest, stack)
        bound = tools.volumes.bind(
            launch.pod,
            launch.volumes,
            [mount for mount in wanted if mount.tmpfs is None or mount.path in given],
            bundle,
            owner=(identity.uid, identity.gid),
            mapping=mapping,
            given=given,
            apart=[one.target for one in by_crun],
        )
        granted = _granted(launch, rootfs, identity, wanted, tools)
        nodes = devices.make_nodes(granted.devices, bundle, ids)
    sandbox = Sandbox(
        argv=launch.parameters.argv,
        env=_environment(launch, identity, granted),
        cwd=launch.parameters.cwd,
        identity=msgspec.structs.replace(identity, groups=(*identity.groups, *granted.groups)),
        open_files=_OPEN_FILES if most_files == resource.RLIM_INFINITY else min(most_files, _OPEN_FILES),
        apparmor=apparmor_profile,
        hostname=launch.hostname or launch.pod,
        rootfs=rootfs,
        netns=launch.netns,
        cgroup=record.cgroup,
        limits=limits.effective(tools.cgroups, launch.container.limits),
        limit_swap=limits.has_swap_limit(tools.cgroups),
        mounts=(*file_mounts(launch.files), *bound, *granted.mounts, *nodes),
        seccomp=seccomp,
        container=launch.container,
        tmpfs=tuple(by_crun),
        devices=granted.devices,
        hooks=granted.hooks,
        ids=ids,
        sysfs=None if ids is None else mount_sysfs(bundle, launch.netns),
        sysctls=launch.sysctls,
    )
    (bundle / "config.json").write_bytes(msgspec.json.encode(configuration(sandbox)))
    return Made(seccomp, contents)


@contextlib.contextmanager
def open_rootfs(path: str, volumes: Volumes) -> Iterator[Path]:
    """Give a directory of the host as a layer, resolved once: a container may own a link on its path."""
    try:
        # Links are followed, such as one to the newest of several, but not to what the file could not name.
        found = paths.open_on_host(path, os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise Stalled(f"rootfs: {path}: {error.strerror}", hint="name a directory of this machine") from error
    with paths.Closing(found):
        layer = Path(f"/proc/self/fd/{found}")
        real = layer.readlink()
        if is_kernel_path_of_host(str(real)):
            raise Stalled(f"rootfs: {path} leads to {real}, which is in a kernel file system")
        volumes.refuse_own("rootfs", real)
        yield layer


def _prepare(
    rootfs: Path, launch: Launch, ids: IdRange | None
) -> tuple[Identity, list[Mount], dict[str, Owned]]:
    """Find user, mounts and owners in the root file system, and make the working directory there."""
    with paths.Closing(os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        wanted = _without_links(root, tmpfs.mounts_of(launch.container))
        user = resolve_user(root, launch.parameters.user)
        identity = with_groups(root, user, launch.container.groups)
        _refuse_directories(root, wanted)
        owners = {
            mount.path: _owned(root, mount, identity, ids)
            for mount in launch.container.mounts
            if mount.file is not None or mount.secret is not None
        }
        _make_working_directory(root, launch.parameters.cwd, _on_host("its user", identity, ids))
    return identity, wanted, owners


def _refuse_directories(root: int, wanted: Sequence[Mount]) -> None:
    """Refuse to mount a file where the image has a directory."""
    paths_ = [mount.path for mount in wanted]
    for mount in wanted:
        name = mount.file if mount.file is not None else mount.secret
        if name is None or innermost(mount.path, paths_) is not None:
            continue
        with contextlib.suppress(OSError):
            os.close(paths.open_in_root(root, mount.path, os.O_PATH | os.O_DIRECTORY))
            hint = f"name the file, too, such as {mount.path}/{name}"
            raise Stalled(f"mount {mount.path}: the image has a directory there", hint=hint)


def _on_host(what: str, identity: Identity, ids: IdRange | None) -> tuple[int, int]:
    """Return the owner on the host that stands for a user of a container, and for its group."""
    if ids is None:
        return identity.uid, identity.gid
    highest = max(identity.uid, *identity.groups)
    if highest >= ids.size:
        which = "has id" if highest == identity.uid else "is in group"
        raise Stalled(f'{what} {which} {highest}; with userns = "auto" there are only {ids.size}')
    return ids.base + identity.uid, ids.base + identity.gid


def _owned(root: int, mount: Mount, user: Identity, ids: IdRange | None) -> Owned:
    """Return owner and permissions of a file (root's, for all to read) or of a secret (the user's alone)."""
    owner = user if mount.secret is not None else Identity(uid=0, gid=0, groups=(0,))
    if mount.owner is not None:
        owner = resolve_user(root, mount.owner)
    uid, gid = _on_host(f"the owner of {mount.path}", owner, ids)
    return Owned(uid=uid, gid=gid, mode=mount.permissions)


def _without_links(root: int, mounts: Sequence[Mount]) -> list[Mount]:
    """Return mounts at the places to which links of the image lead, else Stalled (CVE-2019-19921)."""
    real: dict[str, str] = {}
    # What is there without being asked for gives way to all else.
    for mount in sorted(mounts, key=lambda mount: (tmpfs.is_usual(mount), len(mount.path))):
        outer = innermost(mount.path, real)
        if outer is not None:
            # The outer mount hides what the image has there.
            real[mount.path] = real[outer] + mount.path.removeprefix(outer)
        elif not tmpfs.is_usual(mount):
            real[mount.path] = _follow_links(root, mount.path)
        elif _leads_to_itself(root, mount.path):
            real[mount.path] = mount.path
    if len(set(real.values())) < len(real):
        hint = f"they lead to {', '.join(real.values())}"
        raise Stalled("links of the image make two mounts one", hint=hint)
    found = (mount for mount in mounts if mount.path in real)
    return [
        # Nobody writes to a file of the pod, or to a secret.
        msgspec.structs.replace(
            mount,
            path=real[mount.path],
            read_only=mount.read_only or mount.file is not None or mount.secret is not None,
        )
        for mount in found
    ]


def _leads_to_itself(root: int, path: str) -> bool:
    with contextlib.suppress(OSError):
        return paths.real_path_in_root(root, path) == path
    return False


def _follow_links(root: int, path: str) -> str:
    try:
        real = paths.real_path_in_root(root, path)
    except OSError as error:
        raise Stalled(f"mount {path}: cannot follow it in the image: {error.strerror}") from error
    if real != path and is_reserved(real):
        message = f"mount {path}: links of the image lead to {real}, which is reserved"
        raise Stalled(message, hint="mount it elsewhere")
    return real


def _environment(launch: Launch, identity: Identity, granted: Granted) -> tuple[str, ...]:
    environment = dict(launch.parameters.env)
    environment.setdefault("HOME", identity.home or "/")
    environment.setdefault("HOSTNAME", launch.hostname or launch.pod)
    if launch.container.tty:
        environment.setdefault("TERM", "xterm")
    environment.update(granted.env)
    return tuple(f"{name}={value}" for name, value in environment.items())


def _granted(
    launch: Launch, rootfs: Path, identity: Identity, wanted: Sequence[Mount], tools: Tools
) -> Granted:
    """Find the container's devices, and what CDI files give it with them, at its places in the image."""
    entries = launch.container.security.devices
    granted = devices.find(entries)
    names = [entry for entry in entries if is_cdi_name(entry)]
    if not names:
        return granted
    from tank_agent.runtime.container import cdi

    granted = cdi.add(granted, names, (identity.uid, identity.gid))
    with paths.Closing(os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        placed = []
        for mount in granted.mounts:
            tools.volumes.refuse_own(f"CDI mount {mount.target}", mount.source)
            target = _follow_links(root, mount.target)
            # What is in memory nobody can have changed yet.
            outer = innermost(f"{target}/", (own.path for own in wanted if own.tmpfs is None))
            if outer is not None:
                message = f"{mount.target}, which a CDI file mounts, is in the pod's own mount {outer}"
                raise Stalled(message, hint="mount that elsewhere")
            placed.append(msgspec.structs.replace(mount, target=target))
    return msgspec.structs.replace(granted, mounts=tuple(placed))


def _make_working_directory(root: int, cwd: str, owner: tuple[int, int]) -> None:
    """Make the working directory where the image lacks it; crun would make it too, but for root only."""
    walked = ""
    for part in filter(None, cwd.split("/")):
        parent, walked = walked or "/", f"{walked}/{part}"
        try:
            _make_directory(root, parent, part, owner)
        except OSError as error:
            # Also for a link that leads nowhere, in circles, or into a file system of the kernel.
            if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT):
                message = f"working directory {cwd}: {walked} is not a directory in the image"
                raise Stalled(message) from error
            raise


def _make_directory(root: int, parent: str, name: str, owner: tuple[int, int]) -> None:
    try:
        os.close(paths.open_in_root(root, f"{parent}/{name}", os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        flags = os.O_RDONLY | os.O_DIRECTORY
        with paths.Closing(paths.open_in_root(root, parent, flags)) as directory:
            os.mkdir(name, dir_fd=directory)
            with paths.Closing(paths.open_without_links(directory, name, flags)) as made:
                # Whatever our umask is: every user of the container may enter it.
                os.fchmod(made, 0o755)
                os.fchown(made, *owner)
