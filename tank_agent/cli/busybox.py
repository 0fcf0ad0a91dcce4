"""An image of this machine's own busybox, so that examples run where there is no registry.

Its form is an OCI image layout with one layer (OCI image-spec, image-layout.md). One program gives the same
bytes each time.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tank_agent.errors import TankError
from tank_agent.image.platform import normal_platform
from tank_agent.linux import atomic
from tank_agent.spec.reference import EXAMPLE_LAYOUT

DIRECTORY = Path(EXAMPLE_LAYOUT)
PROGRAM = Path("/bin/busybox")
Member = tuple[tarfile.TarInfo, bytes]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KIND = "application/vnd.oci.image"
_LOADERS = (b"/ld-linux", b"/ld-musl", b"/ld.so", b"/ld64.so")
_USERS = """root:x:0:0:root:/root:/bin/sh
app:x:1000:1000:app:/home/app:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
_GROUPS = "root:x:0:\napp:x:1000:\nextra:x:2000:app\nnogroup:x:65534:\n"


def write_busybox(directory: Path = DIRECTORY, program: Path = PROGRAM) -> str:
    """Write the image into a new or empty directory, or over the one that is there; return its reference.

    Raises:
        TankError: there is no static busybox, something else is in the directory, or it can't be written.
    """
    layer = _layer(_static(program))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not (directory / "oci-layout").exists() and any(directory.iterdir()):
            raise TankError(
                f"{directory} holds something else", hint="name another directory, or an empty one"
            )
        _write_layout(directory, layer)
    except OSError as error:
        raise TankError(
            f"cannot write the image: {error.strerror}", where=str(error.filename or directory)
        ) from error
    return f"oci:{directory.absolute()}:latest"


def members(program: Path = PROGRAM) -> Iterator[Member]:
    """Yield the files of a small root: busybox, links of its commands, and the users root, app and nobody."""
    listed = subprocess.run([program, "--list"], capture_output=True, check=True, text=True)
    for name in ("bin", "dev", "etc", "home", "proc", "run", "srv", "sys", "usr", "var"):
        yield _member(name, kind=tarfile.DIRTYPE, mode=0o755)
    yield _member("root", kind=tarfile.DIRTYPE, mode=0o700)
    yield _member("tmp", kind=tarfile.DIRTYPE, mode=0o1777)
    yield _member("home/app", kind=tarfile.DIRTYPE, mode=0o750, owner=1000)
    yield _member("etc/passwd", _USERS.encode())
    yield _member("etc/group", _GROUPS.encode())
    yield _member("bin/busybox", program.read_bytes(), mode=0o755)
    for applet in sorted({*listed.stdout.split()} - {"busybox"}):
        yield _member(f"bin/{applet}", kind=tarfile.SYMTYPE, mode=0o777, link="busybox")
    for name, target in (("usr/bin", "../bin"), ("usr/sbin", "../bin"), ("sbin", "bin")):
        yield _member(name, kind=tarfile.SYMTYPE, mode=0o777, link=target)


def _member(
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o644,
    owner: int = 0,
    link: str = "",
) -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(content), link
    info.uid = info.gid = owner
    return info, content


def _static(program: Path) -> Path:
    """Return the program, if it needs no libraries; the path of a loader stands near the start of others."""
    try:
        with program.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise TankError(
            f"cannot read {program}: {error.strerror}", hint="`apt install busybox-static`, then again"
        ) from error
    if any(loader in start for loader in _LOADERS):
        raise TankError(
            f"{program} needs libraries that the image would not have",
            hint="`apt install busybox-static`, then again",
        )
    return program


def _layer(program: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members(program):
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _write_layout(directory: Path, layer: bytes) -> None:
    machine = normal_platform("linux", platform.machine(), "")
    built_for = {"os": "linux", "architecture": machine.architecture}
    if machine.variant:
        built_for["variant"] = machine.variant
    config = {
        **built_for,
        "config": {"Cmd": ["/bin/sh"], "Env": [f"PATH={_PATH}"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_KIND}.manifest.v1+json",
        "config": _blob(directory, "config.v1+json", json.dumps(config).encode()),
        "layers": [_blob(directory, "layer.v1.tar+gzip", gzip.compress(layer, 6, mtime=0))],
    }
    entry = {
        **_blob(directory, "manifest.v1+json", json.dumps(manifest).encode()),
        "platform": built_for,
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    atomic.write(directory / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}', mode=0o644)
    # Last: who reads it finds all that it names.
    index = {"schemaVersion": 2, "manifests": [entry]}
    atomic.write(directory / "index.json", json.dumps(index).encode(), mode=0o644)


def _blob(directory: Path, kind: str, data: bytes) -> dict[str, Any]:
    """Store a blob and return its descriptor."""
    name = hashlib.sha256(data).hexdigest()
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    atomic.write(blobs / name, data, mode=0o644)
    return {"mediaType": f"{_KIND}.{kind}", "digest": f"sha256:{name}", "size": len(data)}
