"""Sentences for `tank why`: how a pod is, in one of them, and what would change it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tank_agent.api.reports import PodReport
from tank_agent.journal.records import Revision
from tank_agent.source.kinds import API, DIRECTORY, GIT
from tank_agent.source.snapshot import source_of

_BACK = ("rolling-back", "rolled-back", "quarantined")
# Phases in which something is under way that ends by itself.
_UNDER_WAY = {
    "pending": "is about to start",
    "pulling": "waits for its image, which is being pulled",
    "starting": "is being started",
    "stopping": "is being stopped",
}


def summary(pod: PodReport, place: str) -> str:
    """Return in one sentence how a pod is; `place` is where it is declared."""
    return next(_summaries(pod, place))


def _summaries(pod: PodReport, place: str) -> Iterator[str]:
    name, update, error = pod.name, pod.rollout, first_line(pod.error)
    if pod.stopped is not None:
        ends = ", and still ends" if pod.phase == "stopping" else ""
        yield f"{name} is stopped since {pod.stopped}{ends}: nothing of it runs until it is started"
    yield from _of_update(pod)
    yield from _of_job(pod)
    if pod.waits:
        yield f"{name} {pod.waits[0]}" if pod.waits[0].startswith("waits ") else f"{name}: {pod.waits[0]}"
    if not pod.generation and error:
        yield f"{name} does not run: {error}"
    if pod.health == "unhealthy":
        sick = [one for one in pod.containers if one.health.state == "unhealthy"]
        told = f": {sick[0].health.message}" if sick and sick[0].health.message else ""
        yield f"{name} is unhealthy: the probe of {', '.join(one.name for one in sick)} fails{told}"
    if pod.phase in ("backing-off", "failed", "degraded"):
        yield f"{name} is {pod.phase}" + (f": {error}" if error else "")
    if pod.phase in _UNDER_WAY:
        yield f"{name} {_UNDER_WAY[pod.phase]}" + (f": {error}" if error else "")
    if error:
        yield f"{name} is {pod.phase}, and something is wrong: {error}"
    if pod.hold is not None:
        yield f"{name} is {pod.phase}, and {pod.hold.kind}: it does not follow {place}"
    state = "completed" if pod.phase == "completed" else "runs"
    proving = update is not None and update.state in ("first", "updating")
    yield f"{name} {state} as {place} says" + (", and has to prove itself still" if proving else "")


def _of_job(pod: PodReport) -> Iterator[str]:
    """Yield the sentence on a job: the run under way, else the last failure, else what is next."""
    name, job = pod.name, pod.job
    if job is None or pod.phase == "stopping":
        return
    if job.run is not None:
        waits = f"; it {pod.waits[0]}" if pod.waits and pod.waits[0].startswith("waits ") else ""
        doing = "is being stopped" if job.run.outcome is not None else f"is {pod.phase}"
        yield f"{name} {doing}: run {job.run.number} goes on since {job.run.begun}{waits}"
        return
    if pod.phase != "scheduled":
        return
    following = f"its next run is {job.next_run}" if job.next_run else "its schedule has no further time"
    last = next((run for run in reversed(job.runs) if run.ended), None)
    if last is not None and last.outcome != "succeeded":
        words = "timed out" if last.outcome == "timed-out" else "failed"
        yield f"run {last.number} of {name} {words}: {last.reason or 'no reason is known'}; {following}"
        return
    how = f"; run {last.number} succeeded" if last is not None else ""
    if not pod.error:
        yield (
            f"{name} waits for its next run, {job.next_run}{how}" if job.next_run else f"{name}: {following}"
        )


def _of_update(pod: PodReport) -> Iterator[str]:
    """Yield the sentence on an update that went wrong, if one did."""
    name, update = pod.name, pod.rollout
    if update is None:
        return
    wanted, running = update.wanted[:12] or "what is wanted", update.running[:12] or "an older revision"
    reason = update.reason or "no reason is known"
    if update.state in _BACK:
        going = "goes back to" if update.state == "rolling-back" else "runs"
        yield f"{name} {going} {running}, since the update to {wanted} failed: {reason}"
    if update.state == "blocked":
        yield f"{name} runs {running}, since the update to {wanted} cannot begin: {reason}"
    if update.state == "failed":
        yield f"{name} is at {wanted}, which failed to prove itself: {reason}"


def unblock(pod: PodReport, place: str) -> tuple[str, ...]:
    """Return what a person can do about a pod, or what it waits for; nothing if all is well."""
    return tuple(dict.fromkeys(_unblocking(pod, place)))


def unblock_broken(pod: PodReport, place: str) -> tuple[str, ...]:
    """Return what a person can do about a pod whose file has never been right."""
    mend = f"mend {place}: it is looked at again once it is saved"
    if "no key of this machine opens it" not in (pod.error or ""):
        return (mend,)
    return (mend, "or give this machine a key that opens it: it is tried again at each resync")


def _unblocking(pod: PodReport, place: str) -> Iterator[str]:
    name, update, hold = pod.name, pod.rollout, pod.hold
    if pod.stopped is not None:
        yield f"`tank start {name}` lets it run again"
    edit = "`tank apply` another spec" if source_of(pod.owner) == API.name else f"edit {place}"
    if update is not None and update.state in _BACK:
        yield f"{edit}: another text is tried at once, the same one never again by itself"
        image = f"a newer image is tried by itself; `tank image update {name}` looks for one now"
        yield f"`tank resume {name}` tries the failed update again" if hold is not None else image
    elif update is not None and update.state == "failed":
        back = f", or `tank rollback {name} REV` to one of `tank history {name}`"
        yield f"{edit}{back if pod.generation > 1 else ''}"
        yield f"`tank logs {name}` shows what it printed"
    elif update is not None and update.state == "blocked":
        yield "make room, or whatever the reason names: it is tried again by itself"
    elif hold is not None:
        alone = f"`tank resume {name}` follows its file again"
        yield alone if hold.since else "`tank resume` follows files and git again"
    yield from _unblocking_job(pod)
    for sentence in pod.waits:
        yield from _of_wait(name, sentence)
    if _has_findings(pod, place):
        yield f"mend {place} where the error says"
    if pod.git is not None and pod.git.state in ("held", "error", "behind") and pod.git.error != pod.error:
        confirm = "`tank sync --confirm` lets the commit through" if pod.git.state == "held" else ""
        yield confirm or "`tank git status` shows how far git is"
    # The containers of a job are told by its runs.
    for one in pod.containers if pod.job is None and pod.stopped is None else ():
        ran = one.exit is not None or one.restarts > 0 or one.phase == "failed"
        if one.health.state == "unhealthy" or (ran and one.phase in ("backing-off", "failed")):
            yield f"`tank logs {name}/{one.name}` shows what it printed"
        if one.phase == "failed":
            yield f"{edit}: it stays down until its spec changes"


def _unblocking_job(pod: PodReport) -> Iterator[str]:
    """Yield what a person can do about a job."""
    name, job = pod.name, pod.job
    if job is None or pod.stopped is not None:
        return
    if job.run is not None:
        yield f"`tank logs {name} -f` follows the run"
        return
    last = next((run for run in reversed(job.runs) if run.ended), None)
    if last is not None and last.outcome != "succeeded":
        yield f"`tank logs {name} --run {last.number}` shows what it printed"
    yield f"`tank run {name}` runs it now"


def _of_wait(pod: str, sentence: str) -> Iterator[str]:
    """Yield what to look at, for a sentence such as "waits for pod db: starting"."""
    _, _, what = sentence.partition("waits for ")
    words = what.partition(":")[0].split()
    if words[:1] == ["pod"] and what.endswith(": stopped"):
        yield f"`tank start {words[-1]}` starts pod {words[-1]}"
    elif words[:1] == ["pod"]:
        yield f"`tank why {words[-1]}` shows why pod {words[-1]} is not ready"
    elif words and words[-2:-1] == ["container"]:
        yield f"`tank logs {pod}/{words[-1]}` shows what container {words[-1]} does"


def _has_findings(pod: PodReport, place: str) -> bool:
    """Return whether an error is about the newer text of the pod's file."""
    file = place.partition(" ")[0]
    return bool(file) and any(line.startswith(f"{file}:") for line in (pod.error or "").splitlines())


def cause_of(revision: Revision, before: Revision | None) -> str:
    """Return in words why a revision came."""
    if revision.restored is not None:
        return f"back to generation {revision.restored}"
    if before is not None and before.pod == revision.pod and before.images != revision.images:
        return "another image behind the same name"
    source = source_of(revision.owner)
    if source == GIT.name:
        author = f" ({revision.author})" if revision.author else ""
        return f"commit {revision.revision[:12]} {revision.subject}{author}".rstrip()
    if source == DIRECTORY.name:
        return "its file changed"
    return "`tank apply`" if source == API.name else "a seed"


def first_line(text: str | None) -> str:
    """Return the first line of an error; its hint stands in a line of its own."""
    return (text or "").partition("\n")[0]


def last_lines(lines: Sequence[str], count: int, size: int) -> tuple[str, ...]:
    """Return the last lines of a text, and of each no more than fits into `size` characters for all."""
    kept: list[str] = []
    for line in reversed(lines[-count:]):
        if size <= 0:
            break
        kept.append(line if len(line) <= size else f"{line[: size - 1]}…")
        size -= len(line) + 1
    return tuple(reversed(kept))
