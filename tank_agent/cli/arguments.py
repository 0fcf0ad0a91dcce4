"""Arguments that several verbs share: socket, `-o`, actions, directories, durations, several names."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from tank_agent.client.client import Client
    from tank_agent.settings.settings import Settings

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")
# Seconds that live tables stay at least.
_SHORTEST = 0.1
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
Run: TypeAlias = Callable[[argparse.Namespace], int]


def client_of(arguments: argparse.Namespace) -> Client:
    """Return a client for the socket of the command line."""
    from tank_agent.client.client import Client

    return Client(arguments.socket)


def add_output(parser: argparse.ArgumentParser, default: str = "text") -> None:
    """Add `-o`, which chooses between the default form and JSON."""
    text = f"form of the output (default {default})"
    parser.add_argument("-o", "--output", choices=(default, "json"), default=default, help=text)


def add_action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, run: Run, text: str
) -> argparse.ArgumentParser:
    """Add a verb of a verb, such as "ls" of "image", with its help text and `-o`; return its parser."""
    parser = actions.add_parser(name, help=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    add_output(parser)
    return parser


def add_places(parser: argparse.ArgumentParser) -> None:
    """Add the configuration file and the agent's directories, for `load_places`."""
    parser.add_argument(
        "--config", type=Path, metavar="F", help="default /etc/tank/agent.toml, if there is one"
    )
    parser.add_argument("--data-dir", metavar="DIR", help="images, volumes, journal (default /var/lib/tank)")
    parser.add_argument("--run-dir", metavar="DIR", help="socket, state until reboot (default /run/tank)")
    parser.add_argument("--pods-dir", metavar="DIR", help="the pod files (default /etc/tank/pods.d)")


def load_places(arguments: argparse.Namespace, *, with_errors: bool = False) -> Settings:
    """Return the agent's settings, with the directories of the command line over them.

    `with_errors` reads only the directories, as far as the file can be read.

    Raises:
        InvalidSpec: with every problem of the configuration, unless `with_errors`.
    """
    from tank_agent.settings.settings import load_directories, load_settings

    overrides = {key: getattr(arguments, key) for key in ("data_dir", "run_dir", "pods_dir")}
    load = load_directories if with_errors else load_settings
    return load(arguments.config, environ=os.environ, overrides=overrides)


def add_interval(parser: argparse.ArgumentParser) -> None:
    """Add the time between two looks."""
    text = "time between two looks (default 2s)"
    parser.add_argument("--interval", type=_interval, default=2.0, metavar="T", help=text)


def _interval(text: str) -> float:
    seconds = duration(text)
    if seconds < _SHORTEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too short; write {_SHORTEST:g}s or more")
    return seconds


def duration(text: str) -> float:
    """Return the seconds of a duration such as "90s", "1h30m" or "2.5", or raise ArgumentTypeError."""
    from tank_agent.spec.quantities import parse_duration

    try:
        return float(text) if _NUMBER.fullmatch(text) else parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration, such as 90s, 2m or 1h30m") from None


def whole_number(text: str) -> int:
    """Return a whole number from 0 up, or raise ArgumentTypeError."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def add_wait(parser: argparse.ArgumentParser, until: str) -> None:
    """Add --wait, whose help says until when, and --timeout."""
    parser.add_argument("--wait", action="store_true", help=f"until {until}")
    parser.add_argument("--timeout", type=duration, default=60.0, metavar="T", help="of --wait (default 60s)")


def for_each(
    arguments: argparse.Namespace, things: Iterable[_Thing], act: Callable[[_Thing], _Result]
) -> tuple[list[_Result], int]:
    """Apply `act` to each distinct thing, and print its errors; return the results and the exit code.

    With `-o json`, errors are JSON, too.
    """
    from tank_agent.cli.output import print_error
    from tank_agent.errors import AgentUnreachable, TankError

    results = []
    code = 0
    for thing in dict.fromkeys(things):
        try:
            results.append(act(thing))
        except AgentUnreachable:
            raise
        except TankError as error:
            print_error(error, as_json=arguments.output == "json")
            code = error.exit_code
    return results, code
