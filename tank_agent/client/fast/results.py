"""The results of sessions, as plain classes, since `tank exec` imports them, and without typing."""

from __future__ import annotations


class Result:
    """The end of a session; results of one class with the same number are equal."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def status(self) -> int:
        """Return the exit status that a shell would report."""
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, Result) and other._number == self._number

    def __hash__(self) -> int:
        return hash((type(self), self._number))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._number})"


class Exited(Result):
    """The command ended by itself with this exit code."""

    __slots__ = ()
    __match_args__ = ("code",)

    @property
    def code(self) -> int:
        """Return the exit code."""
        return self._number


class Signaled(Result):
    """A signal ended the command; a shell reports 128 and its number."""

    __slots__ = ()
    __match_args__ = ("signal",)

    @property
    def signal(self) -> int:
        """Return the signal's number."""
        return self._number

    @property
    def status(self) -> int:
        """Return the exit status that a shell would report."""
        return 128 + self._number


class Detached(Result):
    """The user detached, and the command continues: nothing has failed."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(0)

    def __repr__(self) -> str:
        return "Detached()"


class OutputLost(OSError):
    """The command ended, and some of its output could not be written here; `result` is its end."""

    def __init__(self, error: OSError, result: Result) -> None:
        super().__init__(error.errno, error.strerror)
        self.result = result
