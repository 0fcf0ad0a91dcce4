"""Names for the shells' completions: `tank complete KIND WORDS...`, one a line, for scripts that we generate.

No verb, so that no help lists it. It prints what there is and no errors, without an agent nothing, and ends
within a second: whoever presses Tab wants the line back. What stands behind a tab tells of the name.
"""

from __future__ import annotations

import os

# As typing has it, which takes as long to import as what is asked for takes to come.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Any

# Seconds.
DEADLINE = 1.0
_SHORT = 12


def run(words: list[str]) -> int:
    """Print the names of a kind that fit into a command line, whose words follow; the last is at the cursor.

    An unknown kind has no names, so that scripts of another version stay silent, too.
    """
    # signal takes ten times as long.
    import _signal  # type: ignore[import-not-found]

    before = _signal.signal(_signal.SIGALRM, _give_up)
    _signal.setitimer(_signal.ITIMER_REAL, DEADLINE)
    try:
        _print(words)
    finally:
        _signal.setitimer(_signal.ITIMER_REAL, 0)
        _signal.signal(_signal.SIGALRM, before)
    return 0


def _print(words: list[str]) -> None:
    names = _KINDS.get(words[0]) if words else None
    if names is None or len(words) == 1 or _is_elsewhere(words):
        return
    from tank_agent.errors import TankError

    try:
        found = list(names(_Line(words[1:])))
    except (TankError, OSError, ValueError):
        return
    if found:
        from tank_agent.spec.printable import escape

        lines = ("\t".join(escape(text.replace("\t", " ")) for text in one if text) for one in found)
        os.write(1, "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def _give_up(number: int, frame: FrameType | None) -> None:
    # Not by the signal's default: an interactive shell would print "Alarm clock" into the line.
    os._exit(0)


def _is_elsewhere(words: list[str]) -> bool:
    """Return whether another machine is meant, of which this one knows no names."""
    told = any(word == "--host" or word.startswith("--host=") for word in words[1:-1])
    # `tank plan --host` asks no other machine.
    return words[1] != "plan" and (told or bool(os.environ.get("TANK_HOST")))


class _Line:
    """A command line without its first word, and what the agent says for it."""

    def __init__(self, words: list[str]) -> None:
        self.before = words[:-1]
        self.current = words[-1]

    def ask(self, target: str) -> Any:
        """Return the agent's answer to a GET.

        Raises:
            TankError: there is none.
            ValueError: it is no JSON.
        """
        import json

        from tank_agent.client.fast import http

        given = [self.before[at + 1] for at in range(len(self.before) - 1) if self.before[at] == "--socket"]
        given += [word.partition("=")[2] for word in self.before if word.startswith("--socket=")]
        path = http.socket_path(given[-1] if given else None)
        answered = http.ask(path, "GET", target, timeout=DEADLINE).answer(expected=200, timeout=DEADLINE)
        return json.loads(http.whole(answered, path))

    def pods(self) -> list[dict[str, Any]]:
        """Return the desired pods."""
        return list(self.ask("/v1/pods"))

    def named(self) -> list[dict[str, Any]]:
        """Return the pods that stand on the line."""
        words = {word.partition("/")[0].partition(":")[0] for word in self.before[1:]}
        return [pod for pod in self.pods() if pod["name"] in words]


def _pods(line: _Line) -> Iterable[tuple[str, ...]]:
    return ((pod["name"],) for pod in line.pods())


def _jobs(line: _Line) -> Iterable[tuple[str, ...]]:
    for pod in line.pods():
        if pod["pod"].get("schedule"):
            yield pod["name"], pod["pod"]["schedule"]["cron"]


def _targets(line: _Line, end: str = "") -> Iterable[tuple[str, ...]]:
    """Yield pods; behind POD/, and for the only pod that is left, its containers as well."""
    fitting = [pod for pod in line.pods() if f"{pod['name']}/".startswith(line.current.partition("/")[0])]
    for pod in fitting:
        containers = pod["pod"]["containers"]
        if "/" not in line.current:
            yield (f"{pod['name']}{end}",)
        if line.current.startswith(f"{pod['name']}/") or (len(fitting) == 1 and len(containers) > 1):
            yield from ((f"{pod['name']}/{one['name']}{end}", one["image"]) for one in containers)


def _copies(line: _Line) -> Iterable[tuple[str, ...]]:
    """Yield the beginnings of paths in containers; what stands behind the colon nobody here knows."""
    return () if ":" in line.current else _targets(line, ":")


def _containers(line: _Line) -> Iterable[tuple[str, ...]]:
    return ((one["name"], one["image"]) for pod in line.named() for one in pod["pod"]["containers"])


def _images(line: _Line) -> Iterable[tuple[str, ...]]:
    for image in line.ask("/v1/images"):
        yield image["reference"] or image["digest"], ", ".join(image.get("pods", ()))


def _volumes(line: _Line) -> Iterable[tuple[str, ...]]:
    """Yield volumes; of one with an @, its snapshots and what was put aside."""
    for volume in line.ask("/v1/volumes"):
        name = f"{volume['pod']}/{volume['name']}" if volume.get("pod") else volume["name"]
        if "@" not in line.current:
            yield (name,)
        elif line.current.startswith(f"{name}@"):
            yield from ((f"{name}@{one['id']}", one["at"]) for one in volume.get("snapshots", ()))


def _snapshots(line: _Line) -> Iterable[tuple[str, ...]]:
    for volume in line.ask("/v1/volumes"):
        if f"{volume.get('pod')}/{volume['name']}" in line.before[2:]:
            yield from ((one["id"], one["at"]) for one in volume.get("snapshots", ()))


def _revisions(line: _Line) -> Iterable[tuple[str, ...]]:
    """Yield the generations of the pod on the line, newest first; to confirm, the commit that waits."""
    if line.before[-1] == "--confirm" or line.current.startswith("--confirm="):
        git = line.ask("/v1/sources").get("git") or {}
        if git.get("held") and git.get("latest"):
            yield git["latest"]["id"], git["latest"].get("subject", "")
        return
    from tank_agent.client.fast.http import quote

    for pod in line.named():
        for one in reversed(line.ask(f"/v1/pods/{quote(pod['name'])}/history")):
            told = f"{one.get('revision', '')[:_SHORT]} {one.get('subject', '')}"
            yield str(one["generation"]), told.strip()


_KINDS: dict[str, Callable[[_Line], Iterable[tuple[str, ...]]]] = {
    "pods": _pods,
    "jobs": _jobs,
    "targets": _targets,
    "copies": _copies,
    "containers": _containers,
    "images": _images,
    "volumes": _volumes,
    "snapshots": _snapshots,
    "revisions": _revisions,
}
