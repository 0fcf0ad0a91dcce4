"""crun, and how to start it on hosts where it refuses to.

crun does not start where the v1 controllers and a v2 hierarchy are mounted side by side ("hybrid mode not
supported"). There only `create` looks at the cgroup mounts, so `create` alone runs in a private mount
namespace whose /sys/fs/cgroup holds the v1 controllers and nothing else; nothing of it is left when crun
has gone.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from msgspec import Struct

from tank_agent.errors import Retry, Stalled
from tank_agent.linux.process import run
from tank_agent.runtime.cgroup import ROOT, CgroupHost

_DEADLINE = 30.0


class StartFailed(Stalled):
    """The runtime refused to make or to start the container; the message is the runtime's own."""

    reason = "start-failed"


class Listed(Struct, frozen=True):
    """One container that crun knows (`crun list --format json`)."""

    id: str
    pid: int
    status: str


class Crun:
    """Runs crun with our own state directory.

    Args:
        program: path of the crun (or runc) program.
        run_dir: the agent's run_dir; state is kept in its `crun` directory, by design lost at reboot.
        cgroups: the host's layout.
    """

    def __init__(self, program: str, run_dir: Path, cgroups: CgroupHost) -> None:
        self.root = run_dir / "crun"
        self._program = program
        self._options = (f"--root={self.root}", "--cgroup-manager=cgroupfs")
        self._view = run_dir / "cgroup-view"
        self._split = cgroups.mode == "split"
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._split:
            self._prepare_view(run_dir, cgroups)

    def create_command(self, log: Path) -> tuple[str, tuple[str, ...]]:
        """Return what conmon runs for `create`: the program, and the arguments before the sub-command."""
        options = (*self._options, f"--log={log}", "--log-format=json")
        if not self._split:
            return self._program, options
        script = self._view.with_suffix(".sh")
        private = ("-m", "--propagation", "slave", "/bin/sh", str(script), self._program)
        return "/usr/bin/unshare", (*private, *options)

    def exec_command(self, log: str) -> tuple[str, ...]:
        """Return how to run a further command in a container, up to the options of `exec`.

        It works without the private view of the cgroups: crun only joins the cgroup that the container has.
        """
        return self._program, *self._options, f"--log={log}", "--log-format=json", "exec"

    def start(self, identifier: str) -> None:
        """Let a created container run its program.

        Raises:
            StartFailed: crun's own message.
        """
        done = run([self._program, *self._options, "start", "--", identifier], timeout=_DEADLINE)
        if done.code != 0:
            raise StartFailed(clean_message(done.stderr))

    def delete(self, identifier: str) -> None:
        """Kill what is left of a container and forget it; not an error if crun does not know it.

        Raises:
            Retry: crun failed for another reason.
        """
        if not (self.root / identifier).exists():
            return
        done = run([self._program, *self._options, "delete", "--force", "--", identifier], timeout=_DEADLINE)
        if done.code != 0 and (self.root / identifier).exists():
            raise Retry(f"cannot delete container {identifier}: {clean_message(done.stderr)}")

    def list(self) -> dict[str, Listed]:
        """Return every container that crun knows under our root, by id."""
        done = run([self._program, *self._options, "list", "--format", "json"], timeout=_DEADLINE)
        if done.code != 0:
            raise Retry(f"cannot list containers: {clean_message(done.stderr)}")
        listed = msgspec.json.decode(done.stdout or "[]", type=list[Listed] | None) or []
        return {entry.id: entry for entry in listed}

    def _prepare_view(self, run_dir: Path, cgroups: CgroupHost) -> None:
        self._view.mkdir(mode=0o700, exist_ok=True)
        lines = [_fstab("tmpfs", self._view, "tmpfs", "mode=755")]
        for hierarchy in cgroups.hierarchies:
            lines.append(_fstab(hierarchy, self._view / hierarchy.name, "none", "rbind,X-mount.mkdir"))
        lines.append(_fstab(self._view, ROOT, "none", "rbind"))
        table = self._view.with_suffix(".fstab")
        table.write_text("".join(lines))
        script = self._view.with_suffix(".sh")
        script.write_text(f'mount -a -T "{os.fspath(table)}" && exec "$@"\n')


def _fstab(source: Path | str, target: Path, kind: str, options: str) -> str:
    def escape(path: Path | str) -> str:
        return os.fspath(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")

    return f"{escape(source)} {escape(target)} {kind} {options} 0 0\n"


def clean_message(text: str) -> str:
    """Return the last thing that crun said, without its time stamp; its log lines are JSON with a `msg`."""
    for line in reversed(text.strip().splitlines()):
        try:
            decoded = msgspec.json.decode(line)
        except msgspec.DecodeError:
            return line.partition("Z: ")[2] or line
        if isinstance(decoded, dict) and decoded.get("msg"):
            return str(decoded["msg"])
    return "it said nothing"
