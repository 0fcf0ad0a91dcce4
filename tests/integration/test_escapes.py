"""Containers that try to get out, to get more, or to get at others: a test for each class of past escapes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent import Agent, busybox_rootfs, running_agent, wait_for


def tried(
    agent: Agent, script: str, *, extra: str = "", head: str = "", rootfs: Path | None = None
) -> list[str]:
    """Run a script in a container until its end, and return what it printed."""
    command = ["/bin/busybox", "sh", "-c", f"exec 2>&1; {script}"]
    text = agent.pod_text(command=command, head=f'restart = "never"\n{head}', extra=extra)
    if rootfs is not None:
        text = text.replace(f'"{agent.rootfs}"', f'"{rootfs}"')
    agent.write("evil", text)
    agent.wait_phase("evil", "completed")
    return agent.output("evil")


def refused(agent: Agent, text: str) -> str:
    """Return why a pod does not run."""
    agent.write("evil", text)
    wait_for(lambda: (agent.status("evil") or {}).get("error"), "it is refused")
    status: dict[str, Any] | None = agent.status("evil")
    assert status is not None
    assert all(one["pid"] is None for one in status["containers"])
    return str(status["error"])


def ended_or_refused(agent: Agent, pod: str = "evil") -> bool:
    status = agent.status(pod) or {}
    return status.get("phase") in ("completed", "failed") or bool(status.get("error"))


def mount_of(volume: str, path: str, *, read_only: bool = False) -> str:
    more = "read_only = true\n" if read_only else ""
    return f'[[containers.mounts]]\nvolume = "{volume}"\npath = "{path}"\n{more}'


def volume(name: str, host: Path | None = None) -> str:
    return f'[[volumes]]\nname = "{name}"\n' + (f'host = "{host}"\n' if host else "")


@pytest.fixture(scope="module")
def shared_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("agent")) as started:
        yield started


@pytest.fixture
def agent(shared_agent: Agent) -> Iterator[Agent]:
    """Return an agent without pods; one for all tests, which look at containers and not at it."""
    yield shared_agent
    for file in shared_agent.pods.iterdir():
        file.unlink()
    for pod in ("evil", "good", "victim"):
        shared_agent.wait_gone(pod)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Return a second root file system, to be made hostile."""
    return busybox_rootfs(tmp_path / "hostile")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a directory of the host that nothing may touch."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text("of the host\n")
    return directory


def untouched(outside: Path) -> bool:
    return [file.name for file in outside.iterdir()] == ["secret"] and (
        outside / "secret"
    ).read_text() == "of the host\n"


class TestDefaults:
    def test_it_has_the_eleven_capabilities_and_no_way_to_more(self, agent: Agent) -> None:
        lines = tried(agent, "busybox grep -E 'Cap(Inh|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:' /proc/self/status")
        found = dict(line.split() for line in lines)
        assert (found["CapEff:"], found["CapBnd:"]) == ("00000000800405fb", "00000000800405fb")
        assert (found["CapInh:"], found["CapAmb:"]) == ("0" * 16, "0" * 16)
        assert (found["NoNewPrivs:"], found["Seccomp:"]) == ("1", "2")

    def test_it_cannot_mount_nor_unshare(self, agent: Agent) -> None:
        script = (
            "mount -t tmpfs none /tmp && echo mounted; mount -o remount,rw /sys && echo remounted;"
            "busybox umount /etc/hosts && echo unmounted; busybox unshare -m true && echo unshared;"
            "busybox unshare -r true && echo user; busybox unshare -n true && echo net; echo over"
        )
        lines = tried(agent, script)
        assert lines[-1] == "over"
        assert not {"mounted", "remounted", "unmounted", "unshared", "user", "net"} & set(lines)

    def test_what_the_kernel_shows_of_the_host_is_masked_or_read_only(self, agent: Agent) -> None:
        script = (
            "busybox wc -c < /proc/keys; busybox wc -c < /proc/interrupts; busybox ls /sys/firmware;"
            "echo b > /proc/sysrq-trigger && echo rebooted; echo x > /proc/sys/kernel/hostname && echo named;"
            "cd /sys/fs/cgroup; for d in . memory pids cpu devices; do test -e $d/cgroup.procs || continue;"
            "busybox mkdir $d/x && echo group; echo /x > $d/release_agent && echo agent; done; echo over"
        )
        lines = tried(agent, script)
        assert lines[-1] == "over"
        assert not {"rebooted", "named", "group", "agent"} & set(lines)
        assert [line for line in lines if line.isdigit()] == ["0"] * sum(line.isdigit() for line in lines)

    def test_it_sees_only_its_own_processes_and_names(self, agent: Agent) -> None:
        lines = tried(
            agent, "busybox ls /proc | busybox grep -c '^[0-9]'; busybox hostname; kill -9 1; echo over"
        )
        assert int(lines[0]) <= 4
        assert lines[1] == "evil"

    def test_no_descriptor_of_ours_is_left_open(self, agent: Agent) -> None:
        lines = tried(agent, "for fd in /proc/self/fd/*; do echo ${fd##*/}; done; busybox ls -l /proc/1/fd")
        opened = {line for line in lines if line.isdigit()}
        assert opened <= {"0", "1", "2", "3"}
        targets = [line.partition(" -> ")[2] for line in lines if " -> " in line]
        assert all(target.startswith(("/dev/null", "pipe:", "/proc")) for target in targets), targets


