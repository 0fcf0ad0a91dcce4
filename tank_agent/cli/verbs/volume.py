"""The volumes that the agent keeps below its data_dir. They outlive their pods; only `rm` removes them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_action, client_of, for_each
from tank_agent.cli.output import ago, megabytes, print_table, say, show

if TYPE_CHECKING:
    from tank_agent.api.storage import ManagedVolume, RemovedVolume

HELP = "the volumes that the agent keeps: list, copy, restore and remove them"
EXAMPLES = (
    ("tank volume ls", "the volumes, with size and snapshots"),
    ("tank volume snapshot db/data", "copy it while nothing runs with it"),
    ("tank volume restore db/data 8", "put snapshot 8 in its place"),
    ("tank volume rm db/data@8", "one snapshot"),
    ("tank volume rm db/data", "the volume and its snapshots, for good"),
)
_RUNNING = (
    "also while a container runs with it: files are copied one after the other while it writes to them, so "
    "they may not fit together, not even as after a power cut"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "ls", _list, "the volumes with their snapshots, one line each")
    taking = add_action(actions, "snapshot", _snapshot, "copy volumes that no container runs with")
    taking.add_argument("volumes", nargs="+", metavar="POD/NAME", type=_volume)
    taking.add_argument("--force", action="store_true", help=_RUNNING)
    restoring = add_action(
        actions, "restore", _restore, "put a snapshot in place of a volume; its data is kept"
    )
    restoring.add_argument("volume", metavar="POD/NAME", type=_volume)
    restoring.add_argument("snapshot", metavar="SNAPSHOT", help="what stands after the @ in `ls`")
    removal = add_action(
        actions, "rm", _remove, "remove volumes, with all that is in them and their snapshots"
    )
    removal.add_argument(
        "volumes",
        nargs="+",
        metavar="POD/NAME",
        type=_own_or_shared,
        help="POD/NAME@SNAPSHOT removes one snapshot, and other names that `ls` shows only what they name; "
        "NAME is a volume that pods share",
    )


def _volume(text: str) -> tuple[str, str]:
    pod, slash, name = text.partition("/")
    if not slash:
        message = f"{text!r} is not POD/NAME; a volume that pods share has no snapshots"
        raise argparse.ArgumentTypeError(message)
    if not (pod and name) or "/" in name or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not POD/NAME; `tank volume ls` shows them")
    return pod, name


def _own_or_shared(text: str) -> tuple[str, str]:
    """Return pod and name; the pod of a shared volume is empty."""
    if "/" in text or not text or text.startswith("."):
        return _volume(text)
    return "", text


def _list(arguments: argparse.Namespace) -> int:
    volumes = client_of(arguments).volumes()

    def table() -> None:
        rows = [row for volume in volumes for row in _rows(volume)]
        headers = ("VOLUME", "SIZE", "AGE", "IN USE", "PATH")
        print_table(headers, rows, spare=("PATH", "AGE"), cut=("PATH", "IN USE"))
        if any(row[1] == "-" for row in rows):
            say("Sizes that take long to find out are left out; `du -sh PATH` finds them.")

    return show(arguments, volumes, table)


def _rows(volume: ManagedVolume) -> Iterator[tuple[str, str, str, str, str]]:
    name = _name(volume.pod, volume.name)
    if volume.shared:
        yield name, _size(volume.size), "", ", ".join(volume.pods) or "no", volume.path
    elif not volume.gone:
        yield name, _size(volume.size), "", _yes(volume.in_use), volume.path
    for one in volume.snapshots:
        yield f"{name}@{one.id}", _size(one.size), ago(one.at), _yes(one.in_use), one.path
    for kept in volume.put_aside:
        yield f"{volume.pod}/{kept.name}", _size(kept.size), ago(kept.at), "no", kept.path


def _name(pod: str, name: str) -> str:
    return f"{pod}/{name}" if pod else name


def _size(size: int | None) -> str:
    return "-" if size is None else megabytes(size)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _snapshot(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)

    def take(volume: tuple[str, str]) -> dict[str, object]:
        taken = client.take_snapshot(*volume, force=arguments.force)
        return {"volume": "/".join(volume), "snapshot": taken.id, "size": taken.size, "path": taken.path}

    results, code = for_each(arguments, arguments.volumes, take)
    show(arguments, results, lambda: say(*(f"{one['volume']}@{one['snapshot']}" for one in results)))
    return code


def _restore(arguments: argparse.Namespace) -> int:
    pod, name = arguments.volume
    done = client_of(arguments).restore_volume(pod, name, arguments.snapshot)
    kept = f"; what it had is {pod}/{done.put_aside}" if done.put_aside else ""
    return show(arguments, done, lambda: say(f"{pod}/{name} has the data of {done.snapshot}{kept}"))


def _remove(arguments: argparse.Namespace) -> int:
    from tank_agent.api.types import REMOVE_SHARED_VOLUME, REMOVE_VOLUME

    client = client_of(arguments)

    def remove(volume: tuple[str, str]) -> tuple[str, RemovedVolume]:
        pod, name = volume
        if not pod:
            return name, client.ask(REMOVE_SHARED_VOLUME, {"name": name})
        return _name(pod, name), client.ask(REMOVE_VOLUME, {"pod": pod, "name": name})

    results, code = for_each(arguments, arguments.volumes, remove)
    as_json = [
        {"volume": name, "removed": done.deleted, "snapshots": done.snapshots} for name, done in results
    ]
    show(arguments, as_json, lambda: say(*(_removed(name, done) for name, done in results)))
    return code


def _removed(name: str, done: RemovedVolume) -> str:
    if not done.deleted:
        return f"{name} was not there"
    number = len(done.snapshots)
    more = f" with its {number} snapshots" if number > 1 else " with its snapshot" if number else ""
    return f"{name} removed{more}"
