"""Print the help of a verb, or of all."""

from __future__ import annotations

import argparse
import os

HELP = "the help of a verb, with examples"
EXAMPLES = (
    ("tank help", "all verbs"),
    ("tank help exec", "what exec takes"),
    ("tank help image pull", "of a verb of a verb"),
)
# Where Debian's package has them.
_MANUALS = "/usr/share/man"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="VERB")


def run(arguments: argparse.Namespace) -> int:
    from tank_agent.cli.parser import build

    words = [*arguments.words, "--help"]
    try:
        build(words).parse_args(words)
    except SystemExit as end:
        code = int(end.code or 0)
        if code == 0 and arguments.words:
            _name_page(arguments.words[0])
        return code
    return 0


def _name_page(verb: str) -> None:
    """Print how to read the manual page of a verb, where it is installed."""
    page = f"man1/tank-{verb}.1" if verb != "agent" else "man8/tank-agent.8"
    if any(os.path.exists(f"{_MANUALS}/{page}{ending}") for ending in ("", ".gz")):
        print(f"\n`man tank-{verb}` is its page.")
