"""Entry point of `tank`, and how every verb ends."""

from __future__ import annotations

import os
import sys

from tank_agent.linux import standard_streams

# As typing has it, which takes longer to import than all of this.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

# Exit codes beside 0, 1 (failed) and 2 (usage, invalid spec): 128 + the signal, as a shell says it.
_INTERRUPTED = 130
_BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    standard_streams.restore()
    try:
        code = _run(argv)
        # Here and not at exit, so that a reader that went away is noticed inside the try.
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
    try:
        arguments = _plain_exec(words) or _parser(words).parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    if arguments.version:
        from tank_agent import __version__

        print(f"tank {__version__}")
        return 0
    if not hasattr(arguments, "run"):
        _parser([]).print_help(sys.stderr)
        return 2
    try:
        code: int = arguments.run(arguments)
        return code
    except standard_streams.CannotWrite:
        raise
    except Exception as error:
        # Not imported before there is one: `tank exec` starts without.
        from tank_agent.errors import TankError

        if isinstance(error, OSError) and error.filename is not None:
            # Such as a directory that is closed to the user, wherever a verb came upon it.
            where = os.fsdecode(error.filename)
            error = TankError(error.strerror or str(error), where=where).with_traceback(error.__traceback__)
        if not isinstance(error, TankError):
            raise error
        if arguments.debug:
            import traceback

            traceback.print_exc()
        from tank_agent.cli.output import print_error

        print_error(error)
        return error.exit_code


def _plain_exec(words: list[str]) -> argparse.Namespace | None:
    """Read a plain `tank exec` without argparse; None for the rest."""
    if words[:1] != ["exec"]:
        return None
    from tank_agent.cli.plain_exec import read_plain

    return read_plain(words[1:])


def _parser(words: list[str]) -> argparse.ArgumentParser:
    from tank_agent.cli import parser

    return parser.build(words)
