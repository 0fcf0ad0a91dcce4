"""Volumes: managed directories that outlive their pod, and paths of the host.

A volume reaches a container as a bind mount made from a descriptor (nosuid, nodev), in the run's own
directory; crun only ever sees that mount, so no link that is swapped later can redirect it. A volume inside
another is mounted by the agent, too: another container with the outer one could make the mount point a link
to /proc.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import stat
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType

import structlog
from msgspec.structs import replace

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import atomic, mounts
from tank_agent.linux.fault import point
from tank_agent.linux.namespaces import IdMapping
from tank_agent.linux.paths import Closing, open_without_links
from tank_agent.linux.tree_copy import let_rename
from tank_agent.linux.trees import remove_tree
from tank_agent.runtime.container.oci import BindMount
from tank_agent.spec.model import Mount, Volume

_log = structlog.get_logger()
_NONE_GIVEN: Mapping[str, int] = MappingProxyType({})
_DIRECTORY, _SHARED = "volumes", "volumes-shared"
# Ends the name of a directory that is being deleted; no volume can have such a name.
_REMOVED = ".gone"
# A directory in a volume before it has its owner and its name.
_NEW_SUBPATH = ".tank-subpath.new"
# Ends the name of a directory that is to replace a volume.
_RESTORING = ".restoring"
# Ends the name of a directory that is being filled with what an image has, to become a volume.
_FILLING = ".filling"
# Ends the name of the file about a volume that was put back.
_NOTE = ".put-back"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# Data of a volume that a snapshot replaced: after an update that failed, or by hand.
_ASIDE = re.compile(r"([a-z0-9-]{1,63})\.(?:failed|replaced)-[0-9]+(?:-[0-9]+)?")


class Volumes:
    """Makes managed volumes in `data_dir/volumes/<pod>/<name>`, and binds volumes into bundles.

    Shared ones are in `data_dir/volumes-shared/<name>`; where a method takes a pod, it is None for them.
    A container that could reach the agent's data_dir or run_dir would be root on this machine.
    """

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        self._root, self._shared = data_dir / _DIRECTORY, data_dir / _SHARED
        self._own = tuple(Path(os.path.realpath(directory)) for directory in (run_dir, data_dir))
        # Held while a volume is opened for a run, and from the check of its uses to its removal.
        self._lock = threading.Lock()
        # How often each managed volume was opened for a run.
        self._opened: Counter[tuple[str, str]] = Counter()
        # Only root gets at them by paths of the host, which are neither nosuid nor nodev: a setuid program of
        # a container would make any user root.
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._root, *self._root.iterdir()):
            # An older agent let all users enter.
            if directory.is_dir() and not directory.is_symlink():
                directory.chmod(0o700)
        # Listed now, without the removals that this agent will make.
        left = sorted([*self._root.glob(f"*/.*{_REMOVED}"), *self._shared.glob(f".*{_REMOVED}")])
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
        given: Mapping[str, int] = _NONE_GIVEN,
        apart: Collection[str] = (),
    ) -> tuple[BindMount, ...]:
        """Bind the wanted volumes into a bundle and return them for the OCI configuration.

        Args:
            owner: uid and gid of a managed volume, or of a directory in one, that is made now; None makes a
                missing one an error.
            mapping: gives files the owners that they have without a user namespace.
            given: descriptors of what is no volume, by the paths of their mounts; they are not mapped.
            apart: the paths of mounts that crun makes: what is inside of one is crun's to mount, too.

        Raises:
            Stalled: a host path does not exist, or a symbolic link is in it, or its ids cannot be mapped.
            Retry: the kernel or the disk refused.
        """
        by_name = {volume.name: volume for volume in volumes}
        bound = {}
        with ExitStack() as stack:
            sources = {}
            for index, mount in enumerate(wanted):
                target, source = bundle / _DIRECTORY / str(index), given.get(mount.path)
                if source is None:
                    source = self._open_part(pod, by_name[mount.volume or ""], mount.subpath, owner)
                    stack.callback(os.close, source)
                sources[mount.path] = source
                mapped = None if mount.path in given else mapping
                bound[mount.path] = _bind(source, target, mount, mapped)
            # The innermost first, so that each is complete when it is mounted in the next.
            for path in sorted(bound, key=len, reverse=True):
                outer = innermost(path, (*bound, *apart))
                # For a user namespace crun clones no mount with another inside, so there it mounts each.
                if outer in bound and mapping is None:
                    _nest(bound.pop(path), bound[outer], sources[outer])
        return tuple(bound.values())

    def refuse_own(self, what: str, path: Path) -> None:
        """Refuse a path of the host, without links, that no container may have."""
        for own in self._own:
            if path == own or own in path.parents or path in own.parents:
                hint = "name a directory that has nothing to do with the agent"
                raise Stalled(f"{what}: {path} holds the agent's own files in {own}", hint=hint)

    def inode(self, pod: str, volumes: Sequence[Volume], name: str, subpath: str = "") -> tuple[int, int]:
        """Return the device and inode of a volume, or of a directory in it.

        Raises as `bind`, and makes none that is gone.
        """
        volume = next(volume for volume in volumes if volume.name == name)
        with Closing(self._open_part(pod, volume, subpath, None)) as source:
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
                # Other names are of volumes that are being made or removed, or of data put aside.
                found += [(pod.name, one.name, one) for one in pod.iterdir() if _NAME.fullmatch(one.name)]
        return tuple(sorted(found))

    def shared(self) -> tuple[tuple[str, Path], ...]:
        """Return name and directory of every shared volume, in order."""
        found = [path for path in self._shared.glob("*") if _NAME.fullmatch(path.name)]
        return tuple(sorted((path.name, path) for path in found))

    def put_aside(self) -> tuple[tuple[str, str, Path], ...]:
        """Return pod, volume and directory of all data that snapshots replaced, in order."""
        found = []
        for path in self._root.glob("*/*.*-*"):
            if (match := _ASIDE.fullmatch(path.name)) is not None:
                found.append((path.parent.name, match[1], path))
        return tuple(sorted(found))

    def path(self, pod: str | None, name: str) -> Path:
        """Return the directory of a managed volume, which may not be there."""
        return self._home(pod) / name

    def _home(self, pod: str | None) -> Path:
        return self._shared if pod is None else self._root / pod

    def restoring(self, pod: str, name: str) -> Path:
        """Return the directory in which a volume's former content is made."""
        return self._root / pod / f".{name}{_RESTORING}"

    def note(self, pod: str, name: str) -> Path:
        """Return the file that tells which snapshot a volume was put back from."""
        return self._root / pod / f".{name}{_NOTE}"

    def noted(self, pod: str) -> Sequence[str]:
        """Return the volumes of a pod that have a note."""
        found = (self._root / pod).glob(f".*{_NOTE}")
        return [path.name.removeprefix(".").removesuffix(_NOTE) for path in found]

    def filling(self, pod: str | None, name: str) -> Path:
        """Return the directory in which the first content of a volume is made."""
        return self._home(pod) / f".{name}{_FILLING}"

    def half_made(self) -> Sequence[Path]:
        """Return what an agent left that was killed while it restored or filled volumes."""
        found = [*self._root.glob("*/.*"), *self._shared.glob(".*")]
        # A name with two dots is of a note that was being written.
        return [
            path
            for path in found
            if not {_RESTORING, _FILLING}.isdisjoint(path.suffixes) or path.name.startswith("..")
        ]

    def take_in(self, pod: str | None, name: str, new: Path) -> bool:
        """Make a directory beside it a volume; False if there is one already, which stays."""
        live = self.path(pod, name)
        with self._lock:
            if os.path.lexists(live):
                return False
            new.rename(live)
        return True

    def times_opened(self, pod: str, name: str) -> int:
        """Return how often this agent opened a managed volume for a run."""
        with self._lock:
            return self._opened[pod, name]

    def replace(
        self, pod: str, name: str, new: Path | None, aside: str, check: Callable[[], None] = lambda: None
    ) -> Path | None:
        """Put another directory of the same file system in place of a managed volume, or none.

        Args:
            aside: the former one is kept beside it by this name after the volume's and a dot, or by the first
                one with a number behind it that is free.
            check: raises if the volume is in use.

        Returns:
            Where the former one is now; None if there was none.

        Raises:
            OSError: it could not be done; repeat it: the volume may be away.
        """
        live = self._root / pod / name
        with self._lock:
            check()
            kept: Path | None = self._free_name(pod, f"{name}.{aside}")
            let_rename(live)
            try:
                live.rename(kept)  # type: ignore[arg-type]
            except FileNotFoundError:
                kept = None
            point("snapshot:aside")
            if new is not None:
                new.rename(live)
        atomic.sync_directory(live.parent)
        return kept

    def swap(self, pod: str, name: str, new: Path, aside: str, check: Callable[[], None]) -> Path | None:
        """Do as `replace` does, but in one step, since nobody would repeat it: the volume is never away."""
        live = self._root / pod / name
        if not live.is_dir():
            return self.replace(pod, name, new, aside, check)
        with self._lock:
            check()
            kept = self._free_name(pod, f"{name}.{aside}")
            let_rename(live)
            new.rename(kept)
            point("snapshot:beside")
            try:
                atomic.exchange(kept, live)
            except OSError:
                kept.rename(new)
                raise
        atomic.sync_directory(live.parent)
        return kept

    def _free_name(self, pod: str, name: str) -> Path:
        wanted = self._root / pod / name
        return next(path for path in _numbered(wanted) if not os.path.lexists(path))

    def remove(self, pod: str | None, name: str, check: Callable[[], None] = lambda: None) -> bool:
        """Remove a managed volume, or data put aside, with what is in it; False if there is none.

        Args:
            check: raises if the volume is in use; a run that begins after it makes a new one.
        """
        ours = pod is None or _NAME.fullmatch(pod)
        if not (ours and (_NAME.fullmatch(name) or (pod and _ASIDE.fullmatch(name)))):
            return False
        home = self._home(pod)
        removed = home / f".{name}.{secrets.token_hex(4)}{_REMOVED}"
        # Left by an earlier removal that failed.
        left = sorted(home.glob(f".{name}.*{_REMOVED}"))
        try:
            for path in left:
                _remove(path)
            try:
                with self._lock:
                    check()
                    (home / name).rename(removed)
            except FileNotFoundError:
                return bool(left)
            point("volumes:going")
            if pod is not None:
                self.note(pod, name).unlink(missing_ok=True)
            _remove(removed)
        except OSError as error:
            shown = f"{pod}/{name}" if pod is not None else name
            where = f" at {error.filename}" if error.filename else ""
            hint = "what can be is removed; run this again once the reason is gone"
            raise Retry(f"cannot remove volume {shown}: {error.strerror}{where}", hint=hint) from error
        return True

    def _open_part(self, pod: str, volume: Volume, subpath: str, owner: tuple[int, int] | None) -> int:
        """Open a volume, or a directory in it, which its other users may change all the while."""
        if volume.host is not None:
            self.refuse_own(f"volume {volume.name}", Path(volume.host))
        whole = self._open(pod, volume, owner)
        if not subpath:
            return whole
        with Closing(whole):
            return _open_subpath(whole, volume.name, subpath, owner)

    def _open(self, pod: str, volume: Volume, owner: tuple[int, int] | None) -> int:
        if volume.host is None:
            with self._lock:
                if volume.shared:
                    return _open_managed(self._shared, volume.name, owner)
                # Others only look at one that a run has.
                self._opened[pod, volume.name] += owner is not None
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


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


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


