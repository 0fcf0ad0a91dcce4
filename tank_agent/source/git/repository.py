"""Bare repositories as plain files: one to push to, and our copy, which only the helper reads.

```
data_dir/git/
  repository/          the copy: objects/pack, objects/info/omitted (pod files that are too large), shallow,
                       tip (the last fetched object), have (its commit)
  repository.new/      a fresh copy beside a damaged one, until it is whole
  scratch-XXXXXXXX/    what a helper may write: gone with its session
```
The copy is not synced to disk on purpose: hashes show what a power cut damages, and it is fetched again.
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
from tank_agent.source.git.access import GitError
from tank_agent.source.git.objects import ID, OMITTED

_MANY_OMITTED = 10_000
_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
# More packs make each look-up slower; a copy made anew has one.
MANY_PACKS = 100


def make_bare(path: Path, branch: str = "main", config: str = _CONFIG) -> None:
    """Make an empty bare repository; directories that are there stay.

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

    @property
    def objects(self) -> Path:
        """Return the directory that the helper reads."""
        return self.path / "objects"

    def prepare(self) -> None:
        """Make what is missing of its directories."""
        make_bare(self.path)
        # The helper reads them as another user, whatever our umask; the directory above is ours alone.
        for directory in (self.objects, self.objects / "pack", self.objects / "info"):
            directory.chmod(0o755)

    def tip(self) -> str | None:
        """Return the object that was fetched last; None if there is none or it cannot be read."""
        return _name_in(self.path / "tip")

    def set_tip(self, name: str) -> None:
        """Remember what was fetched last."""
        _replace(self.path / "tip", name + "\n")

    def have(self) -> str | None:
        """Return the last commit that is known to be here; a fetch asks for what came after it."""
        return _name_in(self.path / "have")

    def set_have(self, commit: str) -> None:
        """Remember that a commit is here."""
        if self.have() != commit:
            _replace(self.path / "have", commit + "\n")

    def packs(self) -> int:
        """Return how many packs there are."""
        return len(list((self.objects / "pack").glob("pack-*.idx")))

    def is_shallow(self) -> bool:
        """Return whether a part of the history was left out."""
        return bool(_shallow(self.path / "shallow"))

    def make_scratch(self, path: Path, haves: list[str], owner: tuple[int, int] | None) -> None:
        """Make the directory into which a helper fetches what this copy does not have yet."""
        make_bare(path)
        for number, name in enumerate(haves):
            (path / f"refs/heads/have-{number}").write_text(name + "\n", encoding="ascii")
        boundary = _shallow(self.path / "shallow")
        if boundary:
            (path / "shallow").write_text("".join(f"{name}\n" for name in sorted(boundary)), encoding="ascii")
        if owner is not None:
            for directory, _, files in os.walk(path):
                for entry in (directory, *(os.path.join(directory, file) for file in files)):
                    os.chown(entry, *owner, follow_symlinks=False)

    def take_over(self, scratch: int, limit: int) -> int:
        """Copy the packs of a scratch directory (an open one) into this copy, and return their size in bytes.

        Its writer is not trusted: only regular files with a pack's name count, through no link, up to
        `limit` bytes.

        Raises:
            GitError: too big, or not what a fetch leaves.
            OSError: no space.
        """
        taken = 0
        with _directory(scratch, "objects") as objects, _directory(objects, "pack") as pack:
            names = sorted(name for name in os.listdir(pack) if _PACK.fullmatch(name))  # noqa: PTH208
            # An index makes its pack visible, so it comes last.
            for name in reversed(names):
                if name.replace(".pack", ".idx") in names and name.replace(".idx", ".pack") in names:
                    taken += self._take_file(pack, name, limit - taken)
        with contextlib.suppress(FileNotFoundError):
            text = _read_small(scratch, "shallow", 1 << 20)
            boundary = sorted(line for line in text.split("\n") if ID.fullmatch(line))
            _replace(self.path / "shallow", "".join(f"{name}\n" for name in boundary))
        with contextlib.suppress(FileNotFoundError):
            self._note_omitted(_read_small(scratch, "omitted", 1 << 20))
        return taken

    def _note_omitted(self, text: str) -> None:
        """Remember where the helper finds it what a fetch left out, besides what earlier ones did."""
        file = self.objects / "info" / "omitted"
        known = file.read_text(encoding="ascii").splitlines() if file.exists() else []
        new = [line for line in text.split("\n") if OMITTED.fullmatch(line)]
        lines = dict.fromkeys([*known, *new])
        _replace(file, "".join(f"{line}\n" for line in list(lines)[-_MANY_OMITTED:]), 0o644)

    def _take_file(self, pack: int, name: str, limit: int) -> int:
        target = self.objects / "pack" / name
        with _open_regular(pack, name) as source:
            size = os.fstat(source.fileno()).st_size
            if size > limit:
                raise GitError(
                    "too-big", "the fetch is larger than git.max_size", hint="raise it, or see what grew"
                )
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
        """Put a whole new copy in this one's place."""
        old = self.path.with_name(self.path.name + ".old")
        remove_tree(old)
        with contextlib.suppress(FileNotFoundError):
            self.path.rename(old)
        fault.point("git:swap-begun")
        fresh.path.rename(self.path)
        fault.point("git:swap-done")
        remove_tree(old)


