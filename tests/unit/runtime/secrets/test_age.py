"""Real age decrypts by real keys, without rights; a failure is one sentence and gives nothing away."""

from __future__ import annotations

import binascii
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tank_agent.errors import SecretError
from tank_agent.linux import process
from tank_agent.runtime.secrets import age
from tank_agent.runtime.secrets.age import BrokenSecret, NoAge, NoKey, NoneFits, SlowAge, decrypt, stanzas
from tests.support.age import encrypt, make_key, make_ssh_key
from tests.support.agent import wait_for

pytestmark = pytest.mark.machine
SAID = "correct horse battery staple"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_key(tmp_path / "age.key")
    return tmp_path / "age.key"


def recipient(key: Path) -> str:
    return next(line.split()[-1] for line in key.read_text().splitlines() if line.startswith("# public key"))


def failure(text: str, *files: Path | str) -> SecretError:
    with pytest.raises(SecretError) as caught:
        decrypt(text.encode(), [str(file) for file in files], "db")
    assert caught.value.message.startswith("secret db")
    assert SAID not in str(caught.value) and "\n" not in caught.value.message
    return caught.value


def test_keys_of_age_and_of_ssh_decrypt_and_missing_ones_are_skipped(tmp_path: Path, key: Path) -> None:
    ssh = make_ssh_key(tmp_path / "host_key")
    missing = str(tmp_path / "missing")
    for file, one in ((key, recipient(key)), (tmp_path / "host_key", ssh)):
        text = encrypt(SAID, one)
        assert decrypt(text.encode(), [missing, str(file)], "db") == SAID.encode()
    assert decrypt(encrypt(b"", recipient(key)).encode(), [str(key)], "db") == b""
    every = bytes(range(256)) * 1024
    assert decrypt(encrypt(every, recipient(key)).encode(), [str(key)], "db") == every


def test_without_a_key_the_files_are_named(tmp_path: Path) -> None:
    found = failure(encrypt(SAID, make_key(tmp_path / "other")), tmp_path / "a", tmp_path / "b")
    assert isinstance(found, NoKey)
    assert f"{tmp_path / 'a'} is not there, {tmp_path / 'b'} is not there" in found.message


def test_another_key_is_told_with_whom_the_file_is_for(tmp_path: Path, key: Path) -> None:
    text = encrypt(SAID, make_key(tmp_path / "other"), make_ssh_key(tmp_path / "host_key"))
    found = failure(text, key)
    assert isinstance(found, NoneFits) and found.of_file
    tag = stanzas(text.encode())[1].split()[1]
    assert found.message.endswith(f"(tried {key}); it is for X25519, ssh-ed25519 {tag}")
    assert "tank secret recipients" in (found.hint or "")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_key_that_others_may_read_or_write_is_refused(mode: int, key: Path) -> None:
    text = encrypt(SAID, recipient(key))
    key.chmod(mode)
    assert f"{key}, which is open to others: chmod 600 {key}" in failure(text, key).message


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_key_of_another_user_and_a_fifo_are_refused(tmp_path: Path, key: Path) -> None:
    text = encrypt(SAID, recipient(key))
    os.chown(key, 1000, 0)
    assert "belongs to user 1000, and not to root" in failure(text, key).message
    os.mkfifo(tmp_path / "fifo", 0o600)
    assert "is not a regular file" in failure(text, tmp_path / "fifo").message


def test_one_useless_key_file_does_not_keep_the_others_from_being_tried(tmp_path: Path, key: Path) -> None:
    locked = make_ssh_key(tmp_path / "locked", "a passphrase")
    (tmp_path / "junk").write_text("no key at all\n")
    (tmp_path / "junk").chmod(0o600)
    useless = [str(tmp_path / "locked"), str(tmp_path / "junk")]
    assert (
        decrypt(encrypt(SAID, locked, recipient(key)).encode(), [*useless, str(key)], "db") == SAID.encode()
    )
    found = failure(encrypt(SAID, locked), *useless, key)
    assert f"{tmp_path / 'locked'}, which has a passphrase" in found.message
    assert f"{tmp_path / 'junk'}, which is no key that age can use" in found.message


def test_a_file_for_a_passphrase_asks_nobody(key: Path) -> None:
    header = "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 18\n" + "A" * 43 + "\n--- " + "A" * 43
    body = binascii.b2a_base64(f"{header}\n".encode() + bytes(48)).decode()
    text = f"-----BEGIN AGE ENCRYPTED FILE-----\n{body}-----END AGE ENCRYPTED FILE-----\n"
    # Else it would wait for an answer until its deadline.
    assert not isinstance(failure(text, key), SlowAge)


def cut(text: str, end: int) -> str:
    """Return an armor whose content is cut off."""
    lines = text.strip().splitlines()
    content = binascii.a2b_base64("".join(lines[1:-1]))[:end]
    body = binascii.b2a_base64(content, newline=False).decode()
    wrapped = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"{lines[0]}\n{wrapped}\n{lines[-1]}\n"


