"""Signatures of commits and tags: OpenPGP with gpgv, SSH with ssh-keygen; dulwich accepts unsigned commits.

Both programs parse foreign data, so as root we run them as the unprivileged user, with their files as
descriptors.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack

from msgspec import Struct

from tank_agent.errors import Stalled
from tank_agent.linux.process import ENVIRONMENT
from tank_agent.settings.git import GitVerify
from tank_agent.source.git.access import GitError, read_file
from tank_agent.source.git.objects import Commit, Signed, Tag, printable

_VOUCHED = "git.verified"
_VOUCHED_LIMIT = 256
_ARMOUR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\s*?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.DOTALL
)
_REFUSALS = {
    "EXPKEYSIG": "its key has expired",
    "REVKEYSIG": "its key was revoked",
    "EXPSIG": "the signature has expired",
    "BADSIG": "the signature does not fit: the commit was changed after it was signed",
    "NO_PUBKEY": "its key is not in git.verify.keyring",
    "ERRSIG": "the signature cannot be checked",
}


class Verifier(Struct, frozen=True, kw_only=True):
    """Checks signatures by trusted keys: allowed_signers as text, a keyring in binary.

    `user` is the (uid, gid) of the programs that do it; None keeps ours.
    """

    signers: bytes | None = None
    keyring: bytes | None = None
    user: tuple[int, int] | None = None
    timeout: float = 10.0

    def check_commits(self, commits: Iterable[Commit]) -> None:
        """Check every commit's signature.

        Raises:
            GitError: about the first without a trusted signature, with the reason in one line.
        """
        for commit in commits:
            self._check(str(commit), commit.signed)

    def check_tag(self, tags: Sequence[Tag], name: str) -> None:
        """Check an annotated tag's signature, and that it was made for this name; errors as for commits."""
        if not tags:
            raise GitError("refused", f"tag {printable(name)} is not annotated, so nobody signed it")
        if tags[0].name != name:
            message = f"tag {printable(name)} holds a tag that was made as {printable(tags[0].name)}"
            raise GitError("refused", message)
        self._check(f"tag {printable(name)}", tags[0].signed)

    def _check(self, what: str, signed: Signed | None) -> None:
        complaint = "it is not signed" if signed is None else self._complaint(signed)
        if complaint is not None:
            hint = "sign it, or add the signer's key; what ran goes on"
            raise GitError("refused", f"{what} is refused: {complaint}", hint)

    def _complaint(self, signed: Signed) -> str | None:
        if signed.signature.startswith(b"-----BEGIN SSH SIGNATURE-----"):
            if self.signers is None:
                return "it has an SSH signature, but git.verify.allowed_signers is not set"
            return self._ssh(signed, self.signers)
        if not signed.signature.startswith(b"-----BEGIN PGP "):
            return "its signature is of a kind that is not known"
        if self.keyring is None:
            return "it has an OpenPGP signature, but git.verify.keyring is not set"
        return self._openpgp(signed, self.keyring)

    def _ssh(self, signed: Signed, signers: bytes) -> str | None:
        with ExitStack() as stack:
            allowed, signature = (_memory(stack, data) for data in (signers, signed.signature))
            files = ["-f", f"/dev/fd/{allowed}", "-s", f"/dev/fd/{signature}"]
            found = self._run(["ssh-keygen", "-Y", "find-principals", *files], b"", (allowed, signature))
            principal = _principal(found.stdout.decode("utf-8", "replace"))
            if found.returncode or principal is None:
                return "its key is not in git.verify.allowed_signers, or has expired"
            argv = ["ssh-keygen", "-Y", "verify", "-n", "git", "-I", principal, *files]
            done = self._run(argv, signed.payload, (allowed, signature))
        if done.returncode:
            return "the signature does not fit, or its key may not sign for git"
        return None

    def _openpgp(self, signed: Signed, keyring: bytes) -> str | None:
        with ExitStack() as stack:
            keys, signature = (_memory(stack, data) for data in (keyring, signed.signature))
            argv = ["gpgv", "--homedir", "/nonexistent", "--keyring", f"/dev/fd/{keys}", "--status-fd", "1"]
            done = self._run([*argv, f"/dev/fd/{signature}", "-"], signed.payload, (keys, signature))
        return judge_openpgp(done.stdout.decode("utf-8", "replace"), done.returncode)

    def _run(self, argv: list[str], stdin: bytes, fds: Sequence[int]) -> subprocess.CompletedProcess[bytes]:
        uid, gid = self.user or (None, None)
        try:
            return subprocess.run(
                argv,
                input=stdin,
                capture_output=True,
                check=False,
                timeout=self.timeout,
                env=dict(ENVIRONMENT),
                cwd="/",
                pass_fds=fds,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
            )
        except FileNotFoundError as error:
            hint = "install gpgv and openssh-client"
            raise GitError("refused", f"{argv[0]} is not installed", hint) from error
        except subprocess.TimeoutExpired as error:
            raise GitError("refused", f"{argv[0]} did not finish within {self.timeout:g} s") from error


