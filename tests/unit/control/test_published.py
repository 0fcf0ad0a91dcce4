"""Published ports in answers, and what a plan says of them: who waits for whom."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import pytest

from tank_agent.control.offline import plan_trees
from tank_agent.control.published import port_report, waits_for_ports, what_it_takes
from tank_agent.spec.model import Container, Network, Pod, Port
from tank_agent.spec.ports import published_port

CONTAINER = '[[containers]]\nname = "app"\nimage = "oci:/srv/app"\n'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("127.0.0.1:8080:80", "127.0.0.1:8080→80/tcp"),
        ("[::1]:53:5353/udp", "[::1]:53→5353/udp"),
        ("0.0.0.0:9000-9010:80-90", "0.0.0.0:9000-9010→80-90/tcp"),
        # Without an agent, nobody knows the address.
        ("8080:80", "*:8080→80/tcp"),
    ],
)
def test_a_port_as_people_read_it(text: str, shown: str) -> None:
    assert str(port_report(published_port(text))) == shown


@pytest.mark.parametrize(
    ("ports", "held", "waits"),
    [
        ({"a": ["80:80"], "b": ["81:80"]}, {}, {}),
        ({"a": ["80:80"], "b": ["80:80"]}, {}, {"b": ["waits for port *:80→80/tcp, which pod a publishes"]}),
        (
            {"a": ["80:80"], "b": ["80:80"]},
            {"b": ["80:80"]},
            {"a": ["waits for port *:80→80/tcp, which pod b publishes"]},
        ),
        # A pod that is to go, and one that gives a port up.
        ({"b": ["80:80"]}, {"a": ["80:80"]}, {"b": ["waits for port *:80→80/tcp until pod a has gone"]}),
        ({"a": [], "b": ["80:80"]}, {"a": ["80:80"]}, {}),
        # One that has another port already.
        (
            {"a": ["80:80"], "b": ["80:80"]},
            {"a": ["1:1"], "b": ["80:80"]},
            {"a": ["waits for port *:80→80/tcp, which pod b publishes"]},
        ),
        ({"a": ["80:80"], "b": ["80:80/udp"]}, {}, {}),
        ({"a": ["10.0.0.1:80:80"], "b": ["10.0.0.2:80:80"]}, {}, {}),
        (
            {"a": ["1-9:1-9"], "b": ["9:1", "5:1", "10:1"]},
            {},
            {
                "b": [
                    "waits for port *:5→1/tcp, which pod a publishes",
                    "waits for port *:9→1/tcp, which pod a publishes",
                ]
            },
        ),
    ],
)
def test_who_waits_for_a_port(
    ports: Mapping[str, Collection[str]], held: Mapping[str, Collection[str]], waits: Mapping[str, list[str]]
) -> None:
    def read(given: Mapping[str, Collection[str]]) -> dict[str, list[Port]]:
        return {pod: [published_port(text) for text in texts] for pod, texts in given.items()}

    assert waits_for_ports(read(ports), read(held)) == waits


@pytest.mark.parametrize(
    ("bridges", "ports", "takes"),
    [
        ((), (), ()),
        (("default",), (), ("is in bridge default",)),
        (
            ("front", "back"),
            ("80:80", "53:53/udp"),
            ("is in bridges front, back", "publishes *:80→80/tcp, *:53→53/udp"),
        ),
    ],
)
def test_what_a_new_pod_takes(
    bridges: tuple[str, ...], ports: tuple[str, ...], takes: tuple[str, ...]
) -> None:
    network = Network(mode="bridge" if bridges else "none", bridges=bridges)
    pod = Pod(name="web", containers=(Container(name="app", image="x"),), network=network)
    assert what_it_takes(pod, [published_port(text) for text in ports]) == takes


def test_a_plan_without_an_agent_says_it_too() -> None:
    def tree(**ports: str) -> dict[str, bytes]:
        return {f"{name}.toml": f"ports = {given}\n{CONTAINER}".encode() for name, given in ports.items()}

    against, files = tree(web='["80:80"]'), tree(api='["80:80"]', web='["80:80"]', db='["5432:5432"]')
    planned = {pod.name: pod for pod in plan_trees(Path(), files, against, None).pods}
    assert planned["db"].notes == ("is in bridge default", "publishes *:5432→5432/tcp")
    assert planned["api"].notes[-1] == "waits for port *:80→80/tcp, which pod web publishes"
    assert "web" not in planned
    moved = tree(web='["81:80"]')
    (update,) = plan_trees(Path(), moved, against, None).pods
    assert update.diff == ('ports: ["80:80"] → ["81:80"] (changed live, nothing restarts)',)
    assert update.notes == ()
    # A port that somebody gives up is free.
    freed = {**moved, **tree(api='["80:80"]')}
    notes = [note for pod in plan_trees(Path(), freed, against, None).pods for note in pod.notes]
    assert notes == ["is in bridge default", "publishes *:80→80/tcp"]
