"""The answer to `tank why`: one pod, from its file to its last log lines; also one that is not here."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from tank_agent.api import reports, types
from tank_agent.control import explain
from tank_agent.control.sessions import LogQuery, Sessions
from tank_agent.control.sources import Sources
from tank_agent.control.status import Statuses
from tank_agent.errors import PodNotFound, TankError
from tank_agent.journal.records import DesiredPod, PodStatus, Revision
from tank_agent.linux.clock import rfc3339
from tank_agent.linux.whole_files import Unusable, beside_directory
from tank_agent.reconcile.core.changes import changes
from tank_agent.reconcile.core.content_changes import KeyChange
from tank_agent.reconcile.core.rollout_view import RolloutState, unwanted, view_rollout
from tank_agent.reconcile.reconciler import Reconciler
from tank_agent.source.files import PodFiles, parse_bytes, read_file
from tank_agent.source.kinds import BY_NAME, DIRECTORY, GIT, describe
from tank_agent.source.snapshot import place_of, source_of
from tank_agent.spec.model import Pod, Selector
from tank_agent.spec.parse import parse_pod_file
from tank_agent.spec.places import PodPlace
from tank_agent.spec.selection import machines, mismatch, warning

_CHANGES = 5
_EVENTS = 5
_LOG_LINES, _LOG_SIZE = 10, 4096
# Lines among which those before a verdict are looked for.
_LOG_TAIL = 500
# Seconds that a look at the repository may take that another one must end for.
_PATIENCE = 3.0
_VALUE = 200
_PROVING = (RolloutState.FIRST, RolloutState.UPDATING, RolloutState.BLOCKED)


@dataclass(eq=False)
class Why:
    """Explains pods. All methods may be called from many threads."""

    reconciler: Reconciler
    statuses: Statuses
    sources: Sources
    sessions: Sessions

    def __post_init__(self) -> None:
        self.journal = self.statuses.journal

    def of(self, name: str) -> reports.WhyReport:
        """Explain a pod, or a name that no pod has now.

        Raises:
            PodNotFound: no file, no history and no container has that name.
        """
        if self.reconciler.knows(name):
            return self._known(name)
        broken = self.statuses.broken_files(set(self.reconciler.known_pods())).get(name)
        past = self._past(name)
        if broken is not None:
            place = describe(broken.owner)
            return replace(
                past,
                summary=explain.summary(broken, place),
                status=broken,
                file=place_of(broken.owner),
                unblock=explain.unblock_broken(broken, place),
            )
        elsewhere = self._elsewhere(name)
        if elsewhere is not None:
            file, selector = elsewhere
            summary, what = (
                f"{name} is declared in {file}, and not here yet",
                "`tank sync` looks at files now",
            )
            not_here = mismatch(selector, self.sources.host)
            if not_here is None:
                return replace(past, summary=summary, file=file, unblock=(what,))
            here, advice = self.sources.host.name, warning(selector)
            return replace(
                past,
                summary=f"{name} is not meant for this machine ({here}), but for {machines(selector)}",
                file=file,
                elsewhere=(not_here.why, *([advice] if advice else [])),
                unblock=(f"edit `hosts` and `labels` in {file}, or [labels] of agent.toml",),
            )
        if not past.changes and not past.events:
            raise self._unknown(name)
        when = f", {past.events[-1].at}: {past.events[-1].message}" if past.events else ""
        again = f"declare it again; `tank history {name}` has the specs that it had"
        return replace(past, summary=f"there is no pod {name} any more{when}", unblock=(again,))

    def _known(self, name: str) -> reports.WhyReport:
        desired, status = self.journal.get(name), self.journal.status(name)
        report, past = self.statuses.of(name), self._past(name)
        if desired is None:
            until = (f"`tank delete {name}` ends it",) if report.phase != "stopping" else ()
            summary = f"{name} is {report.phase}, and nothing declares it"
            return replace(past, summary=summary, status=report, unblock=until)
        view = view_rollout(desired, status)
        wanted = self._wanted(desired, status)
        runs = self._runs(desired, status)
        text = self._text(desired, view.wanted)
        file = place_of(desired.owner)
        place = PodPlace(text, file, name) if text is not None else None
        differing = changes(runs, wanted) if runs is not None and wanted is not None else ()
        where = describe(desired.owner)
        container, lines = self._log(report, status, desired)
        return replace(
            past,
            summary=explain.summary(report, where),
            status=report,
            file=file,
            line=place.line if place is not None else 0,
            commit=view.wanted,
            wanted=tuple(_field(change, file, place) for change in differing),
            log_of=container,
            log=lines,
            unblock=explain.unblock(report, where),
        )

    def _past(self, name: str) -> reports.WhyReport:
        """Return what is known of a name without its present state."""
        kept = self.journal.history(name)
        events = self.journal.last_events(name, _EVENTS)
        pairs = list(zip([None, *kept], kept, strict=False))[-_CHANGES:]
        return reports.WhyReport(
            name=name,
            summary="",
            changes=tuple(_change(revision, before) for before, revision in pairs),
            events=tuple(types.shown(event, reports.HappenedReport) for event in events),
        )

    def _wanted(self, desired: DesiredPod, status: PodStatus) -> Pod | None:
        """Return the spec that a pod's source wants, as far as it is known."""
        hold, kept = desired.hold, self.journal.history(desired.name)
        bad = unwanted(desired, status)
        if bad is not None:
            return next((old.pod for old in kept if old.generation == bad.generation), desired.pod)
        if hold is None:
            return desired.pod
        declared = next(
            (old.pod for old in reversed(kept) if hold.declared and old.hash == hold.declared), None
        )
        return declared or self._declared(desired)

    def _declared(self, desired: DesiredPod) -> Pod | None:
        """Return the spec in the present text of a file, if that is valid."""
        text = self._text(desired, desired.revision) if source_of(desired.owner) == DIRECTORY.name else None
        beside = beside_directory(Path(desired.file).parent)
        found = parse_pod_file(text, desired.file, beside=beside).pods if text is not None else ()
        return next((one.pod for one in found if one.pod.name == desired.name), None)

    def _runs(self, desired: DesiredPod, status: PodStatus) -> Pod | None:
        """Return the spec whose containers run; in an update's wait, that of the last good revision."""
        view, generation = view_rollout(desired, status), desired.generation
        if view.state in _PROVING and status.good is not None:
            generation = status.good.generation
        found = self.journal.revision(desired.name, generation)
        return found.pod if found is not None else desired.pod

    def _text(self, desired: DesiredPod, revision: str) -> str | None:
        """Return the text of the file that declares a pod; None if there is none, or it can't be read."""
        source, file = source_of(desired.owner), place_of(desired.owner)
        data: bytes | None = None
        if source == DIRECTORY.name:
            data = _read(Path(file))
        elif source == GIT.name and self.sources.git is not None:
            data = self.sources.git.repository.text(revision, file, _PATIENCE)
        return None if data is None else data.decode(errors="replace")

    def _log(
        self, report: reports.PodReport, status: PodStatus, desired: DesiredPod
    ) -> tuple[str, tuple[str, ...]]:
        """Return the container that explains most, and the last lines of its output.

        After a failed update, these are the last ones before its verdict.
        """
        names = [one.name for one in sorted(report.containers, key=_wellness)]
        bad = unwanted(desired, status)
        if not names:
            return "", ()
        until = rfc3339(bad.at) if bad is not None else None
        return names[0], self._lines(report.name, names[0], until)

    def _lines(self, pod: str, container: str, until: str | None) -> tuple[str, ...]:
        query = LogQuery(tail=_LOG_LINES if until is None else _LOG_TAIL)
        found: list[str] = []
        with contextlib.suppress(TankError, OSError):
            _, pieces = self.sessions.logs(pod, container, query, lambda: False)
            for line in b"".join(pieces).splitlines():
                parts = line.split(b" ", 4)
                # To the second, in which the times of both are text that sorts.
                early = until is None or parts[0].decode("ascii", "replace")[:19] <= until[:19]
                if len(parts) == 5 and early:
                    found.append(parts[4].decode(errors="replace"))
        return explain.last_lines(found, _LOG_LINES, _LOG_SIZE)

    def _elsewhere(self, name: str) -> tuple[str, Selector] | None:
        """Return the file that declares a pod for other machines only, and for which ones."""
        place = self.sources.places.get(DIRECTORY.name)
        if place is not None:
            with contextlib.suppress(OSError):
                files = PodFiles(Path(place), parse_bytes).list().files.values()
                found = ((file.file, one) for file in files for one in file.pods if one.pod.name == name)
                for path, declared in found:
                    return path, declared.selector
        git = self.sources.git
        return git.repository.declaring(name) if git is not None else None

    def _unknown(self, name: str) -> PodNotFound:
        close = difflib.get_close_matches(name, self.reconciler.known_pods(), 1)
        looked = [BY_NAME[kind].called for kind in self.sources.places if kind in BY_NAME]
        looked += [GIT.called] if self.sources.git is not None else []
        where = f", and {' and '.join(looked)} declare none" if looked else ""
        hint = f"did you mean {close[0]}? " if close else ""
        return PodNotFound(f"there is no pod {name}{where}", hint=f"{hint}`tank list` shows all")