class Vouched:
    """The latest commits that were verified here, kept over restarts; to be used under a lock.

    They need not be verified again: a key that expires later prevents no rollback, and a tag may have moved.
    """

    def __init__(self, recall: Callable[[str], bytes], remember: Callable[[str, bytes], None]) -> None:
        self._remember = remember
        self._names = recall(_VOUCHED).decode("ascii", "replace").split()

    def __contains__(self, commit: object) -> bool:
        return commit in self._names

    def add(self, commit: str) -> None:
        """Keep a commit whose signatures were checked."""
        if commit not in self._names:
            self._names = [*self._names, commit][-_VOUCHED_LIMIT:]
            self._remember(_VOUCHED, "\n".join(self._names).encode())


def judge_openpgp(status: str, code: int) -> str | None:
    """Return why gpgv's status lines refuse a signature; None if it is good (GnuPG's doc/DETAILS)."""
    lines = (line.split() for line in status.splitlines() if line.startswith("[GNUPG:] "))
    words = [line[1] for line in lines if len(line) > 1]
    # An expired key still yields VALIDSIG, and there may be two signatures: one is needed, and no other.
    for word in words:
        if word in _REFUSALS and not (word == "ERRSIG" and "NO_PUBKEY" in words):
            return _REFUSALS[word]
    good = code == 0 and all(words.count(word) == 1 for word in ("GOODSIG", "VALIDSIG", "NEWSIG"))
    return None if good else "the signature cannot be checked"


def load(settings: GitVerify, user: tuple[int, int] | None) -> Verifier | None:
    """Read the key files; None if nothing is to be verified.

    Raises:
        Stalled: a file cannot be read or holds no key.
    """
    if settings.mode == "off":
        return None
    signers = _read(settings.allowed_signers, "allowed_signers")
    keyring = _read(settings.keyring, "keyring")
    return Verifier(signers=signers, keyring=None if keyring is None else _binary(keyring), user=user)


def _read(path: str | None, key: str) -> bytes | None:
    if path is None:
        return None
    data = read_file(path, f"verify.{key}")
    if not data.strip():
        raise Stalled(f"{path} is empty", hint=f"see git.verify.{key}")
    return data


def _binary(keyring: bytes) -> bytes:
    """Return a keyring in binary, as gpgv reads it; `gpg --armor` writes text (RFC 9580, section 6.2)."""
    if not keyring.lstrip().startswith(b"-----BEGIN PGP"):
        return keyring
    blocks = []
    hint = "export it with gpg --export"
    for block in _ARMOUR.findall(keyring):
        lines = block.replace(b"\r", b"").split(b"\n")
        body = lines[lines.index(b"") + 1 :] if b"" in lines[:-1] else lines
        text = b"".join(line for line in body if not line.startswith(b"="))
        try:
            blocks.append(base64.b64decode(text, validate=True))
        except binascii.Error as error:
            raise Stalled("git.verify.keyring is not an armoured key", hint=hint) from error
    if not blocks:
        raise Stalled("git.verify.keyring holds no public key", hint=hint)
    return b"".join(blocks)


def _principal(output: str) -> str | None:
    names = (name.strip() for line in output.splitlines() for name in line.split(","))
    # Negated patterns name nobody; ssh-keygen would read a leading dash as an option.
    return next((name for name in names if name and not name.startswith(("!", "-"))), None)


def _memory(stack: ExitStack, data: bytes) -> int:
    fd = os.memfd_create("tank-git-verify", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
