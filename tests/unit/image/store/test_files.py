"""Unpacked layers: whoever uses one keeps it."""

from __future__ import annotations

from pathlib import Path

from tank_agent.image.store.files import LayerRecord, Layers

DIFF_ID = "sha256:" + "1" * 64


def record() -> LayerRecord:
    return LayerRecord(diff_id=DIFF_ID, size=1, entries=1, implicit=(), opaque_root=False)


def test_a_layer_that_is_there_is_not_replaced_under_who_may_use_it(tmp_path: Path) -> None:
    layers = Layers(tmp_path)
    with layers.staged() as place:
        layers.commit(place, record())
    inode = layers.directory(DIFF_ID).stat().st_ino
    with layers.staged() as place:
        layers.commit(place, record())
    assert layers.directory(DIFF_ID).stat().st_ino == inode
    assert list((tmp_path / "trash").iterdir()) == list((tmp_path / "staging").iterdir()) == []
