"""The public Python API: what `tank_agent` lists, and what its methods answer and raise."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator

import msgspec
import pytest

import tank_agent
from tank_agent import Client
from tank_agent.api import reports, storage, types

METHODS = {
    name: method
    for name, method in inspect.getmembers(Client, inspect.isfunction)
    if not name.startswith("_")
}


def structs_in(kind: object, seen: set[type]) -> Iterator[type]:
    """Yield the structs of a type, and of the fields of each."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        yield kind
        for hint in typing.get_type_hints(kind).values():
            yield from structs_in(hint, seen)
    for argument in typing.get_args(kind):
        yield from structs_in(argument, seen)


def test_all_names_are_there_and_listed() -> None:
    assert dir(tank_agent) == sorted(tank_agent.__all__)
    for name in tank_agent.__all__:
        assert getattr(tank_agent, name) is not None
    assert set(dir(tank_agent)) >= {
        *("Client", "Pod", "InvalidSpec", "PodNotFound", "OwnedElsewhere", "AgentUnreachable", "NotReached"),
        *("Stalled", "Retry", "Problem", "PodReport", "ListedPod", "LogLine"),
    }
    with pytest.raises(AttributeError, match="module 'tank_agent' has no attribute 'Clinet'"):
        getattr(tank_agent, "Clinet")  # noqa: B009 - mypy knows that it is not there


def test_every_struct_of_an_answer_is_public() -> None:
    answers = {
        kind.__name__
        for module in (reports, storage, types)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, reports.ClientAnswer) and kind not in (reports.ClientAnswer, reports.TimedAnswer)
    }
    assert answers <= set(dir(tank_agent))
    seen: set[type] = set()
    for name in answers:
        for kind in structs_in(getattr(tank_agent, name), seen):
            assert inspect.getdoc(kind), kind


@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_a_typed_answer_and_says_what_it_raises(name: str) -> None:
    method = METHODS[name]
    assert "Raises:" in (inspect.getdoc(method) or "")
    answer = inspect.signature(method).return_annotation
    # No answer is a bare dict, or anything.
    assert answer is not inspect.Signature.empty
    assert "dict" not in str(answer) and "Any" not in str(answer)
