"""Every verb as a real process against a real server: exit codes, text and JSON."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tank_agent.api.reports import GitReport, JobRunReport, PodReport, PortReport
from tank_agent.cli.main import main
from tank_agent.cli.output import Page
from tank_agent.cli.parser import verbs
from tank_agent.cli.verbs.run import exit_code
from tank_agent.cli.verbs.top import Meter
from tests.support.fake_service import CHANGES, PRINTING, FakeService, serving, until

TANK = Path(sys.executable).with_name("tank")
# These need real containers (tests/integration/test_streams.py, test_cp.py), or files of other tools
# (test_import.py), or print what argparse does.
ELSEWHERE = {"exec", "attach", "cp", "logs", "agent", "import", "export", "help"}
RUN: dict[str, Any] = {
    "number": 5,
    "cause": "manual",
    "due": "2026-11-22T02:00:00Z",
    "begun": "2026-11-22T02:00:00Z",
    "ended": "2026-11-22T02:02:03Z",
    "outcome": "failed",
    "reason": "container app ended with exit code 3",
    "exits": {"app": {"code": 3, "signal": None, "oom": False, "at": "2026-11-22T02:02:03Z"}},
}
JOB = {"schedule": "0 3 * * *", "time_zone": "Europe/Berlin", "next_run": "2099-01-01T02:00:00Z"}
POD = '[[containers]]\nname = "app"\nimage = "oci:/srv/busybox"\n'


class Tank:
    """Runs `tank` with a socket, and no color."""

    def __init__(self, socket: Path, directory: Path) -> None:
        self.socket = socket
        self.directory = directory

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        environment = {"PATH": os.environ["PATH"], "TANK_SOCKET": str(self.socket), "LC_ALL": "C.UTF-8"}
        return subprocess.Popen(
            [TANK, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=self.directory,
            **options,
        )

    def __call__(self, *argv: str, stdin: str = "") -> tuple[int, str, str]:
        process = self.start(*argv)
        stdout, stderr = process.communicate(stdin, timeout=60)
        assert "Traceback" not in stderr, stderr
        return process.returncode, stdout, stderr

    def json(self, *argv: str, code: int = 0) -> Any:
        found, stdout, stderr = self(*argv, "-o", "json")
        assert (found, stderr) == (code, ""), stderr
        return json.loads(stdout)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def tank(service: FakeService, tmp_path: Path) -> Iterator[Tank]:
    with serving(service, tmp_path / "tank.sock"):
        yield Tank(tmp_path / "tank.sock", tmp_path)


@pytest.fixture
def alone(tmp_path: Path) -> Tank:
    """Without an agent."""
    return Tank(tmp_path / "tank.sock", tmp_path)


def as_json(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_help_imports_nothing_that_only_running_needs() -> None:
    # These take the names of phases, or structs of their own, from msgspec.
    light = sorted(set(verbs()) - {"plan", "validate", "wait"})
    script = (
        "import contextlib, io, sys\n"
        "from tank_agent.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    codes = {{main([verb, '-h']) for verb in {light}}}\n"
        "print(codes, {'msgspec', 'pyroute2', 'tank_agent.errors'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{0} set()\n"


def test_every_verb_is_looked_at() -> None:
    assert PRINTING.keys() | ELSEWHERE == set(verbs())


def test_export(tank: Tank, service: FakeService) -> None:
    service.add("web")
    code, stdout, _ = tank("export", "quadlet", "web")
    assert (code, stdout.splitlines()[0]) == (0, "# file: web.container")
    assert tank("export", "quadlet", "nobody")[0] == 1


def test_list(tank: Tank, service: FakeService) -> None:
    code, stdout, stderr = tank("list")
    assert (code, rows(stdout), stderr) == (0, [["NAME", "CONTAINERS", "OWNER", "REVISION", "CHANGED"]], "")
    service.add("web")
    service.add("db", owner="dir:/etc/tank/pods.d/db.toml")
    code, stdout, stderr = tank("list")
    assert [row[:4] for row in rows(stdout)[1:]] == [
        ["db", "1", "dir:/etc/tank/pods.d/db.toml", "rev1"],
        ["web", "1", "api", "rev1"],
    ]
    assert [pod["name"] for pod in tank.json("list")] == ["db", "web"]


def test_status_of_all(tank: Tank, service: FakeService) -> None:
    service.add("web")
    service.add("db", "backing-off", error="exit code 3\x1b[2J\ntwice", next_retry="2026-01-01T00:00:00Z")
    code, stdout, stderr = tank("status")
    assert (code, stderr) == (0, "")
    assert rows(stdout) == [
        ["NAME", "PHASE", "CONTAINERS", "PIDS", "RESTARTS", "OWNER", "REVISION"],
        ["db", "backing-off", "0/1", "-", "2", "api", "rev1"],
        ["web", "running", "1/1", "4711", "2", "api", "rev1"],
        [],
        ["db:", "exit", "code", "3\\x1b[2J"],
        ["twice"],
        ["next", "try", "now"],
    ]
    assert tank.json("status") == as_json(service.status())


def test_a_warning_about_the_machine_is_printed_once_for_all_its_pods(
    tank: Tank, service: FakeService
) -> None:
    for name in ("db", "web"):
        service.add(name, warnings=("ufw drops it; type: x",))
    code, stdout, stderr = tank("status")
    assert (code, stderr) == (0, "")
    assert "warning for db, web: ufw drops it; type: x" in stdout.splitlines()
    assert stdout.count("ufw") == 1


PORT = {"address": "127.0.0.1", "host": 8080, "pod": 80, "protocol": "tcp", "count": 1}


def test_ports_are_shown_as_they_are_published(tank: Tank, service: FakeService) -> None:
    service.add("db")
    ports = [PORT, {**PORT, "address": "::1", "protocol": "udp", "count": 3}]
    service.add(
        "web", ports=ports, addresses=["10.89.0.2/24", "10.0.0.5/24"], bridges={"front": ["10.89.0.2/24"]}
    )
    assert [row[7:] for row in rows(tank("status")[1])] == [
        ["PORTS"],
        ["-"],
        ["127.0.0.1:8080→80/tcp,", "[::1]:8080-8082→80-82/udp"],
    ]
    stdout = tank("status", "web")[1].splitlines()
    assert "addresses   10.89.0.2/24 (front), 10.0.0.5/24" in stdout
    assert (
        stdout[stdout.index("ports       127.0.0.1:8080→80/tcp") + 1]
        == " " * 12 + "[::1]:8080-8082→80-82/udp"
    )
    assert tank.json("status", "web")["ports"] == ports
    assert tank.json("status", "web")["bridges"] == {"front": ["10.89.0.2/24"]}
    service.pods["web"] = msgspec.structs.replace(service.pods["web"], ports=(PortReport(**PORT),))
    assert [row[-1] for row in rows(tank("list")[1])] == ["PORTS", "-", "127.0.0.1:8080→80/tcp"]
    assert tank.json("list")[1]["ports"] == [PORT]


def test_status_of_one(tank: Tank, service: FakeService) -> None:
    exit = {"code": None, "signal": 9, "oom": False, "at": "2026-01-01T00:00:00Z"}
    told = {"error": "out of memory", "addresses": ["10.0.0.5/24"], "warnings": ("ufw drops it; type: x",)}
    service.add("web", "failed", exit=exit, **told)
    code, stdout, stderr = tank("status", "web")
    assert (code, stderr) == (0, "")
    for line in (
        "phase       failed",
        "addresses   10.0.0.5/24",
        "error       out of memory",
        "warning     ufw drops it; type: x",
    ):
        assert line in stdout.splitlines()
    assert "killed by SIGKILL, " in stdout
    assert tank.json("status", "web") == as_json(service.status("web")[0])
    code, stdout, stderr = tank("status", "nobody")
    assert (code, stdout) == (1, "")
    assert stderr == "tank: there is no pod nobody\n  see `tank list`\n"


USED = {"memory": 60_000_000, "cpu": 12.5, "pids": 3}


def running(name: str, **fields: Any) -> dict[str, Any]:
    image = f"docker.io/library/nginx:1.27@sha256:{'0' * 64}"
    return {
        "name": name,
        "phase": "running",
        "pid": 17,
        "restarts": 0,
        "image": image,
        "usage": USED,
        **fields,
    }


def test_status_shows_since_when_a_pod_runs_and_what_it_uses(tank: Tank, service: FakeService) -> None:
    old, young = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    containers = [running("app", started_at=old, memory_limit=256 << 20), running("db", started_at=young)]
    service.add("web", usage={**USED, "pids": 6}, containers=containers)
    service.add("idle", "completed")
    header, *table = rows(tank("status")[1])
    assert header[4:7] == ["RESTARTS", "UPTIME", "MEMORY"]
    assert table[0][5:7] == ["-", "-"]
    assert (table[1][5][-1], table[1][6]) == ("d", "57.2M")
    text = tank("status", "web")[1]
    assert re.search(r"^started     [0-9]+d [0-9]+h ago, 2026-01-02T00:00:00Z$", text, re.MULTILINE)
    assert "uses        57.2M of memory, 6 pids, 12s of CPU time since its start\n" in text
    assert re.search(r"^app .* [0-9]+d  +57.2M/256.0M  ", text, re.MULTILINE)
    assert tank.json("status", "web")["containers"][0]["memory_limit"] == 256 << 20


def test_status_of_several(tank: Tank, service: FakeService) -> None:
    for name in ("db", "web"):
        service.add(name)
    code, stdout, stderr = tank("status", "web", "db", "web")
    pods = [line for line in stdout.splitlines() if line.startswith("pod ")]
    assert (code, pods, stderr) == (0, ["pod         web", "pod         db"], "")
    assert tank.json("status", "web", "db") == as_json([service.status("web")[0], service.status("db")[0]])
    code, stdout, stderr = tank("status", "web", "nobody", "db", "-o", "json")
    assert (code, [pod["name"] for pod in json.loads(stdout)]) == (1, ["web", "db"])
    error = json.loads(stderr)["error"]
    assert (error["reason"], error["message"]) == ("not-found", "there is no pod nobody")
    assert tank("status", "web", "nobody")[2] == "tank: there is no pod nobody\n  see `tank list`\n"


def test_nothing_wraps_in_80_columns(
    service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"started_at": "2026-01-02T00:00:00Z", "health": {"state": "healthy"}}
    exit = {"code": 137, "signal": None, "oom": True, "at": "2026-01-01T00:00:00Z"}
    containers = [running("app", **started, exit=exit, memory_limit=256 << 20), running("sidecar", **started)]
    ports = [{**PORT, "host": port} for port in (8080, 8443, 9090)]
    for name in ("db", "a-pod-with-quite-a-long-name"):
        owner = f"dir:/etc/tank/pods.d/{name}.toml"
        service.add(name, owner=owner, usage=USED, containers=containers, ports=ports, health="healthy")
    monkeypatch.setenv("NO_COLOR", "1")
    with serving(service, tmp_path / "tank.sock"):
        for words in (
            ["status"],
            ["status", "db", "a-pod-with-quite-a-long-name"],
            ["list"],
            ["volume", "ls"],
        ):
            page = Page(80)
            with contextlib.redirect_stdout(page):
                assert main([*words, "--socket", str(tmp_path / "tank.sock")]) == 0
            too_long = [line for line in page.getvalue().splitlines() if len(line) > 80]
            assert not too_long, too_long
            assert ("app: image docker.io/library/nginx:1.27@sha256:000" in page.getvalue()) == (
                len(words) == 3
            )


def test_get(tank: Tank, service: FakeService) -> None:
    service.add("web")
    code, stdout, stderr = tank("get", "web")
    assert (code, stderr) == (0, "")
    assert tank.json("get", "web") == tomllib.loads(stdout)
    assert tank.json("get", "web")["containers"][0]["image"] == "oci:/srv/busybox"
    assert tank("get", "nobody")[0] == 1
    assert tank("get", "pods") == (1, "", "tank: there is no pod pods\n  `tank status` shows the pods\n")


def test_what_get_prints_can_be_applied_again(tank: Tank, service: FakeService, tmp_path: Path) -> None:
    service.add("web")
    (tmp_path / "web.toml").write_text(tank("get", "web")[1])
    assert tank("validate", "web.toml")[0] == 0


def test_apply(tank: Tank, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text("web\ndb\n")
    assert tank("apply", "two.toml") == (0, "web created\ndb created\n", "")
    assert tank("apply", "-", stdin="web\n") == (0, "web created\n", "")
    assert tank("apply", "-f", "two.toml") == tank("apply", "two.toml")
    assert tank("apply", "-f", "-", stdin="web\n")[0] == 0
    assert [call[2] for call in service.calls] == ["two.toml", "<stdin>", "two.toml", "two.toml", "<stdin>"]
    assert tank.json("apply", "two.toml")[0] == {
        "name": "web",
        "change": "created",
        "generation": 1,
        "stopped": False,
    }


def test_apply_of_an_invalid_file(tank: Tank, tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text("web\nbad\nbad\n")
    code, stdout, stderr = tank("apply", "web.toml")
    assert (code, stdout) == (2, "")
    assert stderr.splitlines() == [
        "web.toml:2: containers[0].image: is empty; give an image",
        "web.toml:3: containers[0].image: is empty; give an image",
    ]


def test_apply_that_cannot_be(tank: Tank, tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text("owned\n")
    code, stdout, stderr = tank("apply", "web.toml")
    assert (code, stdout) == (1, "")
    assert stderr == "tank: /etc/tank/pods.d/web.toml: web is owned by a file\n  edit it\n"
    assert tank("apply", "none.toml")[0] == 1
    assert tank("apply")[0] == 2


def test_apply_waits(tank: Tank, service: FakeService) -> None:
    assert tank("apply", "-", "--wait", stdin="web\ndb\n")[0] == 0
    service.phase = "completed"
    assert tank("apply", "-", "--wait", "--timeout", "20s", stdin="web\n")[0] == 0
    service.phase = "failed"
    code, stdout, stderr = tank("apply", "-", "--wait", "--timeout", "30s", stdin="web\n")
    assert (code, stdout) == (1, "web created\n")
    assert "web is failed, not running" in stderr
    service.phase = "pulling"
    code, stdout, stderr = tank("apply", "-", "--wait", "--timeout", "200ms", stdin="web\n")
    assert code == 1
    assert "web is pulling, not running, after 0.2 s" in stderr


def test_delete(tank: Tank, service: FakeService) -> None:
    service.add("web")
    service.add("db")
    service.add("file", owner="dir:/x.toml")
    assert tank("delete", "web", "web", "nobody") == (0, "web deleted\nnobody was not there\n", "")
    code, stdout, stderr = tank("delete", "file", "db")
    assert (code, stdout) == (1, "db deleted\n")
    assert "file is owned by a file" in stderr
    assert tank.json("delete", "db") == [{"name": "db", "deleted": False}]
    service.add("web")
    assert tank("delete", "web", "--wait", "--timeout", "5s")[0] == 0


def test_errors_are_json_where_the_output_is(tank: Tank) -> None:
    for argv in (("get", "nobody"), ("history", "nobody"), ("events", "--pod", "nobody")):
        code, stdout, stderr = tank(*argv, "-o", "json")
        assert (code, stdout, json.loads(stderr)["error"]["reason"]) == (1, "", "not-found")
    # What takes several names goes on with the others.
    for verb in ("stop", "start", "restart"):
        code, stdout, stderr = tank(verb, "nobody", "-o", "json")
        assert (code, json.loads(stdout), json.loads(stderr)["error"]["reason"]) == (1, [], "not-found")


def test_wait(tank: Tank, service: FakeService) -> None:
    service.add("web", "pulling", error="no such image")
    code, stdout, stderr = tank("wait", "web", "--timeout", "0.1")
    assert (code, stdout) == (1, "")
    assert stderr.startswith("tank: web is pulling, not running, after 0.1 s: no such image\n")
    assert tank("wait", "web", "--for", "pulling") == (0, "web pulling\n", "")
    assert tank.json("wait", "web", "--for", "pulling")["phase"] == "pulling"
    threading.Timer(0.3, service.delete, ("web",)).start()
    assert tank("wait", "web", "--for", "deleted", "--timeout", "1m")[:2] == (0, "web deleted\n")
    assert tank("wait", "web", "--for", "dancing")[0] == 2
    assert tank("wait", "web", "--timeout", "soon")[0] == 2


def test_events(tank: Tank, service: FakeService) -> None:
    service.say("web", "exit code 3\nand \x1b[31mmore", "exited")
    service.say("db")
    code, stdout, stderr = tank("events")
    assert (code, stderr) == (0, "")
    first, second = stdout.splitlines()
    assert first.split()[:3] == ["2026-11-22T06:00:33Z", "web/app", "exited"]
    assert first.endswith(r"exit code 3; and \x1b[31mmore")
    assert "db/app" in second
    assert len(tank("events", "--pod", "db")[1].splitlines()) == 1
    assert tank("events", "--since-seq", "2")[1] == ""
    assert [line.split()[1] for line in tank("events", "-n", "1")[1].splitlines()] == ["db/app"]
    assert [line.split()[1] for line in tank("events", "--type", "exited")[1].splitlines()] == ["web/app"]
    assert len(tank("events", "--type", "exited", "--type", "started")[1].splitlines()) == 2
    assert len(tank("events", "--since", "2026-11-22T06:00:33Z")[1].splitlines()) == 2
    assert tank("events", "--since", "2026-11-22T06:00:34Z")[1] == ""
    assert tank("events", "--by", "anna")[1] == ""
    service.say("web", "it was asked to end", type="stop-asked", by="anna")
    assert tank("events", "--by", "anna")[1].rstrip().endswith("it was asked to end (by anna)")
    service.log.pop()
    code, _, stderr = tank("events", "--pod", "typo")
    assert (code, "there is no pod typo" in stderr) == (1, True)
    lines = tank("events", "-o", "json")[1].splitlines()
    fields = {"seq", "at", "pod", "container", "type", "message", "revision", "cause", "by"}
    assert [set(json.loads(line)) for line in lines] == [fields, fields]
    assert tank("events", "--since-seq", "-1")[0] == 2


def test_events_are_followed_until_ctrl_c(tank: Tank, service: FakeService) -> None:
    service.say("web", "old")
    process = tank.start("events", "-f")
    assert process.stdout is not None
    assert "old" in process.stdout.readline()
    service.say("web", "new")
    assert "new" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130


def test_a_follower_says_that_the_agent_ended(service: FakeService, tmp_path: Path) -> None:
    tank = Tank(tmp_path / "tank.sock", tmp_path)
    service.say("web", "old")
    with serving(service, tank.socket):
        process = tank.start("events", "-f")
        assert process.stdout is not None
        process.stdout.readline()
    assert "the agent ended" in process.communicate(timeout=20)[1]
    assert process.returncode == 1


def test_history(tank: Tank, service: FakeService) -> None:
    service.add("web")
    service.add("web")
    code, stdout, stderr = tank("history", "web")
    assert (code, stderr) == (0, "")
    assert [row[0] for row in rows(stdout)] == ["GENERATION", "1", "2"]
    assert [each["generation"] for each in tank.json("history", "web")] == [1, 2]
    assert tank("history", "nobody")[0] == 1


def test_plan(tank: Tank, service: FakeService) -> None:
    assert tank("plan") == (0, "nothing to do\n", "")
    service.report = CHANGES
    code, stdout, stderr = tank("plan")
    assert (code, stderr) == (2, "")
    assert stdout.splitlines() == [
        "~ db: update",
        "    image: a → b (restart)",
        "  1. restart db/app",
        "- old: remove",
        "  1. stop old",
        "+ web: create",
        "    publishes 0.0.0.0:8080→80/tcp",
        "  1. pull",
        "  2. start web/app",
        "1 to create, 1 to update, 1 to remove",
    ]
    assert len(tank.json("plan", code=2)["pods"]) == 4


def test_plan_of_files(tank: Tank, service: FakeService, tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    pods.mkdir()
    for name in ("b.toml", "a.toml", ".c.toml", "d.toml~", "README"):
        (pods / name).write_text(name)
    assert tank("plan", "pods")[0] == 0
    # Wherever they are, it is asked what they would do in the agent's own directory.
    files = {f"/etc/tank/pods.d/{name}": name for name in ("a.toml", "b.toml")}
    assert service.calls == [("plan", files)]
    service.report = CHANGES
    code, stdout, _ = tank("plan", "pods/a.toml")
    # One file does not say that the others are gone.
    assert (code, stdout.splitlines()[-1]) == (2, "1 to create, 1 to update, 0 to remove")
    assert service.calls[-1] == ("plan", {"/etc/tank/pods.d/a.toml": "a.toml"})
    lines = ("/etc/tank/pods.d/a.toml:3: restart: is odd", "/etc/tank/pods.d/z.toml: is odd")
    service.report = msgspec.structs.replace(CHANGES, problems=lines)
    code, _, stderr = tank("plan", "pods/a.toml")
    assert (code, stderr) == (1, "pods/a.toml:3: restart: is odd\n/etc/tank/pods.d/z.toml: is odd\n")


def test_plan_ends_with_1_for_every_error(tank: Tank, service: FakeService, tmp_path: Path) -> None:
    service.report = msgspec.structs.replace(CHANGES, problems=("/x.toml:3: restart: is odd",))
    code, stdout, stderr = tank("plan")
    assert (code, stderr) == (1, "/x.toml:3: restart: is odd\n")
    assert "web" in stdout
    (tmp_path / "x.toml").write_bytes(b"\xff")
    assert tank("plan", "x.toml")[0] == 1
    assert tank("plan", "none.toml")[0] == 1
    assert tank("plan", "--no-such-flag")[0] == 1
    assert Tank(tmp_path / "none.sock", tmp_path)("plan")[0] == 1


def test_sync(tank: Tank, service: FakeService) -> None:
    service.add("web")
    assert tank("sync")[0] == 0
    assert tank("sync", "--wait", "--timeout", "3s")[0] == 0
    assert tank("sync", "--timeout", "3s")[0] == 0
    assert service.calls == [("sync", None), ("sync", 3.0), ("sync", None, 3.0)]
    service.add("db", "failed")
    assert tank("sync")[0] == 0
    code, stdout, _ = tank("sync", "--wait")
    assert code == 1
    assert "failed" in stdout
    assert tank.json("sync") == as_json(service.status())


GIT = {
    "state": "held",
    "remote": "/srv/fleet.git",
    "ref": "refs/heads/main",
    "error": None,
    "hint": None,
    "held": "commit 2222 is held",
    "commit": {"id": "1" * 40, "author": "Ann", "subject": "begin\x1b[2J", "at": "2026-01-01T00:00:00Z"},
    "latest": {"id": "2" * 40, "author": "Ann", "subject": "next", "at": "2026-01-01T00:00:00Z"},
    "looked_at": "2026-01-01T00:00:00Z",
    "steps": {
        name: {"revision": "2" * 40, "error": None, "hint": None, "at": None}
        for name in ("fetched", "verified", "checked", "applied")
    },
    "troubles": ["can't watch /srv"],
    "status": {
        "context": "tank/edge-1",
        "project": "acme/fleet",
        "commit": "1" * 40,
        "state": "success",
        "at": "2026-01-01T00:00:00Z",
        "error": None,
        "hint": None,
    },
    "pods": 1,
    "unusable": 0,
}


def test_sync_confirms_and_fails_while_git_does(tank: Tank, service: FakeService) -> None:
    assert tank("sync", "--confirm")[0] == 0
    assert tank("sync", "--confirm", "22222222")[0] == 0
    assert service.calls == [("sync", None, ""), ("sync", None, "22222222")]
    service.sources.git = msgspec.convert(GIT, GitReport)
    code, stdout, _ = tank("sync")
    line = 'git: held at 111111111111 "begin\\x1b[2J" (Ann) - commit 2222 is held'
    assert (code, stdout.splitlines()[-2:]) == (1, [line, "git: can't watch /srv"])
    assert tank.json("sync", code=1) == []
    service.sources.git = msgspec.convert({**GIT, "state": "in-sync", "held": None}, GitReport)
    assert tank("sync")[0] == 0
    service.sources.directory_error = "/etc/tank/pods.d: is not there"
    code, stdout, _ = tank("sync")
    assert (code, "files: error - /etc/tank/pods.d: is not there" in stdout.splitlines()) == (1, True)
    assert tank("status")[0] == 0


def test_status_tells_of_git_and_of_pods_that_do_not_follow(tank: Tank, service: FakeService) -> None:
    git = {
        "state": "pinned",
        "error": None,
        "commit": "1" * 40,
        "author": "Ann",
        "subject": "begin",
        "file": "x",
    }
    since = "2026-01-01T00:00:00Z"
    service.add("web", git=git, hold={"kind": "pinned", "since": since, "generation": 3})
    service.add("db", git=None, hold=None)
    service.sources.git, service.sources.suspended = msgspec.convert(GIT, GitReport), True
    code, stdout, stderr = tank("status")
    assert (code, stderr) == (0, "")
    assert rows(stdout)[0] == ["NAME", "PHASE", "GIT", "CONTAINERS", "PIDS", "RESTARTS", "OWNER", "REVISION"]
    assert [row[2] for row in rows(stdout)[1:3]] == ["-", "pinned"]
    assert "web: pinned to generation 3, " in stdout
    assert "`tank resume web` follows its file again" in stdout
    assert stdout.splitlines()[-1].startswith("sources are suspended")
    detail = tank("status", "web")[1].splitlines()
    assert "git         pinned" in detail
    assert 'commit      111111111111 "begin" (Ann)' in detail
    assert isinstance(tank.json("status"), list)


def test_git_status(tank: Tank, service: FakeService) -> None:
    code, stdout, _ = tank("git", "status")
    assert (code, "follows no git repository" in stdout) == (0, True)
    service.sources.git = msgspec.convert(GIT, GitReport)
    code, stdout, stderr = tank("git", "status")
    assert (code, stderr) == (1, "")
    assert stdout.splitlines()[1:3] == [
        "remote    /srv/fleet.git refs/heads/main",
        "fetch     222222222222  done",
    ]
    assert "status    111111111111  success, as tank/edge-1 of acme/fleet" in stdout.splitlines()
    assert tank.json("git", "status", code=1) == GIT
    assert tank("git")[0] == 2


def test_suspend_resume_and_rollback(tank: Tank, service: FakeService) -> None:
    service.add("web", hold={"kind": "pinned", "since": "2026-01-01T00:00:00Z", "generation": 1})
    assert tank("suspend", "web") == (0, "web no longer follows its file\n", "")
    assert tank("suspend")[0] == 0
    assert tank.json("suspend") == as_json(service.sources.report())
    assert tank("resume", "web")[0] == tank("resume")[0] == 0
    code, stdout, _ = tank("rollback", "web")
    assert (code, stdout.splitlines()) == (
        0,
        [
            "web goes back to generation 1, rev1",
            "it is pinned there; `tank resume web` follows its file again",
        ],
    )
    assert tank.json("rollback", "web", "7")["name"] == "web"
    assert service.calls == [
        ("suspend", "web"),
        ("suspend", None),
        ("suspend", None),
        ("resume", "web"),
        ("resume", None),
        ("rollback", "web", None),
        ("rollback", "web", "7"),
    ]
    assert tank("rollback", "nobody")[0] == 1


def test_plan_of_a_commit(tank: Tank, service: FakeService) -> None:
    service.report = CHANGES
    assert tank("plan", "--git", "feature")[0] == 2
    assert service.calls == [("plan", None, "feature")]
    for argv in (("--git", "x", "pods"), ("--against", "x"), ("--host", "x"), ("x", "--label", "y")):
        assert tank("plan", *argv)[0] == 1


def test_version(tank: Tank) -> None:
    code, stdout, stderr = tank("version")
    assert (code, stderr) == (0, "")
    assert rows(stdout)[1] == ["agent", "0.1.0", "(pid", "17,", "up", "1m", "5s)"]
    assert tank.json("version")["agent"]["pid"] == 17
    assert tank("--version")[1].startswith("tank ")


def test_version_without_an_agent(alone: Tank) -> None:
    code, stdout, stderr = alone("version")
    assert (code, stderr) == (0, "")
    assert "not running" in stdout
    assert alone.json("version")["agent"] is None


def test_validate(alone: Tank, tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    pods.mkdir()
    (pods / "web.toml").write_text(POD)
    assert alone("validate", "pods") == (0, "pods/web.toml: ok, web\n", "")
    (pods / "db.toml").write_text(f"restrat = 1\n{POD}")
    (pods / "latin.toml").write_bytes(b"name = '\xe4'")
    (pods / "other.toml").write_text(f'name = "web"\n{POD}')
    code, stdout, stderr = alone("validate", "pods")
    assert (code, stdout) == (2, "pods/other.toml: ok, web\n")
    lines = stderr.splitlines()
    assert lines[0].startswith("pods/db.toml:1: restrat: ")
    assert lines[1].startswith("pods/latin.toml:1: ")
    assert lines[2] == 'pods/web.toml:1: name: pod "web" is declared in pods/other.toml already'
    checked = alone.json("validate", "pods", code=2)
    assert [file["valid"] for file in checked] == [False, False, True, False]
    assert checked[0]["problems"][0]["line"] == 1
    code, stdout, stderr = alone("validate", "none.toml", "pods/other.toml")
    assert (code, stdout) == (1, "pods/other.toml: ok, web\n")
    assert stderr == "none.toml: cannot read: No such file or directory\n"
    assert alone("validate")[0] == 2
    # Looking at it fails already, as in a directory that is closed to the user.
    long = "x" * 300
    for verb in ("validate", "plan"):
        code, stdout, stderr = alone(verb, long)
        said = stderr.splitlines()[-1]
        assert (code, stdout, said) == (1, "", f"tank: {long}: File name too long")


def test_validate_reads_what_is_beside_a_pod_file(alone: Tank, tmp_path: Path) -> None:
    place = tmp_path / "pods"
    (place / "conf").mkdir(parents=True)
    (place / "web.toml").write_text(
        '[[files]]\nname = "a"\nsource = "conf/traefik.toml"\n'
        f'[[files]]\nname = "b"\nsource = "db.toml"\n{POD}'
    )
    (place / "db.toml").write_text(POD)
    code, _, stderr = alone("validate", "pods")
    assert code == 2
    assert (
        stderr.startswith('pods/web.toml:3: files[0].source: "conf/traefik.toml" is not there; put it')
        and stderr.count("\n") == 1
    )
    # It has the name of a pod file, and is none, unless it is named itself.
    (place / "conf" / "traefik.toml").write_text("[entryPoints]\n")
    assert alone("validate", "pods") == (0, "pods/db.toml: ok, db\npods/web.toml: ok, web\n", "")
    assert alone("validate", "pods/conf/traefik.toml")[0] == 2
    code, _, stderr = alone("validate", "-", stdin=f'name = "web"\n{(place / "web.toml").read_text()}')
    assert (code, "since this text is in no directory" in stderr) == (2, True)


def test_a_plan_without_an_agent_reads_what_is_beside_a_pod_file(alone: Tank, tmp_path: Path) -> None:
    for tree, text in (("before", "one"), ("after", "two")):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "web.toml").write_text(f'[[files]]\nname = "a"\nsource = "a.toml"\n{POD}')
        (tmp_path / tree / "a.toml").write_text(text)
    code, stdout, stderr = alone("plan", "after", "--against", "before")
    assert (code, stderr) == (2, ""), stdout
    assert "~ web: update" in stdout
    assert alone("plan", "after/web.toml", "--against", "after")[0] == 0
    (tmp_path / "after" / "a.toml").unlink()
    code, _, stderr = alone("plan", "after", "--against", "before")
    assert code == 1
    assert (
        stderr.startswith('after/web.toml:3: files[0].source: "a.toml" is not there; put it')
        and stderr.count("\n") == 1
    )


def test_validate_finds_pods_that_wait_for_each_other(alone: Tank, tmp_path: Path) -> None:
    for directory in ("one", "two"):
        (tmp_path / directory).mkdir()
    (tmp_path / "one/a.toml").write_text(f'restart = "always"\nafter = ["b"]\n{POD}')
    (tmp_path / "two/b.toml").write_text(f'after = ["a"]\n{POD}')
    # For two machines, this is no mistake.
    assert alone("validate", "one", "two")[0] == 0
    (tmp_path / "one/b.toml").write_text(f'after = ["a", "c"]\n{POD}')
    code, stdout, stderr = alone("validate", "one")
    assert (code, stdout) == (2, "")
    rest = "each waits for the next one, so none would start; remove one of these from its after"
    assert stderr.splitlines() == [
        f"one/a.toml:2: after: a → b → a: {rest}",
        f"one/b.toml:1: after: b → a → b: {rest}",
    ]
    code, stdout, stderr = alone("plan", "one", "--host", "edge-2")
    assert (code, [line.split(": ")[:3] for line in stderr.splitlines()]) == (
        1,
        [["one/a.toml:2", "after", "a → b → a"], ["one/b.toml:1", "after", "b → a → b"]],
    )
    # One of them may be for another machine.
    (tmp_path / "one/b.toml").write_text(f'after = ["a"]\nhosts = ["edge-1"]\n{POD}')
    assert alone("validate", "one")[0] == 0
    _, stdout, _ = alone("plan", "one", "--host", "edge-2")
    assert 'hosts: "edge-1" is not that machine\'s name, edge-2' in stdout
    assert "this machine" not in stdout


def test_validate_looks_into_directories(alone: Tank, tmp_path: Path) -> None:
    for directory in ("hosts/edge-1", "hosts/edge-2", "hosts/.git", "hosts/edge-3.toml"):
        (tmp_path / directory).mkdir(parents=True)
        # One name for two machines is no mistake.
        (tmp_path / directory / "web.toml").write_text(POD)
    (tmp_path / "hosts/edge-1/broken.toml").write_text("name = 3\n")
    (tmp_path / "hosts/.git/broken.toml").write_text("name = 3\n")
    os.mkfifo(tmp_path / "hosts/edge-2/pipe.toml")
    (tmp_path / "hosts/edge-2/large.toml").write_text("#" * (1 << 20) + "\n")
    code, stdout, stderr = alone("validate", "hosts")
    assert (code, len(stdout.splitlines())) == (2, 3)
    assert [line.split(" ")[0] for line in stderr.splitlines()] == [
        "hosts/edge-1/broken.toml:1:",
        "hosts/edge-1/broken.toml:1:",
        "hosts/edge-2/large.toml:",
        "hosts/edge-2/pipe.toml:",
        "note:",
    ]
    code, _, stderr = alone("plan", "hosts", "--against", "hosts/edge-1")
    assert (code, "hosts/edge-2/pipe.toml: is not a regular file" in stderr) == (1, True)
    (tmp_path / "empty").mkdir()
    assert alone("validate", "empty") == (0, "", "tank: empty: no pod files here (*.toml)\n")


def test_validate_takes_one_name_for_several_machines(alone: Tank, tmp_path: Path) -> None:
    for host in ("edge-1", "edge-2"):
        (tmp_path / f"{host}.toml").write_text(f'name = "web"\nhosts = ["{host}"]\n{POD}')
    assert alone("validate", ".")[0] == alone("validate", "edge-1.toml", "edge-2.toml")[0] == 0


def test_schema(alone: Tank) -> None:
    code, stdout, stderr = alone("schema")
    assert (code, stderr) == (0, "")
    assert "containers" in json.dumps(json.loads(stdout))


@pytest.mark.parametrize(
    "argv",
    [
        ("list",),
        ("status",),
        ("status", "web"),
        ("get", "web"),
        ("apply", "-"),
        ("delete", "web"),
        ("wait", "web", "--timeout", "5s"),
        ("events",),
        ("history", "web"),
        ("plan",),
        ("sync",),
        ("suspend",),
        ("resume", "web"),
        ("rollback", "web"),
        ("git", "status"),
        ("plan", "--git", "main"),
    ],
)
def test_without_an_agent_every_verb_says_so(alone: Tank, argv: tuple[str, ...]) -> None:
    code, stdout, stderr = alone(*argv)
    assert (code, stdout) == (1, "")
    assert f"{alone.socket}: the agent is not running" in stderr
    assert "systemctl start tank-agent" in stderr


def test_wrong_usage(alone: Tank) -> None:
    for argv in (
        (),
        ("list", "web"),
        ("list", "-o", "yaml"),
        ("delete",),
        ("--sock", "x", "list"),
    ):
        code, stdout, stderr = alone(*argv)
        assert (code, stdout) == (2, ""), argv
        assert "usage: tank" in stderr
    for argv in (("--help",), ("list", "--help"), ("plan", "-h"), ("help",), ("help", "image", "pull")):
        code, stdout, stderr = alone(*argv)
        assert (code, stderr) == (0, ""), argv
        assert stdout.startswith("usage: tank")


def test_the_socket_may_be_named_before_and_after_the_verb(tank: Tank, tmp_path: Path) -> None:
    there, nowhere = str(tank.socket), str(tmp_path / "none.sock")
    assert tank("--socket", there, "list")[0] == 0
    assert tank("list", "--socket", there)[0] == 0
    assert tank("volume", "ls", "--socket", there)[0] == tank("volume", "--socket", there, "ls")[0] == 0
    assert tank("volume", "--socket", nowhere, "ls", "--socket", there)[0] == 0
    assert tank("--socket", nowhere, "list")[0] == 1
    assert tank("--socket", nowhere, "list", "--socket", there)[0] == 0


def test_debug_shows_where_an_error_arose(alone: Tank) -> None:
    process = alone.start("list", "--debug")
    assert "Traceback" in process.communicate(timeout=30)[1]
    assert process.returncode == 1


def test_a_reader_that_goes_away_is_no_error(tank: Tank, service: FakeService) -> None:
    for _ in range(2000):
        service.say("web", "x" * 100)
    process = tank.start("events")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 141
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


def test_ctrl_c_is_quiet(tank: Tank, service: FakeService) -> None:
    service.add("web", "pulling")
    process = tank.start("wait", "web")
    until(service.waited.is_set)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 130


def test_list_starts_without_the_heavy_libraries(tank: Tank) -> None:
    heavy = "requests pyroute2 structlog watchdog jsonschema tomlkit tomllib asyncio dulwich lmdb http.server"
    program = (
        "import sys; from tank_agent.cli.main import main; code = main(['list']);"
        f"print(sorted(set({heavy.split()}) & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    environment = {"TANK_SOCKET": str(tank.socket)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stderr == b"[]\n"


@pytest.mark.parametrize(
    "verb", ["status", "get", "delete", "history", "wait", "suspend", "resume", "rollback"]
)
def test_an_empty_name_is_said_and_never_means_all(tank: Tank, service: FakeService, verb: str) -> None:
    service.add("web")
    code, stdout, stderr = tank(verb, "")
    assert (code, stdout) == (1, "")
    assert "the name is empty" in stderr
    assert service.calls == []


def test_validate_reads_standard_input(alone: Tank, tmp_path: Path) -> None:
    # A buffer of an editor has no file's name that could name its pod.
    assert alone("validate", "-", stdin=POD) == (0, "<stdin>: ok, stdin\n", "")
    assert alone("validate", "/dev/stdin", stdin=POD)[0] == 0
    code, _, stderr = alone("validate", "-", stdin=f"{POD}wrong = 1\n")
    assert (code, stderr.partition(" ")[0]) == (2, "<stdin>:4:")


@pytest.mark.parametrize("argv", [("validate",), ("apply",), ("plan",), ("plan", "--host", "h")])
def test_a_fifo_without_a_writer_is_not_waited_for(tank: Tank, tmp_path: Path, argv: tuple[str, ...]) -> None:
    os.mkfifo(tmp_path / "x.toml")
    code, stdout, stderr = tank(*argv, "x.toml")
    assert (code, stdout) == (1, "")
    assert "x.toml: is a fifo that nobody writes to" in stderr or "not a regular file" in stderr


def test_what_a_shell_passes_through_a_pipe_is_read(alone: Tank, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        process = alone.start("validate", f"/dev/fd/{reader}", pass_fds=(reader,))
        os.close(reader)
        file.write('name = "web"\n')
        file.flush()
        file.write(POD)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, ""), stdout


class TestVolumes:
    def test_a_listing_shows_what_belongs_to_a_volume(self, tank: Tank) -> None:
        _, out, _ = tank("volume", "ls")
        assert [line.split()[0] for line in out.splitlines()[:4]] == [
            "VOLUME",
            "web/data",
            "web/data@7",
            "web/data@manual-3",
        ]
        assert "web/data.failed-7  1.6 MB" in out
        assert "`du -sh PATH`" in out
        assert json.loads(tank("volume", "ls", "-o", "json")[1])[1]["gone"] is True

    def test_snapshot_and_restore(self, tank: Tank, service: FakeService) -> None:
        assert tank("volume", "snapshot", "web/data", "--force") == (0, "web/data@manual-3\n", "")
        _, out, _ = tank("volume", "restore", "web/data", "7")
        assert out == "web/data has the data of 7; what it had is web/data.replaced-3\n"
        assert service.storage.calls == [
            ("snapshot", "web", "data", True),
            ("restore", "web", "data", "7"),
        ]

    def test_a_shared_volume_has_no_pod(self, tank: Tank) -> None:
        _, out, _ = tank("volume", "ls")
        assert out.splitlines()[-2].split() == [
            "media", "-", "backup,", "web", "/var/lib/tank/volumes-shared/media"
        ]  # fmt: skip
        code, out, err = tank("volume", "rm", "films", "media")
        assert (code, out) == (1, "films removed\n")
        assert "shared volume media is in use: pod web has it" in err
        code, _, err = tank("volume", "snapshot", "media")
        assert code == 2
        assert "a volume that pods share has no snapshots" in err

    def test_a_volume_goes_with_its_snapshots(self, tank: Tank) -> None:
        code, out, err = tank("volume", "rm", "web/old", "web/data@9", "web/data")
        assert out == "web/old removed with its 2 snapshots\nweb/data@9 was not there\n"
        assert "volume web/data is in use" in err
        assert code == 1


def test_run_detached_says_the_number(tank: Tank, service: FakeService) -> None:
    service.add("nightly")
    assert tank("run", "nightly", "-d") == (
        0,
        "run 5 of nightly begins; `tank logs nightly -f` follows it\n",
        "",
    )
    assert tank.json("run", "-d", "nightly") == {"pod": "nightly", "number": 5}
    assert service.calls == [("run", "nightly")] * 2
    assert tank("run", "-d", "nobody")[0] == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 3),
        ({"outcome": "succeeded", "exits": {"app": {**RUN["exits"]["app"], "code": 0}}}, 0),
        ({"outcome": "timed-out"}, 1),
        ({"exits": {}}, 1),
        ({"exits": {"app": {**RUN["exits"]["app"], "code": None, "signal": 9}}}, 137),
        ({"exits": {"app": {**RUN["exits"]["app"], "code": None}}}, 1),
        # The one that failed first counts.
        (
            {
                "exits": {
                    **RUN["exits"],
                    "b": {**RUN["exits"]["app"], "code": 7, "at": "2026-11-22T02:01:00Z"},
                }
            },
            7,
        ),
    ],
)
def test_the_exit_code_of_a_run(changes: dict[str, Any], code: int) -> None:
    assert exit_code(msgspec.convert({**RUN, **changes}, JobRunReport)) == code


def test_status_shows_the_runs_of_a_job(tank: Tank, service: FakeService) -> None:
    service.add("web")
    service.add("nightly", "scheduled", job={**JOB, "runs": [RUN], "timeout": 3600.0, "catch_up": True})
    _, text, _ = tank("status", "nightly")
    assert "schedule    0 3 * * * (Europe/Berlin), at most 1h, catches up on missed runs\n" in text
    assert "next run    Thu 2099-01-01 03:00 CET, in " in text
    assert "last run    5 failed after 2m 3s: container app ended with exit code 3, " in text
    assert rows(text)[-1][0] == "5"
    assert rows(text)[-1][-4:] == ["failed", "app:", "code", "3"]
    header, *table = rows(tank("status")[1])
    assert header[2:6] == ["LAST", "RUN", "NEXT", "RUN"]
    assert [row[2] for row in table[:2]] == ["failed", "-"]


def test_status_of_a_job_under_way_says_since_when(tank: Tank, service: FakeService) -> None:
    run = {**RUN, "ended": None, "outcome": None, "reason": None, "exits": {}}
    service.add("nightly", job={**JOB, "time_zone": "", "next_run": None, "run": run, "runs": [run]})
    _, text, _ = tank("status", "nightly")
    assert "schedule    0 3 * * * (the machine's time zone)\n" in text
    assert "next run    its time never comes\n" in text
    assert "run         5 goes on, began " in text


def test_logs_takes_the_number_of_a_run(tank: Tank) -> None:
    for wrong in ("0", "x", "1.5", "-0", "99999999999"):
        code, _, told = tank("logs", "web", "--run", wrong)
        assert (code, "is no run, such as 7, or -1 for the last one" in told) == (2, True)


def pods_using(cpu: float, started: str = "2026-01-01T00:00:00Z") -> list[PodReport]:
    usage = {"memory": 1 << 20, "cpu": cpu, "pids": 1}
    one = {"name": "app", "phase": "running", "pid": 1, "restarts": 0, "image": "", "usage": usage}
    off = {**one, "name": "off", "usage": None}
    pod = {"name": "web", "phase": "running", "containers": [{**one, "started_at": started}, off]}
    return [msgspec.convert(pod, PodReport)]


def test_top_knows_percents_from_the_second_look_on() -> None:
    meter = Meter()
    assert [(one.container, one.cpu_percent) for one in meter.read(pods_using(10.0), 100.0)] == [
        ("app", None)
    ]
    assert [one.cpu_percent for one in meter.read(pods_using(11.0), 104.0)] == [25.0]
    # Another run has used nothing before.
    assert [one.cpu_percent for one in meter.read(pods_using(0.5, "2026-01-02T00:00:00Z"), 108.0)] == [None]
    assert [one.cpu_percent for one in meter.read(pods_using(8.5, "2026-01-02T00:00:00Z"), 112.0)] == [200.0]


def test_top(tank: Tank, service: FakeService) -> None:
    assert tank("top", "-1") == (0, "no container runs\n", "")
    began = {"started_at": "2026-01-02T00:00:00Z"}
    service.add("web", containers=[running("app", **began, memory_limit=256 << 20), running("db", **began)])
    service.add("big", containers=[running("app", **began) | {"usage": {**USED, "memory": 1 << 30}}])
    code, stdout, stderr = tank("top", "-1", "--interval", "0.1s")
    assert (code, stderr) == (0, "")
    assert [row[:6] for row in rows(stdout)] == [
        ["CONTAINER", "CPU", "%", "MEMORY", "LIMIT", "LIMIT"],
        ["big/app", "0.0", "1.0G", "-", "-", "3"],
        ["web/app", "0.0", "57.2M", "256.0M", "22", "3"],
        ["web/db", "0.0", "57.2M", "-", "-", "3"],
        [],
        ["all:", "0.0", "%", "CPU,", "1.1G", "of"],
    ]
    by_name = tank(
        "top", "--no-stream", "--sort", "name", "web/db", "big", "nobody", "web/x", "--interval", "0.1s"
    )
    assert by_name[0] == 1
    assert [row[0] for row in rows(by_name[1])[1:3]] == ["big/app", "web/db"]
    assert by_name[2] == "tank: there is no pod nobody\ntank: there is no container web/x\n"
    (found,) = tank.json("top", "web/app", "--interval", "0.1s")
    assert found == {
        "pod": "web", "container": "app", "cpu_percent": 0.0, "memory": 60_000_000, "memory_limit": 256 << 20,
        "pids": 3, "started_at": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    assert tank("top", "--interval", "0.01s")[0] == 2


def test_a_watched_status_is_for_people(tank: Tank) -> None:
    code, stdout, stderr = tank("status", "-w", "-o", "json")
    assert (code, stdout, "`tank events -f -o json`" in stderr) == (2, "", True)
