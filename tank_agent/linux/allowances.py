"""Resource limits that may be lowered already, and optimisations that the kernel may refuse."""

from __future__ import annotations

import contextlib
import fcntl
import resource


def lower_limit(kind: int, value: int) -> None:
    """Bound a resource of this process and its children (setrlimit(2)); a lower limit stays."""
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))


def enlarge_pipe(pipe: int, size: int) -> None:
    """Make a pipe hold more, which saves switches between processes, unless the kernel refuses.

    All pipes of a user share a budget (pipe-user-pages-soft), and each container's output takes some of it.
    """
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
