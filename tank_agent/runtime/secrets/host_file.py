"""Secrets in files of the host: read without following anybody's links but root's."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from tank_agent.errors import SecretError
from tank_agent.linux.paths import Closing, NotReadableError, follow_links, open_without_links, read_regular
from tank_agent.spec.beside import FILE_MAX

# O_NONBLOCK: a fifo must not hold up a pod.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_DIRECTORY = os.O_PATH | os.O_DIRECTORY


class NoHostFile(SecretError):
    """The file of the host that has the secret can't be used."""


class _DistrustedError(Exception):
    """A link on the way to the file could be somebody else's."""


def read_host_file(path: str, own: Sequence[Path], name: str, containers: Iterable[str] = ()) -> bytes:
    """Return the content of a file of the host that is the secret `name`; `own` are the agent's directories.

    `containers` are directories that containers may write to: no link in one of them leads out of it.

    Raises:
        NoHostFile: with one sentence.
    """
    what = f"secret {name}: {path}"
    try:
        with Closing(os.open("/", _DIRECTORY | os.O_CLOEXEC)) as root:
            real = _real_path(root, path, containers)
            for directory in own:
                if Path("/", real).is_relative_to(directory):
                    message = f"{what} is one of the agent's own files in {directory}"
                    raise NoHostFile(message, hint="name a file that has nothing to do with the agent")
            with Closing(open_without_links(root, real, os.O_PATH)) as found:
                # Opening a device may have effects: a watchdog would begin to count.
                if not stat.S_ISREG(os.fstat(found).st_mode):
                    raise NotReadableError(f"{path} is not a regular file")
                with Closing(os.open(f"/proc/self/fd/{found}", _READ)) as descriptor:
                    return read_regular(descriptor, limit=FILE_MAX, name=path)
    except FileNotFoundError:
        raise NoHostFile(f"{what} is not there", hint="put it there, for root only") from None
    except NotReadableError as error:
        raise NoHostFile(f"secret {name}: {error}", hint="a secret is one small file") from None
    except _DistrustedError as error:
        hint = "name the file itself, or make the link in a directory that only root can write to"
        raise NoHostFile(f"{what} leads over {error}, a link that is not root's alone", hint=hint) from None
    except OSError as error:
        raise NoHostFile(f"{what} can't be read: {error.strerror}", hint="look with namei -l") from error


def _real_path(root: int, path: str, containers: Iterable[str]) -> str:
    """Return a path below `/` without links; those that only root can have made are followed.

    Certificates lie behind links (/etc/letsencrypt/live), but a user's own would lead to files of root. The
    root of a container is root in what it mounts.
    """
    theirs: dict[Path, Path] = {}

    def link_of(parents: list[str], name: str) -> str | None:
        link = Path("/", *parents, name)
        with Closing(open_without_links(root, "/".join(parents) or ".", _DIRECTORY)) as parent:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):
                return None
            holder = os.fstat(parent)
            if status.st_uid != 0 or holder.st_uid != 0 or holder.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise _DistrustedError(link)
            target = os.readlink(name, dir_fd=parent)
        theirs.update({Path(one): link for one in containers if link.is_relative_to(one)})
        return target

    found = follow_links(path, link_of)
    for directory, link in theirs.items():
        if not Path("/", *found).is_relative_to(directory):
            raise _DistrustedError(link)
    return "/".join(found) or "."
