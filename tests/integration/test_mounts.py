"""Mounts that somebody takes away from a running container come back, and the container goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tank_agent.linux.pidfd import start_time
from tests.support.agent import Agent, ended, running_agent, wait_for

FILES = ("hosts", "hostname", "resolv.conf")
# A resync is a second here.
SOON = 60.0


def mount(volume: str, path: str, *, read_only: bool = False) -> str:
    more = "read_only = true\n" if read_only else ""
    return f'[[containers.mounts]]\nvolume = "{volume}"\npath = "{path}"\n{more}'


def text(agent: Agent, *, extra: str = "", command: list[str] | None = None) -> str:
    """Return a pod with a managed volume at /data, one of the host at /data/conf, and a file at /conf.ini."""
    (agent.home / "conf").mkdir(exist_ok=True)
    (agent.home / "conf.ini").touch()
    head = '[[volumes]]\nname = "data"\n' + "".join(
        f'[[volumes]]\nname = "{name}"\nhost = "{agent.home}/{host}"\n'
        for name, host in (("conf", "conf"), ("ini", "conf.ini"))
    )
    table = mount("conf", "/data/conf", read_only=True) + mount("data", "/data") + mount("ini", "/conf.ini")
    return agent.pod_text(command=command, head=head, extra=extra + table)


def inside(agent: Agent, pod: str, *argv: str, check: bool = True) -> str:
    """Run a program of this machine in a container's mount namespace."""
    command = ["nsenter", "--target", str(agent.pid(pod)), "--mount", "/bin/busybox", *argv]
    return subprocess.run(command, check=check, timeout=60, capture_output=True, text=True).stdout


def mounted(agent: Agent, pod: str = "web") -> list[str]:
    """Return mount points, options and what is mounted of a container, without what the kernel numbers."""
    lines = Path(f"/proc/{agent.pid(pod)}/mountinfo").read_text(errors="replace").splitlines()
    # The fields of proc_pid_mountinfo(5): root, mount point and options.
    return sorted(" ".join(line.split()[3:6]) for line in lines)


def identity(agent: Agent, pod: str = "web") -> tuple[int, int | None]:
    pid = agent.pid(pod)
    return pid, start_time(pid)


def events(agent: Agent, pod: str = "web") -> list[str]:
    return [event.type for event in agent.client.events() if event.pod == pod]


def healed(agent: Agent, before: list[str], what: str) -> None:
    wait_for(lambda: mounted(agent) == before, what, SOON)


@pytest.mark.parametrize("path", ["/data", "/data/conf", "/conf.ini", "/etc/hosts", "/etc/resolv.conf"])
def test_what_is_unmounted_is_mounted_again(agent: Agent, path: str) -> None:
    agent.write("web", text(agent))
    agent.wait_phase("web", "running")
    before, same = mounted(agent), identity(agent)
    inside(agent, "web", "umount", "-l", path)
    wait_for(lambda: "mounted-again" in events(agent), "it is noticed", SOON)
    healed(agent, before, f"{path} is mounted again, with all that was below it")
    agent.wait_phase("web", "running")
    assert identity(agent) == same
    assert agent.status("web")["containers"][0]["restarts"] == 0  # type: ignore[index]
    assert events(agent).count("mounted-again") == 1


def test_an_agent_in_a_chroot_finds_what_its_containers_have(tmp_path: Path) -> None:
    # There the top of a container's mount namespace is the machine's root, and not the container's.
    (tmp_path / "jail").mkdir()
    (tmp_path / "home").mkdir()
    agent = Agent(tmp_path / "home")
    script = 'mount --make-rprivate / && mount --rbind / "$0" && exec chroot "$0" "$@"'
    agent.through = ["unshare", "-m", "sh", "-c", script, str(tmp_path / "jail")]
    agent.start()
    with ended(agent):
        agent.write("web", text(agent))
        agent.wait_phase("web", "running")
        before = mounted(agent)
        enter = ["nsenter", "--target", str(agent.pid("web")), "--mount", "--root"]
        subprocess.run([*enter, "/bin/busybox", "umount", "-l", "/data"], check=True, timeout=60)
        wait_for(lambda: "mounted-again" in events(agent), "it is noticed", SOON)
        healed(agent, before, "/data is mounted again")
        assert "mount-failed" not in events(agent)
        assert agent.wait_phase("web", "running")["error"] is None


def test_what_is_lost_is_healed_within_one_resync(tmp_path: Path) -> None:
    with running_agent(tmp_path, resync="10s") as agent:
        agent.write("web", text(agent))
        agent.wait_phase("web", "running")
        before, same = mounted(agent), identity(agent)
        file, seen = agent.run / "pods" / "web" / "hosts", Path(f"/proc/{agent.pid('web')}/root/etc/hosts")
        for path in ("/data", "/etc/hostname"):
            inside(agent, "web", "umount", "-l", path)
            # A resync, and what a busy machine takes to do it, but not two of them.
            wait_for(lambda: mounted(agent) == before, f"{path} is back", 19)
        file.unlink()
        wait_for(lambda: file.exists() and file.samefile(seen), "the file is back in the container", 19)
        assert identity(agent) == same


