"""Show how far a pull is: live on a terminal, else as one line for each layer that is done."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from tank_agent.api.types import PulledLayer, PullReport
from tank_agent.cli.output import megabytes, share
from tank_agent.spec.printable import escape

_OVER = ("done", "cached")
_DIGEST_SHOWN = 12
_UP_AND_CLEAR = "\x1b[{}A\r\x1b[J"


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
        # A line that is wrapped, or scrolled away, could not be erased.
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
