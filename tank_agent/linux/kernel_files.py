"""Tell the kernel's own file systems (/proc, /sys and the like) from those that hold files, by statfs(2)."""

from __future__ import annotations

import ctypes
import os
import struct

from tank_agent.linux.libc import call
from tank_agent.linux.tar_stream import CopyError

# linux/magic.h: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, devpts, mqueue, configfs,
# pstore, efivarfs, selinuxfs, binfmt_misc, nsfs, pidfs, fusectl
_MAGIC = frozenset(
    (
        *(0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0xCAFE4A11, 0x1CD1),
        *(0x19800202, 0x62656570, 0x6165676C, 0xDE5E81E4, 0xF97CFF8C, 0x42494E4D, 0x6E736673, 0x50494446),
        0x65735543,
    )
)
_STATFS_SIZE = 256


class KernelFiles:
    """Refuses what lies in such a file system; with `allowed`, nothing."""

    def __init__(self, *, allowed: bool = False) -> None:
        self._allowed = allowed
        self._known: dict[int, bool] = {}

    def covers(self, descriptor: int) -> bool:
        """Return whether an open file is to be refused; each file system is asked once."""
        if self._allowed:
            return False
        device = os.fstat(descriptor).st_dev
        if device not in self._known:
            if len(self._known) > 1000:
                self._known.clear()
            buffer = ctypes.create_string_buffer(_STATFS_SIZE)
            call("fstatfs", descriptor, buffer)
            self._known[device] = struct.unpack_from("L", buffer)[0] & 0xFFFFFFFF in _MAGIC
        return self._known[device]

    def check(self, descriptor: int, name: str) -> None:
        """Raise CopyError for an open file that is to be refused."""
        if self.covers(descriptor):
            hint = "use `tank exec` for such files"
            raise CopyError(f"{name} is in a file system of the kernel's own, such as /proc", hint)
