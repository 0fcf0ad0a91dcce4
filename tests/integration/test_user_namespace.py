"""Containers with userns = "auto": root in there is nobody out here, and files keep their owners."""

from __future__ import annotations

import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import SERVE, Agent, ended, wait_for
from tests.support.images import busybox_members, directory, layer, member, write_image
from tests.support.terminal import terminal

USERNS = '[containers.security]\nuserns = "auto"\n'
FIRST, SIZE = 0x7000_0000, 0x1_0000
SHELL = ["/bin/sh", "-c"]


@pytest.fixture
def stopped_agent() -> Iterator[Agent]:
    """Return an agent that does not run yet, where root of a container may go through; pytest's may not."""
    home = Path(tempfile.mkdtemp(prefix="tank-userns-"))
    home.chmod(0o711)
    agent = Agent(home)
    try:
        with ended(agent):
            yield agent
    finally:
        shutil.rmtree(home)
    null = Path("/dev/null").stat()
    assert (null.st_uid, null.st_gid, stat.S_IMODE(null.st_mode)) == (0, 0, 0o666)


@pytest.fixture
def agent(stopped_agent: Agent) -> Agent:
    stopped_agent.start()
    return stopped_agent


def printed(agent: Agent, script: str, *, head: str = "", extra: str = "", user: str = "") -> list[str]:
    """Run a script to its end in a user namespace, and return what it printed."""
    before = f'user = "{user}"\n' if user else ""
    text = agent.pod_text(
        command=[*SHELL, f"exec 2>&1; {script}"],
        head=f'restart = "never"\n{head}',
        extra=f"{before}{extra}{USERNS}",
    )
    agent.write("web", text)
    agent.wait_phase("web", "completed")
    return agent.output("web")


def owner(path: Path) -> tuple[int, int]:
    found = path.stat(follow_symlinks=False)
    return found.st_uid, found.st_gid


def test_root_inside_is_a_user_without_rights_outside(agent: Agent) -> None:
    agent.write("web", agent.pod_text(extra=USERNS))
    agent.wait_phase("web", "running")
    status = Path(f"/proc/{agent.pid('web')}/status").read_text()
    (ids,) = (line.split()[1:] for line in status.splitlines() if line.startswith("Uid:"))
    assert ids == [str(FIRST)] * 4
    mapped = agent.tank("exec", "-T", "web", "--", "cat", "/proc/self/uid_map", "/proc/self/gid_map").stdout
    assert mapped.split() == ["0", str(FIRST), str(SIZE)] * 2
    # What the hardening holds besides is as in every container.
    seen = agent.tank(
        "exec", "-T", "web", "--", "busybox", "grep", "-E", "CapEff|NoNew|Seccomp:", "/proc/1/status"
    )
    assert seen.stdout.split() == ["CapEff:", "00000000800405fb", "NoNewPrivs:", "1", "Seccomp:", "2"]


def test_it_cannot_change_what_is_the_hosts(agent: Agent) -> None:
    script = (
        "chmod 600 /dev/null && echo closed; busybox chown 0 /proc/sys && echo owned; "
        "mount -t tmpfs none /tmp && echo mounted; busybox mount -o remount,rw /sys && echo remounted; "
        "echo 1 > /proc/sys/kernel/panic && echo set; busybox unshare -n true && echo unshared; "
        "echo x > /etc/hosts && echo written; busybox hostname other && echo named; echo over"
    )
    lines = printed(agent, script.replace("chmod", "busybox chmod"))
    assert lines[-1] == "over"
    said = {"closed", "owned", "mounted", "remounted", "set", "unshared", "written", "named"}
    assert not said & set(lines)


def test_files_of_the_image_have_their_owners(agent: Agent) -> None:
    layout = agent.home / "layout"
    layout.mkdir()
    lower = [
        directory("data", owner=(1000, 1000)),
        member("data/mine", "of app\n", owner=(1000, 2000), mode=0o600),
    ]
    upper = [member("etc/app.conf", "of root\n", mode=0o600)]
    write_image(layout, [layer(busybox_members()), layer(lower), layer(upper)], tag="latest")
    script = (
        "stat -c '%u:%g %a %n' /data /data/mine /etc/app.conf / /tmp; cat /data/mine /etc/app.conf;"
        "echo more >> /data/mine; mkdir /new; chown 1000:2000 /new; stat -c '%u:%g %n' /data/mine /new"
    )
    text = agent.pod_text(command=[*SHELL, script], head='restart = "never"', extra=USERNS)
    agent.write("web", text.replace(f'rootfs = "{agent.rootfs}"', f'image = "oci:{layout}:latest"'))
    agent.wait_phase("web", "completed")
    assert agent.output("web") == [
        "1000:1000 755 /data",
        "1000:2000 600 /data/mine",
        "0:0 600 /etc/app.conf",
        "0:0 755 /",
        "0:0 1777 /tmp",
        "of app",
        "of root",
        "1000:2000 /data/mine",
        "1000:2000 /new",
    ]
    # The layer that other containers share is as it was.
    (mine,) = (agent.data / "images").glob("**/data/mine")
    assert (owner(mine), mine.read_text()) == ((1000, 2000), "of app\n")


