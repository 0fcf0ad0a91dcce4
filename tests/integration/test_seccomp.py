"""The default profile under the real crun: what it stops, and that the cached program is the same filter."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tank_agent.linux import pidfd as pidfds
from tank_agent.runtime.container.oci import SECCOMP_ANNOTATION
from tank_agent.runtime.security import syscalls
from tank_agent.runtime.security.seccomp import SeccompCache, default_profile

DEADLINE = 30.0
CLONE_NEWUSER_SIGCHLD = 0x10000000 | 17
CGROUPS = Path("/sys/fs/cgroup")

MAKE_VIEW = """
set -e
mount -t tmpfs tmpfs "$1"
for path in /sys/fs/cgroup/*/; do
  name=$(basename "$path")
  [ "$name" = unified ] && continue
  mkdir "$1/$name"
  mount --bind "$path" "$1/$name"
done
mount --rbind "$1" /sys/fs/cgroup
echo ready
exec cat >/dev/null
"""

# Runs inside the container; prints one JSON object of results, an errno or 0 per attempt.
PROBE = r"""
import ctypes, json, os, socket, subprocess
libc = ctypes.CDLL(None, use_errno=True)

def attempt(function, *args):
    ctypes.set_errno(0)
    return ctypes.get_errno() if getattr(libc, function)(*args) == -1 else 0

def number(nr, *args):
    return attempt("syscall", ctypes.c_long(nr), *(ctypes.c_long(arg) for arg in args))

def open_socket(family):
    try:
        socket.socket(family, socket.SOCK_STREAM if family < 10 else socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno
    return 0

pid = os.fork()
if pid == 0:
    os._exit(7)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
numbers = json.loads(os.environ["NUMBERS"])
print(json.dumps({
    "fork": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]),
    "subprocess": subprocess.run(["/bin/sh", "-c", "exit 3"]).returncode,
    "unshare": attempt("unshare", 0x10000000),
    "setns": attempt("setns", -1, 0),
    "mount": attempt("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "umount2": attempt("umount2", b"/tmp", 0),
    "pivot_root": number(numbers["pivot_root"], 0, 0),
    "keyctl": number(numbers["keyctl"], 0, -3, 0),
    "clone_newuser": number(numbers["clone"], 0x10000011, 0, 0, 0, 0),
    "clone3": number(435, 0, 0),
    "io_uring_setup": number(425, 1, 0),
    "unknown": number(1023),
    "personality_query": attempt("personality", ctypes.c_ulong(0xFFFFFFFF)),
    "personality_no_randomize": attempt("personality", ctypes.c_ulong(0x0040000)),
    "socket_unix": open_socket(1),
    "socket_inet": open_socket(2),
    "socket_netlink": open_socket(16),
    "socket_alg": open_socket(38),
    "socket_vsock": open_socket(40),
    "mode": status["Seccomp"].strip(),
    "filters": status["Seccomp_filters"].strip(),
}))
"""

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
EXPECTED = {
    "fork": 7,
    "subprocess": 3,
    "unshare": EPERM,
    "setns": EPERM,
    "mount": EPERM,
    "umount2": EPERM,
    "pivot_root": EPERM,
    "keyctl": EPERM,
    "clone_newuser": EPERM,
    "clone3": ENOSYS,
    "io_uring_setup": ENOSYS,
    "unknown": ENOSYS,
    "personality_query": 0,
    "personality_no_randomize": ENOSYS,
    "socket_unix": 0,
    "socket_inet": 0,
    "socket_netlink": 0,
    "socket_alg": EAFNOSUPPORT,
    "socket_vsock": EAFNOSUPPORT,
    "mode": "2",
    "filters": "1",
}


def cpu_time() -> float:
    # Wall time would measure the machine's other work, too.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def resolve(name: str) -> int:
    library = ctypes.CDLL("libseccomp.so.2")
    return int(library.seccomp_syscall_resolve_name(name.encode()))


@contextmanager
def mount_namespace(directory: Path) -> Iterator[list[str]]:
    """Give the words to put before crun: on a hybrid host those that enter a view of cgroup v1 only."""
    if not (CGROUPS / "unified").is_dir():
        yield []
        return
    directory.mkdir()
    argv = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", MAKE_VIEW, "sh", str(directory)]
    # The namespace lives as long as this process, which ends with its stdin.
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        yield ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt", "--"]


def mounts() -> list[dict[str, Any]]:
    read_only = ["bind", "ro", "nosuid", "nodev"]
    bound = {"/usr", os.path.realpath(sys.base_prefix)}
    return [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        *(
            {"destination": path, "source": path, "type": "bind", "options": read_only}
            for path in sorted(bound)
        ),
    ]


class Sandbox:
    """One bundle directory after another, started by the real crun."""

    def __init__(self, directory: Path, prefix: list[str]) -> None:
        self.directory = directory
        self.prefix = prefix
        self.root = directory / "crun"
        self.root.mkdir()
        self.started: list[str] = []
        self.rootfs = directory / "rootfs"
        self.rootfs.mkdir()
        for name in ("bin", "lib", "lib64", "sbin"):
            if (Path("/") / name).is_symlink():
                (self.rootfs / name).symlink_to(f"usr/{name}")

    def crun(self, *args: str, stdout: Any = subprocess.DEVNULL) -> None:
        # A pipe for errors would be kept open by the container, too.
        with (self.directory / "errors").open("w+b") as errors:
            argv = [*self.prefix, "crun", f"--root={self.root}", "--cgroup-manager=cgroupfs", *args]
            code = subprocess.run(
                argv, stdout=stdout, stderr=errors, stdin=subprocess.DEVNULL, timeout=DEADLINE, check=False
            ).returncode
        assert code == 0, (self.directory / "errors").read_text()

    def create(self, profile: dict[str, Any], annotation: str | None) -> tuple[str, float]:
        """Create a container and return its id and how many seconds of CPU time crun took."""
        identity = f"tank-seccomp-{os.getpid()}-{len(self.started)}"
        bundle = self.directory / identity
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(self.config(identity, profile, annotation)))
        self.started.append(identity)
        with (bundle / "output").open("wb") as output:
            before = cpu_time()
            self.crun(
                "create", f"--bundle={bundle}", f"--pid-file={bundle / 'pid'}", "--", identity, stdout=output
            )
            return identity, cpu_time() - before

    def config(self, identity: str, profile: dict[str, Any], annotation: str | None) -> dict[str, Any]:
        numbers = {name: resolve(name) for name in ("pivot_root", "keyctl", "clone")}
        # The capability to mount, so that only the filter stands in the way.
        capabilities = ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SETUID"]
        return {
            "ociVersion": "1.0.0",
            "root": {"path": str(self.rootfs)},
            "annotations": {SECCOMP_ANNOTATION: annotation} if annotation else {},
            "mounts": mounts(),
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": [os.path.realpath(sys.executable), "-I", "-c", PROBE],
                "env": ["PATH=/usr/bin:/bin", f"NUMBERS={json.dumps(numbers)}"],
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
                "noNewPrivileges": True,
            },
            "linux": {
                "cgroupsPath": f"/{identity}",
                "namespaces": [
                    {"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")
                ],
                "seccomp": profile,
            },
        }

    def program(self, identity: str) -> Path:
        return self.root / identity / "seccomp.bpf"

    def finish(self, identity: str) -> dict[str, Any]:
        """Start what `create` made, wait until it ends and return what it printed."""
        pidfd = pidfds.open_process(int((self.directory / identity / "pid").read_text()))
        assert pidfd is not None
        try:
            self.crun("start", identity)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            assert poller.poll(DEADLINE * 1000), "the probe did not end"
        finally:
            os.close(pidfd)
        text = (self.directory / identity / "output").read_text()
        result: dict[str, Any] = json.loads(text)
        return result


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    with mount_namespace(tmp_path / "cgroup-view") as prefix:
        box = Sandbox(tmp_path, prefix)
        yield box
        for identity in box.started:
            if (box.root / identity).exists():
                box.crun("delete", "--force", identity)
            # Only where it made some: in the rest of the tree, groups of others come and go.
            for leftover in (*CGROUPS.glob(identity), *CGROUPS.glob(f"*/{identity}")):
                leftover.rmdir()


