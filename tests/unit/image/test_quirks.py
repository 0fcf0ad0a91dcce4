"""What Docker or podman take, we take; what we refuse, we refuse with a reason. One row a quirk."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.manifest import parse_configuration
from tank_agent.image.platform import normal_platform
from tank_agent.image.pull import ImagePull, Resolved
from tank_agent.image.store.layout import open_on_disk
from tank_agent.settings.image import ImageSettings
from tank_agent.spec.reference import find_image
from tests.support.image_quirks import QUIRKS, write_quirk


def resolve(text: str, scratch: Path) -> Resolved:
    reference = find_image(text)
    content = open_on_disk(reference, scratch, 1 << 20)
    with ImagePull(
        reference, content, ImageSettings(), progress=lambda _: None, cancelled=lambda: False
    ) as pull:
        return pull.resolve()


@pytest.mark.parametrize("name", QUIRKS)
def test_a_quirk(tmp_path: Path, name: str) -> None:
    quirk = QUIRKS[name]
    layout = write_quirk(tmp_path / "layout", quirk)
    if quirk.refused:
        with pytest.raises(Stalled) as caught:
            resolve(f"oci:{layout}", tmp_path)
        assert quirk.refused in str(caught.value)
    else:
        found = resolve(f"oci:{layout}", tmp_path)
        assert found.configuration.config.cmd == ("/file",)
        assert len(found.manifest.layers) == len(found.configuration.diff_ids)


@pytest.mark.parametrize(
    ("stated", "normal"),
    [
        (("linux", "x86_64", ""), "linux/amd64"),
        (("Linux", "AMD64", "V2"), "linux/amd64/v2"),
        (("", "amd64", ""), "linux/amd64"),
        (("linux", "aarch64", ""), "linux/arm64/v8"),
        (("linux", "arm64", "8"), "linux/arm64/v8"),
        (("linux", "arm64/v8", ""), "linux/arm64/v8"),
        (("linux", "armhf", ""), "linux/arm/v7"),
        (("linux", "armv7l", ""), "linux/arm/v7"),
        (("linux", "arm", "6"), "linux/arm/v6"),
        (("linux", "i386", ""), "linux/386"),
        (("linux", "riscv64", ""), "linux/riscv64"),
        (("windows", "amd64", ""), "windows/amd64"),
        (("unknown", "unknown", ""), "unknown/unknown"),
        (("", "", ""), ""),
    ],
)
def test_spellings_of_a_platform(stated: tuple[str, str, str], normal: str) -> None:
    assert str(normal_platform(*stated)) == normal


def saved(path: Path, manifest: object) -> str:
    with tarfile.open(path, "w") as archive:
        for name, document in (
            ("manifest.json", manifest),
            ("c.json", {"config": {"Cmd": ["/file"]}, "rootfs": {"diff_ids": None}}),
        ):
            data = json.dumps(document).encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return f"docker-archive:{path}"


@pytest.mark.parametrize("manifest", [None, [], [None]])
def test_an_archive_without_an_image_says_so(tmp_path: Path, manifest: object) -> None:
    with pytest.raises(Stalled, match="holds no image"):
        resolve(saved(tmp_path / "x.tar", manifest), tmp_path)


@pytest.mark.parametrize("layers", [{}, {"Layers": None}, {"Layers": []}])
def test_a_saved_image_without_layers(tmp_path: Path, layers: dict[str, object]) -> None:
    entry = {"Config": "c.json", "RepoTags": None, **layers}
    assert resolve(saved(tmp_path / "x.tar", [entry]), tmp_path).configuration.config.cmd == ("/file",)


def test_a_saved_image_without_a_configuration_says_so(tmp_path: Path) -> None:
    with pytest.raises(Stalled, match="names no configuration"):
        resolve(saved(tmp_path / "x.tar", [{"Config": None}]), tmp_path)


def test_more_words_than_a_process_can_have_are_not_kept_in_memory() -> None:
    document = {"config": {"Env": ["A=b"] * 100_001}}
    with pytest.raises(Stalled, match="more variables and arguments"):
        parse_configuration(json.dumps(document).encode(), "test")


def test_an_archive_is_bounded_in_what_it_takes(tmp_path: Path) -> None:
    entry = {"Config": "c.json", "Layers": None}
    reference = saved(tmp_path / "x.tar", [entry])
    assert resolve(reference, tmp_path)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(gzip.compress(whole + bytes(1 << 20), 1))
    with pytest.raises(Stalled, match="image_size"):
        resolve(reference, tmp_path)
    long = io.BytesIO()
    with tarfile.open(fileobj=long, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("x" * (1 << 20)))
    (tmp_path / "x.tar").write_bytes(long.getvalue())
    with pytest.raises(Stalled, match="a header has more"):
        resolve(reference, tmp_path)
