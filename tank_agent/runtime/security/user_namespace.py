"""Containers with `userns = "auto"`: their ids of the host, and the mounts that they cannot make themselves.

Mounts map the owners of files, in images and in volumes, so a range belongs to a run only while it lives.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import mounts
from tank_agent.linux.namespaces import IdMapping, IdRange, id_mapping, in_network_namespace

# Unused in systemd's list of ids (UIDS-GIDS), and below the half that some programs cannot print.
_FIRST, _END = 0x7000_0000, 0x8000_0000
_SIZE = 0x1_0000
SYSFS = "sysfs"
_SYSFS_FLAGS = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC | mounts.MS_RDONLY


def free_range(used: Collection[IdRange | None]) -> IdRange:
    """Return a range that no container uses; raises Retry if there is none left."""
    taken = {ids.base for ids in used if ids is not None}
    for base in range(_FIRST, _END, _SIZE):
        if base not in taken:
            return IdRange(base, _SIZE)
    raise Retry(f'{len(taken)} containers with userns = "auto" run already', hint="there are no more ids")


@contextlib.contextmanager
def mapping_of(ids: IdRange) -> Iterator[IdMapping]:
    """Give the mapping of a range, to mount by; raises Stalled where no user namespace can be made."""
    with contextlib.ExitStack() as stack:
        try:
            mapping = stack.enter_context(id_mapping(ids))
        except OSError as error:
            message = f'userns = "auto": cannot make a user namespace: {error.strerror}'
            raise Stalled(message, hint="see `tank doctor`, or leave userns out") from error
        yield mapping


def mount_sysfs(bundle: Path, netns: Path | None) -> Path:
    """Mount a read-only /sys in a bundle and return where; only the owner of the network namespace may."""
    target = bundle / SYSFS
    target.mkdir(mode=0o700, exist_ok=True)
    mount = functools.partial(mounts.mount, "sysfs", target, "sysfs", _SYSFS_FLAGS)
    try:
        in_network_namespace(netns, mount) if netns is not None else mount()
    except OSError as error:
        raise Retry(f"cannot mount {target}: {error.strerror}") from error
    return target


def take_back_null_device() -> None:
    """Make /dev/null root's again where a container owns it, which could then close it to everybody.

    crun gives a container the host's own, as its standard input (crun issue 1845, mended in August 2025). To
    be called before a program of the container runs, and once as the agent starts.
    """
    if _FIRST <= os.stat(os.devnull).st_uid < _END:  # noqa: PTH116
        os.chown(os.devnull, 0, 0)
