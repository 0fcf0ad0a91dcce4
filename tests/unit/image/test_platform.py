"""Platforms: the variant of an image that runs here, and their spelling."""

from __future__ import annotations

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.platform import Platform, best, host_platform, normal_platform, parse_platform, runs_on

AMD64_V3 = Platform(os="linux", architecture="amd64", variant="v3")
ARM_V7 = Platform(os="linux", architecture="arm", variant="v7")


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        (AMD64_V3, ["linux/arm64", "linux/amd64"], "linux/amd64"),
        (AMD64_V3, ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        (AMD64_V3, ["windows/amd64", "linux/s390x"], None),
        (ARM_V7, ["linux/arm/v5", "linux/arm/v6", "linux/arm64/v8"], "linux/arm/v6"),
        (ARM_V7, ["linux/arm/v8"], None),
        (ARM_V7, ["linux/arm"], "linux/arm"),
        (parse_platform("linux/arm64/v8"), ["linux/arm64", "linux/arm64/v9"], "linux/arm64"),
        (AMD64_V3, ["unknown/unknown"], None),
    ],
)
def test_the_best_platform_that_runs_is_taken(
    wanted: Platform, offered: list[str], chosen: str | None
) -> None:
    found = best(wanted, [parse_platform(text) for text in offered])
    assert (str(found) if found else None) == chosen


def test_this_machine_runs_images_for_itself() -> None:
    here = host_platform()
    assert here.os == "linux"
    assert here.architecture
    assert runs_on(here, Platform(os=here.os, architecture=here.architecture))


@pytest.mark.parametrize("text", ["linux", "", "linux/", "a/b/c/d", "/amd64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(Stalled):
        parse_platform(text)


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