def test_every_name_of_the_table_is_one_that_libseccomp_knows() -> None:
    names = syscalls.ALLOWED | syscalls.REFUSED | syscalls.MACHINE_ALLOWED["x86_64"]
    unknown = {name for name in names if resolve(name) == -1}
    assert unknown <= syscalls.NEWER


def test_the_profile_lets_programs_work_and_keeps_them_in(sandbox: Sandbox) -> None:
    identity, _ = sandbox.create(default_profile(platform.machine()), None)
    assert sandbox.finish(identity) == EXPECTED


def test_the_cached_program_is_the_same_filter_and_starts_faster(sandbox: Sandbox, tmp_path: Path) -> None:
    profile = default_profile(platform.machine())
    cache = SeccompCache(tmp_path / "data", crun_version=lambda: "test", machine=platform.machine())
    assert cache.annotation_for(profile) is None
    identity, _ = sandbox.create(profile, None)
    compiled_program = sandbox.program(identity).read_bytes()
    assert cache.learn(profile, sandbox.program(identity))
    sandbox.finish(identity)

    annotation = SeccompCache(
        tmp_path / "data", crun_version=lambda: "test", machine=platform.machine()
    ).annotation_for(profile)
    assert annotation is not None
    identity, _ = sandbox.create(profile, annotation)
    assert compiled_program == sandbox.program(identity).read_bytes()
    assert sandbox.finish(identity) == EXPECTED

    compiled, cached = [], []
    for _ in range(15):
        compiled.append(sandbox.create(profile, None)[1])
        cached.append(sandbox.create(profile, annotation)[1])
    print(f"crun create: {min(compiled) * 1000:.1f} ms of CPU compiled, {min(cached) * 1000:.1f} ms cached")
    assert min(cached) < min(compiled)
