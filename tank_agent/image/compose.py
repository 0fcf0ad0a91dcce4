"""Which directories an image is mounted from, where that is not simply one per layer.

- overlayfs refuses one directory twice, so of a repeated layer only the topmost stays: it says all the lower
says.
- overlayfs ignores "hides everything below" at a layer's root, so the layers below such a one are left out.
- A layer may hold `a/b` without describing `a`. Unpacked alone, its `a` is root's and 0755, and overlayfs
would show
  that instead of what a lower layer says of `a`. Then a small layer of directories on top repeats the right
  owner, mode and attributes; it is ours, named by what it is made of, and shared like any other.
"""

from __future__ import annotations

import enum
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from tank_agent.image.layers import LayerRecord, Layers
from tank_agent.linux.paths import open_without_links

_IMPLICIT = (0, 0, 0o755, ())
_OPAQUE = "trusted.overlay.opaque"


class _Hidden(enum.Enum):
    """What stands for "this layer has something else there, so lower ones don't matter"."""

    HIDDEN = enum.auto()


_HIDDEN = _Hidden.HIDDEN

Attributes = tuple[int, int, int, tuple[tuple[str, bytes], ...]]


class _Layer(Struct, frozen=True):
    """An unpacked layer with an open descriptor of its root."""

    root: int
    implicit: frozenset[bytes]


def compose(diff_ids: Sequence[str], layers: Layers) -> tuple[str, ...]:
    """Return the layers to mount, lowest first; makes the layer of directories if the image needs one.

    Args:
        diff_ids: the image's layers, lowest first; all of them are in `layers`.
    """
    order = list(dict.fromkeys(reversed(diff_ids)))
    records = [_record(layers, diff_id) for diff_id in order]
    for position, record in enumerate(records):
        if record.opaque_root:
            order, records = order[: position + 1], records[: position + 1]
            break
    wanted = _directories(order, records, layers)
    if wanted:
        order.insert(0, _make(wanted, order, layers))
    return tuple(reversed(order))


def _record(layers: Layers, diff_id: str) -> LayerRecord:
    record = layers.record(diff_id)
    if record is None:
        raise FileNotFoundError(f"the layer {diff_id} vanished")
    return record


def _directories(order: list[str], records: list[LayerRecord], layers: Layers) -> dict[bytes, Attributes]:
    """Return the directories that a lower layer describes and a higher one only has, and their parents."""
    opened = [
        _Layer(
            os.open(layers.directory(diff_id), os.O_PATH | os.O_DIRECTORY),
            frozenset(bytes.fromhex(path) for path in record.implicit),
        )
        for diff_id, record in zip(order, records, strict=True)
    ]
    try:
        wanted: dict[bytes, Attributes] = {}
        for path in sorted(set().union(*(layer.implicit for layer in opened[:-1]))):
            found, is_implicit = _look_up(opened, path)
            if is_implicit and found is not None and found != _IMPLICIT:
                wanted[path] = found
        for parent in {parent for path in wanted for parent in _parents(path)}:
            wanted[parent] = _look_up(opened, parent)[0] or _IMPLICIT
        return wanted
    finally:
        for layer in opened:
            os.close(layer.root)


def _parents(path: bytes) -> Iterator[bytes]:
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _look_up(opened: list[_Layer], path: bytes) -> tuple[Attributes | None, bool]:
    """Return what the topmost layer that describes a directory says, and if a higher one only has it."""
    is_implicit = False
    for layer in opened:
        found = _see(layer, path)
        if found is _Hidden.HIDDEN:
            break
        if found is None:
            continue
        attributes, opaque = found
        if path not in layer.implicit:
            return attributes, is_implicit
        is_implicit = True
        if opaque:
            break
    return None, is_implicit


def _see(layer: _Layer, path: bytes) -> tuple[Attributes, bool] | _Hidden | None:
    """Return a directory's attributes and whether it hides lower ones; HIDDEN if it is something else."""
    parts = path.split(b"/") if path else []
    opaque = False
    found: tuple[Attributes, bool] | None = None
    for length in range(len(parts) + 1):
        name = b"/".join(parts[:length]) or b"."
        try:
            descriptor = open_without_links(layer.root, name, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            return _HIDDEN if opaque else None
        except OSError:
            return _HIDDEN
        try:
            if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                return _HIDDEN
            found = _attributes(descriptor)
            opaque = opaque or found[1]
        finally:
            os.close(descriptor)
    assert found is not None
    return found[0], opaque


def _attributes(descriptor: int) -> tuple[Attributes, bool]:
    status = os.fstat(descriptor)
    # An O_PATH descriptor has no attributes of its own to read; its path in /proc has.
    path = f"/proc/self/fd/{descriptor}"
    named = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    opaque = named.pop(_OPAQUE, b"") == b"y"
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), tuple(sorted(named.items()))), opaque


def _make(wanted: dict[bytes, Attributes], order: list[str], layers: Layers) -> str:
    """Make the layer of directories, unless another image made it before; return its name."""
    content = "\n".join(["directories", *order]).encode()
    name = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if layers.record(name) is not None:
        return name
    place = layers.stage()
    try:
        for path in sorted(wanted):
            _make_directory(place / "diff" / os.fsdecode(path), wanted[path])
        layers.commit(place, LayerRecord(diff_id=name, size=0, entries=len(wanted)))
    except BaseException:
        layers.abandon(place)
        raise
    return name


def _make_directory(path: Path, attributes: Attributes) -> None:
    uid, gid, mode, named = attributes
    path.mkdir(exist_ok=True)
    os.chown(path, uid, gid)
    path.chmod(mode)
    for name, value in named:
        os.setxattr(path, name, value)
