"""How an interactive session can end."""

from __future__ import annotations

from typing import NamedTuple


class Exited(NamedTuple):
    """The command ended by itself with this exit code."""

    code: int

    @property
    def status(self) -> int:
        """Return what a shell would say: the code itself."""
        return self.code


class Signaled(NamedTuple):
    """A signal ended the command."""

    signal: int

    @property
    def status(self) -> int:
        """Return what a shell would say: 128 and the signal's number."""
        return 128 + self.signal


class Detached(NamedTuple):
    """The user left, and the command goes on."""

    @property
    def status(self) -> int:
        """Return 0: nothing has failed."""
        return 0


Result = Exited | Signaled | Detached
