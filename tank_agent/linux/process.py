"""Run a program: argv list, closed descriptors, an environment of our own, and always a deadline."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from msgspec import Struct

from tank_agent.errors import Retry, Stalled

# Nothing of the agent's environment reaches a child: hooks and helpers would inherit it.
ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
}

# What crun makes in a container, such as directories above a mount, is for the container's users; all else is
# for root.
CONTAINER_UMASK = 0o022
OWN_UMASK = 0o077


class Finished(Struct, frozen=True, kw_only=True):
    """How a program ended: `code` is negative for a signal, as in subprocess; output is decoded leniently."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    pass_fds: Sequence[int] = (),
    stdin: bytes = b"",
) -> Finished:
    """Run a program to its end and return how it ended; a non-zero exit is not an error here.

    Args:
        argv: the program and its arguments; looked up on our own PATH.
        timeout: seconds after which it is killed.
        env: added to `ENVIRONMENT`.

    Raises:
        Stalled: the program is not installed.
        Retry: it did not finish in time.
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env={**ENVIRONMENT, **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            umask=OWN_UMASK,
            check=False,
        )
    except FileNotFoundError as error:
        raise Stalled(f"cannot run {argv[0]}: not installed", hint="see `tank doctor`") from error
    except subprocess.TimeoutExpired as error:
        raise Retry(f"{argv[0]} did not finish within {timeout:g} s") from error
    return Finished(
        argv=tuple(argv),
        code=done.returncode,
        stdout=done.stdout.decode(errors="replace"),
        stderr=done.stderr.decode(errors="replace"),
    )
