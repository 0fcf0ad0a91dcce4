"""A crun, a conmon and root file systems for `Containers` that need no root: real processes in no container.

The fake conmon runs the arguments of config.json once the fake crun has started them, and writes the files
that the real one writes. Nothing is mounted: a root file system is a plain directory.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from tank_agent.image.parameters import RunParameters
from tank_agent.journal.journal import Journal
from tank_agent.linux.clock import Clock
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.reconcile.fills import Fills
from tank_agent.reconcile.machine import Machine
from tank_agent.reconcile.probes import Probes
from tank_agent.reconcile.snapshots import Snapshots
from tank_agent.runtime.container.crun import Crun
from tank_agent.runtime.container.launch import Launch, Tools
from tank_agent.runtime.container.oci import Seccomp
from tank_agent.runtime.limits.cgroup import CgroupHost
from tank_agent.runtime.mounts.contents import Contents
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.spec.model import Container

CONMON = """\
import json, os, sys, time

def value(option):
    return sys.argv[sys.argv.index(option) + 1]

os.read(int(os.environ["_OCI_STARTPIPE"]), 1)
bundle, sync = value("-b"), int(os.environ["_OCI_SYNCPIPE"])
root = next(a for a in sys.argv if a.startswith("--runtime-arg=--root=")).partition("--root=")[2]
argv = json.load(open(f"{bundle}/config.json"))["process"]["args"]
if argv == ["refused"]:
    os.write(sync, b'{"data": -1, "message": "no such program"}\\n')
    sys.exit(1)
if os.fork():
    os._exit(0)
os.setsid()
state = f"{root}/{value('-n')}"
os.makedirs(state)
for name in ("status", "exec.fifo"):
    open(f"{state}/{name}", "w").close()
program = os.fork()
if not program:
    while os.path.exists(f"{state}/exec.fifo"):
        time.sleep(0.005)
    os.execvp(argv[0], argv)
for path, number in ((value("-p"), program), (value("-P"), os.getpid())):
    with open(path, "w") as file:
        file.write(str(number))
os.write(sync, b'{"data": %d}\\n' % program)
_, status = os.waitpid(program, 0)
code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
with open(f"{bundle}/.exit", "w") as file:
    file.write(str(code))
os.rename(f"{bundle}/.exit", f"{bundle}/exit")
"""

CRUN = """\
#!/bin/sh
root=${1#--root=}
echo "$3 $4 $5" >> "$root.calls"
case $3 in
start) rm "$root/$5/exec.fifo" ;;
delete) rm -r "$root/$6" ;;
esac
"""


class RootFilesystems:
    """Directories in the place of overlays; what is removed is noted."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir()
        self.removed: list[str] = []
        self.layers: Sequence[Path] = ()

    def mount(self, identifier: str, layers: Sequence[Path], bundle: Path, mapping: object = None) -> Path:
        self.layers = layers
        self.private(identifier).mkdir(exist_ok=True)
        (bundle / "rootfs").mkdir()
        return bundle / "rootfs"

    def private(self, identifier: str) -> Path:
        return self._directory / identifier

    def runs(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self._directory.iterdir())

    def remove(self, identifier: str) -> None:
        self.removed.append(identifier)

    def detach(self, bundle: Path) -> None:
        pass

    def close(self) -> None:
        pass


class FakeRuntime:
    """The directories and the tools of one agent; `end` kills what its containers left."""

    def __init__(self, tmp_path: Path) -> None:
        self.run, self.data = tmp_path / "run", tmp_path / "data"
        for directory in (self.run / "crun", self.data):
            directory.mkdir(parents=True)
        self.hierarchy = tmp_path / "cgroup"
        self.hierarchy.mkdir()
        self.cgroups = CgroupHost(mode="unified", hierarchies=(self.hierarchy,), base="/tank")
        self.root_filesystems = RootFilesystems(self.data / "overlay")
        self.crun = Crun(str(_program(tmp_path / "fake-crun", CRUN)), self.run, self.cgroups)
        self.seccomp = Seccomp(profile={"defaultAction": "SCMP_ACT_ERRNO"}, compiled=None)
        self.learnt: list[Path] = []
        self.tools = Tools(
            crun=self.crun,
            conmon=str(_program(tmp_path / "conmon", f"#!{sys.executable} -IS\n{CONMON}")),
            cgroups=self.cgroups,
            root_filesystems=cast("Any", self.root_filesystems),
            volumes=Volumes(self.data, self.run),
            seccomp=cast("Any", self),
            contents=Contents(self.run),
            apparmor=lambda _: None,
        )

    def choose(self, _security: object) -> Seccomp:
        """Return the seccomp profile of every container."""
        return self.seccomp

    def learn(self, _profile: object, path: Path) -> None:
        """Remember what was to be kept."""
        self.learnt.append(path)

    def calls(self) -> list[str]:
        """Return what the fake crun was asked for."""
        return (self.run / "crun.calls").read_text().splitlines()

    def group(self, path: str, **files: str) -> Path:
        """Make a control group of files: memory_max is memory.max."""
        directory = self.hierarchy / path.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("_", ".")).write_text(content)
        return directory

    def end(self) -> None:
        """Kill every process that works in one of the bundles."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (process / "cwd").readlink().is_relative_to(self.run / "containers"):
                    os.kill(int(process.name), signal.SIGKILL)


def launch(*argv: str, container: Container | None = None, **changes: Any) -> Launch:
    """Return a launch of a container "app" of the pod "web" that runs `argv`."""
    values: dict[str, Any] = {
        "pod": "web",
        "container": container or Container(name="app", rootfs=None),
        "volumes": (),
        "parameters": RunParameters(argv=argv, env={}, cwd="/", user="", stop_signal="SIGTERM"),
        "layers": (),
        "image": "app:1",
        "netns": None,
        "files": Path("/files"),
        "hash": "hash-1",
        "revision": "revision-1",
        "settings": "settings-1",
    }
    return Launch(**{**values, **changes})


def _program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def idle_probes() -> Probes:
    """Return probes that nobody asked for; they have no thread."""
    return Probes(cast(Any, None), Clock(), lambda *_: None, lambda _: None, lambda _: None)


def idle_snapshots() -> Snapshots:
    """Return snapshots that nobody asked for; they have no thread."""
    return Snapshots(cast(Any, None), Clock(), lambda *_: None)


def idle_fills() -> Fills:
    """Return volumes that nobody wants filled."""
    return Fills(cast(Any, None), idle_snapshots(), lambda *_: None)


def no_secrets() -> Secrets:
    """Return secrets of a machine that has no keys, and that keeps none of its own."""
    return Secrets((), keep_once=lambda _, make: make())


def fake_machine(journal: Journal, parts: object, clock: Clock, **others: Any) -> Machine:
    """Return a machine whose containers, networks and pulls are one fake, and nothing is probed or copied."""
    part = cast(Any, parts)
    made = {
        "backoff": Backoff(),
        "probes": idle_probes(),
        "snapshots": idle_snapshots(),
        "fills": idle_fills(),
        "secrets": no_secrets(),
        **dict.fromkeys(("containers", "networks", "pulls"), part),
    }
    return Machine(journal=journal, clock=clock, boot_id="boot", since=0.0, **made | others)