def test_files_in_volumes_keep_their_owners_with_and_without(agent: Agent) -> None:
    host = agent.home / "host"
    host.mkdir()
    (host / "secret").write_text("of root\n")
    (host / "secret").chmod(0o600)
    head = f'[[volumes]]\nname = "data"\n[[volumes]]\nname = "host"\nhost = "{host}"\n'
    mounts = (
        '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        '[[containers.mounts]]\nvolume = "host"\npath = "/host"\nread_only = true\n'
    )
    script = (
        "busybox stat -c %u:%g /data; echo inside > /data/file; cat /host/secret; "
        "echo no > /host/secret || echo refused"
    )
    lines = printed(agent, script, head=head, extra=mounts)
    assert lines[0] == "0:0"
    assert {"of root", "refused"} <= set(lines)
    file = agent.data / "volumes" / "web" / "data" / "file"
    assert owner(file) == (0, 0)
    # The same volume, used without a user namespace, and by another run, whose ids may be others.
    again = "cat /data/file; busybox stat -c %u:%g /data/file; echo outside >> /data/file"
    plain = agent.pod_text(command=[*SHELL, again], head=f'restart = "never"\n{head}', extra=mounts)
    agent.write("web", plain)
    wait_for(lambda: agent.output("web")[-2:] == ["inside", "0:0"], "it is root's without as well")
    lines = printed(agent, f"{again}; echo over", head=head, extra=mounts)
    assert lines[-4:] == ["inside", "outside", "0:0", "over"]


def test_a_user_other_than_root_and_a_new_volume(agent: Agent) -> None:
    head = '[[volumes]]\nname = "data"\n'
    extra = 'working_dir = "/srv/work"\n[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    lines = printed(
        agent,
        "id -u; busybox pwd; echo x > file && echo x > /data/file && echo wrote; "
        "busybox grep CapEff /proc/self/status",
        head=head,
        extra=extra,
        user="web",
    )
    assert lines == ["1000", "/srv/work", "wrote", "CapEff:\t0000000000000000"]
    assert owner(agent.data / "volumes" / "web" / "data" / "file") == (1000, 1000)


def test_containers_of_a_pod_share_its_network_and_no_ids(agent: Agent) -> None:
    serve = "echo hello > /tmp/page; exec busybox httpd -f -p 80 -h /tmp"
    ask = "until busybox wget -qO- http://127.0.0.1/page; do sleep 0.1; done"
    one = agent.pod_text(command=[*SHELL, serve], head='restart = "on-failure"', extra=USERNS)
    two = agent.pod_text(command=[*SHELL, ask], extra=USERNS).replace('"app"', '"two"')
    plain = agent.pod_text(command=[*SHELL, f"{ask}; exec sleep 1000"]).replace('"app"', '"plain"')
    agent.write("web", one + two + plain)
    for container in ("two", "plain"):
        wait_for(lambda name=container: agent.output("web", name) == ["hello"], f"{container} got it")  # type: ignore[misc]
    status = agent.status("web")
    assert status is not None
    pids = {one["name"]: one["pid"] for one in status["containers"]}
    assert [owner(Path(f"/proc/{pids[name]}")) for name in ("app", "plain")] == [(FIRST, FIRST), (0, 0)]
    agent.write("other", agent.pod_text(extra=USERNS))
    agent.wait_phase("other", "running")
    uid, gid = owner(Path(f"/proc/{agent.pid('other')}"))
    assert uid == gid > FIRST
    assert (uid - FIRST) % SIZE == 0


