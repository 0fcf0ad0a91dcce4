"""Pods with secrets are sealed on their way into the journal; those that can't be keep what they had."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from msgspec.structs import replace

from tank_agent.errors import InvalidSpec, SecretError
from tank_agent.intake import intake as room
from tank_agent.intake.intake import Intake
from tank_agent.intake.seal import sealed_pods, sealed_snapshot
from tank_agent.journal.journal import Journal
from tank_agent.journal.store import MemoryStore
from tank_agent.runtime.secrets.secrets import Secrets
from tank_agent.settings.settings import SecretsSettings, Settings
from tank_agent.source.snapshot import Snapshot
from tank_agent.spec.model import Host, Pod, Secret
from tank_agent.spec.parse import ParsedPod
from tests.support.age import encrypt, make_key
from tests.unit.journal.builders import FakeClock, declared, pod, snapshot

pytestmark = pytest.mark.machine


class World:
    """A journal, an intake without followers, and two keys, of which the machine has the first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ours, self.other = make_key(directory / "ours"), make_key(directory / "other")
        self.journal = Journal(MemoryStore(), clock=FakeClock())
        self.woken: list[str] = []
        self.intake = self.start()

    def start(self, *more: str) -> Intake:
        files = tuple(str(self.directory / name) for name in ("ours", *more))
        return Intake(
            Settings(secrets=SecretsSettings(identities=files)),
            Host(name="x"),
            self.journal,
            wake=lambda name, _: self.woken.append(name),
            resync=list,
            secrets=Secrets(files, keep_once=self.journal.keep_once),
            kinds=(),
        )

    def events(self) -> list[tuple[str, str]]:
        return [(event.type, event.pod) for event in self.journal.events()]

    def resync(self) -> None:
        self.intake._resync.look("resync")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def with_secret(text: str, command: str = "sleep 1", name: str = "web") -> Pod:
    return replace(pod(name, command), secrets=(Secret(name="db", age=text),))


def test_the_journal_has_the_keyed_hash(world: World) -> None:
    world.intake.publish(snapshot(declared(with_secret(encrypt("x", world.ours)))), "test")
    kept = world.journal.desired()["web"].pod
    assert kept.secrets[0].digest == world.intake.secrets.digest(b"x")


def test_a_pod_that_cannot_be_sealed_keeps_its_last_good_spec_until_it_can(world: World) -> None:
    good, bad = with_secret(encrypt("x", world.ours)), with_secret(encrypt("y", world.other), "sleep 2")
    other = declared(pod("other"), "other.toml")
    world.intake.publish(snapshot(declared(good), other), "test")
    world.woken.clear()
    world.intake.publish(snapshot(declared(bad, line=7), other), "test")
    (problem,) = world.journal.problems()
    assert (problem.line, problem.pod) == (7, "web") and problem.file.endswith("web.toml")
    assert "no key of this machine opens it" in problem.message and "\n" not in problem.message
    kept = world.journal.desired()["web"]
    assert kept.pod.containers == good.containers and kept.error is not None
    assert world.woken == [] and world.events() == [("source-error", "web")]
    for _ in range(3):
        world.resync()
    assert world.events() == [("source-error", "web")]
    (world.directory / "ours").write_bytes((world.directory / "other").read_bytes())
    world.resync()
    assert world.woken == ["web"]
    kept = world.journal.desired()["web"]
    assert kept.pod.containers == bad.containers and kept.error is None and not world.journal.problems()
    assert world.events() == [("source-error", "web"), ("source-recovered", "")]
    world.resync()
    assert world.woken == ["web"] and len(world.events()) == 2


def test_a_pod_that_never_was_there_is_a_problem_and_comes_with_the_key(world: World) -> None:
    world.intake.publish(snapshot(declared(with_secret(encrypt("y", world.other)))), "test")
    assert "web" not in world.journal.desired()
    assert [problem.pod for problem in world.journal.problems()] == ["web"]
    # The settings name the key now.
    files = tuple(str(world.directory / name) for name in ("ours", "other"))
    world.intake.reload(Settings(secrets=SecretsSettings(identities=files)))
    world.resync()
    assert world.woken == ["web"] and not world.journal.problems()


def test_a_newer_snapshot_is_never_replaced_by_an_older_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resync decrypts the pods of a snapshot while its source publishes the next one."""
    old = snapshot(declared(with_secret(encrypt("y", world.other), "sleep 2")))
    new = snapshot(declared(with_secret(encrypt("z", world.ours), "sleep 3")))
    world.intake.publish(old, "test")
    (world.directory / "ours2").write_bytes((world.directory / "other").read_bytes())
    (world.directory / "ours2").chmod(0o600)
    world.intake.secrets.identities += (str(world.directory / "ours2"),)
    seal, began, published = sealed_snapshot, threading.Event(), threading.Event()

    def slow(secrets: Secrets, given: Snapshot) -> Snapshot:
        sealed = seal(secrets, given)
        if given is old:
            began.set()
            assert published.wait(10)
        return sealed

    monkeypatch.setattr(room, "sealed_snapshot", slow)
    resync = threading.Thread(target=world.resync)
    resync.start()
    assert began.wait(10)
    world.intake.publish(new, "test")
    published.set()
    resync.join(60)
    assert world.journal.desired()["web"].pod.containers[0].command == ("sleep", "3")
    world.resync()
    assert world.journal.desired()["web"].pod.containers[0].command == ("sleep", "3")


def test_while_sources_are_suspended_nothing_is_sealed_again(world: World) -> None:
    world.intake.publish(snapshot(declared(with_secret(encrypt("y", world.other)))), "test")
    world.intake.suspend()
    (world.directory / "ours").write_bytes((world.directory / "other").read_bytes())
    world.resync()
    assert "web" not in world.journal.desired()
    world.intake.resume()
    world.resync()
    assert "web" in world.journal.desired()


def test_a_new_agent_without_the_key_keeps_what_it_had(world: World) -> None:
    text = encrypt("x", world.ours)
    same = snapshot(declared(with_secret(text)))
    world.intake.publish(same, "test")
    before = world.journal.desired()["web"]
    (world.directory / "ours").unlink()
    world.intake = world.start()
    world.intake.publish(snapshot(declared(with_secret(text))), "test")
    assert world.journal.desired()["web"] == before and not world.journal.problems()


def test_an_encryption_for_somebody_else_too_is_another_revision_of_the_same_secret(world: World) -> None:
    world.intake.publish(snapshot(declared(with_secret(encrypt("x", world.ours)))), "test")
    first = world.journal.desired()["web"]
    world.intake.publish(snapshot(declared(with_secret(encrypt("x", world.ours, world.other)))), "test")
    second = world.journal.desired()["web"]
    assert second.generation == first.generation + 1
    assert second.pod.secrets[0].digest == first.pod.secrets[0].digest


def test_snapshots_without_secrets_stay_the_same_objects(world: World) -> None:
    plain = snapshot(declared(pod()))
    assert sealed_snapshot(world.intake.secrets, plain) is plain


def test_a_file_that_is_applied_is_refused_with_its_line_or_with_what_this_machine_lacks(
    world: World,
) -> None:
    parsed = [ParsedPod(with_secret(encrypt("y", world.other)), 3)]
    with pytest.raises(
        InvalidSpec, match=r"^web\.toml:3: secrets: secret db: no key of this machine opens it"
    ):
        sealed_pods(world.intake.secrets, parsed, "web.toml")
    (world.directory / "ours").unlink()
    with pytest.raises(SecretError, match="this machine has no key") as caught:
        sealed_pods(world.intake.secrets, parsed, "web.toml")
    assert caught.value.exit_code == 1
