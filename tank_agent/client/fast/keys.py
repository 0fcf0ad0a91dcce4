"""The keys that detach from a session: found in the input, without holding other keys back for long."""

from __future__ import annotations

DEFAULT = "ctrl-p,ctrl-q"
# Seconds for which the beginning of the sequence is held until it is passed on. So the keys arrive within the
# promised 0.4 s, also on a busy machine.
HOLD = 0.3
# For Ctrl and a key, a terminal sends the key's character without its upper three bits.
_CONTROL = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse(text: str) -> bytes:
    """Return the bytes of "ctrl-p,ctrl-q", "ctrl-a,d" and the like; none for "none" or an empty text.

    Raises:
        ValueError: with a sentence about the mistake.
    """
    if text in ("", "none"):
        return b""
    return bytes(_byte(key) for key in text.split(","))


def _byte(key: str) -> int:
    name = key.lower()
    if name.startswith("ctrl-") and len(name) == len("ctrl-x") and name[-1] in _CONTROL:
        return _CONTROL.index(name[-1])
    if len(key) == 1 and key.isascii() and key.isprintable():
        return ord(key)
    raise ValueError(
        f"{key!r} is not a key; write one character or ctrl- and one of a-z @ [ \\ ] ^ _, with commas between"
    )


class DetachKeys:
    """Looks for the sequence in the input; `held` is its beginning, as far as it was typed."""

    def __init__(self, sequence: bytes) -> None:
        self._sequence = sequence
        self.held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """Return the keys to pass on now, and whether the sequence was typed."""
        if not self._sequence:
            return typed, False
        seen = self.held + typed
        at = seen.find(self._sequence)
        if at >= 0:
            self.held = b""
            return seen[:at], True
        length = min(len(self._sequence) - 1, len(seen))
        while not self._sequence.startswith(seen[len(seen) - length :]):
            length -= 1
        self.held = seen[len(seen) - length :]
        return seen[: len(seen) - length], False

    def give_up(self) -> bytes:
        """Return the held keys, since no further key came in time."""
        held, self.held = self.held, b""
        return held
