"""Changes of a pod's files and secrets, in words: what is another, and what follows for each container."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from msgspec import Struct

from tank_agent.spec.model import ConfigFile, Mount, Pod, Secret
from tank_agent.spec.printable import escape

IDLE = "nothing restarts"
LIVE = "changed live, nothing restarts"
_DIFF_LINES = 10
_LINE_MAX = 100
# A comparison of more takes too long.
_COMPARED = 2_000


class KeyChange(Struct, frozen=True, kw_only=True):
    """One field that differs; `effect` says what happens to running containers.

    `lines` show the difference of a text.
    """

    key: str
    old: str
    new: str
    effect: str
    lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key}: {self.old} → {self.new} ({self.effect})"


def texts(changes: Sequence[KeyChange]) -> tuple[str, ...]:
    """Return changes for people, each followed by its lines."""
    return tuple(text for change in changes for text in (str(change), *change.lines))


def content_changes(old: Pod, new: Pod) -> Iterator[KeyChange]:
    """Yield the differences of files and secrets. Nothing of a secret is shown."""
    files, kept = ({one.name: one for one in pod.files} for pod in (old, new))
    for name in {**files, **kept}:
        yield from _file(files.get(name), kept.get(name), f"files[{name}]", _effect(new, "file", name))
    secrets, given = ({one.name: one for one in pod.secrets} for pod in (old, new))
    for name in {**secrets, **given}:
        effect = _effect(new, "secret", name)
        yield from _secret(secrets.get(name), given.get(name), f"secrets[{name}]", effect)


def _file(old: ConfigFile | None, new: ConfigFile | None, key: str, effect: str) -> Iterator[KeyChange]:
    if old is None or new is None:
        yield _here(key, old, new)
        return
    if old.content != new.content:
        lines = _difference(old.content, new.content)
        yield _change(f"{key}.content", _size(old), _size(new), effect, lines)


def _secret(old: Secret | None, new: Secret | None, key: str, effect: str) -> Iterator[KeyChange]:
    if old is None or new is None:
        yield _here(key, old, new)
        return
    known, same = bool(old.digest and new.digest), old.digest == new.digest
    if old.host != new.host:
        yield _change(f"{key}.host", _path(old.host), _path(new.host), IDLE if known and same else effect)
    elif known and same and old.age != new.age:
        yield _change(f"{key}.age", "encrypted", "encrypted anew, with the same content", IDLE)
    elif old.age != new.age or (known and not same):
        part = f"{key}.age" if new.age else key
        yield _change(part, "a secret", "another" if known else "encrypted anew", effect)


def _change(key: str, old: str, new: str, effect: str, lines: tuple[str, ...] = ()) -> KeyChange:
    return KeyChange(key=key, old=old, new=new, effect=effect, lines=lines)


def _here(key: str, old: object, new: object) -> KeyChange:
    before, after = ("none" if one is None else '"present"' for one in (old, new))
    return _change(key, before, after, IDLE)


def _path(path: str | None) -> str:
    return f'"{escape(path)}"' if path else "none"


def _size(file: ConfigFile) -> str:
    return f"{len(file.content)} bytes ({file.digest[:8]})"


def _effect(pod: Pod, kind: str, name: str) -> str:
    """Return what follows where a file or a secret has another content."""
    restarted, others, signals, live = [], "", [], False
    for container in pod.containers:
        mounts: list[Mount] = [one for one in container.mounts if getattr(one, kind) == name]
        if any(one.on_change == "restart" for one in mounts):
            restarted.append(container.name)
            others = ", and all that are not init" if container.init else others
        elif mounts:
            live = True
            found = sorted({one.on_change.partition(":")[2] for one in mounts} - {""})
            signals += [f"{signal} to container {container.name}" for signal in found]
    parts = [f"restarts container {' and '.join(restarted)}{others}"] if restarted else []
    parts += [LIVE if not restarted else "changed live in others"] if live else []
    return "; ".join([*parts, *signals]) or IDLE


def _difference(old: bytes, new: bytes) -> tuple[str, ...]:
    """Return the lines that differ, with their signs; none if one of both is no text, or large."""
    try:
        before, after = (content.decode().splitlines() for content in (old, new))
    except UnicodeDecodeError:
        return ()
    if max(len(before), len(after)) > _COMPARED:
        return ()
    found = list(difflib.unified_diff(before, after, lineterm="", n=1))[2:]
    shown = [escape(line[:_LINE_MAX]) for line in found[:_DIFF_LINES]]
    left = len(found) - len(shown)
    more = [f"… {left} more"] if left else []
    return tuple(f"  {line}" for line in (*shown, *more))
