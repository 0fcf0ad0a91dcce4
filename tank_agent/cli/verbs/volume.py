"""The volumes that the agent keeps below its data_dir. They outlive their pods; only `rm` removes them."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_action, client_of, for_each
from tank_agent.cli.output import print_table, say, show

HELP = "the volumes that the agent keeps: list and remove them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "ls", _list, "the volumes, one line each")
    removal = add_action(actions, "rm", _remove, "remove volumes, with all that is in them")
    removal.add_argument("volumes", nargs="+", metavar="POD/NAME", type=_volume)


def _volume(text: str) -> tuple[str, str]:
    pod, slash, name = text.partition("/")
    if not (pod and slash and name) or "/" in name or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not POD/NAME; `tank volume ls` shows them")
    return pod, name


def _list(arguments: argparse.Namespace) -> int:
    volumes = client_of(arguments).volumes()
    rows = ((f"{one.pod}/{one.name}", "yes" if one.in_use else "no", one.path) for one in volumes)
    return show(arguments, volumes, lambda: print_table(("VOLUME", "IN USE", "PATH"), rows))


def _remove(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)

    def remove(volume: tuple[str, str]) -> dict[str, object]:
        return {"volume": "/".join(volume), "removed": client.remove_volume(*volume)}

    results, code = for_each(arguments.volumes, remove)
    lines = (f"{one['volume']} {'removed' if one['removed'] else 'was not there'}" for one in results)
    show(arguments, results, lambda: say(*lines))
    return code
