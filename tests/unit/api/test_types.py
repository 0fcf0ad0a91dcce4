"""The calls and the service agree, and the JSON that scripts rely on keeps its names."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from types import GenericAlias
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from tank_agent.api import types
from tank_agent.api.reports import ContainerReport, GitReport, PodReport
from tank_agent.api.routes import ROUTES
from tank_agent.api.types import PLAIN, Call
from tank_agent.client.client import Client
from tank_agent.control.by_hand import ByHand
from tank_agent.control.notices import NoNotices
from tank_agent.control.pods import Service

# The parts that the service has under these names.
PARTS = {**get_type_hints(Service.__init__), "by_hand": ByHand, "notices": NoNotices}


def method_of(call: Call[Any]) -> Any:
    part, _, name = call.service.rpartition(".")
    return getattr(PARTS[part] if part else Service, name)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_call_is_a_method_of_the_service_and_of_the_client(name: str) -> None:
    call = PLAIN[name]
    method, stub = method_of(call), getattr(Client, name)
    names = re.findall(r"{(\w+)}", call.path)
    assert [*inspect.signature(stub).parameters] == ["self", *names]
    assert [*inspect.signature(method).parameters] == ["self", *names, *(["by"] if call.changes else [])]
    returned = get_type_hints(method, vars(inspect.getmodule(method)))["return"]
    kind = list if get_origin(returned) is Sequence else get_origin(returned)
    assert (GenericAlias(kind, get_args(returned)) if kind else returned) == call.answer
    assert stub.__doc__


def test_every_call_has_a_handler() -> None:
    declared = {call for call in vars(types).values() if isinstance(call, Call)}
    assert declared | set(PLAIN.values()) == ROUTES.keys()


def test_the_names_of_a_status_stay() -> None:
    """They may get more, and none may be renamed (DESIGN section 8)."""
    pod = "name phase owner revision generation error git hold next_retry addresses usage containers"
    assert set(pod.split()) <= set(PodReport.__struct_fields__)
    container = "name phase pid restarts image progress exit usage"
    assert set(container.split()) <= set(ContainerReport.__struct_fields__)
    git = "state remote ref error hint held commit latest looked_at steps troubles pods"
    assert set(git.split()) <= set(GitReport.__struct_fields__)


def test_a_field_can_be_asked_by_its_name_in_the_json() -> None:
    report = ContainerReport(name="app", phase="running", pid=7, restarts=0, image="i")
    assert (report["pid"], report["exit"]) == (7, None)
    with pytest.raises(KeyError, match="colour"):
        report["colour"]
