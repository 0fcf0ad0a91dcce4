"""Fetch from a repository on this machine, without any protocol: copy the objects that are missing.

Runs in the helper only. dulwich's own local fetch computes what a far server would send, which takes seconds
for a long history; here both stores are at hand, and what the target has it has completely.
"""

from __future__ import annotations

import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dulwich.objects import Commit, ShaFile, Tag, Tree

from tank_agent.source.git.transport import GitError

_PACK = re.compile(r"pack-[0-9a-f]{40}\.(pack|idx)")


def copy_missing(source: Any, target: Any, tip: bytes, depth: int) -> None:
    """Copy `tip` and what it needs as one pack; depth 0 is all of the history.

    Raises:
        GitError: the source lacks an object or is damaged.
    """
    store = source.object_store
    boundary = {bytes(name) for name in source.get_shallow()}
    if not depth and not boundary and _copy_all(store, target.object_store):
        return
    try:
        objects, shallow = _missing(store, target.object_store, tip, depth, boundary)
    except KeyError as error:
        raise GitError("not-found", f"the remote has no object {error}", hint="see git.commit") from error
    if objects:
        target.object_store.add_objects([(item, None) for item in objects])
    if shallow:
        target.update_shallow(shallow, None)


def _copy_all(source: Any, target: Any) -> bool:
    """Copy every pack as it is, and all loose objects; False, with nothing done, if that is not all there is.

    For a whole history this is many times as fast as to pick its objects. A copy that has some already picks.
    """
    if next(iter(target), None) is not None or source.alternates:
        return False
    packs = [file for file in Path(source.pack_dir).iterdir() if file.suffix in (".pack", ".idx")]
    if not all(_PACK.fullmatch(file.name) for file in packs):
        return False
    for file in packs:
        shutil.copyfile(file, Path(target.pack_dir) / file.name)
    loose = [source[name] for name in list(source._iter_loose_objects())]
    if loose:
        target.add_objects([(item, None) for item in loose])
    return True


def _missing(
    source: Any, target: Any, tip: bytes, depth: int, boundary: set[bytes]
) -> tuple[list[ShaFile], set[bytes]]:
    objects: list[ShaFile] = []
    shallow: set[bytes] = set()
    seen: set[bytes] = set()
    while isinstance(item := source[tip], Tag):
        objects.append(item)
        tip = item.object[1]
    level = [tip]
    distance = 1
    while level:
        below: list[bytes] = []
        for name in level:
            if name in seen or name in target:
                continue
            seen.add(name)
            commit = source[name]
            if not isinstance(commit, Commit):
                raise GitError("not-found", "the ref does not name a commit")
            objects.append(commit)
            objects.extend(_tree(source, target, commit.tree, seen))
            if name in boundary or (depth and distance >= depth and commit.parents):
                shallow.add(name)
            else:
                below.extend(commit.parents)
        level = below
        distance += 1
    return objects, shallow


def _tree(source: Any, target: Any, root: bytes, seen: set[bytes]) -> Iterator[ShaFile]:
    pending = [root]
    while pending:
        name = pending.pop()
        if name in seen or name in target:
            continue
        seen.add(name)
        item = source[name]
        yield item
        if isinstance(item, Tree):
            # A submodule's commit lives in another repository.
            pending.extend(entry for _, mode, entry in item.items() if stat.S_IFMT(mode) != 0o160000)
