"""Devices of the host in containers: mapped, in directories, by links, with permissions, and missing ones."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tank_agent.linux import mounts
from tests.support.agent import SERVE, Agent, wait_for

SHELL = ["/bin/busybox", "sh", "-c"]
# /dev/null's number, which every container may open, and that of /dev/fuse, which none may by itself.
NULL, FUSE, KMSG = (1, 3), (10, 229), (1, 11)


@pytest.fixture
def dev() -> Iterator[Path]:
    """Return a directory of devices of the test's own."""
    directory = Path(f"/dev/tank-test-{uuid4().hex[:8]}")
    directory.mkdir()
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def node(path: Path, numbers: tuple[int, int], mode: int = 0o640) -> Path:
    os.mknod(path, stat.S_IFCHR | mode, os.makedev(*numbers))
    path.chmod(mode)
    return path


def pod(agent: Agent, script: str, *devices: Path | str, more: str = "", extra: str = "") -> str:
    listed = ", ".join(f'"{device}"' for device in devices)
    table = f"{extra}[containers.security]\ndevices = [{listed}]\n{more}"
    return agent.pod_text(command=[*SHELL, f"exec 2>&1; {script}"], head='restart = "never"\n', extra=table)


def printed(agent: Agent, script: str, *devices: Path | str, **options: Any) -> list[str]:
    name = f"web-{uuid4().hex[:8]}"
    agent.write(name, pod(agent, script, *devices, **options))
    agent.wait_phase(name, "completed")
    return agent.output(name)


def error(agent: Agent, name: str = "web") -> str:
    return str((agent.status(name) or {}).get("error") or "")


def said(agent: Agent, *words: str, name: str = "web") -> None:
    wait_for(lambda: all(word in error(agent, name) for word in words), f"{words}: {error(agent, name)}")


def test_a_device_is_at_another_path(agent: Agent, dev: Path) -> None:
    device = node(dev / "real", KMSG, 0o622)
    os.chown(device, 0, 27)
    script = "busybox stat -c '%t:%T %a %g' /dev/mapped; : >> /dev/mapped && echo opened; ls /dev"
    lines = printed(agent, script, f"{device}:/dev/mapped")
    assert lines[:2] == ["1:b 622 27", "opened"]
    assert "mapped" in lines
    assert dev.name not in lines


def test_permissions_are_those_of_the_control_group(agent: Agent, dev: Path) -> None:
    node(dev / "x", FUSE, 0o666)
    script = "(exec 3> /dev/mapped) && echo written; (exec 3< /dev/mapped) && echo read;echo over"
    lines = printed(agent, script, f"{dev}/x:/dev/mapped:w")
    assert {"written", "over"} <= set(lines)
    assert "read" not in lines
    lines = printed(agent, script, f"{dev}/x:/dev/mapped:rm")
    assert "read" in lines
    assert "written" not in lines


def test_all_devices_of_a_directory_and_none_beyond(agent: Agent, dev: Path, tmp_path: Path) -> None:
    (dev / "inner").mkdir()
    node(dev / "a", FUSE)
    node(dev / "inner" / "b", NULL)
    (dev / "c").symlink_to("inner/b")
    (dev / "file").write_text("no device")
    os.mkfifo(dev / "fifo")
    (dev / "out").symlink_to(tmp_path)
    (dev / "disk").symlink_to("/proc/self/fd/0")
    (dev / "secret").symlink_to("/etc/shadow")
    node(tmp_path / "elsewhere", NULL)
    (dev / "node").symlink_to(tmp_path / "elsewhere")
    script = f"cd {dev}; busybox find . -type c | busybox sort; busybox find . ! -type c ! -type d"
    assert printed(agent, script, dev) == ["./a", "./c", "./inner/b"]
    script = "cd /dev/gpus; busybox find . -type c | busybox sort; (exec 3<> ./a) && echo opened"
    assert printed(agent, script, f"{dev}:/dev/gpus:rw") == ["./a", "./c", "./inner/b", "opened"]


def test_as_many_as_are_allowed_can_be_opened(agent: Agent, dev: Path) -> None:
    for number in range(256):
        # Of 256 numbers, each of which is a rule; those of nodes that no driver has fail otherwise.
        node(dev / f"n{number:03}", (10, number))
    assert printed(agent, f"ls {dev} | busybox wc -l; (exec 3<> {dev}/n229) && echo opened", dev) == [
        "256",
        "opened",
    ]


def test_what_is_named_by_itself_has_its_own_permissions(agent: Agent, dev: Path) -> None:
    node(dev / "a", FUSE, 0o666)
    script = f"(exec 3> {dev}/a) && echo written; (exec 3< {dev}/a) && echo read; echo over"
    lines = printed(agent, script, dev, f"{dev}/a:{dev}/a:r")
    assert "read" in lines
    assert "written" not in lines


