"""crun, also on hosts where it refuses to start.

crun does not start where the v1 controllers and a v2 hierarchy are mounted side by side ("hybrid mode not
supported"). Only `create` looks at the cgroup mounts, so there it runs in a private mount namespace whose
/sys/fs/cgroup holds only the v1 controllers; the namespace ends with crun.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from tank_agent.errors import Retry, Stalled
from tank_agent.linux import atomic, mounts
from tank_agent.linux.process import Finished, find, run, version
from tank_agent.linux.trees import left_for_later, remove_tree
from tank_agent.runtime.limits.cgroup import ROOT, CgroupHost

_DEADLINE = 30.0
# First, crun mounts itself read-only over an empty file of such a name (against CVE-2019-5736), in this
# directory or else in /tmp. If it is killed then, both stay.
_COPY_DIRECTORY = "_LIBCONTAINER_STATEDIR"
_COPIES = "crun.??????"
_WRONG_KIND = re.compile(r"mount [`']([^`']+)[`'] to [`']([^`']+)[`']: (?:Not|Is) a directory")
# crun itself already has the limits of the container.
_TOO_MANY_FILES = "ulimits.nofile of the container is too low, or it has too many mounts"
# It names no file.
_EXECUTABLE = "open executable: "
_SYSCTL = re.compile(r"/proc/sys/([a-z0-9_/]+)[`'\"]?: (.+)")


class StartFailed(Stalled):
    """The runtime refused to make or to start the container; the message is the runtime's own."""

    reason = "start-failed"


class Crun:
    """Runs crun with its state in `run_dir/crun`, which a reboot loses by design."""

    def __init__(self, program: str, run_dir: Path, cgroups: CgroupHost) -> None:
        self.root = run_dir / "crun"
        # For every process of crun.
        self.environment = {_COPY_DIRECTORY: str(self.root)}
        self._copies: frozenset[Path] = frozenset()
        self._program = program
        self._options = (f"--root={self.root}", "--cgroup-manager=cgroupfs")
        self._view = run_dir / "cgroup-view"
        self._version = ""
        self._cgroups = cgroups

    def create_command(self, log: Path) -> tuple[str, tuple[str, ...]]:
        """Return program and first arguments of `create`, which conmon runs; raises Stalled without crun."""
        program = find(self._program)
        options = (*self._options, f"--log={log}", "--log-format=json")
        self.root.mkdir(mode=0o700, exist_ok=True)
        if self._cgroups.mode != "split":
            return program, options
        private = ("-m", "--propagation", "slave", "/bin/sh", str(self._prepare_view()), program)
        return "/usr/bin/unshare", (*private, *options)

    def exec_command(self, log: str) -> tuple[str, ...]:
        """Return how to run a further command in a container, up to the options of `exec`."""
        # Without a private view of the cgroups: crun only joins the container's.
        return self._program, *self._options, f"--log={log}", "--log-format=json", "exec"

    def start(self, identifier: str) -> None:
        """Let a created container run its program."""
        if (done := self._run("start", "--", identifier)).code != 0:
            raise StartFailed(clean_message(done.stderr))

    def delete(self, identifier: str) -> None:
        """Kill what is left of a container and forget it; not an error if crun does not know it."""
        if not (self.root / identifier).exists():
            return
        done = self._run("delete", "--force", "--", identifier)
        if done.code != 0 and (self.root / identifier).exists():
            raise Retry(f"cannot delete container {identifier}: {clean_message(done.stderr)}")

    def forget(self, identifier: str) -> None:
        """Remove the state of a container of which nothing runs, where crun itself cannot."""
        remove_tree(self.root / identifier)

    def runs(self) -> frozenset[str]:
        """Return every container of which crun keeps a state."""
        # Beside them are its copies of itself and, of newer versions, compiled seccomp filters.
        return frozenset(entry.name for entry in self.root.glob("*") if "." not in entry.name)

    def sweep(self, *, at_rest: bool = False) -> None:
        """Remove copies that killed processes of crun left: those of the last sweep, or all if `at_rest`."""
        found = frozenset(self.root.glob(_COPIES))
        for path in found if at_rest else found & self._copies:
            with left_for_later(str(path)):
                mounts.unmount_all(path)
                path.unlink(missing_ok=True)
        self._copies = found

    def began(self, identifier: str) -> bool | None:
        """Return whether a container was started; None if crun has no state of it."""
        directory = self.root / identifier
        # The container's init waits at this pipe, which `start` removes.
        if (directory / "exec.fifo").exists():
            return False
        return True if (directory / "status").exists() else None

    def version(self) -> str:
        """Return what `crun --version` printed when it last worked; empty if it never did."""
        self._version = self._version or version(self._program)
        return self._version

    def _run(self, *arguments: str) -> Finished:
        return run([self._program, *self._options, *arguments], timeout=_DEADLINE, env=self.environment)

    def _prepare_view(self) -> Path:
        """Make the private view of the control groups, and return the script that `create` runs in it."""
        # Anew each time, since a part of it may have been removed.
        self._view.mkdir(mode=0o700, exist_ok=True)
        lines = [_fstab("tmpfs", self._view, "tmpfs", "mode=755")]
        for hierarchy in self._cgroups.hierarchies:
            lines.append(_fstab(hierarchy, self._view / hierarchy.name, "none", "rbind,X-mount.mkdir"))
        lines.append(_fstab(self._view, ROOT, "none", "rbind"))
        table, script = self._view.with_suffix(".fstab"), self._view.with_suffix(".sh")
        for path, text in ((table, "".join(lines)), (script, f'mount -a -T "{table}" && exec "$@"\n')):
            with suppress(FileNotFoundError):
                if path.read_text() == text:
                    continue
            # Another worker may be reading it just now.
            atomic.write(path, text.encode())
        return script


