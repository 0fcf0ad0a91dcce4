"""Layouts whose documents have one quirk each, as real builders and registries make them.

A new report is one more row. `podman` says what podman 4.3.1 did with it (tried on Debian 12).
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tank_agent.image.pull import ImagePull, Resolved
from tank_agent.image.store.layout import open_on_disk
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import find_image
from tests.support.images import host_platform, layer, member, write_blob

Change = Callable[[dict[str, Any]], Any]
OCI = "application/vnd.oci.image"
TAG = "org.opencontainers.image.ref.name"
LAYER = layer([member("file", "x")])
HERE = {key: host_platform()[key] for key in ("os", "architecture")}
# How the kernel and people call what Go calls otherwise.
ALIAS = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armhf"}.get(
    HERE["architecture"], HERE["architecture"]
)


def same(document: dict[str, Any]) -> dict[str, Any]:
    return document


class Quirk(NamedTuple):
    """What to change in each document. `index` makes the entries of a nested index of a descriptor.

    `refused` is a part of our message, or "" where we take the image.
    """

    manifest: Change = same
    config: Change = same
    index: Change | None = None
    layout: Change = same
    refused: str = ""
    podman: bool = True


def put(**values: Any) -> Change:
    return lambda document: {**document, **values}


def drop(*keys: str) -> Change:
    return lambda document: {key: value for key, value in document.items() if key not in keys}


def inside(key: str, change: Change) -> Change:
    """Change what is at a key, or each member of a list that is there."""

    def changed(document: dict[str, Any]) -> dict[str, Any]:
        found = document[key]
        return {**document, key: [change(one) for one in found] if isinstance(found, list) else change(found)}

    return changed


def platform(**values: Any) -> Change:
    return put(platform=values)


def entries(*changes: Change) -> Change:
    return lambda descriptor: [change(descriptor) for change in changes]


ATTESTATION = put(
    digest="sha256:" + "0b" * 32,
    platform={"os": "unknown", "architecture": "unknown"},
    annotations={"vnd.docker.reference.type": "attestation-manifest"},
)
BARE_ATTESTATION = put(
    digest="sha256:" + "0d" * 32, annotations={"vnd.docker.reference.type": "attestation-manifest"}
)
OTHER = put(digest="sha256:" + "0c" * 32, platform={"os": "linux", "architecture": "vax"})
NO_LAYERS = {"type": "layers", "diff_ids": []}
VERSION = {TAG: "1.0.0"}

QUIRKS: dict[str, Quirk] = {
    "no quirk": Quirk(),
    # Images without layers (buildah#5031), and lists that Go wrote as null.
    "no layers": Quirk(put(layers=[]), put(rootfs=NO_LAYERS)),
    "layers null": Quirk(put(layers=None), put(rootfs={"type": "layers", "diff_ids": None})),
    "layers missing": Quirk(drop("layers"), drop("rootfs")),
    "rootfs null": Quirk(put(layers=[]), put(rootfs=None)),
    "manifests null": Quirk(put(manifests=None)),
    "index manifests null": Quirk(index=lambda _: None, refused="images for: nothing", podman=False),
    "index without entries": Quirk(index=entries(), refused="images for: nothing", podman=False),
    "layout without entries": Quirk(layout=put(manifests=[]), refused="holds no image", podman=False),
    "layout of null": Quirk(layout=put(manifests=None), refused="holds no image", podman=False),
    # Docker names these types for configurations (moby#48361); podman doesn't take them.
    "config octet-stream": Quirk(inside("config", put(mediaType="application/octet-stream")), podman=False),
    "config json": Quirk(inside("config", put(mediaType="application/json")), podman=False),
    "config html": Quirk(inside("config", put(mediaType="text/html")), podman=False),
    "config no type": Quirk(inside("config", drop("mediaType")), podman=False),
    "config null type": Quirk(inside("config", put(mediaType=None)), podman=False),
    "config of helm": Quirk(
        inside("config", put(mediaType="application/vnd.cncf.helm.config.v1+json")),
        refused="artifact",
        podman=False,
    ),
    "layer octet-stream": Quirk(inside("layers", put(mediaType="application/octet-stream"))),
    "layer tar": Quirk(inside("layers", put(mediaType="application/x-tar"))),
    "layer no type": Quirk(inside("layers", drop("mediaType"))),
    "layer upper case": Quirk(inside("layers", put(mediaType=f"{OCI}.Layer.v1.tar+GZIP"))),
    "layer without a size": Quirk(inside("layers", drop("size")), refused="how large"),
    "layer encrypted": Quirk(
        inside("layers", put(mediaType=f"{OCI}.layer.v1.tar+gzip+encrypted")),
        refused="unknown type",
        podman=False,
    ),
    "manifest type null": Quirk(put(mediaType=None)),
    "manifest type octet-stream": Quirk(put(mediaType="application/octet-stream"), podman=False),
    "no schema version": Quirk(drop("schemaVersion")),
    "index and image": Quirk(put(manifests=[]), refused="either manifests or layers", podman=False),
    "layout type octet-stream": Quirk(
        layout=inside("manifests", put(mediaType="application/octet-stream")), podman=False
    ),
    "layout no size": Quirk(layout=inside("manifests", drop("size"))),
    "layout annotation null": Quirk(layout=inside("manifests", put(annotations={TAG: None}))),
    "a variable null": Quirk(config=put(config={"Cmd": ["/file"], "Env": [None, "A=b"]})),
    # Spellings of a platform (containers/common#867, nixpkgs#46879, swarmkit#2180).
    "config by the kernel's name": Quirk(config=put(architecture=ALIAS)),
    "config in capitals": Quirk(config=put(architecture=HERE["architecture"].upper(), os="Linux")),
    "config without os": Quirk(config=put(os="")),
    "config os null": Quirk(config=put(os=None)),
    "config without platform": Quirk(config=drop("os", "architecture")),
    "config for another": Quirk(config=put(architecture="vax"), refused="the image is for linux/vax"),
    "index by the kernel's name": Quirk(
        index=entries(OTHER, platform(os="linux", architecture=ALIAS)), podman=False
    ),
    "index in capitals": Quirk(
        index=entries(OTHER, platform(os="Linux", architecture=HERE["architecture"].upper())), podman=False
    ),
    "index without os": Quirk(
        index=entries(OTHER, platform(os="", architecture=HERE["architecture"])), podman=False
    ),
    "index of nulls": Quirk(index=entries(OTHER, platform(os=None, architecture=None)), podman=False),
    # Entries without a platform are for whoever finds no other (podman#24685, moby#46495).
    "index no platform, attestation": Quirk(index=entries(same, ATTESTATION)),
    "index attestation, no platform": Quirk(index=entries(ATTESTATION, same)),
    "index bare attestation, no platform": Quirk(index=entries(BARE_ATTESTATION, same), podman=False),
    "index no platform, another": Quirk(index=entries(OTHER, same)),
    "index no platform, ours": Quirk(index=entries(put(digest="sha256:" + "0e" * 32), platform(**HERE))),
    "index platform null": Quirk(index=entries(put(platform=None), ATTESTATION)),
    # Layouts with several entries.
    "one tag twice": Quirk(
        layout=lambda found: {
            **found,
            "manifests": [put(annotations=VERSION)(found["manifests"][0])] * 2,
        },
        podman=False,
    ),
    "two names of one image": Quirk(
        layout=lambda found: {
            **found,
            "manifests": [put(annotations={TAG: tag})(found["manifests"][0]) for tag in ("1.0.0", "1")],
        },
        podman=False,
    ),
    "one entry a platform": Quirk(
        layout=lambda found: {
            **found,
            "manifests": [OTHER(found["manifests"][0]), platform(**HERE)(found["manifests"][0])],
        },
        podman=False,
    ),
    "two images": Quirk(
        layout=lambda found: {
            **found,
            "manifests": [
                put(annotations={TAG: "a"})(found["manifests"][0]),
                put(annotations={TAG: "b"}, digest="sha256:" + "0f" * 32)(found["manifests"][0]),
            ],
        },
        refused="a digest after @",
        podman=False,
    ),
}  # fmt: skip


def write_quirk(path: Path, quirk: Quirk) -> Path:
    """Write the layout of a quirk and return its path."""
    path.mkdir()
    diff_id = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    config = quirk.config(
        {**HERE, "config": {"Cmd": ["/file"]}, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    )
    manifest = quirk.manifest(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": {"mediaType": f"{OCI}.config.v1+json", **write_blob(path, json.dumps(config).encode())},
            "layers": [
                {"mediaType": f"{OCI}.layer.v1.tar+gzip", **write_blob(path, gzip.compress(LAYER, mtime=0))}
            ],
        }
    )
    entry = {"mediaType": f"{OCI}.manifest.v1+json", **write_blob(path, json.dumps(manifest).encode())}
    if quirk.index is not None:
        kind = f"{OCI}.index.v1+json"
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": quirk.index(entry)}
        entry = {"mediaType": kind, **write_blob(path, json.dumps(index).encode())}
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    layout = quirk.layout({"schemaVersion": 2, "manifests": [entry]})
    (path / "index.json").write_text(json.dumps(layout))
    return path


def resolve(text: str, scratch: Path) -> Resolved:
    """Do the first half of a pull of an image on disk: its manifest and configuration."""
    reference = find_image(text)
    content = open_on_disk(reference, scratch, 1 << 20)
    with ImagePull(
        reference, content, ImageSettings(), progress=lambda _: None, cancelled=lambda: False
    ) as pull:
        return pull.resolve()