def test_a_link_by_id_is_followed_at_each_start(agent: Agent, dev: Path) -> None:
    node(dev / "first", NULL)
    node(dev / "second", FUSE)
    by_id = dev / "by-id"
    by_id.mkdir()
    link = by_id / "usb-stick-0001"
    link.symlink_to("../first")
    script = f"busybox stat -c %t:%T /dev/stick {link}"
    text = pod(agent, f"{script}; sleep 1000 & wait", f"{link}:/dev/stick", link)
    agent.write("web", text.replace('restart = "never"', ""))
    wait_for(lambda: agent.output("web") == ["1:3"] * 2, "it sees the first")
    link.unlink()
    link.symlink_to(dev / "second")
    os.kill(agent.pid("web"), signal.SIGKILL)
    wait_for(lambda: agent.output("web") == ["1:3"] * 2 + ["a:e5"] * 2, "it sees the second")


def test_a_device_that_is_unplugged_is_said_and_waited_for(agent: Agent, dev: Path) -> None:
    link = dev / "by-id" / "usb-stick-0001"
    agent.write("web", pod(agent, "echo here", f"{link}:/dev/ttyACM0"))
    said(agent, f"device {link}: No such file or directory", "is it plugged in?", "serial number")
    link.parent.mkdir()
    node(dev / "stick", NULL)
    link.symlink_to("../stick")
    agent.wait_phase("web", "completed")
    assert agent.output("web") == ["here"]


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("/dev/none-such", "`ls /dev` shows those that are there; is its kernel module loaded?"),
        ("/dev/ttyUSB77", "is it plugged in?"),
        ("/dev/stdin", "leads through /proc"),
        ("{dev}/file", "is not a device"),
        ("{dev}/away", "leads to /etc/passwd"),
        ("{dev}/terminal", "leads to /dev/pts"),
        ("{dev}/circle", "in circles"),
        ("{dev}/empty", "no device is in it"),
        ("{dev}/many", "more than 256 devices"),
    ],
)
def test_what_cannot_be_given_is_said_in_one_sentence(
    agent: Agent, dev: Path, device: str, words: str
) -> None:
    (dev / "file").touch()
    (dev / "away").symlink_to("/etc/passwd")
    (dev / "terminal").symlink_to("/dev/pts")
    (dev / "circle").symlink_to("circle")
    (dev / "empty").mkdir()
    (dev / "many").mkdir()
    for number in range(257) if "many" in device else ():
        node(dev / "many" / f"n{number}", NULL)
    named = device.format(dev=dev)
    agent.write("web", pod(agent, "true", named))
    said(agent, f"device {named}", words)
    agent.write("fine", agent.pod_text(command=SERVE))
    agent.wait_phase("fine", "running")


def test_a_user_other_than_root_gets_at_it_by_its_group(agent: Agent, dev: Path) -> None:
    device = node(dev / "stick", NULL, 0o660)
    os.chown(device, 0, 20)
    script = "(exec 3<> /dev/stick) && echo opened; id -G"
    assert "opened" not in printed(agent, script, f"{device}:/dev/stick", extra='user = "1000:1000"\n')
    assert printed(agent, script, f"{device}:/dev/stick", extra='user = "1000:20"\n') == ["opened", "20"]


def test_a_device_in_a_user_namespace_is_the_mapped_one(open_agent: Agent, dev: Path) -> None:
    """crun would bind what the host has at the container's path."""
    device = node(dev / "real", FUSE, 0o600)
    decoy = node(dev / "decoy", NULL, 0o666)
    script = f"busybox stat -c '%t:%T %a %u:%g' {decoy}; (exec 3<> {decoy}) && echo opened"
    lines = printed(open_agent, script, f"{device}:{decoy}", more='userns = "auto"\n')
    assert lines == ["a:e5 600 0:0", "opened"]
    # And nothing of it stays on the host.
    assert stat.S_IMODE(device.stat().st_mode) == 0o600
    assert (device.stat().st_uid, decoy.stat().st_uid) == (0, 0)


@pytest.mark.parametrize("fault", ["runtime:bundle-made", "runtime:conmon-spawned"])
def test_an_agent_that_is_killed_leaves_no_devices(open_agent: Agent, dev: Path, fault: str) -> None:
    device = node(dev / "real", FUSE)
    open_agent.stop()
    text = open_agent.pod_text(
        command=SERVE, extra=f'[containers.security]\nuserns = "auto"\ndevices = ["{device}:/dev/x"]\n'
    )
    open_agent.write("web", text)
    open_agent.launch(fault=fault)
    assert open_agent.died() == -signal.SIGKILL
    open_agent.start()
    open_agent.wait_phase("web", "running")
    shown = open_agent.tank("exec", "-T", "web", "--", "busybox", "stat", "-c", "%t:%T", "/dev/x")
    assert shown.stdout == "a:e5\n"
    assert not [one for one in mounts.mount_points(open_agent.run) if one.name == "devices"]
