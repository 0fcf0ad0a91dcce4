"""Bare repositories as plain files: one to push to, and our copy, which only the helper parses.

```
data_dir/git/
  repository/          the copy: objects/pack, objects/info/omitted (pod files that are too large), shallow,
                       tip (the last fetched object), have (its commit)
  repository.new/      a new copy beside a damaged one, until it is complete
  scratch-XXXXXXXX/    the only directory that a helper may write to; removed with its session
```
The copy is not synced to disk: hashes reveal what a power cut damages, and it is fetched again.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tank_agent.errors import Stalled
from tank_agent.linux import atomic, fault
from tank_agent.linux.paths import Closing, open_without_links
from tank_agent.linux.trees import remove_tree
from tank_agent.source.git.access import TOO_LARGE, GitError
from tank_agent.source.git.objects import ID, OMITTED

_MANY_OMITTED = 10_000
_SMALL = 1 << 20
_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
# More packs make each look-up slower; a new copy has one.
MANY_PACKS = 100


def make_bare(path: Path, branch: str = "main", config: str = _CONFIG) -> None:
    """Make an empty bare repository; existing directories stay.

    Raises:
        OSError: with the path.
    """
    for name in ("objects/pack", "objects/info", "refs/heads", "refs/tags"):
        (path / name).mkdir(parents=True, exist_ok=True)
    (path / "config").write_text(config, encoding="utf-8")
    (path / "HEAD").write_text(f"ref: refs/heads/{branch}\n", encoding="ascii")


class Repository:
    """A bare copy; to be used by one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.objects = path / "objects"

    def prepare(self) -> None:
        """Make its missing directories."""
        make_bare(self.path)
        # The helper reads them as another user, whatever our umask; only we may enter the directory above.
        for directory in (self.objects, self.objects / "pack", self.objects / "info"):
            directory.chmod(0o755)

    def tip(self) -> str | None:
        """Return the object that was fetched last; None if that is unknown."""
        return _name_in(self.path / "tip")

    def set_tip(self, name: str) -> None:
        """Remember what was fetched last."""
        _replace(self.path / "tip", name + "\n")

    def have(self) -> str | None:
        """Return the last commit of this copy; a fetch asks for the later ones."""
        return _name_in(self.path / "have")

    def set_have(self, commit: str) -> None:
        """Remember the last commit of this copy."""
        if self.have() != commit:
            _replace(self.path / "have", commit + "\n")

    def packs(self) -> int:
        """Return how many packs there are."""
        return len(list((self.objects / "pack").glob("pack-*.idx")))

    def is_shallow(self) -> bool:
        """Return whether a part of the history is missing."""
        return bool(_shallow(self.path / "shallow"))

    def make_scratch(self, path: Path, owner: tuple[int, int] | None) -> None:
        """Make a directory into which a helper fetches what this copy does not have yet."""
        make_bare(path)
        have = self.have()
        if have is not None:
            (path / "refs/heads/have").write_text(f"{have}\n", encoding="ascii")
        boundary = _shallow(self.path / "shallow")
        if boundary:
            (path / "shallow").write_text("".join(f"{name}\n" for name in boundary), encoding="ascii")
        if owner is not None:
            _give(path, owner)

    def take_over(self, scratch: int, limit: int) -> None:
        """Copy the packs of an open scratch directory into this copy.

        Its writer is not trusted: only regular files with a pack's name count, through no link, up to
        `limit` bytes.

        Raises:
            GitError: too big, or not like a fetch.
            OSError: no space.
        """
        try:
            directory = open_without_links(scratch, "objects/pack", os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise GitError("broken", "the fetch left no directory objects/pack") from error
        with Closing(directory) as pack:
            names = sorted(name for name in os.listdir(pack) if _PACK.fullmatch(name))  # noqa: PTH208
            # An index makes its pack visible, so it comes last.
            for name in reversed(names):
                if name.replace(".pack", ".idx") in names and name.replace(".idx", ".pack") in names:
                    limit -= self._take_file(pack, name, limit)
        with contextlib.suppress(FileNotFoundError):
            boundary = sorted(line for line in _read_small(scratch, "shallow") if ID.fullmatch(line))
            _replace(self.path / "shallow", "".join(f"{name}\n" for name in boundary))
        with contextlib.suppress(FileNotFoundError):
            file = self.objects / "info/omitted"
            lines = [line for line in _read_small(scratch, "omitted") if OMITTED.fullmatch(line)]
            if file.exists():
                lines = list(dict.fromkeys([*file.read_text(encoding="ascii").splitlines(), *lines]))
            _replace(file, "".join(f"{line}\n" for line in lines[-_MANY_OMITTED:]), 0o644)

    def _take_file(self, pack: int, name: str, limit: int) -> int:
        target = self.objects / "pack" / name
        with _open_regular(pack, name) as source:
            size = os.fstat(source.fileno()).st_size
            if size > limit:
                raise GitError(*TOO_LARGE)
            if target.exists():
                return 0
            partial = target.with_name("tmp_" + name)
            try:
                with open(partial, "wb") as copy:
                    os.fchmod(copy.fileno(), 0o644)
                    shutil.copyfileobj(source, copy, 1 << 20)
                fault.point("git:pack-copied")
                partial.rename(target)
            finally:
                partial.unlink(missing_ok=True)
        fault.point("git:pack-taken")
        return size

    def replace(self, fresh: Repository) -> None:
        """Replace this copy by a complete new one."""
        old = self.path.with_name(self.path.name + ".old")
        remove_tree(old)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(old)
        fault.point("git:swap-begun")
        fresh.path.rename(self.path)
        fault.point("git:swap-done")
        remove_tree(old)


def clean(directory: Path) -> None:
    """Remove leftovers of killed sessions."""
    for entry in directory.iterdir():
        if entry.name.startswith("scratch-") or entry.name.endswith((".new", ".old")):
            remove_tree(entry)


@contextlib.contextmanager
def scratch_directory(below: Path) -> Iterator[tuple[Path, int]]:
    """Make a private directory, yield its path and descriptor, and remove it at the end."""
    path = below / f"scratch-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        fault.point("git:scratch-made")
        with Closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            yield path, fd
    finally:
        remove_tree(path)


def _open_regular(directory: int, name: str) -> BinaryIO:
    # O_NONBLOCK: opening a FIFO would wait for ever.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise GitError("broken", f"the fetch left no regular file {name}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise GitError("broken", f"the fetch left no regular file {name}")
    return open(fd, "rb")


def _read_small(directory: int, name: str) -> list[str]:
    with _open_regular(directory, name) as file:
        data = file.read(_SMALL + 1)
    if len(data) > _SMALL:
        raise GitError("broken", f"the fetch left a file {name} of more than {_SMALL} bytes")
    return data.decode("ascii", "replace").split("\n")


def _shallow(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n") if ID.fullmatch(line)]


def _name_in(path: Path) -> str | None:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
    return text if ID.fullmatch(text) else None


def _replace(path: Path, text: str, mode: int = 0o600) -> None:
    atomic.write(path, text.encode("ascii"), mode=mode)
    fault.point(f"git:{path.name}-written")


_REF_LIMIT = 16 << 20
# Leftovers of an interrupted call.
_OURS = frozenset(("objects", "refs", "config", "HEAD"))
# git-config(1). A machine that follows the repository refuses rewritten history, so a push of it is refused.
_PUSH_CONFIG = (
    f"{_CONFIG}[receive]\n\tdenyNonFastForwards = true\n\tdenyDeletes = true\n\tfsckObjects = true\n"
    "[uploadpack]\n\tallowAnySHA1InWant = true\n"
)


def init_bare(path: Path, *, branch: str = "main", owner: tuple[int, int] | None = None) -> bool:
    """Make a bare repository that takes pushes, as `tank git init PATH` does; False if it is one already.

    owner: the (uid, gid) that pushes over ssh; as root, the agent reads the repository as that user.

    Raises:
        Stalled: something else is there.
    """
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return False
    try:
        if path.exists() and not _OURS.issuperset(entry.name for entry in path.iterdir()):
            raise Stalled(f"{path} is there and is no git repository", hint="name a new or empty directory")
        # HEAD is written after the directories, and makes it a repository: an interrupted call is repeated.
        path.mkdir(parents=True, exist_ok=True)
        make_bare(path, branch, _PUSH_CONFIG)
        fault.point("git:bare-made")
        if owner is not None:
            _give(path, owner)
    except OSError as error:
        raise Stalled(f"cannot make {path}: {error.strerror}") from error
    return True


def _give(tree: Path, owner: tuple[int, int]) -> None:
    for directory, _, files in os.walk(tree):
        for entry in (directory, *(os.path.join(directory, file) for file in files)):
            os.chown(entry, *owner, follow_symlinks=False)


def read_local_ref(repository: int, name: str) -> str | None:
    """Return the object that a ref of an open bare repository names, if plain files hold it.

    None if there is none, or if the repository stores its refs otherwise: the helper then asks git.
    """
    for _ in range(5):
        text = _read(repository, name)
        if text is None:
            packed = (_read(repository, "packed-refs") or "").splitlines()
            lines = (line.partition(" ") for line in packed)
            return next((value for value, _, ref in lines if ref == name and ID.fullmatch(value)), None)
        text = text.strip()
        if not text.startswith("ref: "):
            return text if ID.fullmatch(text) else None
        name = text[5:].strip()
    return None


def _read(directory: int, name: str) -> str | None:
    if any(part in ("", ".", "..") for part in name.split("/")):
        return None
    try:
        # O_NONBLOCK: opening a FIFO would wait for ever.
        with Closing(open_without_links(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            data = os.read(fd, _REF_LIMIT + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= _REF_LIMIT else None
