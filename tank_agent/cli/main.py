"""Entry point of `tank`: the table of verbs, and how every verb ends."""

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


class Verb:
    """A row of the table; `usage_code` is the exit code for wrong arguments."""

    def __init__(self, name: str, help: str, usage_code: int = 2) -> None:
        self.name = name
        self.help = help
        self.usage_code = usage_code

    @property
    def module(self) -> str:
        """Return the module that is imported when the verb is used."""
        return f"tank_agent.cli.{self.name}"


VERBS: tuple[Verb, ...] = (
    Verb("list", "the pods, one line each"),
    Verb("status", "how the pods are: phase, containers, restarts, last error, next try"),
    Verb("get", "a pod's spec, as TOML"),
    Verb("apply", "create or replace pods from a TOML file"),
    Verb("delete", "remove pods"),
    Verb("wait", "wait until a pod is in a phase"),
    Verb("exec", "run a command in a container"),
    Verb("attach", "take over the terminal of a container"),
    Verb("logs", "what a pod's containers printed, and with -f what they print"),
    Verb("events", "what happened, and with -f what happens"),
    Verb("history", "the past specs of a pod"),
    Verb("rollback", "give a pod an older spec, and pin it there"),
    Verb("suspend", "leave a pod, or all, as they are, whatever files and git say"),
    Verb("resume", "follow files and git again"),
    Verb("plan", "dry run: what would be done", usage_code=1),
    Verb("image", "the images on this machine: list, fetch, remove, prune them"),
    Verb("volume", "the volumes that the agent keeps: list and remove them"),
    Verb("sync", "look at files and git now, and make it so"),
    Verb("git", "make a repository to push to; how far git is"),
    Verb("validate", "check pod files, without an agent"),
    Verb("schema", "the JSON Schema of a pod file, for editors"),
    Verb("doctor", "is this machine ready, and what is missing"),
    Verb("version", "versions of this program and of the agent"),
    Verb("agent", "run the agent in the foreground; systemd runs this"),
)


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


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the whole command line, or of a command line that begins with the verb `only`."""
    from tank_agent.cli import parser as parsers

    return parsers.build(VERBS, only)


def _run(argv: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _quick(words) or parser(_only(words)).parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    if arguments.version:
        from tank_agent import __version__

        print(f"tank {__version__}")
        return 0
    if not hasattr(arguments, "run"):
        parser().print_help(sys.stderr)
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


def _quick(words: list[str]) -> argparse.Namespace | None:
    """Read a plain `tank exec` without argparse, a third of whose time that takes; None for the rest."""
    if words[:1] != ["exec"]:
        return None
    from tank_agent.cli import exec as verb

    return verb.read_plain(words[1:])


def _only(words: list[str]) -> str | None:
    """Return the verb if it stands first: to make all the others' parsers takes longer than most verbs."""
    return words[0] if words and any(words[0] == verb.name for verb in VERBS) else None
