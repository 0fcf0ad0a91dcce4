"""Keyed hashes tell whether a secret is the same, and cost no process for what is known."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tank_agent.errors import SecretError
from tank_agent.runtime.secrets import age, host_file
from tank_agent.runtime.secrets import secrets as room
from tank_agent.runtime.secrets.age import NoneFits, SlowAge
from tank_agent.runtime.secrets.secrets import Recent, Secrets
from tank_agent.spec.model import Container, Pod, Secret, content_hash
from tests.support.age import Kept, encrypt, make_key, secrets_of

pytestmark = pytest.mark.machine


def pod_with(*secrets: Secret) -> Pod:
    return Pod(name="web", containers=(Container(name="app", rootfs="/srv"),), secrets=secrets)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note each secret that is decrypted."""
    found: list[str] = []

    def counting(text: bytes, files: tuple[str, ...], name: str) -> bytes:
        found.append(name)
        return age.decrypt(text, files, name)

    monkeypatch.setattr(room, "decrypt", counting)
    return found


def test_a_hash_is_of_the_plain_text_and_needs_the_key_of_the_machine(tmp_path: Path) -> None:
    one, two = make_key(tmp_path / "one"), make_key(tmp_path / "two")
    kept = Kept()
    machine = secrets_of(tmp_path / "one", kept=kept)
    first = machine.sealed(pod_with(Secret(name="db", age=encrypt("hunter2", one))))[0].secrets[0]
    again = machine.sealed(pod_with(Secret(name="db", age=encrypt("hunter2", one, two))))[0].secrets[0]
    other = machine.sealed(pod_with(Secret(name="db", age=encrypt("hunter3", one))))[0].secrets[0]
    assert first.age != again.age
    assert len(first.digest) == 64 and first.digest == again.digest != other.digest
    assert [len(key) for key in kept.values()] == [32]
    # After a restart of the agent it is the same, on another machine another.
    assert secrets_of(kept=kept).digest(b"hunter2") == first.digest
    assert secrets_of().digest(b"hunter2") != first.digest
    assert all(b"hunter2" not in value for value in kept.values())


def test_a_hash_that_somebody_gives_counts_for_nothing(tmp_path: Path) -> None:
    machine = secrets_of(tmp_path / "one")
    secret = Secret(name="db", age=encrypt("x", make_key(tmp_path / "one")), digest="0" * 64)
    assert machine.sealed(pod_with(secret))[0].secrets[0].digest == machine.digest(b"x")
    host = Secret(name="tls", host="/etc/hostname", digest="0" * 64)
    assert machine.sealed(pod_with(host))[0].secrets[0].digest == ""


def test_the_hash_of_a_pod_is_the_same_sealed_or_not(tmp_path: Path) -> None:
    machine = secrets_of(tmp_path / "one")
    pod = pod_with(Secret(name="db", age=encrypt("x", make_key(tmp_path / "one"))))
    sealed, _ = machine.sealed(pod)
    assert sealed != pod and content_hash(sealed) == content_hash(pod)
    other = pod_with(replace(pod.secrets[0], age=pod.secrets[0].age + "\n"))
    assert content_hash(other) != content_hash(pod)


def test_what_is_known_is_not_decrypted_again(tmp_path: Path, calls: list[str]) -> None:
    kept = Kept()
    machine = secrets_of(tmp_path / "one", kept=kept)
    pod = pod_with(Secret(name="db", age=encrypt("x", make_key(tmp_path / "one"))))
    sealed, errors = machine.sealed(pod)
    assert (errors, calls) == ((), ["db"])
    assert machine.sealed(pod)[0] == sealed and machine.sealed(sealed)[0] is sealed
    assert calls == ["db"]
    # A new agent knows it from the journal, even if the key is gone.
    (tmp_path / "one").unlink()
    later = secrets_of(tmp_path / "one", kept=kept)
    later.know([sealed])
    assert later.sealed(pod)[0] == sealed
    assert calls == ["db"]


