"""The second transport: the git command. Runs in the helper only.

Git reads only the settings written here, prompts for nothing, runs no hook and no credential helper of the
user, and uses only the protocol of the URL.
"""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tank_agent.linux.process import ENVIRONMENT
from tank_agent.source.git.access import (
    NO_MEMORY,
    NO_REPOSITORY,
    NO_SPACE,
    TOO_LARGE,
    Context,
    GitError,
    Meanings,
    Wanted,
    explain,
    private_file,
    sha1_name,
    ssh_command,
)

_LANDING = "refs/tank/fetched"


class CommandTransport:
    """A transport that runs the git command."""

    def __init__(self, context: Context) -> None:
        self._context = context
        remote = context.remote
        self._url = f"file://{context.local}" if context.local is not None else remote.url()
        self._config = private_file(context, "gitconfig", _config(context))

    def list_refs(self, names: Sequence[str]) -> dict[str, str]:
        """Return the objects that the refs of these full names point to; missing refs are left out."""
        output = self._git("ls-remote", "--", self._url, *names)
        found = (line.partition("\t") for line in output.splitlines())
        return {ref: sha1_name(name) for name, _, ref in found if ref in names}

    def fetch(self, wanted: Wanted, into: Path) -> str:
        """Fetch an object and all that it needs into a bare repository, and return the object's name."""
        try:
            self._fetch(f"+{wanted.commit or wanted.ref}:{_LANDING}", wanted.depth, into)
        except GitError as error:
            if wanted.commit is None or error.kind not in ("not-found", "broken"):
                raise
            # A server of protocol 0 sends only objects that a ref names.
            self._fetch("+refs/*:refs/tank/all/*", 0, into)
            self._git("update-ref", _LANDING, wanted.commit, into=into)
        return sha1_name(self._git("rev-parse", "--verify", _LANDING, into=into).strip())

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
            # It names files only: other processes can read an environment.
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
            hint = 'install it, or set transport = "dulwich"'
            raise GitError("refused", "git is not installed", hint) from error
        if done.returncode:
            text = done.stderr.decode("utf-8", "replace")
            # index-pack is killed at the limit without a message, and git's own does not name the cause.
            if into is not None and _hit_the_limit(into):
                text = "signal 25"
            raise explain(text, f"git failed (code {done.returncode})", _MEANINGS)
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
        # Escaped as git-config(1) asks for between quotes.
        proxy = access.proxy.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f' proxy = "{proxy}"')
    if access.ca is not None:
        lines.append(f" sslCAInfo = {private_file(context, 'ca.pem', access.ca)}")
    if access.password is not None:
        secret = f"{quote(access.username or 'git', safe='')}:{quote(access.password, safe='')}"
        store = private_file(context, "credentials", f"{remote.scheme}://{secret}@{remote.authority}")
        lines.append(f"[credential]\n helper = store --file={store}")
    return "\n".join(lines) + "\n"


_LOGIN = "see git.username, git.password_file, git.token_file"
# The order counts: git prints several of them at once.
# fmt: off
_MEANINGS: Meanings = (
    ("from proxy after connect|connect tunnel failed|resolve proxy",
     "unreachable", "the proxy does not let us through", "it is tried again"),
    ("ssl certificate|certificate verif|ssl peer",
     "refused", "the server's certificate is not trusted", "name the authority's file in git.ca_file"),
    ("could not read username|could not read password", "refused", "the server asks for a password", _LOGIN),
    ("authentication failed|error: 40[13]",
     "refused", "the user name, password or token was refused", _LOGIN),
    ("couldn't find remote ref",
     "not-found", "the remote has no such branch or tag", "see git.branch, git.tag"),
    ("not found|repository not exported", *NO_REPOSITORY),
    ("signal 25|file too large", *TOO_LARGE),
    ("no space left|disk quota", *NO_SPACE),
    ("out of memory|cannot allocate", *NO_MEMORY),
    ("unable to access|unable to connect|couldn't connect|too slow",
     "unreachable", "the server cannot be reached or answers too slowly", "it is tried again"),
)
