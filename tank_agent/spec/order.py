"""Circles in what waits for what: the containers of a pod, and the pods of a machine.

A name that the graph has no row for waits for nothing. All takes time proportional to names and edges, and
no recursion, since a thousand containers may wait in one row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

Graph = Mapping[str, Collection[str]]

_SHOWN = 8


def find_cycle(graph: Graph) -> tuple[str, ...] | None:
    """Return a path that ends where it began, such as (a, b, a), or None if there is none."""
    done: set[str] = set()
    for start in graph:
        # The names from `start` to the one that is looked at, each with the rest of what it waits for.
        path: dict[str, Iterator[str]] = {}
        name: str | None = start if start not in done else None
        while name is not None:
            rest = path.setdefault(name, iter(graph.get(name, ())))
            below = next((one for one in rest if one not in done), None)
            if below in path:
                names = list(path)
                return (*names[names.index(below) :], below)
            if below is None:
                done.add(name)
                path.popitem()
                below = next(reversed(path), None)
            name = below
    return None


def circles(graph: Graph) -> Iterator[frozenset[str]]:
    """Yield the sets of names that wait for each other, directly or by way of others (Tarjan's algorithm)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    # Names whose set is not known yet, in the order of their numbers.
    stack: dict[str, None] = {}
    for start in graph:
        path = [(start, iter(graph[start]))] if start not in number else []
        while path:
            name, rest = path[-1]
            if name not in number:
                number[name] = lowest[name] = len(number)
                stack[name] = None
            below = next((one for one in rest if one not in number or one in stack), None)
            if below is not None and below not in number:
                path.append((below, iter(graph.get(below, ()))))
            elif below is not None:
                lowest[name] = min(lowest[name], number[below])
            else:
                path.pop()
                if path:
                    lowest[path[-1][0]] = min(lowest[path[-1][0]], lowest[name])
                if lowest[name] == number[name]:
                    found = frozenset(_taken(stack, name))
                    if len(found) > 1 or name in graph.get(name, ()):
                        yield found


def _taken(stack: dict[str, None], down_to: str) -> Iterator[str]:
    name = ""
    while name != down_to:
        name, _ = stack.popitem()
        yield name


def closed_by(old: Graph, new: Graph) -> dict[str, str]:
    """Return the names whose row of `new` closes a circle that `old` has not, each with the circle as text.

    A circle that `old` has already is nobody's fault here.
    """
    changed = [name for name, row in new.items() if row and not set(row) <= set(old.get(name, ()))]
    found: dict[str, str] = {}
    for circle in circles(new) if changed else ():
        path = find_cycle({name: circle.intersection(new[name]) for name in new if name in circle}) or ()
        for name in sorted(circle.intersection(changed)):
            if not circle.intersection(new[name]) <= set(old.get(name, ())):
                found[name] = cycle_text(path, name)
    return found


def waited_for(name: str, graph: Graph) -> tuple[str, ...]:
    """Return what a name waits for, without what waits for it: a circle that came about holds up nobody."""

    def leads_back(start: str) -> bool:
        seen, waiting = {start}, [start]
        while waiting and name not in seen:
            fresh = set(graph.get(waiting.pop(), ())) - seen
            seen |= fresh
            waiting += fresh
        return name in seen

    return tuple(other for other in graph.get(name, ()) if not leads_back(other))


def cycle_text(cycle: tuple[str, ...], first: str | None = None) -> str:
    """Return a cycle as people read it: "a → b → a", from `first` if that is on it; a long one is cut."""
    if first in cycle:
        at = cycle.index(first)
        cycle = (*cycle[at:-1], *cycle[: at + 1])
    cut = len(cycle) - _SHOWN
    names = cycle if cut <= 1 else (*cycle[: _SHOWN - 1], f"… ({cut} more)", cycle[-1])
    return " → ".join(names)


def in_a_circle(cycle: str) -> str:
    """Return the sentence about a circle for who wrote it."""
    return f"{cycle}: each waits for the next one, so none would start; remove one of these from its after"
