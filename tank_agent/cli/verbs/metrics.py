"""Print the metrics of the agent and its pods, in Prometheus' text format: what GET /metrics answers.

For node-exporter's textfile collector, write it to a file beside its own, and rename that.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

from tank_agent.cli.arguments import add_output, client_of
from tank_agent.cli.output import show
from tank_agent.spec.printable import escape

HELP = "metrics of the agent and its pods, for Prometheus"
EXAMPLES = (
    ("tank metrics", "what Prometheus would read"),
    ("tank metrics -o json", "a list of samples, for a script"),
)
_SAMPLE = re.compile(r"(\w+)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    text = client_of(arguments).metrics()
    return show(arguments, list(_samples(text)), lambda: print(escape(text, keep="\n"), end=""))


def _samples(text: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of a text: name, labels and value; "+Inf" and "NaN" stay texts."""
    for line in text.splitlines():
        found = _SAMPLE.fullmatch(line)
        if found is None:
            continue
        labels = {name: _ESCAPED.sub(_unescaped, value) for name, value in _LABEL.findall(found[2] or "")}
        number = found[3]
        yield {"name": found[1], "labels": labels, "value": _number(number)}


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _number(text: str) -> float | int | str:
    if text.lstrip("-").isdigit():
        return int(text)
    return float(text) if text[-1].isdigit() else text
