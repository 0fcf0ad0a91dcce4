"""The lines below the pods: files that make none here, notifications that do not arrive, no page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tank_agent.api.reports import ElsewherePod, ElsewhereReport, PodReport, SourcesReport

# Reasons that `tank status -a` prints below its rows.
_REASONS = 20


def source_notes(sources: SourcesReport, shown: Sequence[PodReport] = ()) -> Iterator[str]:
    """Yield the lines; `shown` are pods for other machines that have rows already."""
    if shown:
        yield from _reasons(shown)
    elif sources.elsewhere.count:
        yield _elsewhere(sources.elsewhere)
    if sources.overlooked_count:
        yield overlooked(sources.overlooked, sources.overlooked_count)
    for sentence in sources.untold:
        yield f"notifications: {sentence}; see `tank doctor`"
    web = sources.web
    if web is not None and web.error is not None:
        yield f"web: the page is not served: {web.error}; {web.hint or 'see `tank doctor`'}"


def overlooked(files: Sequence[str], count: int) -> str:
    """Return a line on files that look like pod files and are none."""
    more = f" and {count - len(files)} more" if count > len(files) else ""
    verb = "is no pod file" if count == 1 else "are no pod files"
    return f"ignored: {', '.join(files)}{more} {verb}; a pod file's name ends in .toml, in small letters"


def _elsewhere(found: ElsewhereReport) -> str:
    if not found.pods:
        kinds = ", ".join(f"{count} by {by}" for by, count in sorted(found.by.items()))
        return (
            f"elsewhere: {found.count} pods are for other machines than {found.host} ({kinds});"
            " `tank status -a` shows them"
        )
    reasons: dict[str, list[ElsewherePod]] = {}
    for pod in found.pods:
        reasons.setdefault(pod.why, []).append(pod)
    return "elsewhere: " + "; ".join(_group(why, pods) for why, pods in reasons.items())


def _group(why: str, pods: Sequence[ElsewherePod]) -> str:
    advice = next((f" ({pod.warning})" for pod in pods if pod.warning), "")
    return f"{', '.join(pod.name for pod in pods)} - {why}{advice}"


def _reasons(shown: Iterable[PodReport]) -> Iterator[str]:
    """Yield each reason of rows once, with the pods that it is about."""
    reasons: dict[str, list[str]] = {}
    for pod in shown:
        for line in pod.elsewhere[:1]:
            reasons.setdefault(line.partition(": ")[2] or line, []).append(pod.name)
    for why, names in list(reasons.items())[:_REASONS]:
        few = ", ".join(names[:5])
        yield f"elsewhere: {few}{f' and {len(names) - 5} more' if len(names) > 5 else ''} - {why}"
    if len(reasons) > _REASONS:
        yield f"elsewhere: {len(reasons) - _REASONS} more reasons; `tank status NAME` has a pod's own"
