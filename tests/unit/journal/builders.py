"""Short ways to write pods, declarations and snapshots; imports nothing slow, for child processes."""

from __future__ import annotations

from tank_agent.errors import Problem
from tank_agent.source.snapshot import Declared, Snapshot
from tank_agent.spec.model import Container, Pod, content_hash

DIRECTORY = "/etc/tank/pods.d"


class FakeClock:
    def __init__(self) -> None:
        self.now = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now


def pod(name: str = "web", command: str = "sleep 1") -> Pod:
    container = Container(
        name="app", rootfs="/srv/app", command=tuple(command.split()), env={"B": "2", "A": "1"}
    )
    return Pod(name=name, containers=(container,))


def declared(of: Pod, file: str = "web.toml", source: str = "dir", line: int = 1) -> Declared:
    place = f"{DIRECTORY}/{file}" if source == "dir" else file
    owner = "seed" if source == "seed" else f"{source}:{place}"
    return Declared(pod=of, owner=owner, revision=content_hash(of)[:12], file=place, line=line)


def snapshot(
    *pods: Declared,
    source: str = "dir",
    problems: tuple[Problem, ...] = (),
    unreadable: tuple[str, ...] = (),
    available: bool = True,
) -> Snapshot:
    return Snapshot(
        source=source,
        revision="r",
        pods=pods,
        problems=problems,
        unreadable=frozenset(unreadable),
        available=available,
    )


class Owners:
    """Which files of `dir:` owners, and which repositories, exist: all, unless told."""

    def __init__(self) -> None:
        self.gone: set[str] = set()

    def __call__(self, owner: str) -> bool:
        return owner not in self.gone
