"""The probe of a container: its file, then its image, then the defaults."""

from __future__ import annotations

from typing import Any

import pytest

from tank_agent.image.config import ImageHealthcheck
from tank_agent.runtime.health.probe import Probe, probe_of
from tank_agent.spec.model import Container, HealthCheck, HttpProbe

IMAGE = ImageHealthcheck(
    command=("/check",), interval=7.0, timeout=2.0, start_period=3.0, start_interval=0.5, retries=9
)


def found(own: ImageHealthcheck | None = None, /, **check: Any) -> Probe | None:
    return probe_of(Container(name="app", health=HealthCheck(**check) if check else None), own)


def test_a_container_without_a_health_check_has_no_probe() -> None:
    assert found() is None
    assert found(None, interval=5.0) is None


@pytest.mark.parametrize(
    ("check", "interval"),
    [({"tcp": 80}, 10.0), ({"http": HttpProbe(port=80)}, 10.0), ({"exec": ("/check",)}, 30.0)],
)
def test_the_defaults_depend_on_the_kind(check: dict[str, Any], interval: float) -> None:
    wanted = Probe(
        **check,
        interval=interval,
        timeout=5.0,
        retries=3,
        start_period=60.0,
        start_interval=1.0,
        on_failure="restart",
    )
    assert found(**check) == wanted
    # The image's is about another check.
    assert found(IMAGE, **check) == wanted


def test_the_file_says_it_all() -> None:
    check: dict[str, Any] = {
        "tcp": 80,
        "interval": 1.0,
        "timeout": 2.0,
        "retries": 4,
        "start_period": 0.0,
        "start_interval": 0.2,
        "on_failure": "none",
    }
    assert found(**check) == Probe(**check)


def test_the_health_check_of_an_image_restarts_nothing_by_itself() -> None:
    assert found(IMAGE) == Probe(
        exec=("/check",),
        interval=7.0,
        timeout=2.0,
        retries=9,
        start_period=3.0,
        start_interval=0.5,
        on_failure="none",
    )
    bare = found(ImageHealthcheck(command=("/check",)))
    assert bare is not None
    assert (bare.interval, bare.timeout, bare.retries, bare.start_period) == (30.0, 5.0, 3, 60.0)


def test_the_file_changes_the_times_of_an_images_check() -> None:
    probe = found(IMAGE, interval=1.0, start_period=0.0, on_failure="restart")
    assert probe is not None
    assert (probe.exec, probe.interval, probe.start_period, probe.timeout) == (("/check",), 1.0, 0.0, 2.0)
    assert probe.on_failure == "restart"


def test_the_check_of_an_image_can_be_ignored() -> None:
    assert found(IMAGE, image=False) is None
    kept = found(IMAGE, image=False, tcp=80)
    assert kept is not None
    assert (kept.tcp, kept.exec) == (80, None)
