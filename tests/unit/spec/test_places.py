"""The line of each field of a pod, in a file of one pod and of several, or of the table around it."""

from __future__ import annotations

import pytest

from tank_agent.spec.places import PodPlace

ONE = """\
restart = "always"
ports = ["8080:80"]
[update]
deadline = "1m"
[[volumes]]
name = "data"
snapshot = true
[network]
[[network.nics]]
name = "eth0"
ip = "10.0.0.5/24"
[[containers]]
name = "app"
image = "nginx:1"
env = { LEVEL = "debug" }
[containers.health]
http = { port = 80 }
[[containers]]
name = "side"
[containers.limits]
memory = "1G"
"""
MANY = """\
[[pods]]
name = "db"
[[pods.containers]]
name = "app"
image = "postgres"

[[pods]]
name = "web"
restart = "never"
[[pods.containers]]
name = "app"
image = "nginx"
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("restart", 1),
        ("ports", 2),
        ("update.deadline", 4),
        # Left out in the file, so its table must do.
        ("update.max_restarts", 3),
        ("volumes[data].snapshot", 7),
        ("volumes[gone]", 5),
        ("network.nics[eth0].ip", 11),
        ("network.dns", 8),
        ("containers[app].image", 14),
        ("containers[app].env.LEVEL", 15),
        ("containers[app].env.OTHER", 15),
        ("containers[app].health.http.port", 17),
        ("containers[app].health.interval", 16),
        ("containers[app]", 12),
        ("containers[side].limits.memory", 21),
        ("containers[side].limits.cpu", 20),
        ("containers[side].command", 18),
        ("after", 1),
    ],
)
def test_the_line_of_a_key(key: str, line: int) -> None:
    assert PodPlace(ONE, "pods/web.toml", "web").line_of(key) == line


def test_the_pod_is_found_among_several() -> None:
    place = PodPlace(MANY, "all.toml", "web")
    assert place.line == 7
    assert place.line_of("restart") == 9
    assert place.line_of("containers[app].image") == 12
    assert PodPlace(MANY, "all.toml", "db").line_of("containers[app].image") == 5


@pytest.mark.parametrize("text", ["", "name = ", "name = 'db'", MANY, "containers = 3", "\0", "[" * 2000])
def test_a_text_without_the_pod_has_no_lines(text: str) -> None:
    place = PodPlace(text, "other.toml", "other2")
    assert (place.line, place.line_of("containers[app].image")) == (0, 0)


def test_a_text_of_another_shape_raises_nothing() -> None:
    place = PodPlace("containers = 3\nnetwork = 'host'\n", "web.toml", "web")
    assert place.line_of("containers[app].image") == 1
    assert place.line_of("network.nics[eth0].ip") == 2
