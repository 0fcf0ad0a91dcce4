"""What the agent keeps is closed to the machine's other users; what a container has is open to its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tank_agent.agent.assembly import _CLOSED_DATA, _CLOSED_RUN
from tank_agent.runtime.mounts.rootfs import RootFilesystems
from tests.support.agent import Agent, ended, wait_for
from tests.support.images import BUSYBOX, write_image

# Which of the paths on its input a user may list, read or write; /proc stands for "who am I".
REACHES = """
import json, os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
reached = []
for path in json.load(sys.stdin):
    for flags in (os.O_RDONLY, os.O_WRONLY):
        try:
            os.close(os.open(path, flags | os.O_NONBLOCK))
        except OSError:
            continue
        reached.append(path)
print(json.dumps(reached))
"""


def reached_by_nobody(*directories: Path) -> list[str]:
    """Return what below directories, and of themselves, a user without rights can open."""
    paths = [str(directory) for directory in directories]
    for directory in directories:
        for here, below, files in os.walk(directory):
            paths += [f"{here}/{name}" for name in (*below, *files)]
    assert len(paths) > 20
    done = subprocess.run(
        [sys.executable, "-c", REACHES], input=json.dumps([*paths, "/proc/version"]), capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    reached: list[str] = json.loads(done.stdout)
    assert reached.pop() == "/proc/version"
    return reached


def pod(agent: Agent, command: str, *, name: str = "app", extra: str = "") -> str:
    head = '[[volumes]]\nname = "data"\n'
    mount = '[[containers.mounts]]\nvolume = "data"\npath = "/srv/a/b"\n'
    words = ["/bin/busybox", "sh", "-c", f"{command}; exec busybox sleep 1000000"]
    return agent.pod_text(command=words, head=head, extra=extra + mount)


def test_no_other_user_reaches_anything_in_the_agents_directories(open_agent: Agent) -> None:
    """A program that a container makes setuid in its volume would make any user root (CVE-2021-41091)."""
    agent = open_agent
    tool = "cp /bin/busybox /srv/a/b/root; chmod 4755 /srv/a/b/root; echo x > /srv/a/b/secret; echo made"
    tool = tool.replace("cp ", "busybox cp ").replace("chmod ", "busybox chmod ")
    userns = '[containers.security]\nuserns = "auto"\n'
    agent.write("web", pod(agent, tool))
    agent.write("mapped", pod(agent, tool) + userns)
    for name in ("web", "mapped"):
        agent.wait_phase(name, "running")
        wait_for(lambda name=name: agent.output(name) == ["made"], "it made its files")  # type: ignore[misc]
    assert (agent.data / "volumes" / "web" / "data" / "root").stat().st_mode & 0o7777 == 0o4755
    assert reached_by_nobody(agent.data, agent.run) == []
    # Nor where somebody opens the outermost directories.
    agent.data.chmod(0o755)
    agent.run.chmod(0o755)
    found = reached_by_nobody(agent.data, agent.run)
    assert found == [str(agent.data), str(agent.run)]


def test_an_agent_closes_what_an_older_one_left_open(open_home: Path) -> None:
    agent = Agent(open_home)
    with ended(agent):
        volume = agent.data / "volumes" / "web" / "data"
        volume.mkdir(parents=True)
        (volume / "kept").touch()
        for name in ("dev", "etc", "tmp"):
            (agent.data / "skeleton" / name).mkdir(parents=True)
        for name in ("overlay", "trash", "logs", "images", "git"):
            (agent.data / name).mkdir()
        for name in ("pods", "netns", "crun", "exec"):
            (agent.run / name).mkdir(parents=True)
        for path in (agent.home, agent.data, *agent.data.rglob("*"), agent.run, *agent.run.iterdir()):
            path.chmod(0o755)
        (agent.data / "skeleton" / "tmp").chmod(0o1777)
        (agent.data / "skeleton" / "tmp" / "evil").write_text("by any user")
        agent.start()
        assert reached_by_nobody(agent.data, agent.run) == []
        agent.write("web", pod(agent, "ls /tmp /srv/a/b; echo listed"))
        agent.wait_phase("web", "running")
        wait_for(lambda: "listed" in agent.output("web"), "it listed them")
        assert "kept" in agent.output("web")
        assert "evil" not in agent.output("web")
        assert not (agent.data / "skeleton").exists()


def test_directories_of_others_beside_the_agents_own_are_left_alone(open_home: Path) -> None:
    """With `--run-dir /run` nobody could log in any more."""
    agent = Agent(open_home)
    with ended(agent):
        others = [agent.data / "www", agent.run / "dbus", open_home / "disk"]
        for directory in others:
            directory.mkdir(parents=True)
            directory.chmod(0o755)
        # As people move what is large to another disk.
        (agent.data / "volumes").mkdir()
        (agent.data / "volumes" / "web").symlink_to(open_home / "disk")
        (agent.data / "volumes" / "gone").symlink_to("/nowhere")
        agent.start()
        assert [directory.stat().st_mode & 0o7777 for directory in others] == [0o755] * 3


def test_what_an_agent_makes_is_what_it_closes(open_agent: Agent) -> None:
    agent = open_agent
    agent.write("web", pod(agent, "echo made"))
    agent.wait_phase("web", "running")
    made = [{path.name for path in place.iterdir() if path.is_dir()} for place in (agent.data, agent.run)]
    assert made[0] <= set(_CLOSED_DATA)
    assert made[1] <= set(_CLOSED_RUN)


def test_an_older_skeleton_that_containers_still_use_is_closed_and_its_tmp_emptied(tmp_path: Path) -> None:
    (tmp_path / "overlay" / "web-app-1").mkdir(parents=True)
    tmp = tmp_path / "skeleton" / "tmp"
    (tmp / "evil").mkdir(parents=True)
    (tmp_path / "skeleton" / "etc").mkdir()
    for _ in range(2):
        RootFilesystems(tmp_path).close()
        assert tmp_path.joinpath("skeleton").stat().st_mode & 0o777 == 0o700
        assert sorted(path.name for path in (tmp_path / "skeleton").rglob("*")) == ["etc", "tmp"]
    (tmp_path / "overlay" / "web-app-1").rmdir()
    RootFilesystems(tmp_path).close()
    assert not (tmp_path / "skeleton").exists()


def test_a_user_of_the_container_reaches_its_mounts_and_its_working_directory(open_agent: Agent) -> None:
    """What the runtime makes above them is not as closed as what the agent makes for itself."""
    agent = open_agent
    conf = agent.home / "conf"
    conf.write_text("read\n")
    places = "/srv /srv/a /opt /opt/x /run/w /run/w/d"
    look = f"touch /srv/a/b/f && cat /opt/x/y.conf; busybox stat -c %a {places}; pwd"
    head = f'[[volumes]]\nname = "conf"\nhost = "{conf}"\n'
    extra = 'user = "web"\nworking_dir = "/run/w/d"\n'
    extra += '[[containers.mounts]]\nvolume = "conf"\npath = "/opt/x/y.conf"\n'
    wanted = ["read", *["755"] * 6, "/run/w/d"]
    for name, security in (("web", ""), ("mapped", '[containers.security]\nuserns = "auto"\n')):
        agent.write(name, head + pod(agent, look, extra=extra) + security)
        wait_for(lambda name=name: len(agent.output(name)) == 8, "it looked")  # type: ignore[misc]
        # The runtime makes its own sticky besides.
        assert [line.removeprefix("1") for line in agent.output(name)] == wanted
    done = agent.tank("exec", "-T", "--cwd", "/run/w/d", "web", "--", "sh", "-c", "umask; busybox umask")
    assert done.stdout.split()[0] == "0022"


def test_an_image_without_layers_runs_what_a_volume_brings(open_agent: Agent) -> None:
    agent = open_agent
    write_image(agent.home / "image", [], config={})
    head = f'[[volumes]]\nname = "tool"\nhost = "{BUSYBOX.resolve()}"\n'
    for name, security in (("web", ""), ("mapped", '[containers.security]\nuserns = "auto"\n')):
        text = (
            f'restart = "never"\n{head}[[containers]]\nname = "app"\n'
            f'image = "oci:{agent.home}/image"\nuser = "7"\n'
            f'command = ["/stat", "-c", "%a %u", "/", "/etc"]\n'
            f'[[containers.mounts]]\nvolume = "tool"\npath = "/stat"\n{security}'
        )
        agent.write(name, text)
        agent.wait_phase(name, "completed")
        assert agent.output(name) == ["755 0", "755 0"]
