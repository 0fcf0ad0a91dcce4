"""Fill in the specifiers of systemd.unit(5), such as %h, that a unit's text has."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

_SPECIFIER = re.compile(r"%(.)", re.DOTALL)
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})")


class User(Struct, frozen=True):
    """Whose manager the units are of: root's, or that of a user with this home directory.

    `number` is UID:GID of whoever owns the home directory; "" if that is root, or not known.
    """

    home: str
    is_root: bool = True
    number: str = ""


def user_of(home: str, *, is_root: bool = True) -> User:
    """Return the user of a home directory, which need not be there."""
    try:
        found = Path(home).stat()
    except OSError:
        return User(home=home, is_root=is_root)
    number = f"{found.st_uid}:{found.st_gid}" if found.st_uid else ""
    return User(home=home, is_root=is_root, number=number)


def expand(text: str, *, name: str, instance: str, user: User) -> str:
    """Return a text with its specifiers filled in; what only a running machine knows stays as it is.

    `name` is the unit's without its type.
    """
    if "%" not in text:
        return text
    prefix = name.partition("@")[0]
    home = user.home
    known = {
        "%": "%",
        "n": f"{name}.service",
        "N": name,
        "p": prefix,
        "P": _unescaped(prefix),
        "i": instance,
        "I": _unescaped(instance),
        "j": prefix.rpartition("-")[2],
        "J": _unescaped(prefix.rpartition("-")[2]),
        "h": home,
        "t": "/run",
        "T": "/tmp",  # noqa: S108
        "V": "/var/tmp",  # noqa: S108
        "E": "/etc" if user.is_root else f"{home}/.config",
        "S": "/var/lib" if user.is_root else f"{home}/.local/state",
        "C": "/var/cache" if user.is_root else f"{home}/.cache",
        "L": "/var/log" if user.is_root else f"{home}/.local/state/log",
        "D": "/usr/share" if user.is_root else f"{home}/.local/share",
        "d": f"/run/credentials/{name}.service",
    }
    if user.is_root:
        known |= {"u": "root", "U": "0", "g": "root", "G": "0", "s": "/bin/sh"}
    return _SPECIFIER.sub(lambda found: known.get(found[1], found[0]), text)


def unknown_in(text: str, user: User) -> str | None:
    """Return the first specifier of a text that only a running machine knows."""
    letters = (found[1] for found in _SPECIFIER.finditer(text))
    of_user = "" if user.is_root else "uUgGs"
    return next((f"%{letter}" for letter in letters if letter in f"abBHlmMoqvwWA{of_user}"), None)


def _unescaped(name: str) -> str:
    """Return a part of a unit's name as systemd-escape wrote it: - is a slash."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), name.replace("-", "/"))
