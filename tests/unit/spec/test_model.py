"""`hosts` and `labels` of a pod file: read, checked, and no part of what runs."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import pytest

from tank_agent.spec.model import EVERYWHERE, Host, Selector, content_hash, selects
from tank_agent.spec.parse import parse_pod_file

POD = '[[containers]]\nname = "app"\nrootfs = "/srv/app"\ncommand = ["/app"]\n'


def test_selectors_stand_beside_the_pod() -> None:
    (plain,) = parse_pod_file(POD, "web.toml").pods
    (chosen,) = parse_pod_file(f'hosts = ["edge-*"]\nlabels = {{ site = "fra" }}\n{POD}', "web.toml").pods
    assert plain.selector == EVERYWHERE
    assert chosen.selector == Selector(hosts=("edge-*",), labels={"site": "fra"})
    assert content_hash(chosen.pod) == content_hash(plain.pod)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('hosts = [""]', 'web.toml:1: hosts[0]: "" matches no host; write a name or a pattern, as in "edge-*"'),
        ('hosts = ["a b"]', 'web.toml:1: hosts[0]: "a b" matches no host; write a name or a pattern, as in "edge-*"'),
        ('labels = { "" = "x" }', 'web.toml:1: labels."": a label needs a name, and has no control characters'),
        ('labels = { a = "\\u0007" }', "web.toml:1: labels.a: a label needs a name, and has no control characters"),
        ('host = ["a"]', "web.toml:1: host: unknown key here; host belongs in [[volumes]] or in [[secrets]]"),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_problem(line: str, expected: str) -> None:
    assert [str(problem) for problem in parse_pod_file(f"{line}\n{POD}", "web.toml").problems] == [expected]


@pytest.mark.parametrize(
    ("hosts", "labels", "expected"),
    [
        ((), {}, True),
        (("edge-*",), {}, True),
        (("EDGE-1",), {}, True),
        (("edge-1.example.com",), {}, True),
        (("core-*", "edge-?"), {}, True),
        (("core-*",), {}, False),
        ((), {"site": "fra"}, True),
        ((), {"site": "f*"}, True),
        ((), {"site": "fra", "tier": "gold"}, False),
        (("edge-*",), {"site": "ber"}, False),
    ],
)
def test_a_host_is_selected_by_name_and_labels(
    hosts: tuple[str, ...], labels: dict[str, str], expected: bool
) -> None:
    host = Host(name="edge-1.example.com", labels={"site": "fra"})
    assert selects(Selector(hosts=hosts, labels=labels), host) == expected
