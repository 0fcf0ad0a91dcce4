"""Make OCI image layouts for tests, in pure Python: no network, no tools but busybox.

python -m tests.support.images DIRECTORY    # writes the busybox image that the examples run
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import sys
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import zstandard

from tank_agent.cli import busybox
from tests.support.debian import OF_AN_IMAGE, locked, root_archive

Compression = Literal["gzip", "zstd", "none"]
Member = tuple[tarfile.TarInfo, bytes]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX = Path("/bin/busybox")
# What tests run of real software: one image for all of them.
_SERVERS = ("nginx-light", "php-fpm", "php-pgsql", "postgresql", "procps", "python3-psycopg2", "redis-server")
_SUFFIX: Mapping[Compression, str] = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}


class PackedLayer(NamedTuple):
    """A layer in a file, compressed by gzip."""

    file: Path
    digest: str
    size: int
    diff_id: str


def host_platform() -> dict[str, str]:
    """Return this machine's platform as an OCI image names it."""
    machine = platform.machine()
    names = {"x86_64": ("amd64", ""), "aarch64": ("arm64", "v8"), "armv7l": ("arm", "v7")}
    architecture, variant = names.get(machine, (machine, ""))
    found = {"os": "linux", "architecture": architecture}
    return {**found, "variant": variant} if variant else found


def member(
    name: str,
    content: bytes | str = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    owner: tuple[int, int] = (0, 0),
    link: str = "",
    device: tuple[int, int] = (0, 0),
    xattrs: Mapping[str, str] | None = None,
    mtime: float = 1_700_000_000,
) -> Member:
    """Describe one member of a layer; `kind` is a tar type flag."""
    data = content.encode() if isinstance(content, str) else content
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, len(data), link, mtime
    info.uid, info.gid = owner
    info.devmajor, info.devminor = device
    info.pax_headers = {f"SCHILY.xattr.{key}": value for key, value in (xattrs or {}).items()}
    return info, data


def directory(name: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Member:
    """Describe a directory of a layer."""
    return member(name, kind=tarfile.DIRTYPE, mode=mode, owner=owner)


def symlink(name: str, target: str) -> Member:
    """Describe a symbolic link of a layer."""
    return member(name, kind=tarfile.SYMTYPE, mode=0o777, link=target)


def layer(members: Iterable[Member]) -> bytes:
    """Return an uncompressed layer: a pax tar archive of the members, in their order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def write_blob(layout: Path, data: bytes) -> dict[str, Any]:
    """Store a blob in a layout; return the start of its descriptor (digest and size)."""
    name = hashlib.sha256(data).hexdigest()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / name).write_bytes(data)
    return {"digest": f"sha256:{name}", "size": len(data)}


def compress(data: bytes, compression: Compression) -> bytes:
    """Compress a layer, the same way every time."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(data)
    return data


def packed(archive: Path) -> PackedLayer:
    """Return the layer of a tar archive, which is compressed once and kept beside it."""
    file, note = (archive.with_name(f"{archive.name}.{end}") for end in ("gz", "json"))
    with locked(archive.with_name(f"{archive.name}.lock")):
        if not note.exists():
            data = archive.read_bytes()
            made = compress(data, "gzip")
            file.write_bytes(made)
            digests = {
                "digest": hashlib.sha256(made).hexdigest(),
                "diff_id": hashlib.sha256(data).hexdigest(),
            }
            partial = note.with_suffix(".partial")
            partial.write_text(json.dumps({**digests, "size": len(made)}))
            partial.replace(note)
    return PackedLayer(file, **json.loads(note.read_text()))


def _store(layout: Path, data: bytes | PackedLayer, compression: Compression) -> dict[str, Any]:
    """Store a layer in a layout; return the start of its descriptor."""
    if isinstance(data, bytes):
        return write_blob(layout, compress(data, compression))
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(data.file, blobs / data.digest)
    return {"digest": f"sha256:{data.digest}", "size": data.size}


def _diff_id(data: bytes | PackedLayer) -> str:
    return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else data.diff_id


def write_image(
    layout: Path,
    layers: Sequence[bytes | PackedLayer],
    *,
    tag: str | None = "latest",
    config: Mapping[str, Any] | None = None,
    compression: Compression = "gzip",
    image_platform: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Add an image of these layers to a layout and return its manifest's descriptor.

    Those that are bytes are not compressed yet; packed ones are, by gzip. `config` is the inner "config"
    object (Cmd, Env, User, ...). An existing tag moves; None adds none.
    """
    built_for = dict(image_platform or host_platform())
    kind = "application/vnd.oci.image"
    document = {
        **built_for,
        "config": dict(config or {"Cmd": ["/bin/sh"], "Env": [f"PATH={PATH}"]}),
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{_diff_id(data)}" for data in layers],
        },
    }
    media_type = f"{kind}.layer.v1.tar{_SUFFIX[compression]}"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": {
            "mediaType": f"{kind}.config.v1+json",
            **write_blob(layout, json.dumps(document).encode()),
        },
        "layers": [{"mediaType": media_type, **_store(layout, data, compression)} for data in layers],
    }
    descriptor = {"mediaType": manifest["mediaType"], **write_blob(layout, json.dumps(manifest).encode())}
    if tag is not None:
        tag_descriptor(layout, {**descriptor, "platform": built_for}, tag)
    return descriptor


def tag_descriptor(layout: Path, descriptor: Mapping[str, Any], tag: str) -> None:
    """Give a manifest or an index of the layout a name in its index.json."""
    index = layout / "index.json"
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    name = "org.opencontainers.image.ref.name"
    kept: list[Any] = json.loads(index.read_text())["manifests"] if index.exists() else []
    kept = [entry for entry in kept if entry.get("annotations", {}).get(name) != tag]
    entry = {**descriptor, "annotations": {name: tag}}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*kept, entry]}))


def busybox_members() -> list[Member]:
    """Return the members of a small root file system: busybox, its applets, and its users."""
    return list(busybox.members(BUSYBOX))


def busybox_layout(path: Path, tag: str = "latest") -> Path:
    """Write an OCI layout with one image of busybox and return its path (use it as `oci:PATH:TAG`)."""
    path.mkdir(parents=True, exist_ok=True)
    write_image(path, [layer(busybox_members())], tag=tag)
    return path


def debian_layout(
    path: Path,
    config: Mapping[str, Any] | None = None,
    above: Sequence[bytes] = (),
    *,
    name: str = "image",
    packages: Sequence[str] = _SERVERS,
    options: Sequence[str] = OF_AN_IMAGE,
) -> Path:
    """Write an OCI layout of Debian with some servers, from its own packages; use it as `oci:PATH:debian`.

    `config` is put over the image's own, as in `write_image`, and the layers `above` over Debian's. This
    week's packages are fetched where they are not here yet, in half a minute, and kept under `name`;
    `options` are mmdebstrap's.
    """
    lowest = packed(root_archive(name, packages, options))
    own = {"Cmd": ["/bin/bash"], "Env": [f"PATH={PATH}"]}
    write_image(path, [lowest, *above], tag="debian", config={**own, **(config or {})})
    return path


if __name__ == "__main__":
    print(f"oci:{busybox_layout(Path(sys.argv[1]).absolute())}:latest")
