"""Images on disk: layouts, archives of layouts, and what `docker save` writes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tank_agent.errors import TankError
from tank_agent.image.manifest import OCI_CONFIG, OCI_MANIFEST
from tank_agent.image.pull import ImagePull
from tank_agent.image.store.layout import open_on_disk, stamp
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import Reference
from tests.fuzz.archives import damaged
from tests.fuzz.image_documents import mutated
from tests.fuzz.rounds import repeat

_LAYER = bytes(1024)
_DIFF = f"sha256:{hashlib.sha256(_LAYER).hexdigest()}"
_TAG = "org.opencontainers.image.ref.name"


def _files(rng: random.Random) -> dict[str, bytes]:
    """Return the files of an image in both forms at once, some of them damaged."""
    files: dict[str, bytes] = {}

    def blob(data: bytes) -> dict[str, Any]:
        name = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{name}"] = data
        return {"digest": f"sha256:{name}", "size": len(data)}

    config = {"config": {"Cmd": ["/x"]}, "rootfs": {"type": "layers", "diff_ids": [_DIFF]}}
    stored = blob(json.dumps(config).encode())
    layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **blob(_LAYER)}]
    manifest = {"schemaVersion": 2, "config": {"mediaType": OCI_CONFIG, **stored}, "layers": layers}
    entry = {"mediaType": OCI_MANIFEST, **blob(mutated(rng, manifest)), "annotations": {_TAG: "latest"}}
    files["index.json"] = mutated(rng, {"schemaVersion": 2, "manifests": [entry] * rng.choice([0, 1, 1, 2])})
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    files["a/layer.tar"] = _LAYER
    files["c.json"] = mutated(rng, config)
    layer = rng.choice(["a/layer.tar", f"blobs/sha256/{_DIFF[7:]}", "../x", "/etc/passwd", "loop", "there"])
    saved = {"Config": rng.choice(["c.json", "there"]), "RepoTags": ["a:latest"], "Layers": [layer]}
    files["manifest.json"] = mutated(rng, {"list": [saved] * rng.choice([0, 1, 1, 2])})[9:-1]
    return files


def _archive(rng: random.Random, files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, target, kind in (
            ("loop", "loop", tarfile.SYMTYPE),
            ("there", "c.json", tarfile.SYMTYPE),
            ("hard", "a/layer.tar", tarfile.LNKTYPE),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = stream.getvalue()
    data = damaged(rng, data) if rng.random() < 0.5 else data
    data = gzip.compress(data, 1) if rng.random() < 0.3 else data
    return damaged(rng, data) if rng.random() < 0.1 else data


def _write(rng: random.Random, place: Path, transport: str) -> Path:
    files = _files(rng)
    if transport != "oci":
        (place / "image.tar").write_bytes(_archive(rng, files))
        return place / "image.tar"
    for name, data in files.items():
        target = place / "layout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if rng.random() < 0.1:
        (place / "layout/index.json").unlink()
        (place / "layout/index.json").symlink_to(
            rng.choice(["index.json", "/etc/passwd", "oci-layout", "blobs"])
        )
    return place / "layout"


def _once(rng: random.Random) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        place = Path(directory)
        transport = rng.choice(["oci", "oci-archive", "docker-archive"])
        path = _write(rng, place, transport)
        tag = rng.choice(["", "latest", "a:latest", "none"])
        reference = Reference(transport=transport, path=str(path), tag=tag)  # type: ignore[arg-type]
        stamp(reference)
        try:
            content = open_on_disk(reference, place, 1 << 24)
            with ImagePull(
                reference, content, ImageSettings(), progress=lambda _: None, cancelled=lambda: False
            ) as pull:
                resolved = pull.resolve()
                for layer in resolved.manifest.layers:
                    with content.open(layer, 0) as read:
                        while read(1 << 16):
                            pass
        except TankError as error:
            assert str(error) and len(str(error)) < 6010


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Open images on disk: each is read or refused."""
    repeat(seed, seconds, rounds, _once)
