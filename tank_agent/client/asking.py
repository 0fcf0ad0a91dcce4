"""The way of a call to the agent, and of its answer back; `Client` has the calls."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from tank_agent.api import types
from tank_agent.client.fast import http
from tank_agent.errors import TankError

_T = TypeVar("_T")


class Asking(types.Calls):
    """Sends calls to one agent, whose address it has."""

    def __init__(
        self, socket: str | os.PathLike[str] | None = None, timeout: float = 30.0, *, host: str | None = None
    ) -> None:
        self.address, self._timeout = http.address(socket, host), timeout
        self.socket = Path(self.address)

    def ask(
        self,
        call: types.Call[_T],
        names: Mapping[str, str] = MappingProxyType({}),
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        within: float | None = None,
    ) -> _T:
        """Make a call with the names for the placeholders of its path, and return its answer.

        Raises:
            TankError: what the agent raised, or its answer is not understood.
        """
        path = call.path.format_map({key: http.quote(text) for key, text in names.items()})
        timeout = within or max(self._timeout, call.patience)
        answered = self._ask(call.method, http.with_query(path, query), body, timeout)
        answer = http.whole(answered, self.address)
        try:
            return msgspec.json.decode(answer, type=call.answer)
        except msgspec.DecodeError as error:
            raise TankError(
                f"the agent's answer is not understood: {error}",
                hint="agent and client are of different versions, see `tank version`; restart the agent",
            ) from error

    def _ask(self, method: str, target: str, body: bytes, timeout: float | None) -> http.Answered:
        asked = http.ask(self.address, method, target, body=body, timeout=timeout)
        return asked.answer(expected=200, timeout=timeout)

    def _lines(
        self,
        call: types.Call[_T],
        query: Mapping[str, str],
        timeout: float | None,
        names: Mapping[str, str] = MappingProxyType({}),
    ) -> Iterator[_T]:
        """Yield the answer line by line, as it comes; `timeout` limits the wait for each of them."""
        path = call.path.format_map({key: http.quote(text) for key, text in names.items()})
        answered = self._ask(call.method, http.with_query(path, query), b"", timeout)
        lines = http.lines(answered, self.address)
        yield from map(msgspec.json.Decoder(call.answer).decode, lines)
