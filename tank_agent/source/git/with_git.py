"""The git protocol with the git command line: the second transport. Runs in the helper only.

Git reads no settings but those written here, asks nobody, runs no hook and no helper of the user's, and
speaks only the one protocol of the URL.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import cast
from urllib.parse import quote

from tank_agent.linux.process import ENVIRONMENT
from tank_agent.source.git.access import (
    Context,
    Failure,
    GitError,
    Wanted,
    explain,
    private_file,
    ssh_command,
)
from tank_agent.source.git.objects import ID

_LANDING = "refs/tank/fetched"


class CommandTransport:
    """The git protocol with the git command line."""

    def __init__(self, context: Context) -> None:
        self._context = context
        remote = context.remote
        self._url = f"file://{context.local}" if context.local is not None else remote.url()
        self._config = private_file(context, "gitconfig", _config(context))

    def list_refs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the objects that refs of these full names point to; a ref that is not there is left out."""
        output = self._git("ls-remote", "--", self._url, *names)
        found = {}
        for line in output.splitlines():
            name, _, ref = line.partition("\t")
            if ref in names:
                found[ref] = _sha1(name)
        return found

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Bring an object and all that it needs into a bare repository, and return the object's name."""
        try:
            self._fetch(f"+{wanted.commit or wanted.ref}:{_LANDING}", wanted.depth, into)
        except GitError as error:
            if wanted.commit is None or error.kind not in ("not-found", "broken"):
                raise
            # A server of protocol 0 gives only what a ref names.
            self._fetch("+refs/*:refs/tank/all/*", 0, into)
            self._git("update-ref", _LANDING, wanted.commit, into=into)
        return _sha1(self._git("rev-parse", "--verify", _LANDING, into=into).strip())

    def _fetch(self, refspec: str, depth: int, into: Path) -> None:
        options = ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"]
        if depth:
            options.append(f"--depth={depth}")
        self._git("fetch", *options, "--", self._url, refspec, into=into)

    def _git(self, *arguments: str, into: Path | None = None) -> str:
        env = {
            **ENVIRONMENT,
            "HOME": os.fspath(self._context.private),
            "GIT_CONFIG_GLOBAL": os.fspath(self._config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_SSH_VARIANT": "ssh",
            # Names of files only: no secret stands in an environment.
            "GIT_SSH_COMMAND": shlex.join(ssh_command(self._context)),
        }
        if into is not None:
            env["GIT_DIR"] = os.fspath(into)
        try:
            done = subprocess.run(
                ["git", *arguments],
                env=env,
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=self._context.private,
            )
        except FileNotFoundError as error:
            raise GitError(
                "refused", "git is not installed", hint='install it, or set transport = "dulwich"'
            ) from error
        if done.returncode:
            text = done.stderr.decode("utf-8", "replace")
            # index-pack is killed by the limit and says nothing; git then only wonders at its output.
            raise _error("signal 25" if into is not None and _hit_the_limit(into) else text, done.returncode)
        return done.stdout.decode("utf-8", "replace")


def _hit_the_limit(into: Path) -> bool:
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return any(0 < limit <= file.stat().st_size for file in (into / "objects/pack").glob("tmp_*"))


def _config(context: Context) -> str:
    remote, access = context.remote, context.access
    lines = [
        "[safe]\n directory = *",
        f'[protocol]\n allow = never\n[protocol "{remote.scheme}"]\n allow = always',
        "[core]\n hooksPath = /dev/null\n askPass = /bin/false\n bigFileThreshold = 1m",
        "[fetch]\n unpackLimit = 1\n[transfer]\n unpackLimit = 1\n[gc]\n auto = 0\n[pack]\n threads = 1\n",
        f"[http]\n followRedirects = false\n lowSpeedLimit = 1\n lowSpeedTime = {int(context.timeout) or 1}",
    ]
    if access.proxy is not None:
        lines.append(f' proxy = "{_quoted(access.proxy)}"')
    if access.ca is not None:
        lines.append(f" sslCAInfo = {private_file(context, 'ca.pem', access.ca)}")
    if access.password is not None:
        secret = f"{quote(access.username or 'git', safe='')}:{quote(access.password, safe='')}"
        store = private_file(context, "credentials", f"{remote.scheme}://{secret}@{remote.authority}")
        lines.append(f"[credential]\n helper = store --file={store}")
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """Return a value as it stands between quotes in a git-config file."""
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _sha1(name: str) -> str:
    if not ID.fullmatch(name):
        raise GitError("broken", "the repository does not use SHA-1 names, which is all we read")
    return name


_PROXY = ("unreachable", "the proxy does not let us through", "it is tried again")
_TRUST = ("refused", "the server's certificate is not trusted", "name the authority's file in git.ca_file")
_LOGIN = (
    "refused",
    "the user name, password or token was refused",
    "see git.username, git.password_file, git.token_file",
)
_ASKED = ("refused", "the server asks for a password", "see git.username, git.password_file, git.token_file")
_NO_REF = ("not-found", "the remote has no such branch or tag", "see git.branch, git.tag")
_NO_REPOSITORY = ("not-found", "there is no such repository", "see git.url")
_TOO_BIG = ("too-big", "the fetch is larger than git.max_size", "raise it, or see what grew")
_NO_SPACE = ("unreachable", "no space left below data_dir", "free some")
_NO_MEMORY = ("too-big", "the answer needs more memory than is allowed", "see git.max_size")
_NO_SERVER = ("unreachable", "the server cannot be reached or answers too slowly", "it is tried again")
# Looked for in this order: git says several of them at once.
_MEANINGS: tuple[tuple[str, tuple[str, str, str]], ...] = (
    ("from proxy after connect", _PROXY),
    ("connect tunnel failed", _PROXY),
    ("resolve proxy", _PROXY),
    ("ssl certificate", _TRUST),
    ("certificate verif", _TRUST),
    ("ssl peer", _TRUST),
    ("could not read username", _ASKED),
    ("could not read password", _ASKED),
    ("authentication failed", _LOGIN),
    ("error: 403", _LOGIN),
    ("error: 401", _LOGIN),
    ("couldn't find remote ref", _NO_REF),
    ("not found", _NO_REPOSITORY),
    ("repository not exported", _NO_REPOSITORY),
    ("signal 25", _TOO_BIG),
    ("file too large", _TOO_BIG),
    ("no space left", _NO_SPACE),
    ("disk quota", _NO_SPACE),
    ("out of memory", _NO_MEMORY),
    ("cannot allocate", _NO_MEMORY),
    ("unable to access", _NO_SERVER),
    ("unable to connect", _NO_SERVER),
    ("couldn't connect", _NO_SERVER),
    ("too slow", _NO_SERVER),
)


def _error(text: str, code: int) -> GitError:
    lowered = text.lower()
    for words, (kind, message, hint) in _MEANINGS:
        if words in lowered:
            return GitError(cast(Failure, kind), message, hint=hint)
    return explain(text, f"git failed (code {code})")
