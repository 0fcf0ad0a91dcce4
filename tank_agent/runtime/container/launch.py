"""A container's bundle, made of its spec and its image for crun to run."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import signal
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.image.parameters import Identity, RunParameters, resolve_user
from tank_agent.linux import paths
from tank_agent.linux.namespaces import IdRange
from tank_agent.linux.process import version
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.oci import Device, Sandbox, Seccomp, configuration
from tank_agent.runtime.limits import cgroup, limits
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.mounts.restore import file_mounts
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tank_agent.runtime.mounts.volumes import Volumes, depth, innermost
from tank_agent.runtime.run import RunRecord
from tank_agent.runtime.security import apparmor
from tank_agent.runtime.security.seccomp import SeccompCache
from tank_agent.runtime.security.user_namespace import mapping_of, mount_sysfs
from tank_agent.spec.model import Container, Mount, Security, Volume
from tank_agent.spec.paths import is_kernel_path_of_host, is_reserved
from tank_agent.spec.values import signal_number

_OPEN_FILES = 524_288
# AT_FDCWD, linux/fcntl.h; for a path that is absolute.
_NO_DIRECTORY = -100


class Launch(Struct, frozen=True, kw_only=True):
    """Everything that one run is made of; `hash`, `settings` and `image` are as in its `RunRecord`.

    `layers` are lowest first, `netns` None means the host's network, and `files` is the directory with the
    pod's hosts, hostname and resolv.conf.
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


def record_of(launch: Launch, *, identifier: str, cgroup: str, created_at: float) -> RunRecord:
    """Return the record of a run that is to begin."""
    container = launch.container
    image_stop_signal: int = signal.SIGTERM
    # The image's may be nonsense, which matters only if the pod's file has none.
    with contextlib.suppress(ValueError):
        image_stop_signal = signal_number(launch.image_stop_signal or "SIGTERM")
    return RunRecord(
        id=identifier,
        pod=launch.pod,
        container=container.name,
        hash=launch.hash,
        revision=launch.revision,
        cgroup=cgroup,
        image=launch.image,
        stop_signal=signal_number(launch.parameters.stop_signal),
        stop_grace=container.stop_grace,
        terminal=container.tty,
        created_at=created_at,
        settings=launch.settings,
        limits=container.limits,
        image_stop_signal=image_stop_signal,
        volumes=tuple(sorted((mount.path for mount in container.mounts), key=depth)),
    )


class Tools(Struct, frozen=True, kw_only=True):
    """The parts of the agent that runs are made with, and removed by."""

    crun: Crun
    conmon: str
    cgroups: CgroupHost
    root_filesystems: RootFilesystems
    volumes: Volumes
    seccomp: SeccompCache
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
        )

    def versions(self) -> dict[str, str]:
        """Return the versions of crun and conmon."""
        texts = {"crun": version("crun"), "conmon": version(self.conmon)}
        return {name: text.partition("\n")[0].rpartition(" ")[2] for name, text in texts.items()}


def make_bundle(launch: Launch, record: RunRecord, bundle: Path, tools: Tools) -> Seccomp:
    """Mount a run's root file system and volumes, write config.json, and return its seccomp profile."""
    security, ids = launch.container.security, record.ids
    seccomp, apparmor_profile = tools.seccomp.choose(security), tools.apparmor(security)
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        layers = launch.layers
        if launch.container.rootfs is not None:
            layers = (stack.enter_context(open_rootfs(launch.container.rootfs, tools.volumes)),)
        mapping = stack.enter_context(mapping_of(ids)) if ids is not None else None
        rootfs = tools.root_filesystems.mount(record.id, layers, bundle, mapping)
        identity, wanted = _prepare(rootfs, launch, ids)
        owner = (identity.uid, identity.gid)
        bound = tools.volumes.bind(launch.pod, launch.volumes, wanted, bundle, owner=owner, mapping=mapping)
    sandbox = Sandbox(
        argv=launch.parameters.argv,
        env=_environment(launch, identity),
        cwd=launch.parameters.cwd,
        identity=identity,
        open_files=_OPEN_FILES if most_files == resource.RLIM_INFINITY else min(most_files, _OPEN_FILES),
        apparmor=apparmor_profile,
        hostname=launch.pod,
        rootfs=rootfs,
        netns=launch.netns,
        cgroup=record.cgroup,
        limits=limits.effective(tools.cgroups, launch.container.limits),
        limit_swap=limits.has_swap_limit(tools.cgroups),
        mounts=(*file_mounts(launch.files), *sorted(bound, key=lambda mount: depth(mount.target))),
        seccomp=seccomp,
        container=launch.container,
        devices=tuple(_device(path) for path in security.devices),
        ids=ids,
        sysfs=None if ids is None else mount_sysfs(bundle, launch.netns),
    )
    (bundle / "config.json").write_bytes(msgspec.json.encode(configuration(sandbox)))
    return seccomp


