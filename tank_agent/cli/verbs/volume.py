"""The volumes that the agent keeps below its data_dir. They outlive their pods; only `rm` removes them."""

from __future__ import annotations

import argparse

from tank_agent.cli.arguments import add_output, client_of

HELP = "the volumes that the agent keeps: list and remove them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    listing = actions.add_parser("ls", help="the volumes, one line each", allow_abbrev=False)
    add_output(listing, "json")
    removal = actions.add_parser("rm", help="remove volumes, with all that is in them", allow_abbrev=False)
    removal.add_argument("volumes", nargs="+", metavar="POD/NAME", type=_volume)
    add_output(removal, "json")


def _volume(text: str) -> tuple[str, str]:
    pod, slash, name = text.partition("/")
    if not (pod and slash and name) or "/" in name or text.startswith("."):
        raise argparse.ArgumentTypeError(f"{text!r} is not POD/NAME; `tank volume ls` shows them")
    return pod, name


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    return _list(arguments) if arguments.action == "ls" else _remove(arguments)


def _list(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.output import print_json, print_table

    volumes = client_of(arguments).volumes()
    if arguments.output == "json":
        print_json(volumes)
        return 0
    rows = [(f"{one.pod}/{one.name}", "yes" if one.in_use else "no", one.path) for one in volumes]
    print_table(("VOLUME", "IN USE", "PATH"), rows)
    return 0


def _remove(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.each import for_each
    from tank_agent.cli.output import print_json
    from tank_agent.spec.printable import escape

    client = client_of(arguments)

    def remove(volume: tuple[str, str]) -> dict[str, object]:
        return {"volume": "/".join(volume), "removed": client.remove_volume(*volume)}

    results, code = for_each(arguments.volumes, remove)
    if arguments.output == "json":
        print_json(results)
    else:
        for result in results:
            print(f"{escape(str(result['volume']))} {'removed' if result['removed'] else 'was not there'}")
    return code
