"""Work with encrypted files without an agent: make them, try them with keys, and show these keys."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from tank_agent.errors import Problem, SecretError, Stalled, TankError
from tank_agent.linux.given_files import read_given
from tank_agent.linux.process import find, run, run_apart
from tank_agent.linux.whole_files import beside_directory
from tank_agent.runtime.secrets.age import decrypt
from tank_agent.runtime.secrets.identities import read_key
from tank_agent.runtime.secrets.secrets import tried
from tank_agent.spec.beside import FILE_MAX, nothing_beside
from tank_agent.spec.document import TEXT_MAX
from tank_agent.spec.parse import parse_pod_file

_TIMEOUT = 30.0
RECIPIENTS = "recipients.txt"


class CheckedSecret(Struct, frozen=True, kw_only=True):
    """The answer about one secret: `error` is None if it can be had. `pod` is "" for an encrypted file."""

    file: str
    pod: str
    secret: str
    error: str | None = None


class Recipient(Struct, frozen=True, kw_only=True):
    """A public key, as a line of a recipients file (age(1)), and the file of its secret key."""

    file: str
    recipient: str


def encrypt(plaintext: bytes, recipients: Sequence[str], files: Sequence[Path]) -> bytes:
    """Return the armor of a text that is encrypted for recipients, and for those in files of them.

    Raises:
        Stalled: age is not installed, or a recipient is none.
    """
    for file in files:
        if not file.is_file():
            hint = f"`tank secret recipients >{file.name}` on the machine that is to read it makes one"
            raise Stalled(f"there is no file of recipients {file}", hint=hint)
    if len(plaintext) > FILE_MAX:
        raise Stalled(
            f"a secret has at most {FILE_MAX} bytes", hint="a volume is the place for what is so large"
        )
    words = [word for one in recipients for word in ("--recipient", one)]
    words += [word for file in files for word in ("--recipients-file", os.fspath(file.absolute()))]
    argv = [find("age"), "--encrypt", "--armor", *words]
    code, armor, said = run_apart(argv, timeout=_TIMEOUT, stdin=plaintext, user=None)
    if code != 0:
        # It has read no secret key, so it can quote none.
        why = said.decode(errors="replace").partition("\n")[0].removeprefix("age: error: ")
        hint = "recipients are age1… or ssh-ed25519 …, one a line in a file"
        name = next((one for one in recipients if Path(one).is_file()), None)
        hint = hint if name is None else f"write -R {name}, since it is a file of recipients"
        raise Stalled(f"age refuses it: {why}", hint=hint)
    return armor


def default_recipients(directory: Path) -> Path | None:
    """Return the recipients file of a directory, or of the repository that it is in; None if there is none.

    Outside of a repository, directories above may be anybody's.
    """
    if (directory / RECIPIENTS).is_file():
        return directory / RECIPIENTS
    if not any((place / ".git").exists() for place in (directory, *directory.parents)):
        return None
    place = directory
    while not (place / ".git").exists():
        place = place.parent
        if (place / RECIPIENTS).is_file():
            return place / RECIPIENTS
    return None


def check(path: Path, identities: Sequence[str], own: Sequence[Path]) -> Iterator[CheckedSecret | Problem]:
    """Try all secrets of a pod file, or an encrypted file; yield the problems of a pod file, too.

    `own` are the agent's directories, where no secret of the host may lie.

    Raises:
        TankError: the file can't be read.
    """
    name, content = os.fspath(path), read_given(path, TEXT_MAX)
    if path.suffix != ".toml":
        error = _error(lambda: decrypt(content, identities, path.name))
        yield CheckedSecret(file=name, pod="", secret=path.name, error=error)
        return
    beside = beside_directory(path.absolute().parent) if path.parent.is_dir() else nothing_beside
    parsed = parse_pod_file(content.decode(errors="surrogateescape"), name, beside=beside)
    yield from parsed.problems
    for found in parsed.pods:
        for secret in found.pod.secrets:
            error = _error(partial(tried, secret, identities, own))
            yield CheckedSecret(file=name, pod=found.pod.name, secret=secret.name, error=error)


def _error(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except SecretError as error:
        return str(error)
    return None


def recipients_of(identities: Sequence[str]) -> tuple[list[Recipient], list[str]]:
    """Return the public keys of key files, and a sentence on each that has none; missing ones are skipped."""
    found, wrong = [], []
    for file in identities:
        try:
            line = _public(file)
        except FileNotFoundError:
            continue
        except TankError as error:
            wrong.append(f"{file}: {error.message}")
        else:
            found += [Recipient(file=file, recipient=one) for one in line.splitlines()]
    return found, wrong


def _public(file: str) -> str:
    """Return the public lines of a key file: FileNotFoundError if it is not there, TankError without any."""
    public = Path(f"{file}.pub")
    try:
        content = read_key(file)
    except PermissionError as error:
        if public.is_file():
            return read_given(public, TEXT_MAX).decode(errors="replace").strip()
        raise TankError(f"can't be read: {error.strerror}", hint="use sudo") from None
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise TankError(str(error)) from None
    if content.startswith(b"-----BEGIN"):
        # Without a passphrase; it would ask nobody, since it has no terminal.
        done = run([find("ssh-keygen"), "-y", "-P", "", "-f", file], timeout=_TIMEOUT)
        kinds = ("ssh-ed25519 ", "ssh-rsa ")
        if done.code == 0 and not done.stdout.startswith(kinds):
            raise TankError("is of a kind that age can't use; it takes ssh-ed25519 and ssh-rsa")
    else:
        done = run([find("age-keygen"), "-y", file], timeout=_TIMEOUT)
    if done.code != 0 or not done.stdout.strip():
        raise TankError("is no key without a passphrase")
    return done.stdout.strip()
