"""Turn a commit's tree into a Snapshot. Bytes in, pods and problems out.

The helper walks a tree to find the objects to send, and the agent walks it again through those objects, whose
hashes it checked.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.source.git.access import GitError
from tank_agent.source.git.objects import ID, CommitInfo, TreeEntry, parse_tree, printable
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Declared, Elsewhere, Snapshot
from tank_agent.spec.beside import DIRECTORY, LINK, Beside, BesideError, too_large
from tank_agent.spec.names import is_near_miss

# The helper parses no pod files; loading these modules would be a fifth of its start.
if TYPE_CHECKING:
    from tank_agent.source.files import PodFile
    from tank_agent.spec.parse import ParsedPod
    from tank_agent.spec.selection import Mismatch


_LARGE_FILE_POINTER = b"version https://git-lfs.github.com/spec/"
# As many as one answer of the helper has room for.
_AT_ONCE = 200
# The most files that may be taken for pod files of which a snapshot tells.
_OVERLOOKED_MAX = 100


class DirectoryMissingError(Exception):
    """A path is not a directory of this commit; the message names the part and what it is."""


class File(Struct, frozen=True):
    """One pod file: its path in the repository, its blob, and the tree of its directory."""

    path: str
    id: str
    directory: str = ""


def walk(
    tree: str,
    path: str,
    load: Callable[[str], bytes],
    entry_limit: int,
    depth_limit: int,
    *,
    overlooked: list[str] | None = None,
) -> tuple[tuple[File, ...], tuple[Problem, ...]]:
    """Return the .toml files in and below a directory of a tree, by path, and problems of their names.

    `load` returns the bytes of a tree. Names that start with a dot are ignored, as in pods.d; symbolic links
    and submodules are never followed. Files that may be taken for pod files are appended to `overlooked`.

    Raises:
        DirectoryMissingError: `path` is not a directory of the tree.
        GitError: more entries or deeper than the limits.
    """
    files: list[File] = []
    problems: list[Problem] = []
    left = entry_limit
    pending = [(path, descend(tree, path, load), 0)]
    while pending:
        prefix, name, depth = pending.pop()
        entries = parse_tree(load(name))
        left -= len(entries)
        if left < 0:
            message = f"more than {entry_limit} entries below {path or 'the root'}"
            raise GitError("too-big", message, "see git.path")
        for entry in entries:
            shown = f"{prefix}/{printable(entry.name)}" if prefix else printable(entry.name)
            if entry.name.startswith(b".") and entry.safe:
                continue
            complaint = _complaint(entry)
            if complaint is not None:
                problems.append(Problem(shown, 0, "", complaint))
            elif entry.is_directory:
                if depth + 1 > depth_limit:
                    message = f"{shown} is more than {depth_limit} directories deep"
                    raise GitError("too-big", message, "see git.path")
                pending.append((shown, entry.id, depth + 1))
            elif entry.is_file and entry.name.endswith(b".toml"):
                files.append(File(shown, entry.id, name))
            elif overlooked is not None and entry.is_file and is_near_miss(printable(entry.name)):
                overlooked.append(shown)
    return tuple(sorted(files, key=lambda file: file.path)), tuple(sorted(problems))


def descend(tree: str, path: str, load: Callable[[str], bytes]) -> str:
    """Return the tree of a directory below a tree.

    Raises:
        DirectoryMissingError: there is none.
    """
    done: list[str] = []
    for part in path.split("/") if path else ():
        entry = next((entry for entry in parse_tree(load(tree)) if entry.name == part.encode()), None)
        done.append(part)
        if entry is None:
            raise DirectoryMissingError(f"{'/'.join(done)} is not in this commit")
        if not entry.is_directory:
            kind = "a symbolic link" if entry.is_symlink else "a file" if entry.is_file else "a submodule"
            raise DirectoryMissingError(f"{'/'.join(done)} is {kind}, not a directory")
        tree = entry.id
    return tree


def _complaint(entry: TreeEntry) -> str | None:
    if not entry.safe:
        return "this name cannot be a file's; the entry is left out"
    pod_file = entry.name.endswith(b".toml")
    if entry.is_symlink and pod_file:
        return "is a symbolic link, which is never followed; put the pod's text here"
    if pod_file or entry.is_directory:
        try:
            if not entry.name.decode("utf-8").isprintable():
                return "the name holds characters that cannot be printed"
        except UnicodeDecodeError:
            return "the name is not UTF-8"
    return None


class Parsed(NamedTuple):
    """A pod file that was read, and by path the blobs of the files beside it, or why there is none."""

    file: PodFile
    beside: Mapping[str, str]


def find_beside(directory: str, path: str, entries: Callable[[str], Mapping[bytes, TreeEntry]]) -> str:
    """Return the blob of a file beside a pod file by its path from there, or why there is none, in words.

    No link and no submodule is followed; `entries` returns those of a tree by their names.
    """
    *parents, last = path.split("/")
    for number, name in enumerate((*parents, last)):
        entry = entries(directory).get(name.encode())
        wanted = number == len(parents)
        if entry is not None and (entry.is_file if wanted else entry.is_directory):
            directory = entry.id
        elif entry is None:
            return "is not in this commit"
        elif entry.is_symlink:
            return LINK
        elif entry.is_directory:
            return DIRECTORY
        else:
            return "is not in this commit" if entry.is_file else "is in a submodule, which is not fetched"
    return directory


class PodReader:
    """Reads pod files of one commit, and the blobs that they name beside them; all but those it has already.

    Args:
        load: returns the bytes of a tree or a pod file.
        have: returns the bytes of a blob that is here; None if it has to be asked for.
        ask: returns blobs by their names, and the sizes of those that are too large.
        parse: makes a PodFile of bytes, their name and the files beside them.
    """

    def __init__(
        self,
        load: Callable[[str], bytes],
        have: Callable[[str], bytes | None],
        ask: Callable[[Collection[str]], tuple[Mapping[str, bytes], Mapping[str, int]]],
        parse: Callable[[bytes, str, Beside], PodFile],
    ) -> None:
        self._load = load
        self._have = have
        self._ask = ask
        self._parse = parse
        # What was asked for: bytes, or why there are none.
        self._answers: dict[str, bytes | str] = {}
        self._trees: dict[str, Mapping[bytes, TreeEntry]] = {}

    def read(self, files: Collection[File], known: Mapping[tuple[str, str], Parsed]) -> dict[File, Parsed]:
        """Return the files, parsed; `known` are those of another commit by path and blob.

        A first look finds out which files are named beside them. They are asked for all at once.
        """
        parsed: dict[File, Parsed] = {}
        pending = list(files)
        while pending:
            wanted: dict[str, None] = {}
            missing = []
            for file in pending:
                before = known.get((file.path, file.id))
                if before is not None and self._is_as_before(file, before):
                    parsed[file] = before
                    continue
                found, lacking = self._look(file)
                parsed[file] = found
                wanted |= dict.fromkeys(lacking)
                missing += [file] if lacking else []
            if wanted:
                self._take(list(wanted))
            pending = missing
        return parsed

    def _is_as_before(self, file: File, before: Parsed) -> bool:
        return all(
            find_beside(file.directory, path, self._entries) == found for path, found in before.beside.items()
        )

    def _entries(self, tree: str) -> Mapping[bytes, TreeEntry]:
        if tree not in self._trees:
            self._trees[tree] = {entry.name: entry for entry in parse_tree(self._load(tree))}
        return self._trees[tree]

    def _look(self, file: File) -> tuple[Parsed, list[str]]:
        """Return a file, parsed, and the blobs that it needs and that have to be asked for first."""
        beside: dict[str, str] = {}
        lacking: list[str] = []

        def read(path: str) -> bytes:
            name = beside[path] = find_beside(file.directory, path, self._entries)
            if not ID.fullmatch(name):
                raise BesideError(name)
            content = self._answers[name] if name in self._answers else self._have(name)
            if content is None:
                lacking.append(name)
                raise BesideError("is not read yet")
            if isinstance(content, bytes) and content.startswith(_LARGE_FILE_POINTER):
                content = "is a Git LFS pointer, and LFS is not fetched; take the file out of .gitattributes"
            if isinstance(content, str):
                raise BesideError(content)
            return content

        return Parsed(self._parse(self._load(file.id), file.path, read), beside), lacking

    def _take(self, names: list[str]) -> None:
        for begin in range(0, len(names), _AT_ONCE):
            some = names[begin : begin + _AT_ONCE]
            found, omitted = self._ask(some)
            for name in some:
                size = omitted.get(name, 0)
                why = f"has {size} bytes" if size else "is no file of a size that fits into memory"
                self._answers[name] = found.get(name, too_large(why))


def snapshot(
    commit: CommitInfo,
    files: tuple[File, ...],
    problems: tuple[Problem, ...],
    parsed: Mapping[File, PodFile],
    not_here: Callable[[ParsedPod], Mismatch | None],
    *,
    others: Collection[str] = (),
    overlooked: Collection[str] = (),
) -> Snapshot:
    """Return the snapshot of a commit for this host. A file with problems keeps its pods as they are.

    `not_here` returns why a pod is not for this host; None if it is. `others` are files that are no pod
    files, but only beside one, and `overlooked` those that may be taken for pod files.
    """
    found = [
        *problems,
        *(problem for file in files if file.path not in others for problem in parsed[file].problems),
    ]
    unreadable = {problem.file for problem in problems} | {
        file.path for file in files if parsed[file].problems
    }
    all_pods = [(file, item, not_here(item)) for file in files for item in parsed[file].pods]
    pods = tuple(
        Declared(
            pod=item.pod,
            owner=GIT.owner(file.path),
            revision=commit.id,
            file=file.path,
            line=item.line,
            after_line=item.after_line,
            author=commit.author,
            subject=commit.subject,
        )
        for file, item, why in all_pods
        if why is None
    )
    elsewhere = tuple(
        Elsewhere.of(item, file.path, why, GIT.owner(file.path))
        for file, item, why in all_pods
        if why is not None
    )
    return Snapshot(
        source=GIT.name,
        revision=commit.id,
        pods=pods,
        elsewhere=elsewhere,
        overlooked=_overlooked(overlooked, parsed.values()),
        problems=tuple(found),
        unreadable=frozenset(map(GIT.owner, unreadable)),
    )


def _overlooked(names: Collection[str], files: Collection[PodFile]) -> tuple[str, ...]:
    """Return the first of the files that may be taken for pod files, without those that a pod file names."""
    beside = {
        posixpath.join(posixpath.dirname(file.file), path) for file in files for path in file.beside if names
    }
    return tuple(sorted(set(names) - beside)[:_OVERLOOKED_MAX])