def test_what_is_mounted_again_is_the_same_and_as_restricted(agent: Agent) -> None:
    agent.write("web", text(agent))
    agent.wait_phase("web", "running")
    before = mounted(agent)
    inside(agent, "web", "touch", "/data/kept")
    # What a program writes meanwhile goes to its root file system, and is covered afterwards.
    inside(agent, "web", "sh", "-c", "umount -l /data && touch /data/lost")
    healed(agent, before, "both are back")
    assert inside(agent, "web", "ls", "/data").split() == ["conf", "kept"]
    assert (agent.data / "volumes" / "web" / "data" / "kept").exists()
    assert (
        "read-only"
        in subprocess.run(
            ["nsenter", "-t", str(agent.pid("web")), "-m", "/bin/busybox", "touch", "/data/conf/x"],
            check=False,
            capture_output=True,
            text=True,
        ).stderr.lower()
    )
    options = [line for line in before if " /data" in line]
    assert len(options) == 2
    assert all("nosuid,nodev" in line for line in options)


@pytest.mark.parametrize("network", ["none", "host"])
def test_a_file_of_the_pod_that_is_deleted_or_replaced_reaches_the_container(
    agent: Agent, network: str
) -> None:
    agent.write("web", f'network = "{network}"\n' + text(agent))
    agent.wait_phase("web", "running")
    directory, same = agent.run / "pods" / "web", identity(agent)
    right = {name: (directory / name).read_text() for name in FILES}

    def reaches() -> bool:
        root = Path(f"/proc/{agent.pid('web')}/root/etc")
        return all(
            (directory / name).exists()
            and (directory / name).read_text() == right[name]
            and (directory / name).stat().st_ino == (root / name).stat().st_ino
            for name in FILES
        )

    count = len(mounted(agent))
    for name in FILES:
        (directory / name).unlink()
    wait_for(reaches, "deleted files", SOON)
    (directory / "new").write_text(right["hosts"])
    (directory / "new").rename(directory / "hosts")
    wait_for(reaches, "a file of the same content", SOON)
    (directory / "new").write_text("10.0.0.66 bank.example\n")
    (directory / "new").rename(directory / "hosts")
    wait_for(reaches, "a file of another content", SOON)
    subprocess.run(["rm", "-r", str(directory)], check=True)
    wait_for(reaches, "the whole directory", SOON)
    agent.wait_phase("web", "running")
    assert identity(agent) == same
    # Nothing piles up on what was there before.
    assert len(mounted(agent)) == count


def test_a_file_that_came_back_follows_later_changes(agent: Agent) -> None:
    agent.write("web", text(agent))
    agent.wait_phase("web", "running")
    same = identity(agent)
    file = agent.run / "pods" / "web" / "hosts"
    file.unlink()
    wait_for(lambda: file.exists() and "mounted-again" in events(agent), "it is back", SOON)
    with file.open("a") as stream:
        stream.write("# damaged\n")
    seen = Path(f"/proc/{agent.pid('web')}/root/etc/hosts")
    assert "damaged" in seen.read_text()
    wait_for(lambda: "damaged" not in seen.read_text(), "what is put right reaches the container", SOON)
    assert identity(agent) == same


def test_one_container_of_two_is_healed_alone(agent: Agent) -> None:
    two = agent.pod_text().replace('"app"', '"other"')
    agent.write("web", text(agent) + two)
    agent.wait_phase("web", "running")
    other = Path(f"/proc/{agent.pid('web', 1)}/mountinfo")
    before, untouched = mounted(agent), other.read_text()
    inside(agent, "web", "umount", "-l", "/data")
    healed(agent, before, "it is back")
    assert other.read_text() == untouched


def test_a_program_that_changed_its_root_is_no_reason(agent: Agent) -> None:
    script = "mkdir -p /jail/bin && cp /bin/busybox /jail/bin/ && exec chroot /jail /bin/busybox sleep 1000"
    agent.write("web", text(agent, command=["/bin/busybox", "sh", "-c", script]))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    wait_for(lambda: b"chroot" not in Path(f"/proc/{pid}/cmdline").read_bytes(), "it runs in its jail")
    wait_for(lambda: Path(f"/proc/{pid}/root").readlink().name == "jail", "it runs in its jail")
    before = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace")
    # What changes in its namespace makes the agent look at it.
    subprocess.run(
        ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "umount", "-l", "/data"], check=True, timeout=60
    )
    wait_for(lambda: "mounted-again" in events(agent), "it is healed all the same", SOON)
    agent.wait_phase("web", "running")
    assert events(agent).count("mounted-again") == 1
    assert Path(f"/proc/{pid}/mountinfo").read_text(errors="replace") == before
    assert agent.pid("web") == pid


