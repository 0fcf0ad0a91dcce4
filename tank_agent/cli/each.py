"""One verb, several things: each is tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

_Thing = TypeVar("_Thing")
_Result = TypeVar("_Result")


def for_each(things: Iterable[_Thing], act: Callable[[_Thing], _Result]) -> tuple[list[_Result], int]:
    """Do it for each, once; return the results and the exit code.

    An error is printed, and does not save the others; only without an agent it is no use to go on.
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
            print_error(error)
            code = error.exit_code
    return results, code
