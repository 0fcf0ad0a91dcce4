"""Secrets of pods with a real agent: sealed, delivered, rotated, without a key, and seen nowhere else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

from tank_agent.errors import InvalidSpec
from tests.support.age import encrypt, make_key
from tests.support.agent import Agent, ended, wait_for
from tests.support.canary import Canary, in_processes, watched
from tests.support.gitops import Fleet

AT = "/run/secrets/db"


class Machine:
    """An agent with one key, `ours`; `other` is the recipient of a key that the machine lacks."""

    def __init__(self, home: Path) -> None:
        self.agent = Agent(home)
        self.key, self.other_key = home / "machine.key", home / "other.key"
        self.ours, self.other = make_key(self.key), make_key(self.other_key)
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        with self.agent.config.open("a") as config:
            config.write(f'[secrets]\nidentities = ["{self.key}"]\n')

    def launch(self, **options: str) -> None:
        self.agent.launch(env={"TMPDIR": str(self.temporary)}, **options)
        wait_for(self.agent._answers, "the agent answers")

    def pod(
        self, armor: str, *, change: str = "restart", head: str = "", command: list[str] | None = None
    ) -> str:
        mount = f'[[containers.mounts]]\nsecret = "db"\non_change = "{change}"'
        secret = f'[[secrets]]\nname = "db"\nage = """\n{armor}"""\n'
        return self.agent.pod_text(head=head, command=command, extra=f"{mount}\n{secret}")

    def write(self, plaintext: str, *recipients: str, name: str = "web", change: str = "restart") -> None:
        armor = encrypt(plaintext, *(recipients or (self.ours,)))
        self.agent.write(name, self.pod(armor, change=change))

    def said(self, name: str = "web") -> bytes:
        """Return what the container has for the secret."""
        return Path(f"/proc/{self.agent.pid(name)}/root{AT}").read_bytes()

    def wait_said(self, wanted: bytes, name: str = "web") -> None:
        """Wait until the container runs with this secret."""

        def has_it() -> bool:
            status = self.agent.status(name)
            if status is None or status["phase"] not in ("running", "degraded"):
                return False
            try:
                return self.said(name) == wanted
            except OSError:
                return False

        wait_for(has_it, f"{name} has another secret: {self.agent.status(name)}", 40)

    def generation(self, name: str = "web") -> int:
        return next(pod.generation for pod in self.agent.client.list() if pod.name == name)

    def wait_generation(self, generation: int, name: str = "web") -> None:
        wait_for(lambda: self.generation(name) == generation, f"generation {generation} of {name}")

    def error(self, name: str = "web") -> str:
        status = self.agent.status(name)
        return str(status["error"] or "") if status is not None else ""

    def events(self) -> list[tuple[str, str]]:
        return [(event.type, event.message) for event in self.agent.client.events()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.launch()
    with ended(machine.agent):
        yield machine


def test_what_is_encrypted_for_one_more_restarts_nothing(machine: Machine) -> None:
    agent = machine.agent
    machine.write("hunter2")
    agent.wait_phase("web", "running")
    assert machine.said() == b"hunter2"
    pid = agent.pid("web")
    machine.write("hunter2", machine.ours, machine.other)
    machine.wait_generation(2)
    assert agent.tank("sync", "--wait").returncode == 0
    assert agent.pid("web") == pid
    machine.write("hunter3")
    machine.wait_generation(3)
    machine.wait_said(b"hunter3")
    assert agent.pid("web") != pid


def test_a_failed_rotation_goes_back_to_the_secret_that_was_good(machine: Machine) -> None:
    agent = machine.agent
    check = [
        "/bin/sh",
        "-c",
        f'test "$(cat {AT})" = bad && exit 1; trap "exit 0" TERM; while :; do sleep 1; done',
    ]
    head = '[update]\nmin_healthy = "300ms"\nmax_restarts = 1\n'
    machine.agent.write("web", machine.pod(encrypt("good", machine.ours), head=head, command=check))

    def state() -> str:
        status = agent.status("web")
        return status["rollout"]["state"] if status and status["rollout"] else ""

    wait_for(lambda: state() == "good", "the first is good")
    before = next(pod.pod for pod in agent.client.list())
    machine.agent.write("web", machine.pod(encrypt("bad", machine.ours), head=head, command=check))
    wait_for(lambda: state() == "rolled-back", "it went back", 60)
    machine.wait_said(b"good")
    assert next(pod.pod for pod in agent.client.list()) == before


def test_a_pod_that_cannot_be_decrypted_keeps_what_it_had(machine: Machine) -> None:
    agent = machine.agent
    machine.write("one")
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    machine.write("two", machine.other)
    wait_for(lambda: "no key of this machine opens it" in machine.error(), "it is told")
    assert str(machine.key) in machine.error() and "web.toml:" in machine.error()
    assert agent.pid("web") == pid and machine.said() == b"one"
    told = [event for event in machine.events() if event[0] == "source-error"]
    assert len(told) == 1
    assert agent.tank("sync", "--wait").returncode == 1
    # The key comes: no change of the file is needed.
    machine.key.write_bytes(machine.key.read_bytes() + machine.other_key.read_bytes())
    machine.wait_generation(2)
    machine.wait_said(b"two")
    assert machine.error() == ""
    kinds = [kind for kind, _ in machine.events()]
    assert (kinds.count("source-error"), kinds.count("source-recovered")) == (1, 1)


def test_other_keys_count_after_a_reload(machine: Machine) -> None:
    agent = machine.agent
    machine.write("x", machine.other)
    wait_for(lambda: "no key of this machine opens it" in machine.error(), "it is told")
    config = agent.config.read_text()
    agent.config.write_text(config.replace(f'["{machine.key}"]', f'["{machine.key}", "{machine.other_key}"]'))
    assert agent.process is not None
    agent.process.send_signal(1)
    agent.wait_phase("web", "running")
    assert machine.said() == b"x"


def test_apply_and_plan_refuse_what_this_machine_cannot_decrypt(machine: Machine) -> None:
    agent = machine.agent
    file = agent.home / "web.toml"
    file.write_text(machine.pod(encrypt("x", machine.other)))
    done = agent.tank("apply", str(file))
    assert done.returncode == 2
    assert done.stderr.startswith(f"{file}:") and "no key of this machine opens it" in done.stderr
    with pytest.raises(InvalidSpec):
        agent.client.apply(file.read_bytes(), file=str(file))
    planned = agent.tank("plan", str(file))
    assert planned.returncode == 1 and "no key of this machine opens it" in planned.stdout + planned.stderr
    machine.key.rename(machine.key.with_suffix(".away"))
    done = agent.tank("apply", str(file))
    assert done.returncode == 1 and "this machine has no key" in done.stderr
    assert list(agent.client.list()) == []


def test_what_get_prints_applies_again_and_says_nothing(machine: Machine) -> None:
    agent = machine.agent
    file = agent.home / "web.toml"
    file.write_text(machine.pod(encrypt("x", machine.ours)))
    assert agent.tank("apply", "--wait", str(file)).returncode == 0
    text = agent.tank("get", "web").stdout
    assert "digest" not in text and "-----BEGIN AGE ENCRYPTED FILE-----" in text
    done = agent.tank("apply", "-", stdin=text)
    assert (done.returncode, done.stdout) == (0, "web unchanged\n"), done.stderr
    # A client sends no hash, whatever it has; and one that it could forge counts for nothing.
    pod = agent.client.get("web").pod
    assert pod.secrets[0].digest
    forged = replace(pod, secrets=(replace(pod.secrets[0], digest="0" * 64),))
    for sent in (pod, forged):
        assert [one.change for one in agent.client.apply(sent)] == ["unchanged"]
    assert agent.client.get("web").pod == pod


def test_after_a_reboot_without_the_key_its_pod_waits_and_others_start(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    agent = machine.agent
    machine.write("x")
    agent.write("other", agent.pod_text())
    agent.start("--stop-pods")
    with ended(agent):
        for name in ("web", "other"):
            agent.wait_phase(name, "running")
        assert agent.stop() == 0
        shutil.rmtree(agent.run)
        machine.key.rename(tmp_path / "away")
        agent.through = [sys.executable, str(Path(__file__).parents[1] / "support/other_boot.py"), "another"]
        agent.start()
        agent.wait_phase("other", "running")
        wait_for(lambda: "this machine has no key" in str(agent.status("web")), "it is told")
        assert str(machine.key) in str(agent.status("web"))
        doctor = agent.tank("doctor", "--config", str(agent.config))
        assert doctor.returncode == 1
        assert "fail  secrets of pods     pod web: secret db can't be decrypted" in doctor.stdout
        (tmp_path / "away").rename(machine.key)
        machine.wait_said(b"x")


def test_an_agent_that_is_killed_as_it_makes_its_key_has_one_and_the_same(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    agent = machine.agent
    machine.write("x")
    with ended(agent):
        agent.launch(fault="secrets:key-made")
        assert agent.died() == -signal.SIGKILL
        machine.launch()
        machine.wait_said(b"x")
        pid = agent.pid("web")
        agent.kill()
        machine.launch()
        assert agent.tank("sync", "--wait").returncode == 0
        assert (agent.pid("web"), machine.generation()) == (pid, 1)


def test_a_secret_of_git_is_of_the_commit_and_a_rollback_has_the_former_one(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    agent, key = fleet.agent, tmp_path / "machine.key"
    ours, other = make_key(key), make_key(tmp_path / "other.key")
    with agent.config.open("a") as config:
        config.write(f'[secrets]\nidentities = ["{key}"]\n')
    mount = '[[containers.mounts]]\nsecret = "db"\n[[secrets]]\nname = "db"\nsource = "keys/db.age"\n'
    pod = agent.pod_text(extra=mount)
    first = fleet.push({"pods/web.toml": pod, "pods/keys/db.age": encrypt("one", ours)}, "begin")

    def waits(wanted: bytes) -> None:
        def has_it() -> bool:
            status = agent.status("web")
            pid = status["containers"][0]["pid"] if status is not None else None
            try:
                return pid is not None and Path(f"/proc/{pid}/root{AT}").read_bytes() == wanted
            except OSError:
                return False

        wait_for(has_it, f"web has {wanted!r}: {agent.status('web')}", 40)

    with ended(agent):
        agent.start()
        waits(b"one")
        fleet.push({"pods/keys/db.age": encrypt("two", ours)}, "another password")
        waits(b"two")
        # Nobody here can read the third; the second goes on, and is told of.
        fleet.push({"pods/keys/db.age": encrypt("three", other)}, "for somebody else")
        wait_for(lambda: "no key of this machine opens it" in str(agent.status("web")), "it is told")
        waits(b"two")
        assert agent.tank("rollback", "web", first).returncode == 0
        waits(b"one")


def looked_for(canaries: Sequence[Canary], machine: Machine, verbs: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the files, processes and outputs of verbs that have one of the secrets."""
    agent = machine.agent
    found = [path for one in canaries for path in one.files(agent.home, without=agent.run / "secrets")]
    found += in_processes(canaries)

    def said(words: tuple[str, ...]) -> str:
        done = agent.tank(*words)
        return done.stdout + done.stderr

    with ThreadPoolExecutor(4) as pool:
        for words, text in zip(verbs, pool.map(said, verbs), strict=True):
            found += [" ".join(words) for one in canaries if one.is_in(text)]
    return found