class TestDevices:
    def test_an_images_dev_leads_nowhere(self, agent: Agent, hostile: Path, outside: Path) -> None:
        (hostile / "dev").symlink_to(outside)
        lines = tried(
            agent, "echo x > /dev/null; busybox ls /dev; test -c /dev/null && echo real", rootfs=hostile
        )
        assert "real" in lines
        assert untouched(outside)

    @pytest.mark.parametrize("linked", ["all", "inside"])
    def test_an_images_dev_leads_nowhere_with_a_terminal(
        self, agent: Agent, hostile: Path, outside: Path, linked: str
    ) -> None:
        if linked == "all":
            (hostile / "dev").symlink_to(outside)
        else:
            (hostile / "dev").mkdir()
            (hostile / "dev" / "pts").symlink_to(outside)
            for name in ("console", "ptmx", "tty"):
                (hostile / "dev" / name).symlink_to(outside / "secret")
        script = (
            "echo x > /dev/console; echo x > /dev/tty; echo x > /dev/pts/new; busybox ls /dev/pts;"
            "test -c /dev/console && echo real; busybox tty"
        )
        lines = [line.strip() for line in tried(agent, script, extra="tty = true", rootfs=hostile)]
        assert {"real", "/dev/pts/0"} <= set(lines), lines
        assert "secret" not in lines
        assert untouched(outside)

    def test_one_that_may_make_devices_cannot_open_them(self, agent: Agent) -> None:
        script = (
            "busybox mknod /dev/y c 1 3 && echo x > /dev/y && echo null;"
            "busybox mknod /dev/x c 1 11 && echo made; echo x > /dev/x && echo wrote;"
            "busybox head -c 1 /dev/x > /dev/null && echo read; echo over"
        )
        lines = tried(agent, script, extra='[containers.security]\ncapabilities.add = ["MKNOD"]\n')
        # The kernel's log has the number that the container may not have; it may null's.
        assert {"null", "made", "over"} <= set(lines), lines
        assert not {"wrote", "read"} & set(lines)

    def test_it_can_make_no_device_and_open_none_from_a_volume(self, agent: Agent, outside: Path) -> None:
        disk = outside.parent / "nodes"
        disk.mkdir()
        os.mknod(disk / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (disk / "busybox").write_bytes((agent.rootfs / "bin" / "busybox").read_bytes())
        (disk / "busybox").chmod(0o4755)
        script = (
            "busybox mknod /tmp/sda b 8 0 && echo made; echo x > /vol/null && echo opened;"
            "/vol/busybox id -u; echo over"
        )
        extra = 'user = "1000"\n' + mount_of("vol", "/vol")
        lines = tried(agent, script, head=volume("vol", disk), extra=extra)
        assert not {"made", "opened", "0"} & set(lines), lines
        assert {"1000", "over"} <= set(lines)

    def test_dev_holds_what_it_should(self, agent: Agent) -> None:
        lines = tried(agent, "for n in /dev/*; do echo ${n##*/}; done")
        wanted = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue"}
        links = {"fd", "stdin", "stdout", "stderr", "core", "console"}
        assert wanted <= set(lines) <= wanted | links, lines


class TestImages:
    @pytest.mark.parametrize("name", ["proc", "sys", "etc", "tmp", "run"])
    def test_links_in_place_of_directories_lead_nowhere(
        self, agent: Agent, hostile: Path, outside: Path, name: str
    ) -> None:
        if (hostile / name).is_dir():
            (hostile / name).rename(hostile / f"{name}.was")
        (hostile / name).symlink_to(outside)
        lines = tried(agent, f"busybox ls /{name}; echo over", rootfs=hostile)
        assert "secret" not in lines
        assert lines[-1] == "over"
        assert untouched(outside)

    @pytest.mark.parametrize("name", ["hosts", "hostname", "resolv.conf"])
    def test_links_in_place_of_our_files_lead_nowhere(
        self, agent: Agent, hostile: Path, outside: Path, name: str
    ) -> None:
        (hostile / "etc" / name).symlink_to(outside / "secret")
        lines = tried(
            agent, f"cat /etc/{name}; echo x >> /etc/{name} && echo wrote; echo over", rootfs=hostile
        )
        assert not {"of the host", "wrote"} & set(lines)
        assert untouched(outside)

    def test_the_files_of_the_pod_cannot_be_changed_from_inside(self, agent: Agent) -> None:
        script = "".join(
            f"cd /etc; echo x > {name} && echo wrote; busybox rm -f {name};busybox mv {name} / && echo moved;"
            for name in ("hosts", "hostname", "resolv.conf")
        )
        lines = tried(agent, f"{script} cat /etc/hostname")
        assert not {"wrote", "moved"} & set(lines)
        assert lines[-1] == "evil"

    @pytest.mark.parametrize(
        "link", ["/proc/self/fd/3", "/proc/1/root", "../../../../../../outside", "/proc/self/cwd"]
    )
    def test_a_working_directory_that_is_a_link_stays_inside(
        self, agent: Agent, hostile: Path, outside: Path, link: str
    ) -> None:
        (hostile / "work").symlink_to(link)
        text = agent.pod_text(
            command=["/bin/busybox", "ls", "-a"], head='restart = "never"', extra='working_dir = "/work"'
        ).replace(f'"{agent.rootfs}"', f'"{hostile}"')
        agent.write("evil", text)
        wait_for(lambda: ended_or_refused(agent), "it ends")
        assert "secret" not in agent.output("evil")
        assert untouched(outside)

    @pytest.mark.parametrize("cwd", ["/proc/self/fd/3", "/sys/fs", "/dev/fd/3", "/proc/../proc/1"])
    def test_a_working_directory_in_the_kernels_trees_is_refused(self, agent: Agent, cwd: str) -> None:
        assert "working_dir" in refused(agent, agent.pod_text(extra=f'working_dir = "{cwd}"'))


class TestVolumes:
    def test_a_mount_path_that_is_a_link_in_the_image_stays_inside(
        self, agent: Agent, hostile: Path, outside: Path
    ) -> None:
        (hostile / "data").symlink_to(outside)
        command = ["/bin/busybox", "sh", "-c", "busybox ls /data; echo x > /data/new"]
        text = agent.pod_text(
            command=command, head=f'restart = "never"\n{volume("data")}', extra=mount_of("data", "/data")
        )
        agent.write("evil", text.replace(f'"{agent.rootfs}"', f'"{hostile}"'))
        wait_for(lambda: ended_or_refused(agent), "it ends")
        assert "secret" not in agent.output("evil")
        assert untouched(outside)

    def test_a_host_path_through_a_link_is_refused(self, agent: Agent, outside: Path) -> None:
        link = outside.parent / "link"
        link.symlink_to(outside)
        text = agent.pod_text(head=volume("vol", link), extra=mount_of("vol", "/vol"))
        assert "symbolic link" in refused(agent, text)

    def test_a_link_that_a_container_swaps_in_is_never_followed(self, agent: Agent, outside: Path) -> None:
        """One container can write the directory above another's volume."""
        shared = outside.parent / "shared"
        (shared / "sub").mkdir(parents=True)
        inside = f"cd /shared; busybox mv sub was; busybox ln -s {outside} sub; echo swapped"
        tried(agent, inside, head=volume("shared", shared), extra=mount_of("shared", "/shared"))
        assert (shared / "sub").is_symlink()
        agent.write(
            "victim", agent.pod_text(head=volume("sub", shared / "sub"), extra=mount_of("sub", "/sub"))
        )
        wait_for(lambda: "symbolic link" in str((agent.status("victim") or {}).get("error")), "it is refused")
        assert agent.output("victim") == []

    def test_a_link_inside_a_volume_at_which_another_is_mounted_stays_inside(
        self, agent: Agent, outside: Path
    ) -> None:
        """One container makes the mount point of another's volume a link (CVE-2021-30465)."""
        outer = outside.parent / "outer"
        outer.mkdir()
        head = volume("outer", outer)
        lines = tried(
            agent,
            f"busybox ln -s /../..{outside} /data/inner && echo made",
            head=head,
            extra=mount_of("outer", "/data"),
        )
        assert lines == ["made"]
        extra = mount_of("outer", "/data") + mount_of("inner", "/data/inner")
        script = "busybox ls /data/inner; echo x > /data/inner/new; echo over"
        text = agent.pod_text(
            command=["/bin/busybox", "sh", "-c", script],
            head='restart = "never"\n' + head + volume("inner"),
            extra=extra,
        )
        agent.write("victim", text)
        wait_for(lambda: ended_or_refused(agent, "victim"), "it is refused, or runs")
        assert "secret" not in agent.output("victim")
        assert untouched(outside)

    def test_a_link_swapped_into_a_volume_at_which_another_is_mounted_stays_inside(
        self, agent: Agent, outside: Path
    ) -> None:
        outer = outside.parent / "outer"
        (outer / "inner").mkdir(parents=True)
        loop = f"mv inner was; busybox ln -s /../..{outside} inner; busybox rm inner; mv was inner"
        evil = f"cd /data; while :; do {loop.replace('mv', 'busybox mv')}; done"
        script = "busybox ls /data/inner; echo x > /data/inner/new; echo over"
        agent.write(
            "evil",
            agent.pod_text(
                command=["/bin/busybox", "sh", "-c", evil],
                head=volume("outer", outer),
                extra=mount_of("outer", "/data"),
            ),
        )
        agent.wait_phase("evil", "running")
        agent.write(
            "victim",
            agent.pod_text(
                command=["/bin/busybox", "sh", "-c", script],
                head=volume("outer", outer) + volume("inner"),
                extra=mount_of("outer", "/data") + mount_of("inner", "/data/inner"),
            ),
        )
        wait_for(lambda: agent.output("victim").count("over") >= 20, "it started often", 60)
        assert "secret" not in agent.output("victim")
        assert untouched(outside)

    def test_read_only_is_read_only_also_for_root(self, agent: Agent, outside: Path) -> None:
        lines = tried(
            agent,
            "cat /vol/secret; echo x > /vol/secret && echo wrote; mount -o remount,rw /vol && echo remounted;"
            "busybox rm /vol/secret && echo removed; echo over",
            head=volume("vol", outside),
            extra=mount_of("vol", "/vol", read_only=True),
        )
        assert lines[0] == "of the host"
        assert not {"wrote", "remounted", "removed"} & set(lines)
        assert untouched(outside)

    @pytest.mark.parametrize("place", ["run", "data", "run/netns", "data/volumes", "."])
    def test_the_agents_own_files_are_no_volume(self, agent: Agent, place: str) -> None:
        path = (agent.home / place).resolve()
        text = agent.pod_text(head=volume("vol", path), extra=mount_of("vol", "/vol"))
        assert "agent's own files" in refused(agent, text)

    @pytest.mark.parametrize("place", ["run", "data/volumes", ".", "a link to run", "a link to /proc"])
    def test_the_agents_own_files_are_no_root_file_system(self, agent: Agent, place: str) -> None:
        path = (agent.home / place).absolute()
        if place.startswith("a link to "):
            path = agent.home / f"link-{place[-3:]}"
            path.symlink_to(agent.home / place.removeprefix("a link to "))
        text = agent.pod_text().replace(f'rootfs = "{agent.rootfs}"', f'rootfs = "{path}"')
        wanted = "kernel file system" if place.endswith("/proc") else "agent's own files"
        assert wanted in refused(agent, text)

    @pytest.mark.parametrize("path", ["/proc", "/proc/sys", "/sys", "/dev/shm", "/", "/etc/resolv.conf"])
    def test_the_containers_own_mounts_cannot_be_covered(self, agent: Agent, path: str) -> None:
        assert "reserved" in refused(agent, agent.pod_text(head=volume("vol"), extra=mount_of("vol", path)))

    def test_mount_options(self, agent: Agent, outside: Path) -> None:
        lines = tried(
            agent,
            "busybox grep ' /vol\\| /data' /proc/self/mounts",
            head=volume("vol", outside) + volume("data"),
            extra=mount_of("vol", "/vol", read_only=True) + mount_of("data", "/data"),
        )
        options = {line.split()[1]: set(line.split()[3].split(",")) for line in lines}
        assert {"ro", "nosuid", "nodev"} <= options["/vol"]
        assert {"rw", "nosuid", "nodev"} <= options["/data"]


class TestIds:
    @pytest.mark.parametrize(
        "user", ["4294967296", "4294967295", "99999999999999999999999", "root:4294967296"]
    )
    def test_a_number_that_is_too_large_is_not_root(self, agent: Agent, user: str) -> None:
        assert "out of range" in refused(agent, agent.pod_text(extra=f'user = "{user}"'))

    def test_a_user_file_that_never_ends_or_never_begins_holds_nobody(
        self, agent: Agent, hostile: Path
    ) -> None:
        (hostile / "etc" / "passwd").unlink()
        os.mkfifo(hostile / "etc" / "passwd")
        text = agent.pod_text(extra='user = "web"').replace(f'"{agent.rootfs}"', f'"{hostile}"')
        agent.write("evil", text)
        wait_for(lambda: (agent.status("evil") or {}).get("error"), "it is refused")
        agent.write("good", agent.pod_text())
        agent.wait_phase("good", "running")

    def test_a_user_file_that_is_a_link_is_read_inside(self, agent: Agent, hostile: Path) -> None:
        (hostile / "etc" / "passwd").unlink()
        (hostile / "etc" / "passwd").symlink_to("/etc/real")
        (hostile / "etc" / "real").write_text("web:x:1234:1234::/:/bin/sh\n")
        lines = tried(agent, "busybox id -u", extra='user = "web"', rootfs=hostile)
        assert lines == ["1234"]

    def test_groups_are_exactly_those_of_the_user(self, agent: Agent) -> None:
        lines = tried(
            agent, "busybox grep -E 'Uid|Gid|Groups|CapEff' /proc/self/status", extra='user = "web"'
        )
        found = {line.split()[0]: line.split()[1:] for line in lines}
        assert found["Uid:"] == found["Gid:"] == ["1000"] * 4
        assert set(found["Groups:"]) == {"1000", "2000"}
        assert found["CapEff:"] == ["0" * 16]

    @pytest.mark.parametrize("name", ["../x", "-x", "a b", "A"])
    def test_names_are_names(self, agent: Agent, name: str) -> None:
        done = agent.tank("apply", "-", stdin=agent.pod_text(head=f'name = "{name}"'))
        assert done.returncode == 2
        assert "not a name" in done.stderr


def test_a_pod_cannot_reach_the_agents_socket(agent: Agent) -> None:
    lines = tried(agent, f"busybox ls {agent.run}; busybox ls /run; echo over", head='network = "host"')
    assert "tank.sock" not in lines
    assert lines[-1] == "over"
