"""Decrypt by the program age (age-encryption.org/v1), without a terminal or plugins, as another user.

What it prints counts only when it ends with 0: of a file that is cut off, it has printed the first chunks.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import Sequence

from tank_agent.errors import Retry, SecretError, Stalled
from tank_agent.linux.process import find, run_apart
from tank_agent.runtime.secrets.identities import Keys, UnusableKey, opened
from tank_agent.spec.beside import FILE_MAX
from tank_agent.spec.findings import printable

DEADLINE = 10.0
# No other process has this user: what reads foreign text may touch no files of root, and no program of
# `nobody` may look into it. Systemd gives none of 65520 to 65533 away (systemd.io/UIDS-GIDS).
_USER = 65521
_STANZAS_SHOWN = 8
# "no identity matched …" of age 1.2, "identity did not match …" of 1.3.
_NO_MATCH = b"any of the recipients"
_AGAIN = "add a line of `tank secret recipients` of this machine to its recipients, and encrypt it again"


class NoAge(SecretError):
    """The program age is not installed."""


class NoKey(SecretError):
    """None of the key files is there, or can be read."""


class NoneFits(SecretError):
    """None of this machine's keys is among those that the file was encrypted for."""

    of_file = True


class BrokenSecret(SecretError):
    """The file is no age file, or is damaged."""

    of_file = True


class SlowAge(SecretError):
    """The program age did not end in time."""


def decrypt(content: bytes, files: Sequence[str], name: str) -> bytes:
    """Return the plain text of an age file, armored or not; `files` are keys, `name` is for messages.

    Raises:
        NoAge, NoKey, NoneFits, BrokenSecret, SlowAge: with one sentence.
    """
    program = _program(name)
    with opened(files) as keys:
        if not keys.readable:
            raise _no_key(name, files, keys.unusable)
        kinds = stanzas(content)
        if not kinds:
            message = f"secret {name}: its text is no age file (age-encryption.org/v1)"
            raise BrokenSecret(message, hint="make it anew with `tank secret encrypt`")
        code, plain, said = _run(program, [path for _, path in keys.readable], content, keys, name)
        unusable = list(keys.unusable)
        if code != 0 and len(keys.readable) > 1 and _NO_MATCH not in said:
            # One key file that age can't use keeps it from trying the others.
            for file, path in keys.readable:
                code, plain, said = _run(program, [path], content, keys, name)
                if code == 0 or _is_broken(said):
                    break
                if _NO_MATCH not in said:
                    unusable.append(UnusableKey(file, _why(said)))
        if code != 0:
            raise _failure(said, name, [file for file, _ in keys.readable], unusable, kinds)
    if len(plain) > FILE_MAX:
        message = f"secret {name} is larger than {FILE_MAX} bytes"
        raise BrokenSecret(message, hint="a volume is the place for what is so large")
    return plain


def stanzas(content: bytes) -> tuple[str, ...]:
    """Return the kinds of recipients in an age file's header, with the tags of SSH keys; () without a header.

    A tag is the start of a hash of the public key: nothing secret.
    """
    if content.lstrip().startswith(b"-----BEGIN AGE ENCRYPTED FILE"):
        try:
            content = binascii.a2b_base64(b"".join(content.strip().splitlines()[1:-1]))
        except binascii.Error:
            return ()
    found = []
    header = content.split(b"\n---", 1)[0].split(b"\n")
    for line in header if header[0] == b"age-encryption.org/v1" else ():
        words = line.decode(errors="replace").split(" ")
        if words[0] == "->" and len(words) > 1:
            tag = f" {words[2]}" if words[1].startswith("ssh-") and len(words) > 2 else ""
            found.append(printable(f"{words[1]}{tag}"[:40]))
    return tuple(found)


def _program(name: str) -> str:
    try:
        return find("age")
    except Stalled as error:
        raise NoAge(f"secret {name}: {error.message}", hint="`apt install age`") from None


def _run(
    program: str, keys: Sequence[str], content: bytes, opened: Keys, name: str
) -> tuple[int, bytes, bytes]:
    argv = [program, "--decrypt", *(word for key in keys for word in ("--identity", key))]
    user = _USER if os.geteuid() == 0 else None
    try:
        return run_apart(argv, timeout=DEADLINE, stdin=content, user=user, pass_fds=opened.descriptors)
    except Retry as error:
        raise SlowAge(f"secret {name}: {error.message}", hint=error.hint) from None
    except Stalled as error:
        raise NoAge(f"secret {name}: {error.message}", hint=error.hint) from None


def _no_key(name: str, files: Sequence[str], unusable: Sequence[UnusableKey]) -> NoKey:
    tried = _tried(
        [file for file in files if all(file != one.file for one in unusable)], unusable, missing=True
    )
    message = f"secret {name} can't be decrypted: this machine has no key ({tried})"
    return NoKey(message, hint="`age-keygen -o /etc/tank/age.key` makes one; see [secrets] in agent.toml")


def _failure(
    said: bytes, name: str, files: Sequence[str], unusable: Sequence[UnusableKey], kinds: Sequence[str]
) -> SecretError:
    if _is_broken(said):
        message = f"secret {name}: the encrypted file is damaged, or cut off"
        return BrokenSecret(message, hint="make it anew with `tank secret encrypt`")
    for_whom = ", ".join(kinds[:_STANZAS_SHOWN]) + (", …" if len(kinds) > _STANZAS_SHOWN else "")
    if not unusable and _NO_MATCH not in said:
        unusable = [UnusableKey(file, _why(said)) for file in files]
    tried = _tried([file for file in files if all(file != one.file for one in unusable)], unusable)
    message = f"secret {name}: no key of this machine opens it (tried {tried}); it is for {for_whom}"
    return NoneFits(message, hint=_AGAIN)


def _tried(files: Sequence[str], unusable: Sequence[UnusableKey], *, missing: bool = False) -> str:
    found = [f"{file} is not there" if missing else file for file in files]
    return ", ".join([*found, *(f"{one.file}, which {one.why}" for one in unusable)]) or "none"


def _is_broken(said: bytes) -> bool:
    # What age itself says is never shown: it quotes what it reads.
    broken = (b"failed to read header", b"parsing age header", b"payload", b"unexpected EOF", b"armor")
    return any(words in said for words in broken)


def _why(said: bytes) -> str:
    if b"passphrase" in said:
        return "has a passphrase"
    return "is no key that age can use"
