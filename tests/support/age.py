"""Keys and encrypted files for tests, made by age itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tank_agent.runtime.secrets.secrets import Secrets


class Kept(dict[str, bytes]):
    """Stands for the journal's small facts."""

    def once(self, key: str, make: object) -> bytes:
        """Keep a fact, unless it is there; return what is."""
        if key not in self:
            assert callable(make)
            self[key] = make()
        return self[key]


def secrets_of(*identities: Path, kept: Kept | None = None, own: tuple[Path, ...] = ()) -> Secrets:
    """Return what decrypts with these key files."""
    keep_once = (Kept() if kept is None else kept).once
    return Secrets([str(file) for file in identities], keep_once=keep_once, own=own)


def make_key(file: Path) -> str:
    """Make a key of age, and return its recipient."""
    subprocess.run(["age-keygen", "-o", file], check=True, capture_output=True)
    return _output("age-keygen", "-y", str(file))


def make_ssh_key(file: Path, passphrase: str = "") -> str:
    """Make an SSH key, and return its public line."""
    words = ["ssh-keygen", "-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f", str(file)]
    subprocess.run(words, check=True)
    return file.with_name(f"{file.name}.pub").read_text().strip()


def encrypt(plaintext: bytes | str, *recipients: str) -> str:
    """Return the armor of a text that is encrypted for recipients."""
    content = plaintext.encode() if isinstance(plaintext, str) else plaintext
    words = ["age", "--armor", *(word for one in recipients for word in ("--recipient", one))]
    return subprocess.run(words, input=content, check=True, capture_output=True).stdout.decode()


def _output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
