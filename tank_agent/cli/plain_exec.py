"""A plain `tank exec`, from its words to its exit code, without argparse, which takes a third of the time."""

from __future__ import annotations

import os

from tank_agent.client.fast import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tank_agent.client.fast.http import Asked
    from tank_agent.client.fast.results import Result

_FAILED, _USAGE = 1, 2
_FLAGS: dict[str, tuple[str, bool]] = {
    **dict.fromkeys(("-i", "--interactive"), ("interactive", True)),
    **dict.fromkeys(("-t", "--tty"), ("tty", True)),
    **dict.fromkeys(("-T", "--no-tty"), ("tty", False)),
    "--debug": ("debug", True),
}
_VALUES = {
    **dict.fromkeys(("--cwd", "-w", "--workdir"), "cwd"),
    **dict.fromkeys(("-c", "--container"), "container"),
    **dict.fromkeys(("-e", "--env"), "env"),
    "--socket": "socket",
    "--host": "host",
    "--detach-keys": "detach_keys",
}


def read_plain(words: list[str]) -> argparse.Namespace | None:
    """Return what argparse would make of the words; None if it may find an error in them."""
    from types import SimpleNamespace

    found = SimpleNamespace(
        name="", container=None, cwd=None, socket=None, env=[], tty=None, interactive=False
    )
    found.debug = found.version = False
    found.verb, found.host = "exec", None
    found.detach_keys, found.wait, found.run, found.command = keys.DEFAULT, None, run, []
    rest = iter(words)
    for word in rest:
        if word == "--":
            if not found.name:
                return None
            found.command = [*rest]
        elif word in _VALUES:
            value, field = next(rest, "-"), _VALUES[word]
            if value.startswith("-") or (field == "env" and value.find("=") < 1):
                return None
            if field in ("env", "host"):
                setattr(found, field, [*(getattr(found, field) or ()), value])
            else:
                setattr(found, field, value)
        elif word.startswith("-") and word != "-":
            flags = _flags(word)
            if flags is None:
                return None
            for field, on in flags:
                setattr(found, field, on)
        elif not found.name:
            found.name = word
        else:
            found.command = [word, *rest]
    return found if found.name and _are_keys(found.detach_keys) else None  # type: ignore[return-value]


def _are_keys(text: str) -> bool:
    try:
        keys.parse(text)
    except ValueError:
        return False
    return True


def _flags(word: str) -> list[tuple[str, bool]] | None:
    """Return the fields that "-it" or "--tty" sets, each with its value; None if one is unknown."""
    words = [word] if word.startswith("--") else [f"-{letter}" for letter in word[1:]]
    return [_FLAGS[flag] for flag in words] if all(flag in _FLAGS for flag in words) else None


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    import sys

    from tank_agent.client.fast import http
    from tank_agent.client.fast.start import exec_command

    if not arguments.command:
        text = "no command; write it behind the name, as in: tank exec web ls -l"
        print(f"tank exec: {text}", file=sys.stderr)
        return _USAGE
    given = {"the command": arguments.command, "--env": arguments.env, "--cwd": [arguments.cwd or ""]}
    for what, texts in given.items():
        try:
            "\0".join(texts).encode()
        except UnicodeEncodeError:
            print(f"tank exec: {what} is not valid UTF-8, which a container takes only", file=sys.stderr)
            return _USAGE
    name = target(arguments, "exec")
    if isinstance(name, int):
        return name
    tty = arguments.tty
    if tty is None and arguments.interactive:
        # As docker has it: -i alone joins the streams, and is no terminal.
        tty = False
    path = http.socket_path(arguments.socket)
    return conclude(
        lambda: exec_command(
            path,
            name,
            arguments.command,
            cwd=arguments.cwd,
            env=arguments.env,
            tty=tty,
            detach_keys=arguments.detach_keys,
            wait=arguments.wait,
            slow=lambda asked: tell(path, name, asked),
        )
    )


def target(arguments: argparse.Namespace, verb: str) -> str | int:
    """Return POD or POD/CONTAINER; an exit code if -c or -t are wrong, after saying so."""
    import sys

    name: str = arguments.name
    if arguments.tty and not os.isatty(0):
        text = "-t: standard input is not a terminal; leave -t away, and what is piped in is passed on"
        print(f"tank {verb}: {text}", file=sys.stderr)
        return _FAILED
    if arguments.container is None:
        return name
    if "/" in name:
        print(f"tank {verb}: {name!a} names a container already; leave -c away", file=sys.stderr)
        return _USAGE
    return f"{name}/{arguments.container}"


def tell(path: str, name: str, asked: Asked) -> None:
    """Tell on stderr what a session waits for, until its answer comes."""
    import sys

    from tank_agent.client.waiting import tell_what
    from tank_agent.spec.printable import escape

    tell_what(path, name, asked, lambda line: print(escape(line), file=sys.stderr, flush=True))


def conclude(session: Callable[[], Result]) -> int:
    """Run a session, print if the user left it or if output was lost, and return the exit code."""
    from tank_agent.client.fast.results import Detached, OutputLost

    try:
        result = session()
    except OutputLost as lost:
        from tank_agent.cli.output import cannot_write, print_error

        print_error(cannot_write(lost))
        # Even if the command succeeded: its output is lost.
        return lost.result.status or 1
    if isinstance(result, Detached):
        print("detached")
    return result.status