@contextlib.contextmanager
def open_rootfs(path: str, volumes: Volumes) -> Iterator[Path]:
    """Give a directory of the host as a layer, resolved once: a container may own a link on its path."""
    try:
        # Links are followed, such as one to the newest of several, but not to what the file could not name.
        flags, resolve = os.O_PATH | os.O_DIRECTORY, paths.RESOLVE_NO_MAGICLINKS
        found = paths.open_at(_NO_DIRECTORY, path, flags, resolve=resolve)
    except OSError as error:
        raise Stalled(f"rootfs: {path}: {error.strerror}", hint="name a directory of this machine") from error
    with paths.Closing(found):
        layer = Path(f"/proc/self/fd/{found}")
        real = layer.readlink()
        if is_kernel_path_of_host(str(real)):
            raise Stalled(f"rootfs: {path} leads to {real}, which is in a kernel file system")
        volumes.refuse_own("rootfs", real)
        yield layer


def _prepare(rootfs: Path, launch: Launch, ids: IdRange | None) -> tuple[Identity, list[Mount]]:
    """Find user and mounts in the root file system, and make the working directory there."""
    with paths.Closing(os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
        wanted = _without_links(root, launch.container.mounts)
        identity = resolve_user(root, launch.parameters.user)
        owner = (identity.uid, identity.gid)
        if ids is not None:
            highest = max(identity.uid, *identity.groups)
            if highest >= ids.size:
                raise Stalled(f'its user has id {highest}; with userns = "auto" there are only {ids.size}')
            owner = (ids.base + identity.uid, ids.base + identity.gid)
        _make_working_directory(root, launch.parameters.cwd, owner)
    return identity, wanted


def _without_links(root: int, mounts: Sequence[Mount]) -> list[Mount]:
    """Return mounts at the places to which links of the image lead, else Stalled (CVE-2019-19921)."""
    real: dict[str, str] = {}
    for mount in sorted(mounts, key=lambda mount: len(mount.path)):
        outer = innermost(mount.path, real)
        if outer is not None:
            # The outer mount hides what the image has there.
            real[mount.path] = real[outer] + mount.path.removeprefix(outer)
        else:
            real[mount.path] = _follow_links(root, mount.path)
    if len(set(real.values())) < len(real):
        hint = f"they lead to {', '.join(real.values())}"
        raise Stalled("links of the image make two mounts one", hint=hint)
    return [msgspec.structs.replace(mount, path=real[mount.path]) for mount in mounts]


def _follow_links(root: int, path: str) -> str:
    try:
        real = paths.real_path_in_root(root, path)
    except OSError as error:
        raise Stalled(f"mount {path}: cannot follow it in the image: {error.strerror}") from error
    if real != path and is_reserved(real):
        message = f"mount {path}: links of the image lead to {real}, which is reserved"
        raise Stalled(message, hint="mount it elsewhere")
    return real


def _environment(launch: Launch, identity: Identity) -> tuple[str, ...]:
    environment = dict(launch.parameters.env)
    environment.setdefault("HOME", identity.home or "/")
    environment.setdefault("HOSTNAME", launch.pod)
    if launch.container.tty:
        environment.setdefault("TERM", "xterm")
    return tuple(f"{name}={value}" for name, value in environment.items())


def _device(path: str) -> Device:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        message = f"device {path}: {os.strerror(error.errno or 0)}"
        raise Stalled(message, hint="is its kernel module loaded?") from error
    kind = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise Stalled(f"device {path} is not a device")
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    mode = stat.S_IMODE(found.st_mode)
    return Device(path=path, kind=kind, major=major, minor=minor, mode=mode, gid=found.st_gid)


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
