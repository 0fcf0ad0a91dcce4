"""An image's HEALTHCHECK: as Docker and BuildKit write it, and nonsense that makes no image unusable."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tank_agent.image.config import ImageConfig, ImageHealthcheck
from tank_agent.image.manifest import parse_configuration

SECOND = 10**9
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def configured(**config: Any) -> ImageConfig:
    return parse_configuration(json.dumps({"config": config}).encode(), "test").config


def check_of(healthcheck: Any, **config: Any) -> ImageHealthcheck | None:
    return configured(Healthcheck=healthcheck, Cmd=["/app"], **config).healthcheck


def test_a_health_check_with_all_its_times() -> None:
    found = check_of(
        {
            "Test": ["CMD", "curl", "-f", "http://localhost/"],
            "Interval": 30 * SECOND,
            "Timeout": 2 * SECOND,
            "StartPeriod": 5 * SECOND,
            "StartInterval": SECOND // 2,
            "Retries": 4,
        }
    )
    assert found == ImageHealthcheck(
        command=("curl", "-f", "http://localhost/"),
        interval=30.0,
        timeout=2.0,
        start_period=5.0,
        start_interval=0.5,
        retries=4,
    )


@pytest.mark.parametrize(
    ("test", "command"),
    [
        (["CMD-SHELL", "pg_isready || exit 1"], ("/bin/sh", "-c", "pg_isready || exit 1")),
        # As Docker does.
        (["CMD-SHELL", "echo $0", "x"], ("/bin/sh", "-c", "echo $0", "x")),
        (["CMD", "/check"], ("/check",)),
        (["CMD", "/check", ""], ("/check", "")),
    ],
)
def test_the_forms_of_a_command(test: list[str], command: tuple[str, ...]) -> None:
    assert check_of({"Test": test}) == ImageHealthcheck(command=command)


def test_a_shell_of_the_image() -> None:
    found = check_of({"Test": ["CMD-SHELL", "check"]}, Shell=["/bin/bash", "-o", "pipefail", "-c"])
    assert found is not None
    assert found.command == ("/bin/bash", "-o", "pipefail", "-c", "check")
    for nonsense in ([], "bash", [1], None, {"a": 1}):
        found = check_of({"Test": ["CMD-SHELL", "check"]}, Shell=nonsense)
        assert found is not None
        assert found.command == ("/bin/sh", "-c", "check")


@pytest.mark.parametrize(
    "healthcheck",
    [
        *(None, {}, [], "CMD true", 5, True),
        *({"Test": test} for test in (None, [], ["NONE"], ["CMD"], ["CMD-SHELL"], ["CMD", ""], ["true"])),
        *({"Test": test} for test in ("CMD true", ["CMD", 1], ["CMD", None], ["cmd", "true"], {"CMD": "x"})),
        *({"Test": test} for test in (["CMD", "a\0b"], ["CMD", "x" * 200_000], ["CMD", *["x"] * 200_000])),
        {"Interval": SECOND},
    ],
)
def test_no_health_check(healthcheck: Any) -> None:
    assert check_of(healthcheck) is None


@pytest.mark.parametrize("value", [0, -1, 1, 10**400, 1e300, "30s", None, True, [], {}, 999_999])
def test_absurd_values_count_as_not_given(value: Any) -> None:
    times = dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), value)
    assert check_of({"Test": ["CMD", "/check"], **times}) == ImageHealthcheck(command=("/check",))


def test_times_that_are_too_short_are_as_short_as_a_pod_file_may_say() -> None:
    times = dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), SECOND // 1000)
    found = check_of({"Test": ["CMD", "/check"], **times})
    assert found is not None
    assert (found.interval, found.timeout, found.start_period, found.start_interval) == (1.0, 0.1, 0.001, 0.5)


@pytest.mark.parametrize("value", [0, -3, 101, 10**30, 2.5, "3", None, True, []])
def test_absurd_retries_count_as_not_given(value: Any) -> None:
    assert check_of({"Test": ["CMD", "/check"], "Retries": value}) == ImageHealthcheck(command=("/check",))


@pytest.mark.parametrize(
    "text",
    [
        # Deep, and one key twice.
        '{"Test": %s}' % ("[" * 300 + "]" * 300),
        '{"Test": ["NONE"], "Test": ["CMD", "/check"]}',
        '{"Test": ["CMD", "/check"], "Interval": 1e999}',
        '{"Test": ["CMD", "/check"], "Interval": -1e999}',
    ],
)
def test_hostile_json_leaves_an_image_usable(text: str) -> None:
    document = f'{{"config": {{"Cmd": ["/app"], "Healthcheck": {text}}}}}'
    config = parse_configuration(document.encode(), "test").config
    assert config.cmd == ("/app",)
    # It is stored with each run.
    msgspec.json.encode(config)


@given(ANY, ANY)
def test_anything_leaves_an_image_usable(healthcheck: Any, shell: Any) -> None:
    config = configured(Healthcheck=healthcheck, Shell=shell, Cmd=["/app"])
    assert config.cmd == ("/app",)
    msgspec.json.encode(config)


@given(ANY, ANY, ANY, ANY)
def test_any_values_leave_a_health_check_usable(first: Any, second: Any, third: Any, fourth: Any) -> None:
    values = {"Interval": first, "Timeout": second, "StartPeriod": third, "Retries": fourth}
    found = check_of({"Test": ["CMD", "/check"], **values})
    assert found is not None
    times = (found.interval, found.timeout, found.start_period)
    assert all(time is None or 0.001 <= time <= 86_400 for time in times)
