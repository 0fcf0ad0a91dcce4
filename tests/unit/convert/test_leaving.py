"""Every key of a pod file has an answer in every format, and what is lost is said with its line."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

import pytest
from msgspec import Struct

from tank_agent.convert.leaving import Answers, Exported, Leaving
from tank_agent.convert.model import NewPodFile
from tank_agent.convert.written import text_of
from tank_agent.spec.file import PodTable
from tank_agent.spec.keys import keys_of
from tank_agent.spec.lines import find_lines
from tank_agent.spec.model import EVERYWHERE, Selector
from tank_agent.spec.parse import parse_pod_file, pod_from_mapping

FORMATS = ("compose", "quadlet", "kubernetes")


def answers(name: str) -> Answers:
    found: Answers = importlib.import_module(f"tank_agent.convert.{name}.answers").ANSWERS
    return found


def export(name: str, *leaving: Leaving) -> Exported:
    found: Exported = importlib.import_module(f"tank_agent.convert.{name}.write").write(leaving)
    return found


def paths(table: type[Struct], above: str = "") -> Iterator[str]:
    for one in keys_of(table):
        yield f"{above}{one.name}"
        for below in one.tables:
            yield from paths(below, f"{above}{one.name}.")


@pytest.mark.parametrize("name", FORMATS)
def test_every_key_has_an_answer(name: str) -> None:
    """A new key fails here until each format says it, or says why it can't."""
    found = answers(name)
    every = set(paths(PodTable))
    assert every - {*found.said, *found.lost} == set()
    assert {*found.said, *found.lost} - every == set()
    assert not set(found.said) & found.lost.keys()


@pytest.mark.parametrize("name", FORMATS)
def test_a_reason_is_a_sentence(name: str) -> None:
    for reason in answers(name).lost.values():
        assert len(reason.split()) > 1
        assert reason[-1] not in ".;,"


@pytest.mark.parametrize("name", FORMATS)
def test_what_is_lost_has_its_line(name: str) -> None:
    text = (
        'hosts = ["a-*"]\n[[volumes]]\nname = "data"\nsnapshot = true\n'
        '[[containers]]\nname = "app"\nimage = "docker.io/library/app:1"\n'
    )
    (found,) = parse_pod_file(text, "web.toml").pods
    one = Leaving(pod=found.pod, file="web.toml", lines=find_lines(text), selector=found.selector)
    said = [
        str(remark).partition(": ")[0::2] for remark in export(name, one).remarks if remark.kind == "lost"
    ]
    assert [(place, rest.partition(":")[0]) for place, rest in said] == [
        ("web.toml:4", "volumes[0].snapshot"),
        ("web.toml:1", "hosts"),
    ]


def test_a_pod_of_the_agent_has_no_lines() -> None:
    pod = pod_from_mapping(
        {"name": "a", "update": {"max_restarts": 7}, "containers": [{"name": "a", "image": "a"}]}
    )
    one = Leaving(pod=pod, file="pod a", selector=Selector(labels={"x": "y"}))
    keys = [remark.key for remark in export("compose", one).remarks]
    assert keys == ["update.max_restarts", "labels"]
    assert one.selector != EVERYWHERE


@pytest.mark.parametrize("name", FORMATS)
def test_a_plain_pod_loses_nothing(name: str) -> None:
    pod = {"containers": [{"name": "a", "image": "docker.io/library/a:1"}], "network": "bridge"}
    file = NewPodFile(name="a", pod=pod)
    (found,) = parse_pod_file(text_of(file), "a.toml").pods
    made = export(name, Leaving(pod=found.pod, file="a.toml"))
    assert made.remarks == ()
    assert len(made.files) == 1
