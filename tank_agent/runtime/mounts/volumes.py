"""Volumes: managed directories that outlive their pod, and paths of the host.

A volume reaches a container as a bind mount made from a descriptor (nosuid, nodev), in the run's own
directory; crun only ever sees that mount, so no link that is swapped later can redirect it. A volume inside
another is mounted by the agent, too: another container with the outer one could make the mount point a link
to /proc.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import structlog

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts
from tank_agent.linux.fault import point
from tank_agent.linux.namespaces import IdMapping
from tank_agent.linux.paths import Closing, open_without_links
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime.container.oci import BindMount
from tank_agent.spec.model import Mount, Volume

_log = structlog.get_logger()
_DIRECTORY = "volumes"
# Ends the name of a directory that is being deleted; no volume can have such a name.
_REMOVED = ".gone"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


class Volumes:
    """Makes managed volumes in `data_dir/volumes/<pod>/<name>`, and binds volumes into bundles.

    A container that could reach the agent's data_dir or run_dir would be root on this machine.
    """

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        self._root = data_dir / _DIRECTORY
        self._own = tuple(Path(os.path.realpath(directory)) for directory in (run_dir, data_dir))
        # Held while a volume is opened for a run, and from the check of its uses to its removal.
        self._lock = threading.Lock()
        # Only root gets at them by paths of the host, which are neither nosuid nor nodev: a setuid program of
        # a container would make any user root.
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._root, *self._root.iterdir()):
            # An older agent let all users enter.
            if directory.is_dir() and not directory.is_symlink():
                directory.chmod(0o700)
        # Listed now, without the removals that this agent will make.
        left = sorted(self._root.glob(f"*/.*{_REMOVED}"))
        threading.Thread(target=_finish_removals, args=(left,), name="volume-sweep", daemon=True).start()

    def bind(
        self,
        pod: str,
        volumes: Sequence[Volume],
        wanted: Sequence[Mount],
        bundle: Path,
        *,
        owner: tuple[int, int] | None,
        mapping: IdMapping | None = None,
    ) -> tuple[BindMount, ...]:
        """Bind the wanted volumes into a bundle and return them for the OCI configuration.

        Args:
            owner: uid and gid of a managed volume that is made now; None makes a missing one an error.
            mapping: gives files the owners that they have without a user namespace.

        Raises:
            Stalled: a host path does not exist, or a symbolic link is in it, or its ids cannot be mapped.
            Retry: the kernel or the disk refused.
        """
        by_name = {volume.name: volume for volume in volumes}
        bound = {}
        with ExitStack() as stack:
            sources = {}
            for index, mount in enumerate(wanted):
                volume = by_name[mount.volume]
                if volume.host is not None:
                    self.refuse_own(f"volume {volume.name}", Path(volume.host))
                source = stack.enter_context(Closing(self._open(pod, volume, owner)))
                sources[mount.path] = source
                bound[mount.path] = _bind(source, bundle / _DIRECTORY / str(index), mount, mapping)
            # The innermost first, so that each is complete when it is mounted in the next.
            for path in sorted(bound, key=len, reverse=True):
                outer = innermost(path, bound)
                # For a user namespace crun clones no mount with another inside, so there it mounts each.
                if outer is not None and mapping is None:
                    _nest(bound.pop(path), bound[outer], sources[outer])
        return tuple(bound.values())

    def refuse_own(self, what: str, path: Path) -> None:
        """Refuse a path of the host, without links, that no container may have."""
        for own in self._own:
            if path == own or own in path.parents or path in own.parents:
                hint = "name a directory that has nothing to do with the agent"
                raise Stalled(f"{what}: {path} holds the agent's own files in {own}", hint=hint)

    def inode(self, pod: str, volumes: Sequence[Volume], name: str) -> tuple[int, int]:
        """Return the device and inode of a volume; raises as `bind`, and makes none that is gone."""
        volume = next(volume for volume in volumes if volume.name == name)
        with Closing(self._open(pod, volume, None)) as source:
            status = os.fstat(source)
        return status.st_dev, status.st_ino

    def detach(self, bundle: Path) -> None:
        """Detach a bundle's volumes from the host's tree; the container keeps them."""
        mounts.unmount_below(bundle / _DIRECTORY)

    def managed(self) -> tuple[tuple[str, str, Path], ...]:
        """Return pod, name and directory of every managed volume, in order."""
        found = []
        for pod in self._root.iterdir():
            if pod.is_dir() and not pod.is_symlink():
                # A name that begins with a dot is of a volume that is being made or removed.
                found += [(pod.name, one.name, one) for one in pod.iterdir() if not one.name.startswith(".")]
        return tuple(sorted(found))

    def remove(self, pod: str, name: str, check: Callable[[], None] = lambda: None) -> bool:
        """Remove a managed volume with what is in it; False if there is none.

        Args:
            check: raises if the volume is in use; a run that begins after it makes a new one.
        """
        if not (_NAME.fullmatch(pod) and _NAME.fullmatch(name)):
            return False
        removed = self._root / pod / f".{name}.{secrets.token_hex(4)}{_REMOVED}"
        # Left by an earlier removal that failed.
        left = sorted((self._root / pod).glob(f".{name}.*{_REMOVED}"))
        try:
            for path in left:
                _remove(path)
            try:
                with self._lock:
                    check()
                    (self._root / pod / name).rename(removed)
            except FileNotFoundError:
                return bool(left)
            point("volumes:going")
            _remove(removed)
        except OSError as error:
            where = f" at {error.filename}" if error.filename else ""
            hint = "what can be is removed; run this again once the reason is gone"
            raise Retry(f"cannot remove volume {pod}/{name}: {error.strerror}{where}", hint=hint) from error
        return True

    def _open(self, pod: str, volume: Volume, owner: tuple[int, int] | None) -> int:
        if volume.host is None:
            with self._lock:
                return _open_managed(self._root / pod, volume.name, owner)
        what = f"volume {volume.name}: "
        try:
            with Closing(os.open("/", os.O_PATH | os.O_CLOEXEC)) as root:
                return open_without_links(root, volume.host.lstrip("/"), os.O_PATH)
        except FileNotFoundError as error:
            raise Stalled(f"{what}{volume.host} does not exist on this machine") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                hint = f"write the real path: {os.path.realpath(volume.host)}"
                raise Stalled(f"{what}{volume.host} leads through a symbolic link", hint=hint) from error
            raise Retry(f"{what}cannot open {volume.host}: {error.strerror}") from error


def depth(path: str) -> int:
    """Return a sort key for mounts, so that none covers one before it, as /data would /data/cache."""
    return path.count("/")


def innermost(path: str, outer: Iterable[str]) -> str | None:
    """Return the innermost of some directories that a path is in; None if it is in none."""
    return max((found for found in outer if path.startswith(f"{found}/")), key=len, default=None)


def _nest(inner: BindMount, outer: BindMount, source: int) -> None:
    """Mount one bound volume inside of another, whose files `source` stands for."""
    relative = inner.target.removeprefix(f"{outer.target}/")
    with ExitStack() as stack:
        copy = stack.enter_context(Closing(mounts.clone(inner.source)))
        try:
            if not outer.read_only:
                _make_mount_point(source, relative, is_directory=stat.S_ISDIR(os.fstat(copy).st_mode))
            top = stack.enter_context(Closing(os.open(outer.source, os.O_PATH | os.O_CLOEXEC)))
            target = stack.enter_context(Closing(open_without_links(top, relative, os.O_PATH)))
            mounts.attach(copy, target)
        except OSError as error:
            where = f"mount {inner.target}: "
            if error.errno == errno.ELOOP:
                raise Retry(f"{where}a symbolic link is there in the volume around it") from error
            raise Retry(f"{where}not in the volume around it: {error.strerror}") from error


def _make_mount_point(volume: int, relative: str, *, is_directory: bool) -> None:
    """Make a directory, or a file, in a volume where there is none; others may write there meanwhile."""
    *parents, name = relative.split("/")
    with ExitStack() as stack:
        for part in (*parents, *((name,) if is_directory else ())):
            with suppress(FileExistsError):
                os.mkdir(part, dir_fd=volume)
                with Closing(open_without_links(volume, part, os.O_RDONLY | os.O_DIRECTORY)) as made:
                    # Whatever our umask is.
                    os.fchmod(made, 0o755)
            volume = stack.enter_context(Closing(open_without_links(volume, part, os.O_PATH)))
        if not is_directory:
            with suppress(FileExistsError):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                os.close(open_without_links(volume, name, flags, 0o644))


def _finish_removals(left: Sequence[Path]) -> None:
    """Finish removals during which an agent was killed."""
    for path in left:
        try:
            _remove(path)
        except Exception as error:
            _log.warning("cannot remove what is left of a volume", path=str(path), error=str(error))


def _remove(path: Path) -> None:
    remove_tree(path)
    with suppress(OSError):
        path.parent.rmdir()


def _open_managed(directory: Path, name: str, owner: tuple[int, int] | None) -> int:
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        with Closing(os.open(directory, flags | os.O_NOFOLLOW | os.O_CLOEXEC)) as parent:
            with suppress(FileNotFoundError):
                return open_without_links(parent, name, flags)
            if owner is None:
                raise Retry(f"volume {name}: {directory / name} was removed")
            _make_volume(parent, name, owner)
            return open_without_links(parent, name, flags)
    except OSError as error:
        raise Retry(f"volume {name}: cannot make {directory / name}: {error.strerror}") from error


def _make_volume(parent: int, name: str, owner: tuple[int, int]) -> None:
    """Make a volume that never has the wrong owner, not even for a moment."""
    temporary = f".{name}.new"
    # If it exists, an agent died right here, and nothing ever used it.
    with suppress(FileExistsError):
        os.mkdir(temporary, 0o755, dir_fd=parent)
    # Whatever our umask is: as if the container's user had made the directory.
    os.chmod(temporary, 0o755, dir_fd=parent)  # noqa: S103
    os.chown(temporary, *owner, dir_fd=parent, follow_symlinks=False)
    os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)


def _bind(source: int, target: Path, mount: Mount, mapping: IdMapping | None) -> BindMount:
    target.parent.mkdir(exist_ok=True)
    # Whatever our umask is; the bundle around it is closed.
    target.parent.chmod(0o711)
    if stat.S_ISDIR(os.fstat(source).st_mode):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    descriptor, what = mapping.descriptor if mapping is not None else None, f"volume {mount.volume}"
    try:
        mounts.bind(source, target, read_only=mount.read_only, mapping=descriptor)
    except OSError as error:
        if mapping is not None and error.errno == errno.EINVAL:
            hint = "use one that can, such as ext4, xfs or btrfs, or leave userns out"
            message = f'{what}: its file system cannot map ids, as userns = "auto" needs it'
            raise Stalled(message, hint=hint) from error
        raise Retry(f"{what}: cannot mount it: {error.strerror}") from error
    return BindMount(source=target, target=mount.path, read_only=mount.read_only)