def _fstab(*fields: Path | str) -> str:
    texts = (os.fspath(field).replace("\\", "\\134") for field in fields)
    escaped = (text.replace(" ", "\\040").replace("\t", "\\011") for text in texts)
    return f"{' '.join(escaped)} 0 0\n"


def read_log(path: Path) -> str:
    """Return what crun logged into a file; empty if there is none."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return ""


def program_of(bundle: Path) -> str:
    """Return the program of a bundle; empty if that can't be read."""
    try:
        arguments = msgspec.json.decode((bundle / "config.json").read_bytes())["process"]["args"]
        return str(arguments[0])
    except (OSError, msgspec.DecodeError, LookupError, TypeError):
        return ""


def refused(message: str, sysctls: Mapping[str, str], program: str = "") -> StartFailed:
    """Return the error of a `create` that failed; it names the sysctl, mount or program at fault, if any."""
    if program and message.startswith(_EXECUTABLE):
        why = message.removeprefix(_EXECUTABLE)
        hint = f'`chmod +x` it where the image is built, or run it by what reads it: ["/bin/sh", "{program}"]'
        return StartFailed(
            f"cannot run {program}: {why}", hint=hint if why == os.strerror(errno.EACCES) else None
        )
    mounted = _WRONG_KIND.search(message)
    if mounted is not None:
        return _wrong_kind(mounted[1], mounted[2])
    found = _SYSCTL.search(message)
    name = found[1].replace("/", ".") if found else ""
    value = sysctls.get(name)
    if found is None or value is None:
        return StartFailed(message, hint=_TOO_MANY_FILES if os.strerror(errno.EMFILE) in message else None)
    if os.strerror(errno.ENOENT) in found[2]:
        hint = "its module may not be loaded"
        return StartFailed(f"sysctl {name}: this kernel has none of that name for a container", hint=hint)
    return StartFailed(
        f"sysctl {name}: the kernel refuses {value!r}: {found[2]}", hint="see ipc_namespaces(7)"
    )


def _wrong_kind(source: str, target: str) -> StartFailed:
    """Return the error of a mount of a file on a directory, or the other way round."""
    path = "/" + target.lstrip("/")
    if os.path.isdir(source):
        right = "write the path of a directory, or one that is not there"
        return StartFailed(f"a directory can't be mounted at {path}, where the image has a file; {right}")
    right = f"name the file, too, such as {path.rstrip('/')}/app.conf"
    return StartFailed(f"a file can't be mounted at {path}, where the image has a directory; {right}")


def clean_message(text: str) -> str:
    """Return crun's last message, without its time stamp; its log lines are JSON with a `msg`."""
    for line in reversed(text.strip().splitlines()):
        try:
            decoded = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return line.partition("Z: ")[2] or line
        if isinstance(decoded, dict) and decoded.get("msg"):
            return str(decoded["msg"])
    return "it said nothing"
