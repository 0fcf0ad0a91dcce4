"""A container that moves its own directories about while the agent mounts in it again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.errors import Retry
from tank_agent.linux import mounts, pidfd
from tank_agent.linux.namespaces import in_mount_namespace
from tank_agent.linux.paths import open_without_links
from tank_agent.runtime.mounts import restore
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.run import RECORD, LiveRun, RunRecord, read_file
from tank_agent.spec.model import Mount, Volume
from tests.support.agent import Agent, wait_for

SOON = 60.0
USERNS = '[containers.security]\nuserns = "auto"\n'


def mounted(pid: int) -> list[str]:
    """Return mount points, options and what is mounted of a container, without what the kernel numbers."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
    return sorted(" ".join(line.split()[3:6]) for line in lines)


def points(pid: int) -> list[str]:
    return sorted(line.split()[1] for line in mounted(pid))


def pod(agent: Agent, script: str, *paths: str, head: str = "", extra: str = "") -> str:
    """Return a pod whose container runs a script, with a volume of its own at each path."""
    names = [f"v{number}" for number in range(len(paths))]
    head += "".join(f'[[volumes]]\nname = "{name}"\n' for name in names)
    table = "".join(
        f'[[containers.mounts]]\nvolume = "{name}"\npath = "{path}"\n'
        for name, path in zip(names, paths, strict=True)
    )
    applets = 'for name in mv mkdir ln; do alias $name="busybox $name"; done'
    command = ["/bin/busybox", "sh", "-c", f"{applets}\n{script}\necho done; exec busybox sleep 1000000"]
    return agent.pod_text(command=command, head=head, extra=extra + table)


def unmount(pid: int, path: str, *, check: bool = True) -> None:
    """Take a mount away as root of the host could; inside of another, a user namespace's cannot be."""
    subprocess.run(["nsenter", "-t", str(pid), "-m", "/bin/busybox", "umount", "-l", path], check=check)


# The last part of the path, or the one before it, leads into the kernel's files; and a volume in a volume, of
# which the outer one's path leads to the top of a mount, too.
BENT = {
    "last": (("/app/data",), "mv /app /app2; mkdir /app; ln -s /proc/sys/kernel /app/data"),
    "parent": (("/app/kernel",), "mv /app /app2; ln -s /sys /app"),
    "inner": (("/app/data", "/app/data/tty"), "mv /app /app2; mkdir /app; ln -s /proc /app/data"),
}


def test_a_path_that_a_container_bent_is_not_mounted_on(open_agent: Agent) -> None:
    agent = open_agent
    for name, (paths, script) in BENT.items():
        agent.write(name, pod(agent, script, *paths))
        agent.write(f"userns-{name}", pod(agent, script, *paths) + USERNS)
    before = {}
    for name in [*BENT, *(f"userns-{name}" for name in BENT)]:
        wait_for(lambda name=name: "done" in agent.output(name), "it moved its directory")  # type: ignore[misc]
        before[name] = (agent.pid(name), points(agent.pid(name)))
    # The mount that went along is taken away, so that the agent looks, and finds it lost.
    for name, (pid, _) in before.items():
        path = BENT[name.removeprefix("userns-")][0][-1]
        unmount(pid, path.replace("/app", "/app2", 1), check=not name.startswith("userns"))
    for name, (pid, kept) in before.items():
        status = agent.wait_phase(name, "degraded", SOON)
        assert BENT[name.removeprefix("userns-")][0][-1] in status["error"], status
        assert "makes all its mounts anew" in status["error"], status
        assert not Counter(points(pid)) - Counter(kept)
        assert agent.pid(name) == pid


def test_a_mount_that_links_of_the_image_lead_to_the_kernels_files_is_refused(open_agent: Agent) -> None:
    """A volume in place of /proc would hold what the runtime asks of it (CVE-2019-19921)."""
    agent = open_agent
    links = {
        "proc": "/proc",
        "sys": "../proc/sys",
        "dangling": "/dev/no/such",
        "root": "/",
        "hosts": "/etc/hosts",
    }
    (agent.rootfs / "app").mkdir()
    for name, target in links.items():
        (agent.rootfs / "app" / name).symlink_to(target)
        agent.write(name, pod(agent, "true", f"/app/{name}"))
    for name in links:
        error = wait_for(lambda name=name: (agent.status(name) or {}).get("error"), "it is refused")  # type: ignore[misc]
        assert f"mount /app/{name}: links of the image lead to /" in error
        assert agent.output(name) == []