def clean(directory: Path) -> None:
    """Remove what sessions left that were killed."""
    for entry in directory.iterdir():
        if entry.name.startswith("scratch-") or entry.name.endswith((".new", ".old")):
            remove_tree(entry)


@contextlib.contextmanager
def scratch_directory(below: Path) -> Iterator[tuple[Path, int]]:
    """Make a private directory, yield it and its descriptor, and remove it in the end."""
    path = below / f"scratch-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        fault.point("git:scratch-made")
        with Closing(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
            yield path, fd
    finally:
        remove_tree(path)


@contextlib.contextmanager
def _directory(parent: int, name: str) -> Iterator[int]:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        raise GitError("broken", f"the fetch left no directory {name}") from error
    with Closing(fd):
        yield fd


def _open_regular(directory: int, name: str) -> BinaryIO:
    # O_NONBLOCK: a FIFO of that name would make us wait for ever.
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


def _read_small(directory: int, name: str, limit: int) -> str:
    with _open_regular(directory, name) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise GitError("broken", f"the fetch left a file {name} of more than {limit} bytes")
    return data.decode("ascii", "replace")


def _shallow(path: Path) -> frozenset[str]:
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return frozenset()
    return frozenset(line for line in text.split("\n") if ID.fullmatch(line))


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
# What an interrupted call may have left.
_OURS = frozenset(("objects", "refs", "config", "HEAD"))
# git-config(1). A machine that follows this repository refuses rewritten history, so a push of it is refused
# first.
_PUSH_CONFIG = """[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[receive]
\tdenyNonFastForwards = true
\tdenyDeletes = true
\tfsckObjects = true
[uploadpack]
\tallowAnySHA1InWant = true
"""


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
        # HEAD is written after the directories, and makes it a repository: an interrupted call is just
        # repeated.
        path.mkdir(parents=True, exist_ok=True)
        make_bare(path, branch, _PUSH_CONFIG)
        fault.point("git:bare-made")
        if owner is not None:
            for directory, _, files in os.walk(path):
                for entry in (directory, *(os.path.join(directory, file) for file in files)):
                    os.chown(entry, *owner, follow_symlinks=False)
    except OSError as error:
        raise Stalled(f"cannot make {path}: {error.strerror}") from error
    return True


def read_local_ref(repository: int, name: str) -> str | None:
    """Return the object that a ref of an open bare repository names, where plain files say so.

    None if there is none, or if finding out needs more than a look (another ref storage, a work tree): the
    helper then looks properly.
    """
    for _ in range(5):
        text = _read(repository, name)
        if text is None:
            return _packed(repository, name)
        text = text.strip()
        if not text.startswith("ref: "):
            return text if ID.fullmatch(text) else None
        name = text[5:].strip()
    return None


def _packed(repository: int, name: str) -> str | None:
    for line in (_read(repository, "packed-refs") or "").splitlines():
        value, _, ref = line.partition(" ")
        if ref == name and ID.fullmatch(value):
            return value
    return None


def _read(directory: int, name: str) -> str | None:
    if any(part in ("", ".", "..") for part in name.split("/")):
        return None
    try:
        # O_NONBLOCK: a fifo of that name would make us wait for ever.
        with Closing(open_without_links(directory, name, os.O_RDONLY | os.O_NONBLOCK)) as fd:
            data = os.read(fd, _REF_LIMIT + 1)
    except OSError:
        return None
    return data.decode("utf-8", "replace") if len(data) <= _REF_LIMIT else None