def test_of_a_damaged_file_nothing_is_used(key: Path) -> None:
    """age prints whole chunks of 64 KiB before it sees that the last one is missing."""
    long = encrypt(SAID * 8000, recipient(key))
    assert isinstance(failure(cut(long, 150_000), key), BrokenSecret)
    short = encrypt(SAID, recipient(key))
    assert isinstance(failure(cut(short, 150), key), BrokenSecret)
    assert isinstance(failure(cut(short, 60), key), BrokenSecret)
    lines = short.splitlines()
    middle = len(lines) // 2
    lines[middle] = lines[middle][::-1]
    assert isinstance(failure("\n".join(lines), key), BrokenSecret | NoneFits)
    for text in ("", "hello", "-----BEGIN AGE ENCRYPTED FILE-----\n!!!\n-----END AGE ENCRYPTED FILE-----"):
        assert isinstance(failure(text, key), BrokenSecret)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_any_header_is_read_or_is_none(body: bytes, armored: bool, begun: bool) -> None:
    content = b"age-encryption.org/v1\n-> " + body if begun else body
    if armored:
        lines = binascii.b2a_base64(content) if begun else body
        content = b"-----BEGIN AGE ENCRYPTED FILE-----\n" + lines + b"\n-----END AGE ENCRYPTED FILE-----\n"
    found = stanzas(content)
    assert all(kind.isprintable() and len(kind) < 500 for kind in found)


def test_what_is_too_large_to_be_delivered_is_refused(key: Path) -> None:
    found = failure(encrypt(b"x" * ((256 << 10) + 1), recipient(key)), key)
    assert "is larger than 262144 bytes" in found.message


def test_without_age_its_package_is_named(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = encrypt(SAID, recipient(key))
    monkeypatch.setitem(process.ENVIRONMENT, "PATH", "/nonexistent")
    found = failure(text, key)
    assert isinstance(found, NoAge)
    assert found.hint == "`apt install age`"


def test_a_program_that_does_not_end_is_killed_with_all_that_it_started(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = encrypt(SAID, recipient(key))
    shell = shutil.which("sh")
    assert shell is not None
    marked = f"sleep 98{os.getpid()}"
    slow = tmp_path / "age"
    slow.write_text(f"#!{shell}\n/bin/{marked} &\nwait\n")
    slow.chmod(0o755)
    monkeypatch.setattr(age, "find", lambda _: str(slow))
    monkeypatch.setattr(age, "DEADLINE", 0.5)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            # The user that it runs as must reach it.
            monkeypatch.setattr(age, "_USER", 0)
    assert isinstance(failure(text, key), SlowAge)

    def gone() -> bool:
        found = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
        return marked not in found

    wait_for(gone, "nothing of it runs")


@pytest.mark.skipif(os.geteuid() != 0, reason="age runs as another user only for root")
def test_the_child_has_no_rights_no_path_and_no_descriptor_but_the_keys(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = encrypt(SAID, recipient(key))
    shell = tmp_path / "age"
    tell = "id -u; id -G; echo $PATH; cat /proc/$$/stat | cut -d' ' -f6,7; echo $HOME-; ls -l /proc/$$/fd"
    shell.write_text(f"#!/bin/sh\nPATH_WAS=$PATH; PATH=/bin; {tell.replace('$PATH', '$PATH_WAS')}\n")
    shell.chmod(0o755)
    # Any user can reach it there.
    place = Path("/var/tmp") / f"tank-age-{os.getpid()}"
    shutil.copy(shell, place)
    place.chmod(0o755)
    monkeypatch.setattr(age, "find", lambda _: str(place))
    try:
        said = decrypt(text.encode(), [str(key)], "db").decode().splitlines()
    finally:
        place.unlink()
    user, groups, path, session, home, *descriptors = said
    assert (user, groups, path, home) == ("65521", "65521", "/nonexistent", "-")
    assert session.split()[1] == "0", "it has a terminal"
    targets = [line.partition("-> ")[2] for line in descriptors if "-> " in line]
    assert sum("memfd:" in target for target in targets) == 1
    assert all(target.startswith(("pipe:", "/memfd:", str(place))) for target in targets), targets


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("no identity matched any of the recipients", NoneFits),
        ("identity did not match any of the recipients: incorrect identity for recipient block", NoneFits),
        ("failed to decrypt and authenticate payload chunk", BrokenSecret),
        ("failed to read header: parsing age header: unexpected intro", BrokenSecret),
    ],
)
def test_the_words_of_other_versions_are_understood(
    said: str, kind: type[SecretError], key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = encrypt(SAID, recipient(key))
    monkeypatch.setattr(age, "run_apart", lambda *_, **__: (1, b"", f"age: error: {said}\n".encode()))
    found = failure(text, key)
    assert isinstance(found, kind)
    assert "which is no key" not in found.message and said not in str(found)


def test_the_child_leaves_no_core_dump(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = encrypt(SAID, recipient(key))
    place = Path("/var/tmp") / f"tank-age-core-{os.getpid()}"
    place.write_text("#!/bin/sh\n/bin/cat >/dev/null; ulimit -Sc; ulimit -Hc\n")
    place.chmod(0o755)
    monkeypatch.setattr(age, "find", lambda _: str(place))
    try:
        assert decrypt(text.encode(), [str(key)], "db").split() == [b"0", b"0"]
    finally:
        place.unlink()