def test_links_that_stay_in_the_root_file_system_are_followed_as_at_the_start(open_agent: Agent) -> None:
    agent = open_agent
    (agent.rootfs / "var").mkdir()
    (agent.rootfs / "var" / "run").symlink_to("../run")
    agent.write("web", pod(agent, "true", "/var/run/app", "/var/run/app/inner"))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    before = mounted(pid)
    assert "/run/app" in points(pid)
    for path in ("/run/app/inner", "/run/app"):
        unmount(pid, path)
        wait_for(lambda: mounted(pid) == before, f"{path} is back", SOON)


def test_a_volume_in_a_volume_never_follows_what_others_put_there(open_agent: Agent) -> None:
    """Who shares the outer one would choose where in this container the inner one goes: here, its /proc."""
    agent = open_agent
    shared = agent.home / "shared"
    shared.mkdir()
    (shared / "v").symlink_to("/proc")
    outer = f'[[volumes]]\nname = "outer"\nhost = "{shared}"\n'
    outer += f'[[volumes]]\nname = "conf"\nhost = "{agent.home}/conf"\n'
    mounts_outer = '[[containers.mounts]]\nvolume = "outer"\npath = "/o"\n'
    script = "busybox stat -c %a:%u:%F /o/v /o/v/w /o/v/w/f; cat /proc/1/comm"
    text = pod(agent, script, "/o/v", head=outer, extra=mounts_outer) + mount_of_file(agent, "/o/v/w/f")
    agent.write("web", text)
    error = wait_for(lambda: (agent.status("web") or {}).get("error"), "it is refused")
    assert "mount /o/v: a symbolic link is there in the volume around it" in error
    assert agent.output("web") == []
    (shared / "v").unlink()
    agent.write("mapped", text + USERNS)
    for name in ("web", "mapped"):
        wait_for(lambda name=name: "done" in agent.output(name), "it starts once that is gone")  # type: ignore[misc]
        assert {"755:0:directory", "644:0:regular file"} < set(agent.output(name))
        assert "/o/v/w/f" in points(agent.pid(name))
    assert (shared / "v").is_dir()


def mount_of_file(agent: Agent, path: str) -> str:
    (agent.home / "conf").write_text("x")
    return f'[[containers.mounts]]\nvolume = "conf"\npath = "{path}"\n'


def test_a_container_that_swaps_directories_all_the_while_gains_nothing(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent's own code, some thousand times, against renameat2(RENAME_EXCHANGE) at full speed."""
    agent.write("web", pod(agent, "true", "/app/sys"))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    # Only what the test itself calls acts on the container.
    agent.kill()
    bundle = next(path for path in (agent.run / "containers").iterdir())
    record = read_file(bundle / RECORD, RunRecord)
    assert record is not None
    kept = [point for point in points(pid) if point.startswith(("/proc", "/sys", "/dev", "/etc"))]
    root = Path(f"/proc/{pid}/root")
    binder = Volumes(agent.data, agent.run)
    process = pidfd.open_process(pid)
    assert process is not None

    def take_away(root: int) -> None:
        for name in ("app", "link", "app", "link"):
            try:
                parent = open_without_links(root, name, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                # It is the link just now.
                continue
            os.fchdir(parent)
            os.close(parent)
            mounts.unmount_all("sys")

    def heal() -> None:
        restore.restore(
            LiveRun(record=record, directory=bundle, process=process),
            [Mount(volume="v0", path="/app/sys")],
            [Volume(name="v0")],
            agent.run / "pods" / "web",
            binder,
        )

    ends = {"mounted": 0, "refused": 0}
    try:
        (root / "link").symlink_to("/proc")
        with swapping(root):
            begun = time.monotonic()
            # A busy machine goes on until both came about.
            while min(ends.values()) < (25 if time.monotonic() < begun + 8 else 3):
                in_mount_namespace(process, take_away)
                try:
                    heal()
                    ends["mounted"] += 1
                except Retry:
                    ends["refused"] += 1
                now = [point for point in points(pid) if point.startswith(("/proc", "/sys", "/dev", "/etc"))]
                assert now == kept
        # Who moves mounts away for ever does not gain one each time.
        in_mount_namespace(process, take_away)
        monkeypatch.setattr(restore, "_MOUNTS_MAX", len(kept))
        with pytest.raises(Retry, match="too often"):
            heal()
    finally:
        os.close(process)
    # It was a race: both came about.
    assert min(ends.values()) >= 3, ends


@contextmanager
def swapping(root: Path) -> Iterator[None]:
    """Exchange /app, a directory, and /link, a link, in a root file system all the while."""
    script = f"import tests.integration.test_mount_escapes as t; t.swap({str(root)!r})"
    racer = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    try:
        yield
    finally:
        racer.kill()
        racer.wait()


def swap(root: str) -> None:
    """Exchange for ever."""
    libc = ctypes.CDLL(None)
    directory = os.open(root, os.O_PATH)
    while True:
        for _ in range(1000):
            libc.renameat2(directory, b"app", directory, b"link", 2)
