"""Files beside pod files in a real directory: whole, through no link, and noticed when they change."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tank_agent.linux import whole_files
from tank_agent.linux.whole_files import BEING_WRITTEN
from tank_agent.source import files as file_module
from tests.unit.source.test_directory import Machine, text

WHY_NOT = "which is never followed; put the file itself there"


def pod(*sources: str, env_file: str = "") -> str:
    """Return a pod file that names files beside it."""
    named = "".join(f'[[files]]\nname = "f{at}"\nsource = "{source}"\n' for at, source in enumerate(sources))
    mounts = "".join(
        f'[[containers.mounts]]\nfile = "f{at}"\npath = "/etc/f{at}"\n' for at in range(len(sources))
    )
    more = f'env_file = ["{env_file}"]\n' if env_file else ""
    return f"{named}{text()}{more}{mounts}"


def contents(machine: Machine, name: str = "web") -> list[bytes]:
    found = machine.journal.get(name)
    assert found is not None
    return [file.content for file in found.pod.files]


def revision(machine: Machine) -> str:
    found = machine.journal.get("web")
    assert found is not None
    return found.revision


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    (made.pods / "secrets").mkdir()
    return made


def test_a_changed_file_beside_it_changes_the_pod_and_its_revision(machine: Machine) -> None:
    (machine.pods / "nginx.conf").write_text("one")
    (machine.pods / "secrets" / "deep.conf").write_text("deep")
    (machine.pods / "web.toml").write_text(pod("nginx.conf", "secrets/deep.conf"))
    machine.look()
    assert (machine.problems(), contents(machine)) == ([], [b"one", b"deep"])
    first = revision(machine)
    assert machine.look().changed == ()
    (machine.pods / "secrets" / "deep.conf").write_text("other")
    assert machine.look().changed == ("web",)
    assert contents(machine) == [b"one", b"other"]
    second = revision(machine)
    assert len({first, second}) == 2
    # Written anew with the same content, it is the same pod.
    (machine.pods / "new").write_text("one")
    (machine.pods / "new").rename(machine.pods / "nginx.conf")
    assert machine.look().changed == ()
    assert revision(machine) == second


def test_variables_of_an_env_file_are_the_containers(machine: Machine) -> None:
    (machine.pods / "app.env").write_text("A=1\n")
    (machine.pods / "web.toml").write_text(pod(env_file="app.env"))
    machine.look()
    (machine.pods / "app.env").write_text("A=2\n")
    assert machine.look().changed == ("web",)
    found = machine.journal.get("web")
    assert found is not None
    assert found.pod.containers[0].env == {"A": "2"}


def test_a_file_that_is_missing_is_told_with_its_line_and_taken_when_it_comes(machine: Machine) -> None:
    (machine.pods / "web.toml").write_text(pod("later/nginx.conf"))
    machine.look()
    expected = f'{machine.pods}/web.toml:3: files[0].source: "later/nginx.conf" is not there'
    expected += "; put it into the directory of the pod file"
    assert (machine.running(), machine.problems()) == ({}, [expected])
    (machine.pods / "later").mkdir()
    machine.look()
    assert machine.problems() == [expected]
    (machine.pods / "later" / "nginx.conf").write_text("one")
    assert machine.look().changed == ("web",)
    assert (machine.problems(), contents(machine)) == ([], [b"one"])


def test_a_file_that_goes_is_waited_for_and_then_told_and_the_pod_stays(machine: Machine) -> None:
    conf = machine.pods / "nginx.conf"
    conf.write_text("one")
    (machine.pods / "web.toml").write_text(pod("nginx.conf"))
    age(machine)
    # As editors save that keep a backup.
    conf.rename(machine.pods / "nginx.conf~")
    machine.look()
    assert (machine.problems(), machine.error("web")) == ([], None)
    assert machine.source.settle_after()
    conf.write_text("two")
    machine.look()
    assert contents(machine) == [b"two"]
    age(machine)
    conf.unlink()
    machine.look_twice()
    assert contents(machine) == [b"two"]
    assert "nginx.conf" in str(machine.error("web")) and "is not there" in str(machine.error("web"))
    conf.write_text("three")
    machine.look()
    assert (contents(machine), machine.error("web")) == ([b"three"], None)


def age(machine: Machine) -> None:
    """Look until nothing there is so young that it is read again without a change."""
    machine.look()
    while machine.source.settle_after() is not None:
        machine.look()


def test_half_a_file_is_never_taken(machine: Machine) -> None:
    conf = machine.pods / "nginx.conf"
    conf.write_text("whole")
    (machine.pods / "web.toml").write_text(pod("nginx.conf"))
    machine.look()
    with conf.open("w") as file:
        file.write("ha")
        file.flush()
        machine.look()
        assert contents(machine) == [b"whole"]
        assert BEING_WRITTEN in str(machine.error("web"))
        file.write("lf")
    machine.look()
    assert (contents(machine), machine.error("web")) == ([b"half"], None)


def test_a_writer_in_a_loop_is_never_seen_half_way(machine: Machine) -> None:
    conf = machine.pods / "nginx.conf"
    conf.write_text("0 " * 2000)
    (machine.pods / "web.toml").write_text(pod("nginx.conf"))
    machine.look()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with conf.open("w") as file:
                for _ in range(20):
                    file.write(f"{number} " * 100)
                    file.flush()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            machine.look()
            words = contents(machine)[0].split()
            assert len(words) == 2000 and len(set(words)) == 1
    finally:
        stop.set()
        writer.join(60)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.symlink_to("/etc/hostname"), f"is a symbolic link or behind one, {WHY_NOT}"),
        (lambda path: path.symlink_to("nowhere"), f"is a symbolic link or behind one, {WHY_NOT}"),
        (lambda path: path.mkdir(), "is a directory; name a file"),
        (os.mkfifo, "is not a regular file"),
        (lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3)), "is not a regular file"),
        (
            lambda path: path.write_bytes(b"x" * (256 * 1024 + 1)),
            "has 262145 bytes; a file beside a pod file has at most 262144",
        ),
    ],
    ids=["link", "dangling", "directory", "fifo", "device", "large"],
)
@pytest.mark.parametrize("place", ["odd.conf", "secrets/odd.conf"])
def test_what_is_no_plain_file_is_told_and_never_opened(
    machine: Machine, make, words: str, place: str
) -> None:  # type: ignore[no-untyped-def]
    if words == "is not a regular file" and os.geteuid():
        pytest.skip("needs root")
    make(machine.pods / place)
    (machine.pods / "web.toml").write_text(pod(place))
    machine.look()
    assert machine.problems() == [f'{machine.pods}/web.toml:3: files[0].source: "{place}" {words}']
    (machine.pods / place).rename(machine.pods / "away")
    (machine.pods / place).write_text("fine")
    machine.look()
    assert (machine.problems(), contents(machine)) == ([], [b"fine"])


def test_a_directory_that_is_a_link_is_not_followed(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "x.conf").write_text("not ours")
    (machine.pods / "in").symlink_to(tmp_path / "outside")
    (machine.pods / "web.toml").write_text(pod("in/x.conf"))
    machine.look()
    assert WHY_NOT in machine.problems()[0]
    assert machine.running() == {}


@pytest.mark.parametrize(
    "source", ["../x", "/etc/passwd", ".hidden", "a/../../x", "a//b", "./x", ".git/config", ""]
)
def test_a_path_that_leads_elsewhere_is_not_even_tried(machine: Machine, source: str) -> None:
    def refuse(directory: int, path: str) -> None:
        raise AssertionError(path)

    (machine.pods / "web.toml").write_text(pod(source))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(file_module, "look_beside", refuse)
        patched.setattr(file_module, "read_beside", refuse)
        machine.look()
    assert len(machine.problems()) == 1
    assert machine.problems()[0].startswith(f"{machine.pods}/web.toml:3: files[0].source: ")


def test_a_pod_file_that_names_none_costs_no_look(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.pods / "web.toml").write_text(text())

    def refuse(directory: int, path: str) -> None:
        raise AssertionError(path)

    monkeypatch.setattr(file_module, "look_beside", refuse)
    monkeypatch.setattr(file_module, "read_beside", refuse)
    machine.look()
    (machine.pods / "web.toml").write_text(text("sleep 2"))
    machine.look()
    assert machine.running() == {"web": "sleep 2"}


def test_what_did_not_change_is_not_read_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.pods / "nginx.conf").write_text("one")
    (machine.pods / "web.toml").write_text(pod("nginx.conf"))
    age(machine)
    last = machine.source.snapshot()
    monkeypatch.setattr(file_module, "read_beside", None)
    assert machine.source.snapshot() is last


def test_each_file_is_opened_once_however_often_it_is_named(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine.pods / "nginx.conf").write_text("one")
    (machine.pods / "web.toml").write_text(pod("nginx.conf", "nginx.conf", env_file="nginx.conf"))
    opened: list[str] = []
    read = whole_files.read_beside
    monkeypatch.setattr(file_module, "read_beside", lambda fd, path: (opened.append(path), read(fd, path))[1])
    machine.look()
    assert opened == ["nginx.conf"]


def test_too_many_files_are_refused(machine: Machine) -> None:
    for number in range(257):
        (machine.pods / f"{number}.conf").write_text("x")
    (machine.pods / "web.toml").write_text(pod(*(f"{number}.conf" for number in range(257))))
    machine.look()
    assert len(machine.problems()) == 1
    assert '"256.conf" is one too many: a pod file names at most 256 files beside it' in machine.problems()[0]


# Files beside pod files whose names are those of pod files.

ROUTES = '[entryPoints.web]\naddress = ":80"\n'


def test_a_file_with_a_pod_files_name_that_another_names_is_none(machine: Machine) -> None:
    (machine.pods / "traefik.toml").write_text(ROUTES)
    machine.look()
    assert len(machine.problems()) > 0
    (machine.pods / "web.toml").write_text(pod("traefik.toml"))
    machine.look()
    assert (machine.problems(), list(machine.running())) == ([], ["web"])
    assert contents(machine) == [ROUTES.encode()]
    # Nobody names it any more.
    (machine.pods / "web.toml").write_text(text())
    machine.look()
    assert {problem.split(":")[0] for problem in machine.problems()} == {f"{machine.pods}/traefik.toml"}


def test_it_is_none_also_while_the_one_that_names_it_is_wrong_or_away(machine: Machine) -> None:
    (machine.pods / "traefik.toml").write_text(ROUTES)
    (machine.pods / "web.toml").write_text(pod("traefik.toml"))
    machine.look()
    (machine.pods / "web.toml").write_text("colour = 1\n" + pod("traefik.toml"))
    machine.look()
    assert len(machine.problems()) == 1 and "web.toml:1: colour" in machine.problems()[0]
    (machine.pods / "web.toml").rename(machine.pods / "web.toml~")
    machine.look()
    assert machine.problems() == []
    (machine.pods / "web.toml").write_text(pod("traefik.toml"))
    machine.look()
    assert (machine.problems(), list(machine.running())) == ([], ["web"])


def test_a_pod_file_stays_one_whatever_names_it(machine: Machine) -> None:
    (machine.pods / "db.toml").write_text(text("sleep 9"))
    machine.look()
    (machine.pods / "web.toml").write_text(pod("db.toml"))
    machine.look()
    assert set(machine.running()) == {"db", "web"}
    # Even a mistake in it does not take its pod away, nor stay unsaid.
    (machine.pods / "db.toml").write_text(text("sleep 9") + "colour = 1\n")
    machine.look_twice()
    assert set(machine.running()) == {"db", "web"}
    assert "db.toml:5: containers[0].colour" in str(machine.error("db"))
