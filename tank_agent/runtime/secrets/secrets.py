"""The secrets of this machine's pods: their plain text, and keyed hashes that tell whether it is the same."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from tank_agent.errors import SecretError
from tank_agent.linux.fault import point
from tank_agent.linux.process import leave_no_core
from tank_agent.runtime.secrets.age import SlowAge, decrypt
from tank_agent.runtime.secrets.host_file import read_host_file
from tank_agent.runtime.secrets.identities import Mark, mark_of, marks
from tank_agent.spec.model import Pod, Secret

T = TypeVar("T")
_KEY = "secrets.key"
_KEY_BYTES = 32
# More than a machine has; each takes some 300 bytes.
_MOST = 8192
# Seconds without another try, if age did not end in time.
_PAUSE = 5.0
_LATER = "it is tried again at the next resync"
# A file that was written so few seconds ago may be written again without another time.
_FRESH = 2.0


class Recent(dict[str, T]):
    """Remembers the values that were used last. Any thread may use it."""

    def __init__(self, most: int = _MOST) -> None:
        super().__init__()
        self._most = most
        self._lock = threading.Lock()

    def find(self, key: str) -> T | None:
        """Return a value, and note that it was used."""
        with self._lock:
            value = self.pop(key, None)
            if value is not None:
                self[key] = value
            return value

    def keep(self, key: str, value: T) -> None:
        """Keep a value, and forget the one that was not used for longest if there are too many."""
        with self._lock:
            self.pop(key, None)
            self[key] = value
            if len(self) > self._most:
                del self[next(iter(self))]


class Secrets:
    """Decrypts, reads and compares secrets. Every method may be called from any thread.

    Args:
        identities: the key files of this machine.
        keep_once: keeps a small fact over restarts, unless it is there already, and returns what is kept.
        own: directories of the agent, of which no file is a secret of a pod.
        containers: returns the directories of the host that containers may write to.
    """

    def __init__(
        self,
        identities: Sequence[str],
        *,
        keep_once: Callable[[str, Callable[[], bytes]], bytes],
        own: Sequence[Path] = (),
        containers: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.identities = tuple(identities)
        self._keep_once = keep_once
        self._own = tuple(own)
        self._containers = containers
        self._key = b""
        # By the hash of the encrypted text: what it says never changes.
        self._digests = Recent[str]()
        # Until then a program that hangs is not asked again, since each time would take as long.
        self._slow_until = 0.0
        # As long as no key file changes, nothing is tried again.
        self._failed = Recent[tuple[tuple[Mark, ...], SecretError]]()
        self._files = Recent[tuple[Mark, str]]()

    def plaintext(self, secret: Secret) -> bytes:
        """Return what a secret says, by a program that takes some milliseconds if it is encrypted.

        Raises:
            SecretError: it can't be decrypted, or its file can't be read.
        """
        found = tried(secret, self.identities, self._own, self._containers)
        if secret.host is None:
            self._digests.keep(_name_of(secret.age), self.digest(found))
        return found

    def digest(self, plaintext: bytes) -> str:
        """Return a keyed hash, which tells nobody without the machine's key what a short secret says."""
        # Only machines with secrets load OpenSSL for it.
        import hashlib
        import hmac

        return hmac.new(self._machine_key(), plaintext, hashlib.sha256).hexdigest()

    def host_digest(self, path: str) -> str | None:
        """Return the keyed hash of a file of the host; None if it can't be read. Cheap if it is unchanged."""
        mark = mark_of(path)
        known = self._files.find(path)
        if known is not None and mark is not None and known[0] == mark:
            return known[1]
        try:
            digest = self.digest(read_host_file(path, self._own, "", self._containers()))
        except SecretError:
            return None
        if mark is not None and time.time() - max(mark[3], mark[4]) / 1e9 > _FRESH:
            self._files.keep(path, (mark, digest))
        return digest

    def know(self, pods: Iterable[Pod]) -> None:
        """Take over the hashes of pods that were sealed before, so that they are not decrypted for that."""
        for secret in (secret for pod in pods for secret in pod.secrets):
            if secret.age and secret.digest:
                self._digests.keep(_name_of(secret.age), secret.digest)

    def sealed(self, pod: Pod) -> tuple[Pod, tuple[SecretError, ...]]:
        """Return a pod with the keyed hash of each of its encrypted secrets, and why there is none of some.

        A hash that it has already counts for nothing.
        """
        errors, found = [], []
        for secret in pod.secrets:
            digest = ""
            if secret.host is None:
                try:
                    digest = self._sealed(secret)
                except SecretError as error:
                    errors.append(error)
            found.append(secret if digest == secret.digest else replace(secret, digest=digest))
        secrets = tuple(found)
        return (pod if secrets == pod.secrets else replace(pod, secrets=secrets)), tuple(errors)

    def _sealed(self, secret: Secret) -> str:
        name = _name_of(secret.age)
        digest = self._digests.find(name)
        if digest is not None:
            return digest
        now = marks(self.identities)
        failed = self._failed.find(f"{secret.name} {name}")
        if failed is not None and failed[0] == now:
            raise failed[1].with_traceback(None)
        if time.monotonic() < self._slow_until:
            raise SlowAge(f"secret {secret.name}: age did not end in time for another one", hint=_LATER)
        try:
            self.plaintext(secret)
        except SlowAge:
            self._slow_until = time.monotonic() + _PAUSE
            raise
        except SecretError as error:
            if error.of_file:
                self._failed.keep(f"{secret.name} {name}", (now, error))
            raise
        return self._digests.find(name) or ""

    def _machine_key(self) -> bytes:
        if not self._key:
            self._key = self._keep_once(_KEY, lambda: os.urandom(_KEY_BYTES))
            point("secrets:key-made")
        return self._key


def tried(
    secret: Secret,
    identities: Sequence[str],
    own: Sequence[Path],
    containers: Callable[[], Collection[str]] = tuple,
) -> bytes:
    """Return what a secret says, or raise SecretError; `own` and `containers` are as those of `Secrets`."""
    leave_no_core()
    if secret.host is not None:
        return read_host_file(secret.host, own, secret.name, containers())
    return decrypt(secret.age.encode(), identities, secret.name)


def _name_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