def test_a_failure_is_tried_again_only_when_a_key_file_changes(tmp_path: Path, calls: list[str]) -> None:
    make_key(tmp_path / "one")
    right = make_key(tmp_path / "right")
    machine = secrets_of(tmp_path / "one", tmp_path / "two")
    pod = pod_with(Secret(name="db", age=encrypt("x", right)), Secret(name="tls", age=encrypt("y", right)))
    first = machine.sealed(pod)[1]
    assert [type(error) for error in first] == [NoneFits, NoneFits]
    assert [error.message for error in machine.sealed(pod)[1]] == [error.message for error in first]
    assert calls == ["db", "tls"]
    (tmp_path / "right").rename(tmp_path / "two")
    assert machine.sealed(pod)[1] == ()
    assert calls == ["db", "tls"] * 2


def test_a_file_of_the_host_is_read_again_only_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []

    def counting(path: str, own: tuple[Path, ...], name: str, containers: tuple[str, ...]) -> bytes:
        reads.append(path)
        return host_file.read_host_file(path, own, name, containers)

    monkeypatch.setattr(room, "read_host_file", counting)
    file = tmp_path / "key"
    file.write_text("one")
    os.utime(file, (1e9, 1e9))
    machine = secrets_of()
    # It changed a moment ago (its ctime): it may change again within the same tick.
    assert machine.host_digest(str(file)) == machine.host_digest(str(file)) == machine.digest(b"one")
    assert len(reads) == 2
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    for _ in range(3):
        assert machine.host_digest(str(file)) == machine.digest(b"one")
    assert len(reads) == 3
    file.write_text("two")
    assert machine.host_digest(str(file)) == machine.digest(b"two")
    file.unlink()
    assert machine.host_digest(str(file)) is None
    assert machine.plaintext(Secret(name="x", host="/proc/sys/kernel/ostype")) == b"Linux\n"


def test_while_age_hangs_only_one_secret_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = make_key(tmp_path / "one")
    machine = secrets_of(tmp_path / "one")
    pod = pod_with(*(Secret(name=f"s{number}", age=encrypt("x", right)) for number in range(3)))
    asked: list[str] = []

    def hanging(_text: bytes, _files: tuple[str, ...], name: str) -> bytes:
        asked.append(name)
        raise SlowAge(f"secret {name}: age did not finish within 10 s")

    monkeypatch.setattr(room, "decrypt", hanging)
    assert [type(error) for error in machine.sealed(pod)[1]] == [SlowAge] * 3
    assert asked == ["s0"]
    monkeypatch.undo()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 60)
    assert machine.sealed(pod)[1] == ()


def test_the_least_used_are_forgotten() -> None:
    recent = Recent[int](2)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.find("a") == 1
    recent.keep("c", 3)
    assert (recent.find("a"), recent.find("b"), recent.find("c")) == (1, None, 3)


def test_pods_without_secrets_cost_nothing() -> None:
    def never(_key: str, _make: Callable[[], bytes]) -> bytes:
        raise AssertionError

    machine = Secrets([], keep_once=never)
    pod = pod_with()
    assert machine.sealed(pod) == (pod, ()) and machine.sealed(pod)[0] is pod


def test_an_error_names_the_secret_and_not_what_it_says(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        secrets_of(tmp_path / "none").plaintext(Secret(name="db", age=encrypt("x", make_key(tmp_path / "k"))))
    assert "secret db" in str(caught.value)


def test_a_process_that_had_a_secret_leaves_no_core_dump_and_its_children_may(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2")
    code = (
        "import ctypes, subprocess, sys\n"
        "from tests.support.age import secrets_of\n"
        "from tank_agent.spec.model import Secret\n"
        "dumps = 'import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))'\n"
        "exec(dumps)\n"
        "secrets_of().plaintext(Secret(name='db', host=sys.argv[1]))\n"
        "exec(dumps)\n"
        "sys.stdout.flush()\n"
        "subprocess.run([sys.executable, '-c', dumps], check=True)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "password")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[4])
    assert done.stdout.split() == ["1", "0", "1"]
