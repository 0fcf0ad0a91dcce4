"""Circles in what waits for what: found if there is one, named with its path, in linear time."""

from __future__ import annotations

import itertools
import sys

from hypothesis import given
from hypothesis import strategies as st

from tank_agent.spec.order import circles, closed_by, cycle_text, find_cycle, waited_for

Graph = dict[str, tuple[str, ...]]
# "z" never has a row: a pod that is not there.
GRAPHS: st.SearchStrategy[Graph] = st.dictionaries(
    st.sampled_from("abcdefg"), st.lists(st.sampled_from("abcdefgz"), max_size=4).map(tuple)
)


def reachable(graph: Graph, start: str) -> set[str]:
    """Return what a name waits for, by the simplest way there is."""
    found: set[str] = set()
    waiting = list(graph.get(start, ()))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph.get(name, ())
    return found


@given(GRAPHS)
def test_a_cycle_is_found_if_there_is_one_and_is_one(graph: Graph) -> None:
    found = find_cycle(graph)
    assert (found is not None) == any(name in reachable(graph, name) for name in graph)
    if found is not None:
        assert found[0] == found[-1]
        assert len(set(found)) == len(found) - 1
        assert all(after in graph[name] for name, after in itertools.pairwise(found))


@given(GRAPHS)
def test_circles_are_the_names_that_wait_for_each_other(graph: Graph) -> None:
    below = {name: reachable(graph, name) for name in graph}
    expected = {
        frozenset(other for other in graph if other in below[name] and name in below[other])
        for name in graph
        if name in below[name]
    }
    found = list(circles(graph))
    assert set(found) == expected
    assert len(found) == len(expected)


@given(GRAPHS, GRAPHS)
def test_whoever_closes_a_circle_is_found_and_nobody_else(old: Graph, new: Graph) -> None:
    closing = closed_by(old, new)
    for name in closing:
        fresh = set(new[name]) - set(old.get(name, ()))
        assert any(name == other or name in reachable(new, other) for other in fresh)
    # Without them, only circles are left that were there before.
    left = {**new, **dict.fromkeys(closing, ())}
    assert not closed_by(old, left)


@given(GRAPHS)
def test_whatever_the_circle_somebody_can_start(graph: Graph) -> None:
    left = {name: waited_for(name, graph) for name in graph}
    assert find_cycle(left) is None
    for name in graph:
        kept = [other for other in graph[name] if name != other and name not in reachable(graph, other)]
        assert list(left[name]) == kept


def test_an_old_circle_is_nobodys_fault() -> None:
    circle: Graph = {"a": ("b",), "b": ("a",)}
    assert closed_by(circle, circle) == {}
    assert closed_by(circle, {**circle, "c": ("a",)}) == {}
    assert closed_by({}, circle) == {"a": "a → b → a", "b": "b → a → b"}
    assert closed_by({"a": ("b",)}, circle) == {"b": "b → a → b"}


def test_a_cycle_reads_from_the_name_that_it_is_told_to() -> None:
    cycle = ("a", "b", "c", "a")
    assert cycle_text(cycle) == "a → b → c → a"
    assert cycle_text(cycle, "c") == "c → a → b → c"
    assert cycle_text(cycle, "x") == "a → b → c → a"
    assert cycle_text(("a", "a"), "a") == "a → a"


def test_a_long_cycle_is_cut() -> None:
    names = [f"p{number}" for number in range(1000)]
    text = cycle_text((*names, "p0"), "p5")
    assert text == "p5 → p6 → p7 → p8 → p9 → p10 → p11 → … (993 more) → p5"
    assert cycle_text((*names[:8], "p0")) == "p0 → p1 → p2 → p3 → p4 → p5 → p6 → p7 → p0"


def test_a_thousand_in_a_row_need_no_recursion_and_linear_time() -> None:
    def lines(count: int) -> int:
        graph = {f"p{number}": (f"p{number + 1}",) for number in range(count)}
        seen = 0

        def count_line(_frame: object, _event: str, _argument: object) -> object:
            nonlocal seen
            seen += 1
            return count_line

        sys.settrace(count_line)
        try:
            assert find_cycle(graph) is None
            assert list(circles(graph)) == []
            assert set(closed_by({}, {**graph, f"p{count - 1}": ("p0",)})) == set(graph)
        finally:
            sys.settrace(None)
        return seen

    assert lines(2000) < 2.5 * lines(1000)
