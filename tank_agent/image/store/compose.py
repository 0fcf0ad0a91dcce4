"""The directories that an image is mounted from, where they are not simply those of its layers.

- overlayfs refuses one directory twice, so of a repeated layer only the topmost stays.
- overlayfs ignores "hides everything below" at a layer's root, so the layers below such a one are left out.
- A layer may hold `a/b` without describing `a`. Unpacked alone, its `a` is root's and 0755, and overlayfs
  would show that instead of a lower layer's `a`. Then a small layer of directories is made, which repeats the
  right owner, mode and attributes on top; it is named by its content, and shared like any other.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from operator import itemgetter
from pathlib import Path

from tank_agent.errors import Stalled
from tank_agent.image.manifest import digest_of
from tank_agent.image.store.files import LayerRecord, Layers
from tank_agent.linux.paths import Closing, open_without_links

_IMPLICIT = (0, 0, 0o755, ())
_OPAQUE = "trusted.overlay.opaque"
# Bytes of paths and attributes in the layer of directories; real images need a few hundred.
_MOST = 4 << 20


# A layer's content at a path. HIDDEN is anything but a directory: lower layers don't matter then.
_Seen = enum.Enum("_Seen", ("NOTHING", "HIDDEN", "DIRECTORY", "OPAQUE"))
Attributes = tuple[int, int, int, tuple[tuple[str, bytes], ...]]


class _Layer:
    """An unpacked layer with an open descriptor of its root. Quick when asked in the order of paths."""

    def __init__(self, directory: Path) -> None:
        self.root = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        self._path = b""
        # For each directory on the way to that path: how many bytes of it lead there, and its content.
        self._way = [(0, self._look(b"", _Seen.DIRECTORY))]

    def see(self, path: bytes) -> _Seen:
        """Return what is at a path. A directory below an OPAQUE one is OPAQUE, too."""
        way = self._way
        while (end := way[-1][0]) and not (path + b"/").startswith(self._path[:end] + b"/"):
            way.pop()
        self._path = path
        while way[-1][0] < len(path):
            end = path.find(b"/", way[-1][0] + 1)
            end = len(path) if end < 0 else end
            way.append((end, self._look(path[:end], way[-1][1])))
        return way[-1][1]

    def attributes(self, path: bytes) -> Attributes:
        """Return the owner, the mode and the extended attributes of a directory."""
        with Closing(open_without_links(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY)) as descriptor:
            status = os.fstat(descriptor)
            named = {name: os.getxattr(descriptor, name) for name in os.listxattr(descriptor)}
            named.pop(_OPAQUE, None)
            return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), tuple(sorted(named.items()))

    def _look(self, path: bytes, above: _Seen) -> _Seen:
        if above in (_Seen.NOTHING, _Seen.HIDDEN):
            return above
        try:
            descriptor = open_without_links(self.root, path or b".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return _Seen.HIDDEN if above is _Seen.OPAQUE else _Seen.NOTHING
        except OSError:
            return _Seen.HIDDEN
        with Closing(descriptor):
            with suppress(OSError):
                if above is _Seen.OPAQUE or os.getxattr(descriptor, _OPAQUE) == b"y":
                    return _Seen.OPAQUE
            return _Seen.DIRECTORY


def compose(diff_ids: Sequence[str], layers: Layers) -> tuple[str, ...]:
    """Return the layers to mount, lowest first; make the layer of directories if these need one."""
    order = list(dict.fromkeys(reversed(diff_ids)))
    records = [layers.record(diff_id) for diff_id in order]
    if None in records:
        raise FileNotFoundError(f"the layer {order[records.index(None)]} vanished")
    opaque = [
        position for position, record in enumerate(records) if record is not None and record.opaque_root
    ]
    order = order[: opaque[0] + 1] if opaque else order
    wanted = _directories(order, layers)
    if wanted:
        order.insert(0, _make(wanted, order, layers))
    return tuple(reversed(order))


def _directories(order: list[str], layers: Layers) -> dict[bytes, Attributes]:
    """Return the directories that only a lower layer describes and a higher one has, and their parents."""
    with ExitStack() as stack:
        opened = [_Layer(layers.directory(diff_id)) for diff_id in order]
        for layer in opened:
            stack.callback(os.close, layer.root)
        wanted: dict[bytes, Attributes] = {}
        taken = 0
        for path, implicit in _implicit(order, layers):
            if implicit == {len(order) - 1}:
                continue
            found, is_implicit = _look_up(opened, path, implicit)
            if is_implicit and found is not None and found != _IMPLICIT:
                wanted[path] = found
                taken += len(path) + sum(len(name) + len(value) for name, value in found[3])
                if taken > _MOST:
                    wrong = "its layers have too many directories that only a lower layer describes"
                    raise Stalled(wrong, hint="build the image with entries for its directories")
        parents = {parent for path in wanted for parent in _parents(path)} - wanted.keys()
        lists = {path: implicit for path, implicit in _implicit(order, layers) if path in parents}
        for path in sorted(parents):
            wanted[path] = _look_up(opened, path, lists.get(path, set()))[0] or _IMPLICIT
        return wanted


def _implicit(order: list[str], layers: Layers) -> Iterator[tuple[bytes, set[int]]]:
    """Yield, sorted, each path that some layer's list has, and which layers' lists have it."""
    lists = [zip(layers.implicit(diff_id), itertools.repeat(index)) for index, diff_id in enumerate(order)]
    for path, group in itertools.groupby(heapq.merge(*lists), key=itemgetter(0)):
        yield path, {index for _, index in group}


def _parents(path: bytes) -> Iterator[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _look_up(opened: list[_Layer], path: bytes, implicit: set[int]) -> tuple[Attributes | None, bool]:
    """Return a directory's attributes by the topmost layer that describes it; whether a higher one has it."""
    is_implicit = False
    for index, layer in enumerate(opened):
        seen = layer.see(path)
        if seen is _Seen.HIDDEN:
            break
        if seen is _Seen.NOTHING:
            continue
        if index not in implicit:
            return layer.attributes(path), is_implicit
        is_implicit = True
        if seen is _Seen.OPAQUE:
            break
    return None, is_implicit


def _make(wanted: dict[bytes, Attributes], order: list[str], layers: Layers) -> str:
    """Make the layer of directories, unless another image made it before; return its name."""
    name = digest_of("\n".join(["directories", *order]).encode())
    if layers.record(name) is not None:
        return name
    with layers.staged() as place:
        for relative, (uid, gid, mode, attributes) in sorted(wanted.items()):
            path = place / "diff" / os.fsdecode(relative)
            path.mkdir(exist_ok=True)
            os.chown(path, uid, gid)
            path.chmod(mode)
            for attribute, value in attributes:
                os.setxattr(path, attribute, value)
        layers.commit(place, LayerRecord(diff_id=name, size=0, entries=len(wanted)))
    return name
