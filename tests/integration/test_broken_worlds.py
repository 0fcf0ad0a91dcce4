"""Whatever is broken when the agent starts: it says so, harms no pod, and works once it is mended."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tank_agent.errors import TankError
from tests.support.agent import Agent, ended, wait_for

# Programs are looked for in a directory of the test; and what the kernel answers when root's programs have
# taken all inotify instances, or all threads, it answers while a file is there.
PATCHES = """
import os, threading
from tank_agent.linux import process
from tank_agent.runtime.container import conmon
from tank_agent.runtime.container import crun
from watchdog.observers import inotify_c

home = os.environ["TANK_TEST_HOME"]
process.ENVIRONMENT["PATH"] = home + "/bin"
conmon._DEADLINE = crun._DEADLINE = float(os.environ.get("TANK_TEST_DEADLINE", "30"))
make, start = inotify_c.inotify_init, threading.Thread.start


def inotify_init():
    if not os.path.exists(home + "/no-inotify"):
        return make()
    inotify_c.ctypes.set_errno(24)
    return -1


def start_thread(thread):
    if os.path.exists(home + "/no-threads") and thread.name == "worker-3":
        raise RuntimeError("can't start new thread")
    start(thread)


inotify_c.inotify_init, threading.Thread.start = inotify_init, start_thread
"""
PROGRAMS = ("conmon", "crun", "mount", "sh", "tar", "umount", "unshare")


class World(Struct, frozen=True):
    """Something to break in an agent's home. `said` is what its log or a status says then.

    `starts`: a pod starts all the same.
    """

    name: str
    break_it: Callable[[Path], object]
    mend_it: Callable[[Path], object]
    said: str
    starts: bool = False


def no_program(name: str) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    return lambda home: (home / "bin" / name).unlink(), lambda home: install(home, name)


def install(home: Path, name: str) -> None:
    place, found = home / "bin" / name, shutil.which(name)
    assert found is not None
    place.unlink(missing_ok=True)
    place.symlink_to(found)


def replace(home: Path, name: str, text: str, mode: int) -> None:
    place = home / "bin" / name
    place.unlink()
    place.write_text(text)
    place.chmod(mode)


def cover(place: Path) -> None:
    """Make a directory read-only for all who open it from now on, as a disk with errors becomes."""
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)


def uncover(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(directory: Path) -> None:
    with contextlib.suppress(OSError), (directory / "fill").open("wb") as file:
        while True:
            file.write(b"\0" * 4096)
            file.flush()


def in_the_way(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "something").touch()


def no_directory(home: Path) -> None:
    (home / "pods.d").rename(home / "elsewhere")


def a_file_for_a_directory(home: Path) -> None:
    no_directory(home)
    (home / "pods.d").touch()


def directory_back(home: Path) -> None:
    (home / "pods.d").unlink(missing_ok=True)
    (home / "elsewhere").rename(home / "pods.d")


def damage(journal: Path) -> None:
    shutil.copy(journal / "data.mdb", journal / "backup")
    (journal / "data.mdb").write_bytes(os.urandom(1 << 16))


def restore(journal: Path) -> None:
    (journal / "backup").rename(journal / "data.mdb")


def flag(name: str) -> tuple[Callable[[Path], object], Callable[[Path], object]]:
    return lambda home: (home / name).touch(), lambda home: (home / name).unlink()


WORLDS = [
    World("crun is missing", *no_program("crun"), "crun is not installed"),
    World("conmon is missing", *no_program("conmon"), "conmon is not installed"),
    World(
        "crun cannot be executed",
        lambda home: replace(home, "crun", "#!/bin/sh\n", 0o644),
        lambda home: install(home, "crun"),
        "cannot be executed",
    ),
    World(
        "crun is no program",
        lambda home: replace(home, "crun", "nonsense\n", 0o755),
        lambda home: install(home, "crun"),
        "could not be started",
    ),
    World(
        "crun fails",
        lambda home: replace(home, "crun", "#!/bin/sh\necho broken >&2\nexit 1\n", 0o755),
        lambda home: install(home, "crun"),
        "could not be started",
    ),
    World("no inotify instance", *flag("no-inotify"), "seen at the next resync only", starts=True),
    World("no more threads", *flag("no-threads"), "is too small"),
    World(
        "data_dir is read-only",
        lambda home: cover(home / "data"),
        lambda home: uncover(home / "data"),
        "Read-only file system",
    ),
    World(
        "data_dir is full",
        lambda home: fill(home / "data"),
        lambda home: (home / "data" / "fill").unlink(),
        "No space left on device",
    ),
    World(
        "run_dir is full",
        lambda home: fill(home / "run"),
        lambda home: (home / "run" / "fill").unlink(),
        "No space left on device",
    ),
    World(
        "run_dir is read-only",
        lambda home: cover(home / "run"),
        lambda home: uncover(home / "run"),
        "Read-only file system",
    ),
    World(
        "the journal is garbage",
        lambda home: damage(home / "data" / "journal"),
        lambda home: restore(home / "data" / "journal"),
        "can't be read",
    ),
    World(
        "a directory is at the socket's name",
        lambda home: in_the_way(home / "run" / "tank.sock"),
        lambda home: shutil.rmtree(home / "run" / "tank.sock"),
        "a file that is no socket is in the way",
        starts=True,
    ),
    World("pods_dir is missing", no_directory, directory_back, "pods.d"),
    World("pods_dir is a file", a_file_for_a_directory, directory_back, "pods.d"),
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a directory for an agent with file systems of its own, which are small."""
    patches = tmp_path / "patches"
    patches.mkdir()
    (patches / "sitecustomize.py").write_text(PATCHES)
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        install(tmp_path, name)
    monkeypatch.setenv("TANK_TEST_HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(patches), os.environ.get("PYTHONPATH", "")]))
    with contextlib.ExitStack() as stack:
        for directory in ("data", "run"):
            (tmp_path / directory).mkdir()
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=24M", "tank", str(tmp_path / directory)], check=True
            )
            stack.callback(subprocess.run, ["umount", "-l", str(tmp_path / directory)], check=True)
        yield tmp_path


