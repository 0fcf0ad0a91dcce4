"""A plain `tank exec`, from its words to its exit code, without argparse, which takes a third of the time."""

from __future__ import annotations

from tank_agent.client.fast import keys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from tank_agent.client.fast.results import Result

_USAGE = 2
_FLAGS = {"-T": "no_tty", "--no-tty": "no_tty", "--debug": "debug"}
_VALUES = {"--cwd": "cwd", "--socket": "socket", "--detach-keys": "detach_keys"}


def read_plain(words: list[str]) -> argparse.Namespace | None:
    """Return what argparse would make of the words; None if it may find an error in them."""
    from types import SimpleNamespace

    if "--" not in words:
        return None
    cut = words.index("--")
    found = SimpleNamespace(name="", cwd=None, socket=None, env=[], no_tty=False, debug=False)
    found.version, found.detach_keys, found.run, found.command = False, keys.DEFAULT, run, words[cut + 1 :]
    rest = iter(words[:cut])
    for word in rest:
        if word in _FLAGS:
            setattr(found, _FLAGS[word], True)
        elif word in _VALUES or word == "--env":
            value = next(rest, "-")
            if value.startswith("-") or (word == "--env" and value.find("=") < 1):
                return None
            if word == "--env":
                found.env.append(value)
            else:
                setattr(found, _VALUES[word], value)
        elif word.startswith("-") or found.name:
            return None
        else:
            found.name = word
    try:
        keys.parse(found.detach_keys)
    except ValueError:
        return None
    return found if found.name else None  # type: ignore[return-value]


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    import sys

    from tank_agent.client.fast import http
    from tank_agent.client.fast.start import exec_command

    if not arguments.command:
        print("tank exec: no command; write it after --, as in: tank exec web -- ls -l", file=sys.stderr)
        return _USAGE
    given = {"the command": arguments.command, "--env": arguments.env, "--cwd": [arguments.cwd or ""]}
    for what, texts in given.items():
        try:
            "\0".join(texts).encode()
        except UnicodeEncodeError:
            print(f"tank exec: {what} is not valid UTF-8, which a container takes only", file=sys.stderr)
            return _USAGE
    return conclude(
        lambda: exec_command(
            http.socket_path(arguments.socket),
            arguments.name,
            arguments.command,
            cwd=arguments.cwd,
            env=arguments.env,
            tty=False if arguments.no_tty else None,
            detach_keys=arguments.detach_keys,
        )
    )


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
