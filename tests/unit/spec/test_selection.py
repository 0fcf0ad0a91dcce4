"""Why a pod is not for a machine, in words, and labels that were meant for a container."""

from __future__ import annotations

import pytest

from tank_agent.spec.model import EVERYWHERE, Host, Selector, selects
from tank_agent.spec.selection import Mismatch, machines, mismatch, warning

EDGE = Host(name="edge-1.example.org", labels={"site": "fra", "disk": "ssd"})
BARE = Host(name="lab")


@pytest.mark.parametrize(
    ("selector", "host", "by", "why"),
    [
        (
            Selector(hosts=("edge-l",)),
            EDGE,
            "hosts",
            'hosts: "edge-l" is not this machine\'s name, edge-1.example.org',
        ),
        (
            Selector(hosts=tuple(f"core-{number}" for number in range(40))),
            EDGE,
            "hosts",
            'hosts: none of "core-0", "core-1", "core-2" and 37 more is this machine\'s name,'
            " edge-1.example.org",
        ),
        (
            Selector(labels={"traefik.enable": "true"}),
            BARE,
            "labels",
            'labels: traefik.enable = "true" is not a label of this machine (agent.toml has none)',
        ),
        (
            Selector(labels={"site": "ber"}),
            EDGE,
            "labels",
            'labels: site = "ber" is not a label of this machine (here, site = "fra")',
        ),
        (
            Selector(labels={"site": "f*", "gpu": "1", "rack": "7"}),
            EDGE,
            "labels",
            'labels: gpu = "1" and rack = "7" are not labels of this machine (agent.toml has disk, site)',
        ),
        (
            Selector(hosts=("core",), labels={"site": "ber"}),
            Host(name=""),
            "hosts and labels",
            'hosts: "core" is not this machine\'s name, (none);'
            ' labels: site = "ber" is not a label of this machine (agent.toml has none)',
        ),
        (
            Selector(hosts=("core",), labels={"site": "ber"}),
            Host(name="edge-2", labels={"site": "fra"}, is_other=True),
            "hosts and labels",
            'hosts: "core" is not that machine\'s name, edge-2;'
            ' labels: site = "ber" is not a label of that machine (there, site = "fra")',
        ),
        (
            Selector(labels={"site": "ber"}),
            Host(name="edge-2", is_other=True),
            "labels",
            'labels: site = "ber" is not a label of that machine (--label says none)',
        ),
    ],
)
def test_what_does_not_match_is_named(selector: Selector, host: Host, by: str, why: str) -> None:
    assert not selects(selector, host)
    assert mismatch(selector, host) == Mismatch(by, why)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "selector",
    [EVERYWHERE, Selector(hosts=("EDGE-*",)), Selector(hosts=("x", "edge-1"), labels={"site": "fra"})],
)
def test_a_pod_that_is_for_this_machine(selector: Selector) -> None:
    assert selects(selector, EDGE)
    assert mismatch(selector, EDGE) is None


def test_the_machines_of_a_selector_in_words() -> None:
    assert machines(Selector(hosts=("a", "b"), labels={"site": "fra"})) == "hosts a, b and labels site=fra"
    many = Selector(hosts=tuple("abcde"))
    assert machines(many) == "hosts a, b, c and 2 more"


@pytest.mark.parametrize(
    "label",
    [
        "traefik.enable",
        "Traefik.http.routers.web.rule",
        "com.docker.compose.project",
        "com.centurylinklabs.watchtower.enable",
        "org.opencontainers.image.source",
        "caddy",
        "caddy_1.reverse_proxy",
        "homepage.group",
    ],
)
def test_labels_that_were_meant_for_a_container(label: str) -> None:
    found = warning(Selector(labels={label: "true", "site": "fra"}))
    assert found is not None
    assert found.startswith(f"{label} looks like a label of a container, which nothing here reads")


@pytest.mark.parametrize("label", ["site", "topology.kubernetes.io/zone", "node.role", "traefik", "cs"])
def test_labels_of_machines_warn_of_nothing(label: str) -> None:
    assert warning(Selector(labels={label: "x"})) is None
