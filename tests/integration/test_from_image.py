"""New volumes begin with what an image has at a path: whole or not at all, whatever the image is like."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tank_agent.linux import mounts
from tests.support.agent import Agent, ended, wait_for
from tests.support.disks import disk
from tests.support.images import Member, busybox_members, directory, layer, member, symlink, write_image
from tests.support.trees import big_directory, describe

BUSYBOX = layer(busybox_members())
SLEEP = "trap 'exit 0' TERM; sleep 1000 & wait $!"
CAPABILITY = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
POINTS = ("volumes:image-mounted", "volumes:filling", "volumes:filled", "volumes:taken-in")
LOWER = [
    directory("srv", 0o750, (1000, 2000)),
    member("srv/file", "lower\n", mode=0o4640, owner=(1000, 1000)),
    member("srv/capable", "x", xattrs={"security.capability": CAPABILITY}),
    member("srv/gone", "x"),
    directory("srv/hidden"),
    member("srv/hidden/below", "x"),
    symlink("srv/link", "/etc/shadow"),
    member("srv/again", kind=tarfile.LNKTYPE, link="srv/file"),
    member("srv/pipe", kind=tarfile.FIFOTYPE),
    member("srv/null", kind=tarfile.CHRTYPE, device=(1, 3)),
]
UPPER = [
    member("srv/.wh.gone"),
    member("srv/hidden/.wh..wh..opq"),
    member("srv/hidden/new", "upper\n"),
    member("srv/added", "upper"),
]


@pytest.fixture
def home() -> Iterator[Path]:
    with big_directory() as path:
        # Users of a user namespace have to get through to their root.
        path.chmod(0o711)
        yield path


@pytest.fixture
def agent(home: Path) -> Iterator[Agent]:
    agent = Agent(home)
    agent.start()
    with ended(agent):
        yield agent


def image(home: Path, *layers: list[Member], tag: str = "latest") -> str:
    write_image(home / "layout", [BUSYBOX, *(layer(members) for members in layers)], tag=tag)
    return f"oci:{home / 'layout'}:{tag}"


def pod(
    reference: str, *, path: str = "/srv", script: str = "echo up", shared: bool = False, extra: str = ""
) -> str:
    command = json.dumps(["/bin/sh", "-c", f"{script}; {SLEEP}"])
    more = "shared = true\n" if shared else ""
    return (
        f'[[volumes]]\nname = "data"\n{more}[[containers]]\nname = "app"\nimage = "{reference}"\n'
        f'command = {command}\nstop_grace = "300ms"\n{extra}'
        f'[[containers.mounts]]\nvolume = "data"\npath = "{path}"\nfrom_image = true\n'
    )


def volume(agent: Agent, name: str = "web") -> Path:
    return agent.data / "volumes" / name / "data"


def halves(agent: Agent) -> list[Path]:
    return [path for path in agent.data.glob("volumes*/**/.*") if path.name not in (".", "..")]


def events(agent: Agent, name: str = "web") -> list[str]:
    return [event.type for event in agent.client.events() if event.pod == name]


@pytest.mark.parametrize("users", ["", '[containers.security]\nuserns = "auto"\n'])
def test_a_volume_begins_as_the_container_would_see_the_image(agent: Agent, home: Path, users: str) -> None:
    text = pod(image(home, LOWER, UPPER), script="cat /srv/file /srv/hidden/new", extra='user = "app"\n')
    agent.write("web", f"{text}{users}")
    agent.wait_output("web", "lower", "upper")
    found = describe(volume(agent))
    assert sorted(found) == sorted([".", "added", "again", "capable", "file", "hidden", "hidden/new", "link"])
    assert found["."][:2] == (oct(0o40750), (1000, 2000))
    assert found["file"][:2] == (oct(0o104640), (1000, 1000))
    assert (found["link"][3], found["file"][-1]) == (b"/etc/shadow", ("again", "file"))
    assert os.getxattr(volume(agent) / "capable", "security.capability") == CAPABILITY.encode("latin-1")
    assert not [name for name in os.listxattr(volume(agent) / "hidden") if "overlay" in name]
    assert events(agent).count("filling") == 1
    assert list((agent.run / "filling" / "image").iterdir()) == []


def test_a_volume_that_is_there_stays_as_it_is_and_the_key_restarts_nothing(agent: Agent, home: Path) -> None:
    reference = image(home, LOWER)
    text = pod(reference)
    agent.write("web", text.replace("from_image = true\n", ""))
    agent.wait_output("web", "up")
    agent.wait_phase("web", "running")
    before = agent.pid("web")
    assert list(volume(agent).iterdir()) == []
    agent.write("web", text)
    wait_for(lambda: agent.client.get("web").generation == 2, "the new revision is there")
    wait_for(lambda: agent.tank("plan", agent.pods).stdout, "it is planned")
    assert (agent.pid("web"), events(agent).count("started")) == (before, 1)
    os.kill(before, signal.SIGKILL)
    agent.wait_output("web", "up", "up")
    assert list(volume(agent).iterdir()) == []


def test_an_image_without_the_path_gives_an_empty_volume_of_the_user(agent: Agent, home: Path) -> None:
    agent.write("web", pod(image(home), path="/none/there", extra='user = "app"\n'))
    agent.wait_output("web", "up")
    status = volume(agent).stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), list(volume(agent).iterdir())) == (1000, 0o755, [])
    assert "filling" not in events(agent)


@pytest.mark.parametrize("target", ["{outside}", "../../../../../../..{outside}"])
def test_links_of_the_image_lead_to_nothing_of_the_machine(
    agent: Agent, home: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    agent.write("web", pod(image(home, [symlink("srv", target.format(outside=tmp_path))])))
    agent.wait_phase("web", "running")
    assert list(volume(agent).iterdir()) == []


def test_a_link_into_a_file_system_of_the_kernel_is_refused(agent: Agent, home: Path) -> None:
    agent.write("web", pod(image(home, [symlink("srv", "/proc/1/root/etc")])))
    message = "links of the image lead to /proc/1/root/etc, which is reserved"
    wait_for(lambda: message in str((agent.status("web") or {}).get("error")), "it is refused")
    assert not volume(agent).exists()


def test_a_link_of_the_image_is_followed_in_it(agent: Agent, home: Path) -> None:
    members = [symlink("srv", "../../var/real"), directory("var/real"), member("var/real/file", "x")]
    agent.write("web", pod(image(home, members)))
    agent.wait_phase("web", "running")
    assert [path.name for path in volume(agent).iterdir()] == ["file"]


def test_two_pods_get_one_shared_volume_filled_once(agent: Agent, home: Path) -> None:
    many = [directory("srv"), *(member(f"srv/{number}", "x") for number in range(3000))]
    one, other = image(home, many, tag="one"), image(home, [directory("srv"), member("srv/other")], tag="two")
    script = "ls /srv | wc -l; touch /srv/$HOSTNAME"
    agent.write("web", pod(one, script=script, shared=True))
    agent.write("db", pod(other, script=script, shared=True))
    for name in ("web", "db"):
        wait_for((agent.data / "volumes-shared" / "data" / name).exists, f"{name} writes to it")
    names = {path.name for path in (agent.data / "volumes-shared" / "data").iterdir()}
    assert {"web", "db"} <= names
    assert len(names) in (3002, 3)
    assert halves(agent) == []


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("point", POINTS)
def test_an_agent_killed_meanwhile_leaves_no_volume_or_a_whole_one(
    home: Path, point: str, *, shared: bool
) -> None:
    agent = Agent(home)
    with ended(agent):
        agent.write("web", pod(image(home, LOWER, UPPER), shared=shared))
        agent.launch(fault=point)
        assert agent.died() == -signal.SIGKILL
        place = agent.data / "volumes-shared" / "data" if shared else volume(agent)
        assert place.exists() == (point == "volumes:taken-in")
        left = mounts.mount_points(agent.run / "filling")
        assert bool(left) == (point == "volumes:image-mounted")
        agent.start()
        agent.wait_output("web", "up")
        assert not mounts.mount_points(agent.run / "filling")
        assert {path.name for path in place.iterdir()} == {
            "added",
            "again",
            "capable",
            "file",
            "hidden",
            "link",
        }
        wait_for(lambda: halves(agent) == [], "the half one is removed")


def test_an_image_that_a_killed_agent_had_open_is_closed_though_nobody_fills_a_volume_again(
    home: Path,
) -> None:
    agent = Agent(home)
    with ended(agent):
        file = agent.write("web", pod(image(home, LOWER, UPPER)))
        agent.launch(fault="volumes:image-mounted")
        assert agent.died() == -signal.SIGKILL
        assert mounts.mount_points(agent.run / "filling")
        file.unlink()
        agent.start()
        agent.wait_gone("web")
        assert not mounts.mount_points(agent.run / "filling")


def test_no_room_is_one_sentence_and_tried_again(home: Path, tmp_path: Path) -> None:
    agent = Agent(home, backoff_base="1s")
    place = agent.data / "volumes"
    with disk(tmp_path, "ext4", 24) as small, ended(agent):
        agent.start()
        subprocess.run(["mount", "--bind", small, place], check=True)
        try:
            big = [directory("srv"), member("srv/big", os.urandom(12 << 20))]
            (small / "filler").write_bytes(os.urandom(10 << 20))
            agent.write("web", pod(image(home, big)))
            status = agent.wait_phase("web", "backing-off")
            assert "volume data: cannot make it of what the image has at /srv: it takes" in status["error"]
            assert "make room there" in status["error"]
            assert not volume(agent).exists()
            assert halves(agent) == []
            (small / "filler").unlink()
            agent.wait_phase("web", "running")
            assert (volume(agent) / "big").stat().st_size == 12 << 20
        finally:
            agent.stop()
            subprocess.run(["umount", "--lazy", place], check=True)


def test_a_pod_that_goes_meanwhile_leaves_no_half(agent: Agent, home: Path) -> None:
    many = [directory("srv"), *(member(f"srv/{number}", "x" * 100) for number in range(20_000))]
    file = agent.write("web", pod(image(home, many)))
    wait_for(lambda: "filling" in events(agent), "it begins")
    file.unlink()
    agent.wait_gone("web")
    wait_for(lambda: halves(agent) == [], "the half one is removed")