def running(agent: Agent) -> set[str]:
    """Return the pods that run, as the agent says; none while nobody listens."""
    try:
        return {pod["name"] for pod in agent.statuses() if pod["phase"] == "running"}
    except TankError:
        return set()


def said(agent: Agent) -> str:
    """Return what a user can read: the log, and what the agent answers."""
    try:
        answer = str(agent.statuses())
    except TankError as error:
        answer = str(error)
    return answer + agent.log.read_text()


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_the_agent_answers_says_what_is_wrong_and_works_once_it_is_mended(home: Path, world: World) -> None:
    agent = Agent(home)
    agent.kept_mounts = frozenset({str(home / "data"), str(home / "run")})
    with ended(agent):
        agent.start()
        agent.write("old", agent.pod_text())
        agent.wait_phase("old", "running")
        pid = agent.pid("old")
        agent.kill()
        agent.write("new", agent.pod_text())
        agent.log.write_text("")
        world.break_it(home)
        try:
            agent.launch()
            wait_for(lambda: world.said in said(agent), f"it says {world.said!r}: {said(agent)[-2000:]}")
            if world.starts:
                wait_for(lambda: agent.output("new"), "the new pod starts")
            assert agent.process is not None
            assert agent.process.poll() is None
            assert Path(f"/proc/{pid}").exists()
        finally:
            world.mend_it(home)
        wait_for(lambda: running(agent) == {"old", "new"}, f"both run: {said(agent)[-2000:]}")
        assert agent.pid("old") == pid
        assert "Traceback" not in agent.log.read_text()


HANGS = """#!/bin/sh
case " $* " in *" {verb} "*) [ ! -e {home}/hangs ] || {{ /bin/busybox sleep {mark} & wait; }};; esac
exec {crun} "$@"
"""


def processes_with(word: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and word in (entry / "cmdline").read_text(errors="replace").split("\0"):
                found.append(entry.name)
    return found


@pytest.mark.parametrize("verb", ["create", "start", "delete"])
def test_a_runtime_that_hangs_is_ended_with_all_that_it_started(
    home: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TANK_TEST_DEADLINE", "0.5")
    agent = Agent(home)
    agent.kept_mounts = frozenset({str(home / "data"), str(home / "run")})
    mark, crun = f"4321.{os.getpid()}", shutil.which("crun")
    replace(home, "crun", HANGS.format(verb=verb, home=home, mark=mark, crun=crun), 0o755)
    with ended(agent):
        agent.start()
        (home / "hangs").touch()
        file = agent.write("web", agent.pod_text())
        if verb == "delete":
            agent.wait_phase("web", "running")
            file.unlink()
        wait_for(lambda: processes_with(mark), "the runtime hangs")
        wait_for(lambda: "0.5 s" in agent.log.read_text(), "it is given up")
        (home / "hangs").unlink()
        if verb == "delete":
            agent.wait_gone("web")
        else:
            agent.wait_phase("web", "running")
            assert len(agent.conmons()) == 1
        wait_for(lambda: not processes_with(mark), "what hung is gone")


def test_a_pod_can_be_stopped_while_run_dir_is_full(home: Path) -> None:
    agent = Agent(home)
    agent.kept_mounts = frozenset({str(home / "data"), str(home / "run")})
    with ended(agent):
        agent.start()
        file = agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        fill(home / "run")
        file.unlink()
        agent.wait_gone("web")
        (home / "run" / "fill").unlink()
        assert "Traceback" not in agent.log.read_text()


@pytest.mark.parametrize("name", ["data_dir is full", "the journal is garbage"])
def test_what_the_journal_suffers_from_keeps_no_machine_from_going_down_in_order(
    home: Path, name: str
) -> None:
    world = next(world for world in WORLDS if world.name == name)
    agent = Agent(home)
    agent.kept_mounts = frozenset({str(home / "data"), str(home / "run")})
    with ended(agent):
        agent.start()
        agent.write("web", agent.pod_text())
        agent.wait_phase("web", "running")
        pid = agent.pid("web")
        agent.kill()
        world.break_it(home)
        try:
            drained = agent.tank("agent", "--config", str(agent.config), "--drain")
            assert drained.returncode == 0, drained
            assert not Path(f"/proc/{pid}").exists()
        finally:
            world.mend_it(home)
        agent.start()
        agent.wait_phase("web", "running")
