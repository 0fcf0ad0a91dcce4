"""Volumes: managed and of the host, shared, read-only, kept after the pod, and removed only by hand."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.errors import VolumeInUse
from tank_agent.linux import mounts
from tank_agent.linux.pidfd import start_time
from tank_agent.runtime.mounts.volumes import Volumes
from tests.support.agent import Agent, running_agent, wait_for

SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"


def mount(volume: str, path: str, *, read_only: bool = False) -> str:
    more = "read_only = true\n" if read_only else ""
    return f'[[containers.mounts]]\nvolume = "{volume}"\npath = "{path}"\n{more}'


def volume(name: str, host: Path | None = None) -> str:
    return f'[[volumes]]\nname = "{name}"\n' + (f'host = "{host}"\n' if host else "")


def script(agent: Agent, text: str, *, name: str = "app", extra: str = "", head: str = "") -> str:
    command = ["/bin/busybox", "sh", "-c", f"{text}; {SLEEP}"]
    return agent.pod_text(command=command, head=head, extra=extra).replace('"app"', f'"{name}"')


@contextlib.contextmanager
def mounted_below(directory: Path) -> Iterator[None]:
    """Mount something, as a directory that cannot be removed; it moves along with the one around it."""
    (directory / "held").mkdir()
    mounts.mount("none", directory / "held", "tmpfs")
    try:
        yield
    finally:
        for point in mounts.mount_points(directory.parent):
            mounts.unmount(point)


def test_a_managed_volume_is_shared_and_outlives_its_pod(agent: Agent) -> None:
    head = volume("data")
    writer = script(agent, "echo kept > /data/file; echo wrote", head=head, extra=mount("data", "/data"))
    reader = script(
        agent,
        "while ! busybox test -s /in/file; do busybox usleep 10000; done; cat /in/file",
        name="reader",
        extra=mount("data", "/in", read_only=True),
    )
    file = agent.write("web", writer + reader)
    wait_for(lambda: agent.output("web", "reader") == ["kept"], "the other container sees it")
    file.unlink()
    agent.wait_gone("web")
    kept = agent.data / "volumes" / "web" / "data"
    assert (kept / "file").read_text() == "kept\n"
    agent.write("web", script(agent, "cat /data/file", head=head, extra=mount("data", "/data")))
    wait_for(lambda: agent.output("web") == ["kept"], "the next pod of that name has it again")


def test_a_managed_volume_belongs_to_the_user_who_uses_it_first(agent: Agent) -> None:
    extra = 'user = "web"\n' + mount("data", "/data")
    agent.write(
        "web", script(agent, "echo mine > /data/file && echo wrote", head=volume("data"), extra=extra)
    )
    wait_for(lambda: agent.output("web") == ["wrote"], "a user other than root writes to it")
    found = (agent.data / "volumes" / "web" / "data").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (1000, 1000, 0o755)
    assert (agent.data / "volumes").stat().st_mode & 0o777 == 0o700


def test_a_directory_and_a_file_of_the_host(agent: Agent, tmp_path: Path) -> None:
    directory, file = tmp_path / "conf", tmp_path / "conf.ini"
    directory.mkdir()
    file.write_text("of a file\n")
    (directory / "x").write_text("of a directory\n")
    head = volume("dir", directory) + volume("file", file)
    extra = mount("dir", "/etc/app") + mount("file", "/etc/app.ini", read_only=True)
    text = "cat /etc/app/x /etc/app.ini; echo new > /etc/app/y; echo no > /etc/app.ini || echo refused"
    agent.write("web", script(agent, text, head=head, extra=extra))
    wait_for(lambda: "refused" in agent.output("web"), f"it ran: {agent.status('web')} {agent.output('web')}")
    assert {"of a directory", "of a file"} <= set(agent.output("web"))
    assert (directory / "y").read_text() == "new\n"
    assert file.read_text() == "of a file\n"


def test_a_missing_host_path_is_said_and_waited_for(agent: Agent, tmp_path: Path) -> None:
    path = tmp_path / "later"
    agent.write("web", script(agent, "echo here", head=volume("v", path), extra=mount("v", "/v")))
    wait_for(lambda: f"{path} does not exist" in str((agent.status("web") or {}).get("error")), "it is said")
    path.mkdir()
    wait_for(lambda: "here" in agent.output("web"), "it starts when the path is there")
    assert agent.wait_phase("web", "running")["error"] is None


def test_a_mount_inside_a_mount(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    head = volume("outer", tmp_path / "outer") + volume("inner")
    extra = mount("inner", "/data/inner") + mount("outer", "/data")
    agent.write(
        "web", script(agent, "echo x > /data/inner/file; echo y > /data/file", head=head, extra=extra)
    )
    wait_for((tmp_path / "outer" / "file").exists, "the outer volume is there")
    assert not (tmp_path / "outer" / "inner" / "file").exists()
    assert (agent.data / "volumes" / "web" / "inner" / "file").exists()


def test_a_mount_below_a_host_volume_is_as_restricted(agent: Agent, tmp_path: Path) -> None:
    sub = tmp_path / "host" / "sub"
    sub.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "suid,dev", "tmpfs", str(sub)], check=True)
    agent.kept_mounts = frozenset({str(sub)})
    try:
        # A device that the container has of its own, so that only the mount can refuse it here.
        os.mknod(sub / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        text = (
            "exec 2>/dev/null; echo x > /vol/sub/null && echo opened; touch /vol/sub/x && echo wrote;"
            "busybox grep ' /vol' /proc/self/mounts; echo over"
        )
        extra = mount("v", "/vol", read_only=True)
        file = agent.write("web", script(agent, text, head=volume("v", tmp_path / "host"), extra=extra))
        wait_for(lambda: "over" in agent.output("web"), "it tried")
        assert [path.name for path in sub.iterdir()] == ["null"]
        lines = agent.output("web")
        assert not {"opened", "wrote"} & set(lines)
        options = {line.split()[1]: set(line.split()[3].split(",")) for line in lines[:-1]}
        assert options.keys() == {"/vol", "/vol/sub"}
        assert all({"ro", "nosuid", "nodev"} <= found for found in options.values()), options
        file.unlink()
        agent.wait_gone("web")
    finally:
        subprocess.run(["umount", str(sub)], check=True)


def test_a_host_path_that_is_swapped_while_it_is_mounted_leads_nowhere_else(tmp_path: Path) -> None:
    """One container swaps a link in and out of the path of another's volume, which starts all the time."""
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    (shared / "sub").mkdir(parents=True)
    (shared / "sub" / "mine").touch()
    outside.mkdir()
    (outside / "secret").touch()
    swap = f"mv sub was; ln -s {outside} sub; usleep 2000; rm sub; mv was sub; usleep 2000"
    evil = ["/bin/busybox", "sh", "-c", f"cd /shared; while busybox true; do {swap}; done"]
    home = tmp_path / "agent"
    home.mkdir()
    with running_agent(home, resync="100ms") as agent:
        link = agent.rootfs / "bin"
        for name in ("mv", "ln", "usleep", "rm"):
            (link / name).symlink_to("busybox")
        agent.write(
            "evil",
            agent.pod_text(command=evil, head=volume("all", shared), extra=mount("all", "/shared")),
        )
        agent.wait_phase("evil", "running")
        agent.write(
            "victim",
            agent.pod_text(
                command=["/bin/ls", "/sub"], head=volume("v", shared / "sub"), extra=mount("v", "/sub")
            ),
        )
        wait_for(lambda: agent.output("victim").count("mine") >= 30, "it started often", 60)
        assert set(agent.output("victim")) == {"mine"}
        assert any("symbolic link" in event.message for event in agent.client.events()), "no link was met"
        assert [path.name for path in outside.iterdir()] == ["secret"]


