"""Indexes, manifests and configurations of images, from what a registry says to what would be run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tank_agent.errors import TankError
from tank_agent.image.config import PullProgress
from tank_agent.image.manifest import (
    LAYERS_LIMIT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
)
from tank_agent.image.parameters import merge
from tank_agent.image.pull import Document, ImagePull, ReadChunk
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.model import Container
from tank_agent.spec.reference import Reference, is_digest
from tests.fuzz.rounds import repeat

_LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:" + "0a" * 32}
_LONGEST_MESSAGE = 6010
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1 << 31, 1 << 63, 1 << 64, 1e400, 0.5),
    *("", "x", "y" * 100_000, "\0", "é", "\ud800", "sha256:", "sha256:" + "0a" * 32, "sha512:" + "0a" * 64),
    *([], {}, [None], [[]], {"": None}, {"os": ""}, ["/bin/sh"] * 1000),
    *("linux", "Linux", "AMD64", "x86_64", "unknown", "v8", "gzip", "application/octet-stream", "text/html"),
    *(OCI_INDEX, OCI_MANIFEST, OCI_CONFIG, "application/vnd.docker.distribution.manifest.v1+json"),
]
_KEYS = [
    *(
        "schemaVersion",
        "mediaType",
        "manifests",
        "config",
        "layers",
        "digest",
        "size",
        "platform",
        "annotations",
    ),
    *("os", "architecture", "variant", "rootfs", "diff_ids", "type", "Env", "Cmd", "Entrypoint", "User"),
    *("WorkingDir", "StopSignal", "fsLayers", "urls", "history", "subject", "artifactType", "data"),
]


class _Served:
    """A place that has these documents under these digests, whatever is in them."""

    local = True

    def __init__(self, first: Document, rest: dict[str, bytes]) -> None:
        self._first = first
        self._rest = rest

    def manifest(self, digest: str = "") -> Document:
        """Return a document by its digest."""
        return Document(data=self._rest.get(digest, b"{}"), media_type="") if digest else self._first

    def document(self, descriptor: Descriptor, limit: int) -> bytes:
        """Return a configuration."""
        return self._rest.get(descriptor.digest, b"{}")

    @contextmanager
    def open(self, descriptor: Descriptor, offset: int) -> Iterator[ReadChunk]:
        """Open nothing: layers are not fetched here."""
        yield lambda _: b""

    def close(self) -> None:
        """Close nothing."""


def mutate_value(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """Change something somewhere in a JSON value."""
    if depth and (rng.random() < 0.15 or not isinstance(value, dict | list) or not value):
        return rng.choice(_VALUES)
    if isinstance(value, dict):
        changed = dict(value)
        key = rng.choice([*changed, rng.choice(_KEYS)])
        if rng.random() < 0.3:
            changed.pop(key, None)
        else:
            changed[key] = mutate_value(rng, changed.get(key), depth + 1)
        return changed
    items = list(value)
    at = rng.randrange(len(items))
    if rng.random() < 0.3:
        items[at:at] = [items[at]] * rng.choice([1, 2, 200])
    elif rng.random() < 0.3:
        del items[at]
    else:
        items[at] = mutate_value(rng, items[at], depth + 1)
    return items


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Change a few bytes: cut, repeat, overwrite, nest deeply."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                del changed[at : at + rng.randrange(1, 50)]
            case 1:
                changed[at:at] = rng.randbytes(rng.randrange(1, 9))
            case 2:
                changed[at:at] = changed[rng.randrange(len(changed) + 1) :][: rng.randrange(1, 200)]
            case 3:
                changed[at:at] = rng.choice([b"[", b'{"a":', b"]", b"}", b'"', b"\\u0000", b"-", b"\xff"]) * (
                    rng.choice([1, 3, 20_000])
                )
    return bytes(changed)


def mutated(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Return a document as JSON, changed in its structure, in its bytes, or not at all."""
    value: Any = document
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        value = mutate_value(rng, value)
    try:
        data = json.dumps(value).encode()
    except UnicodeEncodeError:
        data = json.dumps(value).encode(errors="surrogatepass")
    return mutate_bytes(rng, data) if rng.random() < 0.2 else data


def _documents(rng: random.Random) -> tuple[Document, dict[str, bytes]]:
    diff_ids = ["sha256:" + f"{number:02x}" * 32 for number in range(rng.choice([0, 1, 1, 2, 127, 128]))]
    settings = {
        "Entrypoint": ["/x"],
        "Cmd": ["y"],
        "Env": ["A=b"],
        "User": "1:2",
        "WorkingDir": "/",
        "StopSignal": "1",
    }
    platform = {"os": "linux", "architecture": "amd64"}
    config = mutated(
        rng,
        {**platform, "config": settings, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": []},
    )
    layers = [{**_LAYER, "size": number} for number, _ in enumerate(diff_ids)]
    pointer = {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)}
    kind = rng.choice([{}, {"mediaType": OCI_MANIFEST}])
    documents = [mutated(rng, {"schemaVersion": 2, **kind, "config": pointer, "layers": layers})]
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        entry = {
            "mediaType": OCI_MANIFEST,
            "digest": digest_of(documents[-1]),
            "size": 1,
            "platform": platform,
        }
        other = {
            **entry,
            "digest": "sha256:" + "0b" * 32,
            "platform": {"os": "unknown", "architecture": "unknown"},
        }
        documents.append(
            mutated(rng, {"schemaVersion": 2, "manifests": [entry, other][: rng.randrange(1, 3)]})
        )
    first = Document(
        data=documents[-1], media_type=rng.choice(["", "", OCI_INDEX, OCI_MANIFEST, "text/plain"])
    )
    return first, {digest_of(data): data for data in [config, *documents]}


def _once(rng: random.Random) -> None:
    content = _Served(*_documents(rng))
    reference = Reference(registry="r.test", repository="a/b", tag="latest")
    settings = ImageSettings(platform=rng.choice(["", "linux/amd64", "linux/arm64/v8"]))

    def progress(_: PullProgress) -> None:
        raise AssertionError("nothing is fetched")

    with ImagePull(reference, content, settings, progress=progress, cancelled=lambda: False) as pull:
        try:
            resolved = pull.resolve()
            run = merge(Container(name="c", image="x"), resolved.configuration.config)
        except TankError as error:
            assert str(error) and len(str(error)) < _LONGEST_MESSAGE, f"{len(str(error))} characters"
            return
    layers = resolved.manifest.layers
    assert len(layers) == len(resolved.configuration.diff_ids) <= LAYERS_LIMIT
    assert all(is_digest(layer.digest) and layer.size >= 0 for layer in layers)
    assert all(is_digest(diff_id) for diff_id in resolved.configuration.diff_ids)
    assert run.argv[0] and all("\0" not in word for word in run.argv)
    assert run.cwd.startswith("/") and "\0" not in run.cwd


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Resolve images whose documents are damaged or made to confuse."""
    repeat(seed, seconds, rounds, _once)