def _wellness(container: reports.ContainerReport) -> tuple[bool, bool, bool]:
    """Return the order in which containers explain a pod: first those that are unwell."""
    end = container.exit
    return (
        container.phase not in ("failed", "backing-off", "degraded"),
        container.health.state != "unhealthy",
        end is None or (end.code == 0 and end.signal is None),
    )


def _read(file: Path) -> bytes | None:
    """Return the bytes of a pod file as its source reads it; None if it can't be read now."""
    with contextlib.suppress(OSError):
        directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = read_file(directory, file.name)
        finally:
            os.close(directory)
        return None if found is None or isinstance(found, Unusable) else found.data
    return None


def _field(change: KeyChange, file: str, place: PodPlace | None) -> reports.WantedReport:
    """Return a field that differs; the values of variables and headers may be secret."""
    shown: Callable[[str], str] = _cut
    if ".env." in change.key or ".headers." in change.key:
        shown = _hidden
    return reports.WantedReport(
        key=change.key,
        old=shown(change.old),
        new=shown(change.new),
        effect=change.effect,
        file=file,
        line=place.line_of(change.key) if place is not None else 0,
    )


def _cut(text: str) -> str:
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 1]}…"


def _hidden(text: str) -> str:
    return text if text == "none" else "set"


def _change(revision: Revision, before: Revision | None) -> reports.ChangeReport:
    verdict = revision.verdict
    return reports.ChangeReport(
        generation=revision.generation,
        at=rfc3339(revision.changed_at),
        revision=revision.revision,
        cause=explain.cause_of(revision, before),
        outcome=verdict.outcome if verdict is not None else None,
        reason=(verdict.reason or None) if verdict is not None else None,
        proof=verdict.proof if verdict is not None else "",
        by=revision.by,
    )
