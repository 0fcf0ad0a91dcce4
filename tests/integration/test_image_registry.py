"""Pulls from Debian's docker-registry: plain, with a password, with TLS; images from skopeo and buildah."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import msgspec
import pytest

from tank_agent.errors import ImageInUse, Stalled
from tank_agent.image.config import Image, PullProgress
from tank_agent.image.store.store import ImageStore, ImageUse
from tank_agent.settings.image import ImageSettings, RegistrySettings
from tests.support.images import (
    busybox_layout,
    directory,
    host_platform,
    layer,
    member,
    tag_descriptor,
    write_blob,
    write_image,
)
from tests.support.registry import docker_registry, make_certificate, skopeo_copy, write_auth
from tests.support.trees import big_directory, describe, mounted


@pytest.fixture
def place() -> Iterator[Path]:
    with big_directory() as path:
        yield path


@pytest.fixture
def layout(place: Path) -> Path:
    return busybox_layout(place / "layout")


def settings(place: Path, **fields: object) -> ImageSettings:
    fields.setdefault("auth_files", (str(place / "none.json"),))
    return ImageSettings(attempts=2, **fields)  # type: ignore[arg-type]


def pull(place: Path, reference: str, **fields: object) -> Image:
    with ImageStore(place / "store", settings(place, **fields)) as store:
        return store.pull(reference)


def runs(image: Image) -> bool:
    busybox = image.layers[-1] / "bin/busybox"
    return subprocess.run([busybox, "true"], check=False).returncode == 0


def test_plain_registry_on_loopback(place: Path, layout: Path) -> None:
    with docker_registry(place / "registry") as host:
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/team/busybox:1.0")
        image = pull(place, f"{host}/team/busybox:1.0")
        assert runs(image)
        assert image.config.cmd == ("/bin/sh",)
        with pytest.raises(Stalled, match=r"no image .*team/busybox:2\.0"):
            pull(place, f"{host}/team/busybox:2.0")
    # The registry is gone; the image is not.
    with ImageStore(place / "store", settings(place)) as store:
        assert store.cached(f"{host}/team/busybox:1.0") == image
        assert store.pull(f"{host}/team/busybox:1.0") == image
        kept = store.pull(f"{host}/team/busybox:1.0", policy="always")
        assert msgspec.structs.replace(kept, not_refreshed="") == image
        assert "Connection refused" in kept.not_refreshed
        assert store.pull(f"{host}/team/busybox:1.0", policy="never") == image
        assert store.cached(f"{host}/team/busybox@{image.digest}") is not None
        with pytest.raises(Stalled, match="may not be fetched"):
            store.pull(f"{host}/team/busybox:3.0", policy="never")


@pytest.mark.parametrize("form", ["oci", "v2s2"])
def test_docker_and_oci_manifests(place: Path, layout: Path, form: str) -> None:
    with docker_registry(place / "registry") as host:
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/busybox:1", "--format", form)
        assert runs(pull(place, f"{host}/busybox:1"))


def test_password(place: Path, layout: Path) -> None:
    with docker_registry(place / "registry", password=True) as host:
        auth = write_auth(place / "auth.json", host)
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/busybox:1", f"--dest-authfile={auth}")
        with pytest.raises(Stalled, match="wants a login") as nobody:
            pull(place, f"{host}/busybox:1", auth_files=("/a.json", "/b.json"))
        assert nobody.value.hint == (
            "check the name, or put credentials into /a.json or /b.json, see docs/images.md"
        )
        wrong = write_auth(place / "wrong.json", host, password="no")
        with pytest.raises(Stalled, match="refuses our credentials"):
            pull(place, f"{host}/busybox:1", auth_files=(str(wrong),))
        assert runs(pull(place, f"{host}/busybox:1", auth_files=(str(place / "none.json"), str(auth))))


def test_credential_helper(place: Path, layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = place / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread host\necho "{\\"Username\\": \\"alice\\", \\"Secret\\": \\"correct horse\\"}"\n'
    )
    helper.chmod(0o755)
    from tank_agent.linux import process

    monkeypatch.setattr(
        process, "ENVIRONMENT", {**process.ENVIRONMENT, "PATH": f"{place}:{os.environ['PATH']}"}
    )
    with docker_registry(place / "registry", password=True) as host:
        auth = write_auth(place / "auth.json", host)
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/busybox:1", f"--dest-authfile={auth}")
        (place / "helper.json").write_text(json.dumps({"credHelpers": {host: "test"}}))
        assert runs(pull(place, f"{host}/busybox:1", auth_files=(str(place / "helper.json"),)))


def test_tls_with_our_own_authority(place: Path, layout: Path) -> None:
    tls = make_certificate(place)
    with docker_registry(place / "registry", tls=tls) as host:
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/busybox:1")
        with pytest.raises(Stalled, match="can't be trusted"):
            pull(place, f"{host}/busybox:1")
        insecure = {host: RegistrySettings(insecure=True)}
        assert runs(pull(place / "insecure", f"{host}/busybox:1", registries=insecure))
        trusted = {host: RegistrySettings(ca=str(tls[0]))}
        assert runs(pull(place, f"{host}/busybox:1", registries=trusted))


def test_mirror_and_blocked_registry(place: Path, layout: Path) -> None:
    with docker_registry(place / "registry") as host:
        skopeo_copy(f"oci:{layout}:latest", f"docker://{host}/mirror/library/busybox:1")
        mirrored = {"docker.io": RegistrySettings(mirrors=("127.0.0.1:1", f"{host}/mirror"))}
        image = pull(place, "busybox:1", registries=mirrored)
        assert runs(image)
        assert image.reference == "busybox:1"
        blocked = {host: RegistrySettings(blocked=True)}
        with pytest.raises(Stalled, match="blocked"):
            pull(place, f"{host}/mirror/library/busybox:1", registries=blocked)


def test_index_with_variants_takes_what_runs_here(place: Path) -> None:
    layout = place / "layout"
    ours = host_platform()
    entries = []
    for platform in (
        {"os": "linux", "architecture": "s390x"},
        {"os": "windows", "architecture": ours["architecture"]},
        ours,
        {"os": "unknown", "architecture": "unknown"},
    ):
        made = write_image(
            layout, [layer([member("which", json.dumps(platform))])], tag=None, image_platform=platform
        )
        entries.append({**made, "platform": platform})
    kind = "application/vnd.oci.image.index.v1+json"
    index = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}).encode()
    tag_descriptor(layout, {"mediaType": kind, **write_blob(layout, index)}, "multi")
    with docker_registry(place / "registry") as host:
        skopeo_copy(f"oci:{layout}:multi", f"docker://{host}/multi:1", "--all")
        image = pull(place, f"{host}/multi:1")
        assert json.loads((image.layers[0] / "which").read_text()) == ours
        by_index = write_blob(layout, index)["digest"]
        assert pull(place, f"{host}/multi@{by_index}").digest == image.digest
        with pytest.raises(Stalled, match="no image for linux/riscv64"):
            pull(place / "other", f"{host}/multi:1", platform="linux/riscv64")


def test_image_built_by_buildah(place: Path, layout: Path) -> None:
    storage = ["--root", str(place / "b/root"), "--runroot", str(place / "b/run"), "--storage-driver", "vfs"]

    def buildah(*argv: str) -> str:
        done = subprocess.run(["buildah", *storage, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    work = buildah("from", f"oci:{layout}:latest")
    (place / "added").write_text("by buildah")
    buildah("copy", "--chown", "1000:1000", work, str(place / "added"), "/srv/added")
    buildah("config", "--entrypoint", '["/bin/cat"]', "--cmd", "/srv/added", "--user", "app", work)
    buildah("commit", "--quiet", work, f"oci:{place / 'built'}:1")
    with docker_registry(place / "registry") as host:
        skopeo_copy(f"oci:{place / 'built'}:1", f"docker://{host}/built:1")
        image = pull(place, f"{host}/built:1")
    assert (image.config.entrypoint, image.config.cmd, image.config.user) == (
        ("/bin/cat",),
        ("/srv/added",),
        "app",
    )
    assert any((found / "srv/added").exists() for found in image.layers)


def test_image_repacked_by_umoci_and_compressed_by_skopeo(place: Path, layout: Path) -> None:
    def umoci(*argv: str) -> None:
        done = subprocess.run(["umoci", *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    umoci("unpack", "--image", f"{layout}:latest", str(place / "bundle"))
    root = place / "bundle/rootfs"
    (root / "etc/group").unlink()
    (root / "home/app").rmdir()
    (root / "home/app").write_text("now a file")
    (root / "srv").chmod(0o710)
    (root / "srv/setuid").write_text("x")
    (root / "srv/setuid").chmod(0o4755)
    os.chown(root / "srv", 7, 8)
    (root / "srv/hard").hardlink_to(root / "srv/setuid")
    os.setxattr(root / "srv/setuid", "user.kept", b"yes")
    os.mkfifo(root / "srv/fifo")
    umoci("repack", "--image", f"{layout}:new", str(place / "bundle"))
    umoci("config", "--image", f"{layout}:new", "--config.user", "app", "--config.stopsignal", "SIGQUIT")
    umoci("unpack", "--image", f"{layout}:new", str(place / "again"))
    truth = describe(place / "again/rootfs")
    zstd = ("--dest-compress-format", "zstd")
    # Two registries: skopeo takes a layer that is there already, however it is compressed.
    for kind, source, options in (
        ("gzip", f"oci:{layout}:new", ()),
        ("zstd", f"dir:{_as_dir(layout, place)}", ("--format", "oci", *zstd)),
    ):
        with docker_registry(place / f"registry-{kind}") as host:
            name = f"{host}/{kind}:1"
            skopeo_copy(source, f"docker://{name}", *options)
            argv = ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{name}"]
            assert f"tar+{kind}" in subprocess.run(argv, capture_output=True, text=True, check=True).stdout
            image = pull(place / kind, name)
        assert (image.config.user, image.config.stop_signal) == ("app", "SIGQUIT")
        with mounted(image.layers, place / f"mount-{kind}") as seen:
            assert describe(seen) == truth


def _as_dir(layout: Path, place: Path) -> Path:
    """Copy an image to where skopeo compresses it anew."""
    skopeo_copy(f"oci:{layout}:new", f"dir:{place / 'plain'}", "--dest-decompress")
    return place / "plain"


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
@pytest.mark.parametrize("compressed", [False, True])
def test_archives_that_skopeo_writes(place: Path, layout: Path, form: str, compressed: bool) -> None:
    archive = place / "image.tar"
    name = ":example.com/busybox:1" if form == "docker-archive" else ":1"
    skopeo_copy(f"oci:{layout}:latest", f"{form}:{archive}{name}")
    if compressed:
        subprocess.run(["gzip", "-1", archive], check=True)
        archive.with_suffix(".tar.gz").rename(archive)
    image = pull(place, f"{form}:{archive}")
    assert runs(image)
    assert pull(place, f"{form}:{archive}{name}").digest == image.digest
    with pytest.raises(Stalled, match="no image"):
        pull(place, f"{form}:{archive}:nothing")


def test_pulls_at_the_same_time_share_layers_and_report_progress(place: Path) -> None:
    layout = place / "layout"
    shared = layer([directory("d"), *(member(f"d/{n}", os.urandom(4096)) for n in range(2000))])
    for tag in ("a", "b", "c"):
        write_image(layout, [shared, layer([member("own", tag)])], tag=tag)
    with docker_registry(place / "registry") as host, ImageStore(place / "store", settings(place)) as store:
        for tag in ("a", "b", "c"):
            skopeo_copy(f"oci:{layout}:{tag}", f"docker://{host}/shared:{tag}")
        images: dict[str, Image] = {}
        seen: dict[str, list[PullProgress]] = {"a": [], "b": [], "c": []}

        def work(tag: str) -> None:
            images[tag] = store.pull(f"{host}/shared:{tag}", progress=seen[tag].append)

        threads = [Thread(target=work, args=(tag,)) for tag in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({image.layers[0] for image in images.values()}) == 1
        assert len({image.layers[1] for image in images.values()}) == 3
        for tag, reports in seen.items():
            assert reports[-1].done == reports[-1].total > 0, tag
            assert [row.state for row in reports[-1].layers][1] == "done"
        assert len(store.list()) == 3
        freed = store.prune([ImageUse(image=f"{host}/shared:a"), ImageUse(image=images["b"].digest)])
        assert freed.removed == (f"{host}/shared:c",)
        assert store.cached(f"{host}/shared:a") == images["a"]
        assert store.cached(f"{host}/shared@{images['b'].digest}") is not None
        use = ImageUse(image=f"{host}/shared:a@{images['a'].digest}", pod="web", why="runs it")
        with pytest.raises(ImageInUse, match="is needed: pod web runs it"):
            store.remove(f"{host}/shared:a", [use])
        store.remove(f"{host}/shared:a")
        store.remove(images["b"].digest)
        assert store.list() == ()
        assert list((place / "store/images/layers").iterdir()) == []
