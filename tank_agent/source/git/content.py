"""Turn a commit's tree into a Snapshot. Pure: bytes in, pods and problems out.

The helper walks a tree to find the objects to send, and the agent walks it again through those objects, whose
hashes it checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from tank_agent.errors import Problem
from tank_agent.source.git.access import GitError
from tank_agent.source.git.objects import CommitInfo, TreeEntry, parse_tree, printable
from tank_agent.source.kinds import GIT
from tank_agent.source.snapshot import Declared, Snapshot

# The helper parses no pod files; loading these modules would be a fifth of its start.
if TYPE_CHECKING:
    from tank_agent.source.files import PodFile
    from tank_agent.spec.parse import ParsedPod


class DirectoryMissingError(Exception):
    """A path is not a directory of this commit; the message names the part and what it is."""


class File(Struct, frozen=True):
    """One pod file: its path in the repository and its blob."""

    path: str
    id: str


def walk(
    tree: str, path: str, load: Callable[[str], bytes], entry_limit: int, depth_limit: int
) -> tuple[tuple[File, ...], tuple[Problem, ...]]:
    """Return the .toml files in and below a directory of a tree, by path, and problems of their names.

    `load` returns the bytes of a tree. Names that start with a dot are ignored, as in pods.d; symbolic links
    and submodules are never followed.

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
                files.append(File(shown, entry.id))
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


def snapshot(
    commit: CommitInfo,
    files: tuple[File, ...],
    problems: tuple[Problem, ...],
    parsed: Mapping[File, PodFile],
    select: Callable[[ParsedPod], bool],
) -> Snapshot:
    """Return the snapshot of a commit for this host. A file with problems keeps its pods as they are."""
    found = [*problems, *(problem for file in files for problem in parsed[file].problems)]
    unreadable = {problem.file for problem in problems} | {
        file.path for file in files if parsed[file].problems
    }
    pods = tuple(
        Declared(
            pod=item.pod,
            owner=GIT.owner(file.path),
            revision=commit.id,
            file=file.path,
            line=item.line,
            author=commit.author,
            subject=commit.subject,
        )
        for file in files
        for item in parsed[file].pods
        if select(item)
    )
    return Snapshot(
        source=GIT.name,
        revision=commit.id,
        pods=pods,
        problems=tuple(found),
        unreadable=frozenset(map(GIT.owner, unreadable)),
    )