@pytest.mark.parametrize("gone", ["volume", "path"])
def test_what_cannot_come_back_is_shown_and_stops_nothing(agent: Agent, gone: str) -> None:
    agent.write("web", text(agent))
    agent.wait_phase("web", "running")
    same, volume = identity(agent), agent.data / "volumes" / "web" / "data"
    if gone == "volume":
        volume.rename(volume.with_name("elsewhere"))
        inside(agent, "web", "umount", "-l", "/data")
        word = str(volume)
    else:
        inside(agent, "web", "sh", "-c", "umount /conf.ini && rm /conf.ini")
        word = "/conf.ini"
    status = agent.wait_phase("web", "degraded", SOON)
    assert word in status["error"], status
    # An empty volume in place of the one that is gone would be worse than none.
    assert not volume.exists() or gone == "path"
    wait_for(lambda: "mount-failed" in events(agent), "it is told")
    if gone == "volume":
        volume.with_name("elsewhere").rename(volume)
    else:
        inside(agent, "web", "touch", "/conf.ini")
    assert agent.wait_phase("web", "running")["error"] is None
    assert identity(agent) == same
    assert events(agent).count("mount-failed") == 1


def test_a_link_in_the_way_leads_nowhere_else(agent: Agent) -> None:
    """A container that may mount moves its own paths about: what comes back stays in its own namespace."""
    outside = agent.home / "outside"
    outside.mkdir()
    security = '[containers.security]\ncapabilities = { add = ["SYS_ADMIN"] }\nseccomp = "unconfined"\n'
    agent.write("web", text(agent, command=["/bin/busybox", "sleep", "1000"]) + security)
    agent.wait_phase("web", "running")
    ours = mounts.mount_points(agent.home)
    done = agent.tank(
        "exec", "web", "--", "/bin/busybox", "sh", "-c",
        f"busybox umount -l /data; rmdir /data; mkdir -p /dev/x; ln -s /../..{outside} /data; echo moved",
    )  # fmt: skip
    assert "moved" in done.stdout, done.stderr
    status = agent.wait_phase("web", "degraded", SOON)
    assert "/data" in status["error"]
    assert list(outside.iterdir()) == []
    assert mounts.mount_points(agent.home) == ours
    agent.tank("exec", "web", "--", "/bin/busybox", "sh", "-c", "rm /data; mkdir /data")
    agent.wait_phase("web", "running")
    assert " /data " in "\n".join(mounted(agent))


@pytest.fixture
def stopped_agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path)
    with ended(agent):
        yield agent


def test_what_was_lost_while_no_agent_ran(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", text(agent))
    agent.start()
    agent.wait_phase("web", "running")
    before, same = mounted(agent), identity(agent)
    pid = agent.pid("web")
    agent.kill()
    subprocess.run(
        ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "umount", "-l", "/data"], check=True, timeout=60
    )
    (agent.run / "pods" / "web" / "hosts").unlink()
    agent.start()
    healed(agent, before, "the next agent heals both")
    assert identity(agent) == same


@pytest.mark.parametrize("point", ["runtime:bound-again", "runtime:mounted-again"])
def test_an_agent_killed_while_it_mounts_again(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", text(agent))
    agent.start()
    agent.wait_phase("web", "running")
    before, same = mounted(agent), identity(agent)
    pid = agent.pid("web")
    agent.kill()
    subprocess.run(
        ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "umount", "-l", "/data"], check=True, timeout=60
    )
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    healed(agent, before, "the next agent finishes it")
    agent.wait_phase("web", "running")
    assert identity(agent) == same
    # What was mounted again is there before the agent has put away how.
    wait_for(lambda: not mounts.mount_points(agent.run / "containers"), "nothing is left on the machine")


def test_a_run_dir_behind_a_link_costs_no_data(stopped_agent: Agent) -> None:
    agent = stopped_agent
    (agent.home / "real").mkdir()
    agent.run.symlink_to(agent.home / "real")
    agent.write("web", text(agent))
    agent.start()
    agent.wait_phase("web", "running")
    agent.wait_output("web", "started")
    before, pid = mounted(agent), agent.pid("web")
    inside(agent, "web", "sh", "-c", "touch /data/kept && umount -l /data")
    healed(agent, before, "it is back")
    wait_for(lambda: "mounted-again" in events(agent), "it is told")
    # What was bound in the run's directory for it must not be there when that is removed.
    assert mounts.mount_points(agent.home / "real" / "containers") == frozenset()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: agent.output("web") == ["started", "started"], "it is made anew")
    assert (agent.data / "volumes" / "web" / "data" / "kept").exists()


def test_the_namespace_of_a_container_that_ended_is_let_go(agent: Agent) -> None:
    assert agent.process is not None
    descriptors = Path(f"/proc/{agent.process.pid}/fd")

    def held() -> int:
        return sum(
            path.is_symlink() and path.readlink().name == "mountinfo" for path in descriptors.iterdir()
        )

    # The machine's own, of those who watch pods_dir.
    own = held()
    agent.write("web", text(agent))
    agent.wait_phase("web", "running")
    assert held() == own + 1
    for _ in range(3):
        pid = agent.pid("web")
        os.kill(pid, signal.SIGKILL)
        wait_for(
            lambda pid=pid: (agent.status("web") or {})["containers"][0]["pid"] not in (None, pid), "again"
        )  # type: ignore[misc]
        agent.wait_phase("web", "running")
    assert held() == own + 1
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
    assert held() == own