def _open_subpath(volume: int, name: str, subpath: str, owner: tuple[int, int] | None) -> int:
    what, flags = f"volume {name}: subpath {subpath}", os.O_PATH | os.O_DIRECTORY
    try:
        with ExitStack() as stack:
            directory = volume
            for part in subpath.split("/"):
                found = _open_directory(directory, part, owner)
                stack.callback(os.close, found)
                directory = found
            return open_without_links(directory, ".", flags)
    except FileNotFoundError as error:
        raise Retry(f"{what} was removed") from error
    except OSError as error:
        # Its users can mend it, and nothing tells when they do.
        if error.errno in (errno.ELOOP, errno.EXDEV):
            hint = "make it a directory; links in a volume are not followed"
            raise Retry(f"{what}: a symbolic link is there", hint=hint) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise Retry(f"{what} is not a directory", hint="name a directory of the volume") from error
        raise Retry(f"{what}: {error.strerror}") from error


def _open_directory(parent: int, name: str, owner: tuple[int, int] | None) -> int:
    """Open a directory in a volume; make it if it is absent, never with the wrong owner at its name."""
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return open_without_links(parent, name, flags)
    except FileNotFoundError:
        if owner is None:
            raise
    with suppress(FileNotFoundError):
        # Of an agent that was killed right here.
        os.rmdir(_NEW_SUBPATH, dir_fd=parent)
    os.mkdir(_NEW_SUBPATH, 0o700, dir_fd=parent)
    with Closing(open_without_links(parent, _NEW_SUBPATH, os.O_RDONLY | os.O_DIRECTORY)) as made:
        status = os.fstat(made)
        # A container may have put another directory there: one of root that nobody else uses is no gain.
        if (status.st_uid, stat.S_IMODE(status.st_mode)) != (os.geteuid(), 0o700) or any(os.scandir(made)):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        os.fchmod(made, 0o755)
        os.fchown(made, *owner)
    point("runtime:subpath-made")
    try:
        os.rename(_NEW_SUBPATH, name, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        # Another container made it meanwhile.
        with suppress(OSError):
            os.rmdir(_NEW_SUBPATH, dir_fd=parent)
    return open_without_links(parent, name, flags)


def _bind(source: int, target: Path, mount: Mount, mapping: IdMapping | None) -> BindMount:
    target.parent.mkdir(exist_ok=True)
    # Whatever our umask is; the bundle around it is closed.
    target.parent.chmod(0o711)
    if stat.S_ISDIR(os.fstat(source).st_mode):
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    descriptor = mapping.descriptor if mapping is not None else None
    what = f"volume {mount.volume}" if mount.volume is not None else f"mount {mount.path}"
    try:
        mounts.bind(source, target, read_only=mount.read_only, mapping=descriptor)
    except OSError as error:
        if mapping is not None and error.errno == errno.EINVAL:
            hint = "use one that can, such as ext4, xfs or btrfs, or leave userns out"
            message = f'{what}: its file system cannot map ids, as userns = "auto" needs it'
            raise Stalled(message, hint=hint) from error
        raise Retry(f"{what}: cannot mount it: {error.strerror}") from error
    bound = BindMount(source=target, target=mount.path, read_only=mount.read_only)
    # As the file system that it is in: crun would take away what it is not told.
    return bound if mount.secret is None else replace(bound, options=("nosuid", "nodev", "noexec"))
