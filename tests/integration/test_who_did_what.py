"""Who did what: the event of every call that changes something names the caller's user."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tank_agent.api import types
from tank_agent.api.routes import ROUTES
from tank_agent.api.types import Call, ListedEvent
from tests.support.agent import Agent, ended, wait_for
from tests.support.gitops import Fleet
from tests.support.images import busybox_layout, busybox_members, layer, member, write_image
from tests.support.remote import remote

ANNA, NAMELESS, GROUP = 54711, 54712, 54700
VOLUME = '[[volumes]]\nname = "data"\n'
SHARED = '[[volumes]]\nname = "media"\nshared = true\n'
MOUNT = '[[containers.mounts]]\nvolume = "{}"\npath = "/data"\n'


class Caller(NamedTuple):
    """A user of the machine: its number, and how the events name it."""

    uid: int
    name: str


ROOT, MEMBER, NUMBER = Caller(0, "root"), Caller(ANNA, "anna"), Caller(NAMELESS, str(NAMELESS))


class World:
    """An agent that follows a repository, on a machine with a group tank, and what a user does to it."""

    def __init__(self, home: Path, caller: Caller) -> None:
        self.fleet = Fleet(home, "budget = 1", "[notify]", 'webhook = "http://127.0.0.1:1/nobody"')
        self.agent, self.caller, self.home = self.fleet.agent, caller, home
        self.layout = home / "layout"
        users = Path("/etc/passwd").read_text() + f"anna:x:{ANNA}:{ANNA}::/:/bin/sh\n"
        (home / "passwd").write_text(users)
        (home / "group").write_text(Path("/etc/group").read_text() + f"tank:x:{GROUP}:anna\n")
        mounts = "; ".join(f"mount --bind {home / name} /etc/{name}" for name in ("passwd", "group"))
        self.agent.through = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh"]

    def tank(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run the command line as the caller until it ends with a code, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "tank_agent", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.home,
            env={**os.environ, "TANK_SOCKET": str(self.agent.run / "tank.sock"), "HOME": "/"},
            user=self.caller.uid,
            group=self.caller.uid,
            extra_groups=[] if self.caller.uid == 0 else [GROUP],
        )
        assert done.returncode == code, (arguments, done.stderr, self.agent.log.read_text()[-2000:])
        return done.stdout

    def events(self) -> list[ListedEvent]:
        return list(self.agent.client.events())

    def begin(self) -> None:
        """Let pods run that verbs are tried on."""
        agent = self.agent
        busybox_layout(self.layout, "1")
        for name, extra in (("own", VOLUME), ("shared", SHARED)):
            volume = "data" if name == "own" else "media"
            agent.client.apply(f'name = "{name}"\n' + agent.pod_text(head=extra, extra=MOUNT.format(volume)))
        agent.client.apply('name = "job"\nschedule = "0 3 1 1 *"\n' + agent.pod_text(command=["/bin/true"]))
        image = f'name = "image"\n[[containers]]\nname = "app"\nimage = "oci:{self.layout}:1"\n'
        agent.client.apply(f'{image}pull = "always"\ncommand = ["/bin/sleep", "1000"]\nstop_grace = "0s"\n')
        console = agent.pod_text(command=["/bin/sh", "-c", "exec sleep 1000"], extra="tty = true")
        agent.client.apply(f'name = "console"\n{console}')
        for name in ("own", "shared", "image", "console", "a", "b"):
            agent.wait_phase(name, "running")


def _apply(world: World) -> None:
    text = world.agent.pod_text(command=["/bin/sleep", "1000"], extra='stop_grace = "0s"')
    world.tank("apply", "-", stdin=f'name = "one"\n{text}')


def _apply_with_files(world: World) -> None:
    (world.home / "one.conf").write_text("x")
    text = world.agent.pod_text(
        head='[[files]]\nname = "conf"\nsource = "one.conf"\n',
        extra='[[containers.mounts]]\nfile = "conf"\npath = "/etc/one"\n',
    )
    (world.home / "one.toml").write_text(f'name = "one"\n{text}')
    world.tank("apply", "one.toml")


def _confirm(world: World) -> None:
    # One more than may be removed at once.
    commit = world.fleet.push({"pods/a.toml": None, "pods/b.toml": None}, "many")
    world.agent.tank("sync")
    wait_for(lambda: world.agent.sources()["git"]["held"], "it is held")  # type: ignore[index]
    before = len(world.events())
    # To look only is no event.
    subprocess.run(
        [sys.executable, "-m", "tank_agent", "sync"],
        check=False,
        capture_output=True,
        env={**os.environ, "TANK_SOCKET": str(world.agent.run / "tank.sock")},
    )
    assert [event for event in world.events()[before:] if event.by] == []
    world.tank("sync", "--confirm", commit[:12])


def _newer(world: World) -> None:
    write_image(world.layout, [layer([*busybox_members(), member("newer", "1")])], tag="1")
    world.tank("image", "update", "image")


def _pull(world: World) -> None:
    write_image(world.layout, [layer([*busybox_members(), member("second", "1")])], tag="2")
    world.tank("image", "pull", f"oci:{world.layout}:2")
    world.tank("image", "pull", f"oci:{world.layout}:2")


def _prune(world: World) -> None:
    write_image(world.layout, [layer([*busybox_members(), member("third", "1")])], tag="3")
    world.tank("image", "pull", f"oci:{world.layout}:3")
    assert "removed" in world.tank("image", "prune")


def _gone(world: World, *names: str) -> None:
    for name in names:
        if world.agent.client.delete(name):
            world.agent.wait_gone(name)


def _remove_volume(world: World) -> None:
    world.tank("volume", "rm", "own/data")


def _attach(world: World) -> None:
    code = (
        "import pty, os, sys; pid, fd = pty.fork()\n"
        "if pid == 0: os.execv(sys.executable, [sys.executable, '-m', 'tank_agent', 'attach', 'console'])\n"
        "import time; time.sleep(2); os.write(fd, b'\\x10\\x11'); os.waitpid(pid, 0)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TANK_SOCKET": str(world.agent.run / "tank.sock"), "HOME": "/"},
        user=world.caller.uid,
        group=world.caller.uid,
        extra_groups=[] if world.caller.uid == 0 else [GROUP],
        check=True,
        timeout=60,
    )


def _restore(world: World) -> None:
    _gone(world, "own")
    world.tank("volume", "restore", "own/data", "manual-1")


def _read_files(world: World) -> None:
    target = world.home / "open"
    target.mkdir(exist_ok=True)
    target.chmod(0o777)
    world.tank("cp", "own:/etc/passwd", str(target / f"copy-{world.caller.name}"))


def verb(*arguments: str) -> Callable[[World], None]:
    """Return what runs a verb of the command line."""
    return lambda world: void(world.tank(*arguments))


def void(_: object) -> None:
    """Do nothing with a result."""


class Case(NamedTuple):
    """What a user does to make a call, and the event that tells of it."""

    do: Callable[[World], None]
    type: str
    pod: str = ""
    container: str = ""


# In an order in which each can be done; a new call that changes something needs its row here.
CASES: dict[Call[Any], Case] = {
    types.APPLY: Case(_apply, "applied", "one"),
    types.APPLY_WITH_FILES: Case(_apply_with_files, "applied", "one"),
    types.ROLLBACK: Case(verb("rollback", "one"), "rolled-back", "one"),
    types.DELETE: Case(verb("delete", "one"), "deleted", "one"),
    types.PLAIN["run"]: Case(verb("run", "-d", "job"), "run-asked", "job"),
    types.PLAIN["stop"]: Case(verb("stop", "shared"), "stop-asked", "shared"),
    types.PLAIN["start"]: Case(verb("start", "shared"), "start-asked", "shared"),
    types.PLAIN["restart"]: Case(verb("restart", "shared"), "restart-asked", "shared"),
    types.SUSPEND_POD: Case(verb("suspend", "a"), "suspended", "a"),
    types.RESUME_POD: Case(verb("resume", "a"), "resumed", "a"),
    types.SUSPEND: Case(verb("suspend"), "suspended"),
    types.RESUME: Case(verb("resume"), "resumed"),
    types.EXEC: Case(verb("exec", "own", "--", "sh", "-c", "echo s3cret"), "exec", "own", "app"),
    types.READ_FILES: Case(_read_files, "files-read", "own", "app"),
    types.WRITE_FILES: Case(verb("cp", "/etc/hostname", "own:/data/h"), "files-written", "own", "app"),
    types.ATTACH: Case(_attach, "attach", "console", "app"),
    types.UPDATE_IMAGES: Case(_newer, "image-moved", "image"),
    types.PULL_IMAGE: Case(_pull, "pulled"),
    types.REMOVE_IMAGE: Case(
        lambda world: void(world.tank("image", "rm", f"oci:{world.layout}:2")), "image-removed"
    ),
    types.PLAIN["prune_images"]: Case(_prune, "image-removed"),
    types.TAKE_SNAPSHOT: Case(verb("volume", "snapshot", "own/data", "--force"), "snapshot-taken", "own"),
    types.RESTORE_VOLUME: Case(_restore, "data-restored", "own"),
    types.REMOVE_VOLUME: Case(_remove_volume, "volume-removed", "own"),
    types.REMOVE_SHARED_VOLUME: Case(verb("volume", "rm", "media"), "volume-removed"),
    # Nobody listens there, which is said, too.
    types.PLAIN["test_notifications"]: Case(
        lambda world: void(world.tank("notify", "test", code=1)), "notify-test"
    ),
    types.SYNC: Case(_confirm, "git-confirmed"),
}


def test_every_call_that_changes_something_has_its_case() -> None:
    changing = {call.request for call in ROUTES if call.changes} | {types.SYNC.request}
    assert {call.request for call in CASES} == changing


@pytest.fixture
def world(open_home: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    found = World(open_home, request.param)
    texts = {f"pods/{name}.toml": found.fleet.text(name) for name in ("a", "b", "c")}
    found.fleet.push(texts, "begin")
    with ended(found.agent):
        found.agent.start()
        found.begin()
        yield found


def only_named(world: World, case: Case, before: int) -> ListedEvent:
    def found() -> ListedEvent | None:
        return next(
            (one for one in world.events() if one.seq > before and one.type == case.type and one.by), None
        )

    return wait_for(found, f"an event of type {case.type}")


@pytest.mark.parametrize("world", [ROOT, MEMBER], ids=["root", "member"], indirect=True)
def test_the_event_of_each_call_names_the_user(world: World) -> None:
    for call, case in CASES.items():
        before = world.events()[-1].seq
        if call is types.REMOVE_SHARED_VOLUME:
            _gone(world, "shared")
        case.do(world)
        event = only_named(world, case, before)
        told = (event.by, event.type, event.pod, event.container)
        assert told == (world.caller.name, case.type, case.pod, case.container), call.request
        assert "s3cret" not in event.message
        if call is not types.SYNC:
            # It was that call, and not another one of the same name.
            pattern = re.sub(r"\{\w+\}", "[^/ ]+", call.request)
            assert re.search(rf"{pattern}\W", world.agent.log.read_text()), call.request
    mine = json.loads(
        f"[{','.join(world.tank('events', '--by', world.caller.name, '-o', 'json').splitlines())}]"
    )
    assert {event["by"] for event in mine} == {world.caller.name}
    assert {event["type"] for event in mine} >= {case.type for case in CASES.values()}
    # What follows by the agent's own work has a cause, and no user.
    followed = [
        event for event in world.events() if event.type in ("started", "stopping", "removed", "exited")
    ]
    assert followed and {event.by for event in followed} == {""}
    assert f"asked for by {world.caller.name}" in world.tank("history", "one")
    assert f"(by {world.caller.name})" in world.tank("why", "one")


@pytest.mark.parametrize("world", [NUMBER], ids=["nameless"], indirect=True)
def test_a_user_without_a_name_is_a_number(world: World) -> None:
    before = world.events()[-1].seq
    world.tank("stop", "own")
    event = only_named(world, CASES[types.PLAIN["stop"]], before)
    assert (event.by, event.pod, event.cause) == (str(NAMELESS), "own", f"tank stop by {NAMELESS}")
    assert world.tank("events", "--by", str(NAMELESS)).rstrip().endswith(f"(by {NAMELESS})")


@pytest.mark.parametrize("world", [MEMBER], ids=["member"], indirect=True)
def test_over_ssh_it_is_the_user_on_that_machine(world: World, tmp_path: Path) -> None:
    with remote(tmp_path) as edge:
        # Here it is root, and there it is anna.
        become = f"setpriv --reuid {ANNA} --regid {ANNA} --groups {GROUP}"
        edge.write_tank(f"exec {become} {edge.line.removeprefix('exec ')}")
        at, before = ["--host", f"ssh://edge{world.agent.run}/tank.sock"], world.events()[-1].seq
        for words in (("stop", "own"), ("start", "own"), ("exec", "console", "--", "true")):
            done = edge.tank(*at, *words)
            assert done.returncode == 0, done.stderr
        for kind in ("stop-asked", "start-asked", "exec"):
            assert only_named(world, Case(_apply, kind), before).by == "anna"
        assert edge.tank(*at, "events", "--by", "anna").stdout.count("(by anna)") == 3
        assert edge.tank(*at, "events", "--by", "root", "--since-seq", str(before)).stdout == ""


def test_a_script_that_enters_often_is_one_event_and_a_kill_keeps_the_first(agent: Agent) -> None:
    agent.write("web", agent.pod_text())
    agent.wait_phase("web", "running")
    for _ in range(12):
        assert agent.client.exec("web", ["true"], stdin=None).status == 0
    wait_for(lambda: [one for one in agent.client.events(pod="web") if one.type == "exec"], "it is written")
    agent.kill()
    agent.start()
    found = [one for one in agent.client.events(pod="web") if one.type == "exec"]
    assert len(found) == 1 and found[0].message.startswith("ran true")
    # One that stops in order writes what it counted.
    for _ in range(3):
        agent.client.exec("web", ["true"])
    wait_for(
        lambda: len([e for e in agent.client.events(pod="web") if e.type == "exec"]) == 2, "the next one"
    )
    for _ in range(3):
        agent.client.exec("web", ["true"])
    assert agent.stop() == 0
    agent.start()
    found = [one for one in agent.client.events(pod="web") if one.type == "exec"]
    assert len(found) == 3 and re.match(r"ran true, \d more times? within \w+", found[-1].message)