def test_another_source_restarts_only_the_containers_that_mount_it(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def text(source: str) -> str:
        first = script(agent, "busybox true", head=volume("v", tmp_path / source), extra=mount("v", "/v"))
        return first + script(agent, "busybox true", name="other")

    agent.write("web", text("a"))
    agent.wait_phase("web", "running")
    mounting, other = agent.pid("web", 0), agent.pid("web", 1)
    began = start_time(other)
    agent.write("web", text("b"))
    wait_for(lambda: not Path(f"/proc/{mounting}").exists(), "the container that mounts it restarts")
    agent.wait_phase("web", "running")
    assert (agent.pid("web", 1), start_time(other)) == (other, began)


def test_volume_ls_and_rm(agent: Agent) -> None:
    file = agent.write(
        "web", script(agent, "echo x > /data/file", head=volume("data"), extra=mount("data", "/data"))
    )
    data = agent.data / "volumes" / "web" / "data"
    wait_for((data / "file").exists, "the volume is in use")
    (listed,) = json.loads(agent.tank("volume", "ls", "-o", "json").stdout)
    assert {key: listed[key] for key in ("pod", "name", "path", "in_use", "gone", "snapshots")} == {
        **{"pod": "web", "name": "data", "path": str(data)},
        **{"in_use": True, "gone": False, "snapshots": []},
    }
    assert listed["size"] >= 4096
    assert "web/data" in agent.tank("volume", "ls").stdout
    done = agent.tank("volume", "rm", "web/data")
    assert done.returncode == 1
    assert "pod web has it" in done.stderr
    assert data.exists()
    file.unlink()
    agent.wait_gone("web")
    secret = agent.home / "secret"
    secret.mkdir()
    (secret / "file").touch()
    (data / "link").symlink_to(secret)
    done = agent.tank("volume", "rm", "web/data", "web/none", "-o", "json")
    assert json.loads(done.stdout) == [
        {"volume": "web/data", "removed": True, "snapshots": []},
        {"volume": "web/none", "removed": False, "snapshots": []},
    ]
    assert list((agent.data / "volumes").iterdir()) == []
    assert (secret / "file").exists()
    assert agent.tank("volume", "rm", "../x").returncode == 2
    assert agent.tank("volume").returncode == 2
    assert agent.tank("volume", "ls").stdout.strip() in ("", "VOLUME  SIZE  AGE  IN USE  PATH")


def test_an_agent_killed_while_it_removes_a_volume_leaves_nothing(agent: Agent) -> None:
    text = script(agent, "echo x > /data/file", head=volume("data"), extra=mount("data", "/data"))
    file = agent.write("web", text)
    volumes = agent.data / "volumes"
    wait_for((volumes / "web" / "data" / "file").exists, "the volume is in use")
    file.unlink()
    agent.wait_gone("web")
    agent.stop()
    agent.launch(fault="volumes:going")
    wait_for(lambda: agent.tank("volume", "ls").returncode == 0, "the agent answers")
    assert agent.tank("volume", "rm", "web/data").returncode == 1
    assert agent.died() == -signal.SIGKILL
    (left,) = (volumes / "web").iterdir()
    assert (left / "file").exists()
    agent.start()
    wait_for(lambda: not list(volumes.iterdir()), "the next agent goes on with it")
    assert agent.tank("volume", "rm", "web/data").stdout == "web/data was not there\n"


def test_a_removal_that_failed_can_be_repeated(agent: Agent) -> None:
    text = script(agent, "echo x > /data/file", head=volume("data"), extra=mount("data", "/data"))
    file = agent.write("web", text)
    data = agent.data / "volumes" / "web" / "data"
    wait_for((data / "file").exists, "the volume is in use")
    file.unlink()
    agent.wait_gone("web")
    with mounted_below(data):
        done = agent.tank("volume", "rm", "web/data")
        assert done.returncode == 1
        assert "cannot remove volume web/data: Device or resource busy" in done.stderr
        assert agent.tank("volume", "rm", "web/data").returncode == 1
    assert agent.tank("volume", "rm", "web/data").stdout == "web/data removed\n"
    assert list((agent.data / "volumes").iterdir()) == []


def test_a_volume_that_a_pod_takes_at_the_last_moment_is_kept(tmp_path: Path) -> None:
    volumes = Volumes(tmp_path / "data", tmp_path / "run")
    file = tmp_path / "data" / "volumes" / "web" / "data" / "file"
    file.parent.mkdir(parents=True)
    file.write_text("precious")

    def taken() -> None:
        raise VolumeInUse("web has it")

    with pytest.raises(VolumeInUse):
        volumes.remove("web", "data", taken)
    assert file.read_text() == "precious"
    assert volumes.remove("web", "data")
    assert not file.exists()