def test_the_hosts_network(agent: Agent) -> None:
    # What is there already, so that this machine is as it was even if it can.
    again = "value=$(cat {file}) && echo $value > {file} && echo written;"
    script = (
        "id -u; busybox cat /proc/self/uid_map; test -e /sys/class/net/lo && echo seen;"
        "busybox ip link set lo mtu $(cat /sys/class/net/lo/mtu) && echo changed;"
        f"{again.format(file='/proc/sys/net/ipv4/ip_forward')}"
        f"{again.format(file='/sys/class/net/lo/mtu')} exec sleep 1000"
    )
    command = [*SHELL, f"exec 2> /dev/null; {script}"]
    agent.write("web", agent.pod_text(command=command, head='network = "host"', extra=USERNS))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    wait_for(lambda: b"1000" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"), "it tried all")
    assert [line.split() for line in agent.output("web")] == [["0"], ["0", str(FIRST), str(SIZE)], ["seen"]]
    assert Path(f"/proc/{pid}/ns/net").stat().st_ino == Path("/proc/self/ns/net").stat().st_ino
    assert Path(f"/proc/{pid}/ns/user").stat().st_ino != Path("/proc/self/ns/user").stat().st_ino
    assert owner(Path(f"/proc/{pid}")) == (FIRST, FIRST)


def test_exec_attach_and_a_new_agent(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=["/bin/sh"], extra=f"tty = true\n{USERNS}"))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    with terminal(
        agent, "exec", "web", "--", "sh", "-c", "id -u; busybox tty; echo x > /new; echo done"
    ) as shell:
        shell.expect("0\r\n/dev/pts/")
        shell.expect("done")
    agent.kill()
    agent.start()
    agent.wait_phase("web", "running")
    assert agent.pid("web") == pid
    with terminal(agent, "attach", "web") as attached:
        attached.type("busybox stat -c owner=%u /new\r")
        attached.expect("owner=0")
    agent.write("other", agent.pod_text(extra=USERNS))
    agent.wait_phase("other", "running")
    assert owner(Path(f"/proc/{agent.pid('other')}"))[0] == FIRST + SIZE


@pytest.mark.parametrize(
    "point", ["runtime:bundle-begun", "runtime:layers-mapped", "runtime:bundle-made", "runtime:created"]
)
def test_an_agent_killed_on_the_way(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    head = '[[volumes]]\nname = "data"\n'
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    agent.write("web", agent.pod_text(head=head, extra=mount + USERNS))
    agent.launch(fault=point)
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    assert len(agent.conmons()) == 1
    assert str(agent.home) not in Path("/proc/self/mountinfo").read_text(errors="replace").replace(
        f"{agent.run}/netns", ""
    )


def test_what_cannot_be_is_said(agent: Agent) -> None:
    def error(text: str) -> str:
        agent.write("web", text)
        return wait_for(lambda: str((agent.status("web") or {}).get("error") or ""), "it is said")

    assert "id 70000; with userns" in error(agent.pod_text(extra=f'user = "70000"\n{USERNS}'))
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    unmapped = agent.home / "unmapped"
    unmapped.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(unmapped)], check=True)
    agent.kept_mounts = frozenset({str(unmapped)})
    try:
        head = f'[[volumes]]\nname = "v"\nhost = "{unmapped}"\n'
        mount = '[[containers.mounts]]\nvolume = "v"\npath = "/v"\n'
        said = error(agent.pod_text(head=head, extra=mount + USERNS))
        assert "volume v: its file system cannot map ids" in said
        # Leaving it out is the way that the hint shows.
        agent.write("web", agent.pod_text(head=head, extra=mount))
        agent.wait_phase("web", "running")
    finally:
        (agent.pods / "web.toml").unlink()
        agent.wait_gone("web")
        subprocess.run(["umount", str(unmapped)], check=True)


def test_it_restarts_when_userns_changes(agent: Agent) -> None:
    agent.write("web", agent.pod_text(command=SERVE))
    agent.wait_phase("web", "running")
    agent.wait_output("web", "started")
    agent.write("web", agent.pod_text(command=SERVE, extra=USERNS))
    plan = agent.tank("plan").stdout
    wait_for(lambda: agent.output("web") == ["started", "started"], f"it is started anew: {plan}")
    agent.wait_phase("web", "running")
    assert owner(Path(f"/proc/{agent.pid('web')}")) == (FIRST, FIRST)


def test_what_is_unmounted_comes_back_by_the_same_mapping(agent: Agent) -> None:
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    head = '[[volumes]]\nname = "data"\n'
    agent.write("web", agent.pod_text(head=head, extra=f'user = "web"\n{mount}{USERNS}'))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    volume = agent.data / "volumes" / "web" / "data"

    def tank_exec(*argv: str) -> str:
        done = agent.tank("exec", "-T", "web", "--", "busybox", *argv)
        return f"{done.stdout}{done.stderr}".strip()

    assert tank_exec("stat", "-c", "%u:%g", "/data") == "1000:1000"
    for path in ("/data", "/etc/hosts"):
        command = ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "umount", "-l", path]
        subprocess.run(command, check=True, timeout=60)
    wait_for(lambda: "mounted-again" in [event.type for event in agent.client.events()], "it is noticed")
    wait_for(lambda: tank_exec("stat", "-c", "%u:%g", "/data") == "1000:1000", "it is mapped again")
    assert tank_exec("touch", "/data/written") == ""
    assert owner(volume / "written") == (1000, 1000)
    wait_for(lambda: "web" in tank_exec("cat", "/etc/hosts"), "the file is back, too")
    assert "Read-only" in tank_exec("touch", "/etc/hosts") or "denied" in tank_exec("touch", "/etc/hosts")
    assert agent.pid("web") == pid
