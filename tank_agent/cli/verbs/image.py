"""The images on this machine: list them, fetch, update, make and remove them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tank_agent.cli.arguments import add_action, client_of, for_each
from tank_agent.cli.output import ago, megabytes, print_table, say, share, show
from tank_agent.spec.printable import escape

if TYPE_CHECKING:
    from tank_agent.api.storage import ImageUpdate, PulledLayer, PullReport, RemovedImages

HELP = "the images on this machine: list, fetch, update, make, remove, prune them"
EXAMPLES = (
    ("tank image ls", "the images, and the pods that need them"),
    ("tank image pull nginx:1.27", "fetch it, with a bar a layer"),
    ("tank image update web", "run a newer image behind its tag"),
    ("tank image busybox", "one that the examples run, without a registry"),
    ("tank image rm nginx:1.26", "one that no pod needs"),
    ("tank image prune", "all that no pod needs"),
)

_DIGEST_SHOWN = 12
# What a narrow terminal does without.
_SPARE = ("LAYERS", "PULLED", "DIGEST", "PODS")
_OVER = ("done", "cached")
_UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    add_action(actions, "ls", _list, "the images, one line each")
    pulling = add_action(actions, "pull", _pull, "fetch images, also newer ones of the same name")
    pulling.add_argument("images", nargs="+", metavar="IMAGE", help="as a pod file names it")
    update = add_action(actions, "update", _update, "look for newer images of pods now, and run them")
    update.add_argument("pods", nargs="+", metavar="NAME", help="a pod")
    update.add_argument("--force", action="store_true", help="also an image that failed in this pod before")
    removal = add_action(actions, "rm", _remove, "remove images that no pod needs")
    removal.add_argument("images", nargs="+", metavar="IMAGE", help="a name or a digest, as `ls` shows them")
    add_action(actions, "prune", _prune, "remove every image that no pod needs")
    making = add_action(
        actions, "busybox", _make, "make an image of this machine's busybox, for the examples"
    )
    making.add_argument("directory", nargs="?", metavar="DIR", help="default /srv/images/busybox")


def _list(arguments: argparse.Namespace) -> int:
    images = client_of(arguments).images()
    rows = (
        (
            # An image without a name is removed by its digest, so this is shown whole.
            image.reference or image.digest,
            image.digest[: len("sha256:") + _DIGEST_SHOWN],
            megabytes(image.size),
            image.layers,
            ago(image.pulled_at),
            ", ".join(image.pods) or "-",
        )
        for image in images
    )
    headers = ("IMAGE", "DIGEST", "SIZE", "LAYERS", "PULLED", "PODS")
    return show(arguments, images, lambda: print_table(headers, rows, spare=_SPARE, cut=("PODS",)))


def _pull(arguments: argparse.Namespace) -> int:
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


def _update(arguments: argparse.Namespace) -> int:
    client = client_of(arguments)

    def update(name: str) -> ImageUpdate:
        if arguments.output == "json":
            return client.update_images(name, force=arguments.force)
        with PullDisplay() as display:
            found = client.update_images(name, force=arguments.force, progress=display.show)
        lines = [
            f"{name}/{one.container}: {one.image} {_short(one.before)} → {_short(one.after)}"
            for one in found.moved
        ]
        if lines and found.stopped:
            lines.append(f"{name} is stopped: this counts once you `tank start {name}`")
        say(*(lines or [f"{name}: already the newest"]))
        return found

    results, code = for_each(arguments, arguments.pods, update)
    show(arguments, results, lambda: None)
    return code


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:_DIGEST_SHOWN] or "nothing"


def _make(arguments: argparse.Namespace) -> int:
    from tank_agent.cli import busybox  # it needs no agent, and nothing else needs it

    reference = busybox.write_busybox(Path(arguments.directory) if arguments.directory else busybox.DIRECTORY)
    return show(arguments, {"reference": reference}, lambda: say(reference))


def _remove(arguments: argparse.Namespace) -> int:
    results, code = for_each(arguments, arguments.images, client_of(arguments).remove_image)
    _show_removed(arguments, results)
    return code


def _prune(arguments: argparse.Namespace) -> int:
    return _show_removed(arguments, [client_of(arguments).prune_images()])


def _show_removed(arguments: argparse.Namespace, results: Sequence[RemovedImages]) -> int:
    names = [name for result in results for name in result.removed]
    freed = sum(result.freed for result in results)
    lines = [f"{name} removed" for name in names] + ([f"{megabytes(freed)} freed"] if results else [])
    return show(arguments, {"removed": names, "freed": freed}, lambda: say(*lines))


class PullDisplay:
    """Prints to stderr, so that a script reads the result alone.

    Layers that are done stay above as lines; below them, redrawn in place, are those under way and a sum.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._printed: set[str] = set()
        self._drawn = 0

    def __enter__(self) -> PullDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        """Erase the live lines; what is printed next stands right below the layers."""
        self._write(self._erased())

    def show(self, progress: PullReport) -> None:
        """Show how far a pull is now."""
        over = (layer for layer in progress.layers if layer.state in _OVER)
        fresh = [layer for layer in over if layer.digest not in self._printed]
        self._printed |= {layer.digest for layer in fresh}
        text = self._erased()
        live = self._live_lines(progress) if self._live and progress.layers else []
        self._drawn = len(live)
        self._write(text + "".join(f"{line}\n" for line in (*map(_layer_line, fresh), *live)))

    def _erased(self) -> str:
        drawn, self._drawn = self._drawn, 0
        return _UP_AND_CLEAR.format(drawn) if drawn else ""

    def _live_lines(self, progress: PullReport) -> list[str]:
        columns, rows = self._size()
        active = [layer for layer in progress.layers if layer.state not in (*_OVER, "waiting")]
        over = sum(layer.state in _OVER for layer in progress.layers)
        total = f"{over} of {len(progress.layers)} layers, {share(progress.done, progress.total)}"
        # A line that wraps or scrolls away could not be erased.
        lines = [*map(_layer_line, active[: max(0, rows - 2)]), total]
        return [line[: columns - 1] for line in lines]

    def _size(self) -> tuple[int, int]:
        try:
            found = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            return 80, 24
        return found.columns or 80, found.lines or 24

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
            self._stream.flush()


def _layer_line(layer: PulledLayer) -> str:
    digest = escape(layer.digest.removeprefix("sha256:")[:_DIGEST_SHOWN])
    if layer.state in _OVER:
        state = "here already" if layer.state == "cached" else "done"
        return f"{digest}  {state:<12} {megabytes(layer.total)}"
    return f"{digest}  {layer.state:<12} {share(layer.done, layer.total)}"
