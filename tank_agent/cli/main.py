"""Entry point of `tank`: runs a verb and turns what it raises into a message and an exit code."""

from __future__ import annotations

import os
import sys

from tank_agent.linux import standard_streams

# Type checkers know this name; to import typing takes longer than all of this module.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# Exit codes besides 0, 1 (failed) and 2 (usage, invalid spec): 128 + the signal, as in a shell.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    standard_streams.restore()
    try:
        code = _run(argv)
        # Flushed inside the try, so that a closed pipe is noticed here and not at exit.
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        standard_streams.give_up_output()
        return _BROKEN_PIPE
    except standard_streams.CannotWrite as failure:
        from tank_agent.cli.output import cannot_write, print_error

        standard_streams.give_up_output()
        print_error(cannot_write(failure.error))
        return 1
    return code


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["complete"]:
        from tank_agent.cli import complete

        return complete.run(words[1:])
    try:
        arguments = parsed(words)
    except SystemExit as end:
        return int(end.code or 0)
    if arguments.version:
        from tank_agent import __version__

        print(f"tank {__version__}")
        return 0
    if not hasattr(arguments, "run"):
        from tank_agent.cli.parser import build

        build([]).print_help(sys.stderr)
        return 2
    try:
        if getattr(arguments, "host", None) or os.environ.get("TANK_HOST"):
            from tank_agent.cli.hosts import settle

            settle(arguments)
        return int(arguments.run(arguments))
    except standard_streams.CannotWrite:
        raise
    except Exception as error:
        # Imported only now, since `tank exec` starts faster without.
        from tank_agent.errors import TankError

        if isinstance(error, OSError) and error.filename is not None:
            # Such as a directory that the user may not read, wherever a verb meets it.
            where = os.fsdecode(error.filename)
            error = TankError(error.strerror or str(error), where=where).with_traceback(error.__traceback__)
        if not isinstance(error, TankError):
            raise error
        if arguments.debug:
            import traceback

            traceback.print_exc()
        from tank_agent.cli.output import print_error

        print_error(error, as_json=getattr(arguments, "output", "") == "json")
        return error.exit_code


def parsed(words: list[str]) -> argparse.Namespace:
    """Parse the words of a command line; a plain `tank exec`, and `tank dial`, without argparse."""
    if words[:1] == ["exec"]:
        from tank_agent.cli.plain_exec import read_plain

        plain = read_plain(words[1:])
        if plain is not None:
            return plain
    if words[:1] == ["dial"]:
        from tank_agent.client.fast.dial import read_dial

        plain = read_dial(words[1:])
        if plain is not None:
            return plain
    from tank_agent.cli.parser import build

    return build(words).parse_args(words)
