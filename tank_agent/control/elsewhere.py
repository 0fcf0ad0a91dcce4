"""The pods that files declare for other machines, as answers have them: so that none is missed in silence."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from tank_agent.api import reports
from tank_agent.journal.journal import Journal
from tank_agent.reconcile.core.phase import Phase
from tank_agent.source.snapshot import Elsewhere
from tank_agent.spec.selection import machines, warning

# A fleet's repository has thousands; so many are named, and the others counted.
NAMED = 5
# Files of one name that a message shows.
_FILES = 3

Declared = Mapping[str, Sequence[Elsewhere]]


def not_here(found: Iterable[Elsewhere], here: Container[str]) -> dict[str, list[Elsewhere]]:
    """Return the declarations by the names of their pods, without those of pods that are here as well."""
    by_name: dict[str, list[Elsewhere]] = {}
    for one in found:
        if one.name not in here:
            by_name.setdefault(one.name, []).append(one)
    return by_name


def of_journal(journal: Journal, here: Container[str]) -> dict[str, list[Elsewhere]]:
    """Return those of all sources, by name; `here` are the names of the pods of this machine."""
    return not_here((one for found in journal.elsewhere().values() for one in found), here)


def summary(declared: Declared, host: str) -> reports.ElsewhereReport:
    """Return how many pods are for other machines than `host`, by which selectors, and the first of them."""
    counts: dict[str, int] = {}
    for found in declared.values():
        counts[found[0].by] = counts.get(found[0].by, 0) + 1
    few = sorted(declared) if len(declared) <= NAMED else []
    return reports.ElsewhereReport(
        host=host,
        count=len(declared),
        by=counts,
        pods=tuple(_pod(declared[name][0]) for name in few),
    )


def _pod(one: Elsewhere) -> reports.ElsewherePod:
    return reports.ElsewherePod(
        name=one.name, file=one.file, line=one.line, why=one.why, warning=warning(one.selector)
    )


def pod_report(name: str, found: Sequence[Elsewhere]) -> reports.PodReport:
    """Return the status of a pod that files declare for other machines only."""
    warnings = {text: None for one in found if (text := warning(one.selector))}
    return reports.PodReport(
        name=name,
        phase=str(Phase.ELSEWHERE),
        owner=found[0].owner,
        elsewhere=tuple(_texts(found)),
        warnings=tuple(warnings),
    )


def lines(declared: Declared) -> tuple[str, ...]:
    """Return a line `file:line: pod: why` on each of the first pods, and how many there are beside them."""
    told = [
        f"{one.place}: {name} is for other machines: {one.why}"
        for name in sorted(declared)[:NAMED]
        for one in declared[name][:_FILES]
    ]
    more = len(declared) - NAMED
    return (*told, *([f"{more} more pods are for other machines"] if more > 0 else []))


def _texts(found: Sequence[Elsewhere]) -> list[str]:
    more = len(found) - _FILES
    return [*map(str, found[:_FILES]), *([f"and {more} more files"] if more > 0 else [])]


def hint(name: str, found: Sequence[Elsewhere]) -> str:
    """Return a hint for somebody who asks for a pod that is for other machines only."""
    return f"{found[0].file} declares it for {machines(found[0].selector)}, and this machine is none of these"
