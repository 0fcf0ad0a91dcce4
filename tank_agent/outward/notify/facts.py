"""The state of the machine that decisions about notifications need, as far as topics ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from tank_agent.control.pods import Service
from tank_agent.errors import Problem, one_line
from tank_agent.linux.whole_files import BEING_WRITTEN
from tank_agent.outward.notify.memory import Facts, PodFacts, Remembered, SourceFacts
from tank_agent.reconcile.core.phase import Phase, PodView

# Room on the disk of data_dir below which pods can't be trusted to start: this much, or this part of a small
# disk, and so many files. There is room again at twice as much.
_ROOM, _PART, _FILES = 100 << 20, 0.05, 1000
_UNWELL = frozenset((Phase.BACKING_OFF, Phase.FAILED))
_RUNS = frozenset((Phase.RUNNING, Phase.COMPLETED))
# Problems of one file that are told.
_SHOWN = 3


def read_facts(service: Service, memory: Remembered, steady: float) -> Facts:
    """Return the facts for the topics of a memory; a pod is well once it has run for `steady` seconds."""
    topics = memory.topics.values()
    names = {topic.pod for topic in topics if topic.kind in ("failing", "unhealthy")}
    git = service.sources.git
    status = git.repository.status if git is not None else None
    # Kept from before a restart, it says nothing of now.
    looked = status is not None and (status.error is not None or status.state in ("in-sync", "held"))
    return Facts(
        pods={name: found for name in names if (found := _pod(service, name, steady)) is not None},
        sources=_sources(service.journal.problems()),
        sources_read=status is None or (status.error is None and looked),
        git=(status.error or "") if status is not None and looked else None,
        no_room=_no_room(service.settings.data_dir),
    )


def _pod(service: Service, name: str, steady: float) -> PodFacts | None:
    desired = service.journal.get(name)
    if desired is None:
        return None
    now = service.machine.clock.wall()
    rollout = service.journal.status(name).rollout
    is_update = rollout is not None and rollout.kind != "first" and rollout.outcome is None
    view = service.reconciler.view(name)
    excused = view.stopped is not None or view.job is not None
    return pod_facts(view, now, steady, excused=excused, is_update=is_update, revision=desired.revision)


def pod_facts(
    view: PodView, now: float, steady: float, *, excused: bool, is_update: bool, revision: str
) -> PodFacts:
    """Return what a view of a pod says; while an update of it is under way, only that tells how it went."""
    unwell = next((one for one in view.containers if one.phase in _UNWELL or one.error), None)
    bad = unwell is not None or (view.next_retry is not None and view.error is not None)
    error = (unwell.error if unwell is not None else None) or view.error or str(view.phase)
    started = [one.status.started_at for one in view.containers if one.phase is Phase.RUNNING]
    runs = all(one.phase in _RUNS and not one.error for one in view.containers)
    return PodFacts(
        bad=bad and not is_update,
        final=view.phase is Phase.FAILED,
        well=runs and not bad and all(at is not None and now - at >= steady for at in started),
        excused=excused,
        health=view.health,
        error=one_line(error),
        container=unwell.name if unwell is not None else "",
        revision=revision,
    )


def _sources(problems: Iterable[Problem]) -> dict[str, SourceFacts]:
    by_file: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.message != BEING_WRITTEN:
            by_file.setdefault(problem.file, []).append(problem)
    return {file: _of_file(found) for file, found in by_file.items()}


def _of_file(problems: list[Problem]) -> SourceFacts:
    lines = [str(problem) for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        lines.append(f"and {len(problems) - _SHOWN} more")
    pods = {problem.pod for problem in problems}
    return SourceFacts(text="\n".join(lines), pod=(pods.pop() or "") if len(pods) == 1 else "")


def _no_room(directory: Path) -> str | None:
    """Return why a disk counts as full, "" if it has room, and None in between, or if it can't be asked."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return room_of(
        directory, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail
    )


def room_of(directory: Path, free: int, size: int, files: int) -> str | None:
    """Return as `_no_room`, for a disk of `size` bytes of which `free` are; `files` can still be made.

    A file system without a limit on files has 0 or less of them.
    """
    enough = min(_ROOM, size * _PART)
    if free < enough:
        return f"{directory} has {free >> 20} MB left of {size >> 20} MB"
    if 0 < files < _FILES:
        return f"{directory} has room for {files} more files only"
    return "" if free >= 2 * enough and not 0 < files < 2 * _FILES else None