OUTPUTS = (
    *(("list", *form) for form in ((), ("-o", "json"))),
    *(("status", *form) for form in ((), ("-o", "json"), ("web",), ("web", "-o", "json"))),
    *((verb, "web", *form) for verb in ("get", "why", "history") for form in ((), ("-o", "json"))),
    *(("events", *form) for form in ((), ("-o", "json"))),
    *(("plan", *form) for form in ((), ("-o", "json"))),
    ("logs", "web"),
    ("sync", "--wait"),
    ("sync", "-o", "json"),
    ("git", "status"),
    ("image", "ls"),
    ("volume", "ls"),
    ("version", "-o", "json"),
    ("schema",),
)


def test_a_secret_is_seen_nowhere_but_in_its_container(tmp_path: Path) -> None:
    canaries = first, second = Canary(), Canary()
    machine = Machine(tmp_path)
    agent, pods = machine.agent, str(tmp_path / "pods.d")
    tried = ("secret", "check", "-i", str(machine.key), pods)

    def nothing(what: str, *verbs: tuple[str, ...]) -> None:
        assert looked_for(canaries, machine, verbs) == [], what

    with watched(canaries) as in_process:
        machine.write(first.text, change="signal:HUP")
        host = tmp_path.parent / f"{tmp_path.name}.host"
        machine.launch()
        with ended(agent):
            machine.wait_said(first.text.encode())
            nothing("it runs", tried)
            # Nor does an error quote what somebody forgot to encrypt.
            done = agent.tank("--debug", "apply", "-", stdin=machine.pod(f"{second.text}\n"))
            assert done.returncode == 2 and "is not encrypted by age" in done.stderr
            assert not second.is_in(done.stdout + done.stderr)
            # In place, then by a restart.
            machine.write(second.text, change="signal:HUP")
            machine.wait_said(second.text.encode())
            nothing("it was swapped", *OUTPUTS)
            machine.write(first.text)
            machine.wait_said(first.text.encode())
            os.kill(agent.pid("web"), signal.SIGKILL)
            wait_for(lambda: (agent.status("web") or {})["containers"][0]["restarts"] > 0, "it restarts")
            machine.wait_said(first.text.encode())
            nothing("it crashed", ("events",), ("why", "web"))
            # Neither a file for somebody else nor one that is cut off has it in its error.
            machine.write(second.text, machine.other)
            wait_for(lambda: "no key of this machine" in machine.error(), "it is told")
            applied = ("--debug", "apply", f"{pods}/web.toml")
            nothing("it can't be decrypted", tried, applied, *OUTPUTS)
            armor = encrypt(second.text * 3000, machine.ours).splitlines()
            agent.write("web", machine.pod("\n".join([*armor[:-3], armor[-1], ""])))
            wait_for(lambda: "damaged" in machine.error(), "it is told")
            nothing("it is cut off", tried, applied, ("plan", pods), ("status", "web"))
            # Of a host file, too, and of an agent that is killed.
            host.write_text(second.text)
            mount = f'[[containers.mounts]]\nsecret = "db"\n[[secrets]]\nname = "db"\nhost = "{host}"\n'
            agent.write("web", agent.pod_text(extra=mount))
            machine.wait_said(second.text.encode())
            agent.kill()
            machine.launch()
            nothing("another agent", tried, ("rollback", "web", "1"), ("doctor",), *OUTPUTS)
        assert in_process == []


