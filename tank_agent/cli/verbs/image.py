"""The images on this machine: list them, fetch one ahead of time, remove what no pod needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tank_agent.cli.arguments import add_action, client_of, for_each
from tank_agent.cli.output import ago, megabytes, print_table, say, show

if TYPE_CHECKING:
    from tank_agent.api.types import RemovedImages

HELP = "the images on this machine: list, fetch, remove, prune them"

_DIGEST_SHOWN = len("sha256:") + 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "ls", _list, "the images, one line each")
    pulling = add_action(actions, "pull", _pull, "fetch images, also newer ones of the same name")
    pulling.add_argument("images", nargs="+", metavar="IMAGE", help="as a pod file names it")
    removal = add_action(actions, "rm", _remove, "remove images that no pod needs")
    removal.add_argument("images", nargs="+", metavar="IMAGE", help="a name or a digest, as `ls` shows them")
    add_action(actions, "prune", _prune, "remove every image that no pod needs")


def _list(arguments: argparse.Namespace) -> int:
    images = client_of(arguments).images()
    rows = (
        (
            # One without a name is removed by its digest, so that one is shown whole.
            image.reference or image.digest,
            image.digest[:_DIGEST_SHOWN],
            megabytes(image.size),
            image.layers,
            ago(image.pulled_at),
            ", ".join(image.pods) or "-",
        )
        for image in images
    )
    headers = ("IMAGE", "DIGEST", "SIZE", "LAYERS", "PULLED", "PODS")
    return show(arguments, images, lambda: print_table(headers, rows))


def _pull(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.progress import PullDisplay

    client = client_of(arguments)
    pulled = []
    for reference in dict.fromkeys(arguments.images):
        if arguments.output == "json":
            pulled.append(client.pull_image(reference))
        else:
            with PullDisplay() as display:
                image = client.pull_image(reference, progress=display.show)
            say(image.reference if "@" in image.reference else f"{image.reference}@{image.digest}")
    return show(arguments, pulled, lambda: None)


def _remove(arguments: argparse.Namespace) -> int:
    results, code = for_each(arguments.images, client_of(arguments).remove_image)
    _show_removed(arguments, results)
    return code


def _prune(arguments: argparse.Namespace) -> int:
    return _show_removed(arguments, [client_of(arguments).prune_images()])


def _show_removed(arguments: argparse.Namespace, results: Sequence[RemovedImages]) -> int:
    names = [name for result in results for name in result.removed]
    freed = sum(result.freed for result in results)
    lines = [f"{name} removed" for name in names] + ([f"{megabytes(freed)} freed"] if results else [])
    return show(arguments, {"removed": names, "freed": freed}, lambda: say(*lines))
