"""References, platforms, challenges: small languages that users and servers write."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.errors import Stalled
from tank_agent.image.platform import Platform, best, host_platform, parse_platform, runs_on
from tank_agent.image.registry.client import retry_after
from tank_agent.image.registry.endpoint import parse_challenge
from tank_agent.image.registry.reference import parse_reference


@pytest.mark.parametrize("text", ["", "Nginx", "nginx@sha256:abc", "oci:relative", "/srv/app"])
def test_what_is_no_reference_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Stalled, match="write for example"):
        parse_reference(text)


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
    ("header", "scheme", "parameters"),
    [
        (
            'Bearer realm="https://a/t",service="s",scope="x:y:z"',
            "bearer",
            {"realm": "https://a/t", "service": "s", "scope": "x:y:z"},
        ),
        ('bearer  realm="a\\"b" , service=plain', "bearer", {"realm": 'a"b', "service": "plain"}),
        ('Basic realm="x", Bearer realm="y"', "bearer", {"realm": "y"}),
        ('Basic realm="x"', "basic", {"realm": "x"}),
        ("Negotiate", "", {}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_challenges(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert parse_challenge(header) == (scheme, parameters)


@given(st.text(max_size=200))
def test_any_challenge_is_read(header: str) -> None:
    assert parse_challenge(header)[0] in ("", "basic", "bearer")


def test_retry_after_is_seconds_or_a_date_and_bounded() -> None:
    assert retry_after("7") == 7
    assert retry_after("99999999") == 60
    assert retry_after("nonsense") == retry_after("") == retry_after("-5") == 0
    assert 20 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0