@pytest.mark.parametrize("place", ["data", "run", "log", "temporary", "encoded", "name", "process", "output"])
def test_the_search_finds_what_leaks(machine: Machine, place: str) -> None:
    canary = Canary()
    agent = machine.agent
    machine.write("x")
    machine.wait_said(b"x")
    process: subprocess.Popen[bytes] | None = None
    if place == "data":
        (agent.data / "volumes" / "leak").write_text(f"…{canary.text}…")
    elif place == "run":
        (agent.run / "containers" / "leak").write_text(canary.text)
    elif place == "log":
        with agent.log.open("a") as log:
            log.write(json.dumps({"event": canary.text}))
    elif place == "temporary":
        (machine.temporary / "leak").write_bytes(bytes(32) + canary.text.encode() + bytes(32))
    elif place == "encoded":
        (agent.data / "leak").write_bytes(base64.b64encode(b"12" + canary.text.encode() + b"3"))
    elif place == "name":
        (agent.data / f"{canary.text.split()[1]}.tmp").touch()
    elif place == "process":
        process = subprocess.Popen(["/bin/sleep", "60"], env={"LEAK": canary.text})
    else:
        agent.write("leak", agent.pod_text(command=["/bin/echo", canary.text]))
        wait_for(lambda: agent.status("leak") is not None, "it is there")
    try:
        found = looked_for([canary], machine, [("list", "-o", "json")])
    finally:
        if process is not None:
            process.kill()
            process.wait()
        for path in (agent.data / "volumes" / "leak", agent.run / "containers" / "leak"):
            path.unlink(missing_ok=True)
    if place == "output":
        assert any(one.startswith("list -o json") for one in found), found
    else:
        assert found
