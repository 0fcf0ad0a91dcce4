"""`tank secret`, as a process: with real keys, from files and pipes, without an agent."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.age import encrypt, make_key, make_ssh_key

pytestmark = pytest.mark.machine
TANK = Path(sys.executable).with_name("tank")
POD = """
[[containers]]
name = "app"
image = "oci:/srv/busybox"
[[containers.mounts]]
secret = "db"
[[secrets]]
name = "db"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a directory with two keys, ours and other, and with settings that name ours."""
    for name in ("ours", "other"):
        (tmp_path / f"{name}.txt").write_text(make_key(tmp_path / name) + "\n")
    (tmp_path / "agent.toml").write_text(f'[secrets]\nidentities = ["{tmp_path / "ours"}"]\n')
    return tmp_path


def tank(home: Path, *argv: str, stdin: str = "", cwd: Path | None = None) -> tuple[int, str, str]:
    done = subprocess.run(
        [TANK, "secret", *argv],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=cwd or home,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def opened(home: Path, armor: str, key: str = "ours") -> str:
    words = ["age", "--decrypt", "--identity", str(home / key)]
    done = subprocess.run(words, input=armor, capture_output=True, text=True, check=True)
    return done.stdout


def test_what_is_encrypted_is_armor_for_all_recipients(home: Path) -> None:
    ours = (home / "ours.txt").read_text().strip()
    code, armor, said = tank(home, "encrypt", "-r", ours, "-R", "other.txt", stdin="pass word")
    assert (code, said) == (0, "")
    assert armor.startswith("-----BEGIN AGE ENCRYPTED FILE-----")
    assert opened(home, armor) == opened(home, armor, "other") == "pass word"
    line = make_ssh_key(home / "ssh")
    (home / "plain").write_text("of a file")
    code, armor, said = tank(home, "encrypt", "plain", "-r", line)
    assert (code, opened(home, armor, "ssh")) == (0, "of a file")


def test_it_writes_over_nothing_unless_it_is_forced(home: Path) -> None:
    words = ("encrypt", "-R", "ours.txt", "-o", "db.age")
    assert tank(home, *words, stdin="one") == (0, "", "")
    first = (home / "db.age").read_text()
    code, _, said = tank(home, *words, stdin="two")
    assert (code, said) == (1, "tank: db.age is there already\n  --force writes over it\n")
    assert (home / "db.age").read_text() == first
    assert tank(home, *words, "--force", stdin="two") == (0, "", "")
    assert opened(home, (home / "db.age").read_text()) == "two"
    assert (home / "db.age").stat().st_mode & 0o777 == 0o644
    code, _, said = tank(home, "encrypt", "-R", "ours.txt", "-o", "no such/x.age", stdin="x")
    assert (code, said) == (1, "tank: there is no directory no such\n  mkdir -p 'no such'\n")
    assert [path.name for path in home.iterdir() if path.name.startswith(".")] == []


def test_a_file_of_recipients_in_the_wrong_place(home: Path) -> None:
    code, _, said = tank(home, "encrypt", "-r", "ours.txt", stdin="x")
    assert code == 1 and "write -R ours.txt, since it is a file of recipients" in said
    code, _, said = tank(home, "encrypt", "-R", "none.txt", stdin="x")
    assert code == 1 and said.startswith("tank: there is no file of recipients none.txt\n")
    assert tank(home, "encrypt", "-R", "ours.txt", stdin="")[2] == "tank: the secret is empty\n"


def test_without_recipients_it_asks_for_whom(home: Path) -> None:
    code, stdout, said = tank(home, "encrypt", stdin="x")
    assert (code, stdout) == (1, "")
    assert said.startswith("tank: for whom? No recipients are given\n")
    assert "recipients.txt" in said and "tank secret recipients" in said
    code, _, said = tank(home, "encrypt", "-r", "bob", stdin="x")
    assert code == 1 and said.startswith('tank: age refuses it: unknown recipient type: "bob"')
    # A file of secret keys is no file of recipients, and is not quoted.
    code, _, said = tank(home, "encrypt", "-R", "ours", stdin="x")
    assert code == 1 and "AGE-SECRET-KEY" not in said


def test_a_file_of_recipients_counts_within_its_repository_only(home: Path) -> None:
    (home / "recipients.txt").write_text((home / "ours.txt").read_text())
    below = home / "hosts" / "edge-1"
    below.mkdir(parents=True)
    assert tank(home, "encrypt", stdin="x", cwd=below)[0] == 1
    (home / ".git").mkdir()
    code, armor, said = tank(home, "encrypt", stdin="x", cwd=below)
    assert (code, said) == (0, f"tank: for the recipients in {home / 'recipients.txt'}\n")
    assert opened(home, armor) == "x"
    (home / "hosts" / "recipients.txt").write_text((home / "other.txt").read_text())
    assert opened(home, tank(home, "encrypt", stdin="x", cwd=below)[1], "other") == "x"


def test_a_new_line_at_the_end_is_kept_and_told(home: Path) -> None:
    code, armor, said = tank(home, "encrypt", "-R", "ours.txt", stdin="x\n")
    assert (code, opened(home, armor)) == (0, "x\n")
    assert said == "tank: the secret ends with a new line, which is a part of it; printf has none\n"
    assert tank(home, "encrypt", "-R", "ours.txt", stdin="x\ny\n")[2] == ""


def test_at_a_terminal_it_says_how_to_end(home: Path) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [TANK, "secret", "encrypt", "-R", home / "ours.txt"],
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("tank: type the secret; Ctrl-D twice ends it")
    os.write(master, b"hidden\x04\x04")
    stdout, _ = process.communicate(timeout=20)
    os.close(master)
    os.close(slave)
    assert opened(home, stdout) == "hidden"


def test_what_is_too_large_is_refused(home: Path) -> None:
    code, stdout, said = tank(home, "encrypt", "-R", "ours.txt", stdin="x" * ((256 << 10) + 1))
    assert (code, stdout) == (1, "") and "at most 262144 bytes" in said


def test_check_tries_the_secrets_of_pod_files_and_encrypted_files(home: Path) -> None:
    pods = home / "pods"
    pods.mkdir()
    (home / "tls.key").write_text("x")
    ours, other = ((home / f"{name}.txt").read_text().strip() for name in ("ours", "other"))
    (pods / "db.age").write_text(encrypt("canary", ours))
    (pods / ".git").mkdir()
    (pods / ".git" / "other.age").write_text("x")
    (pods / "web.toml").write_text(f'{POD}source = "db.age"\n')
    (pods / "host.toml").write_text(f'{POD}host = "{home / "tls.key"}"\n')
    code, stdout, said = tank(home, "check", "--config", "agent.toml", "pods")
    assert (code, said) == (0, "")
    assert stdout == "pods/db.age: ok\npods/host.toml: db: ok\npods/web.toml: db: ok\n"
    (pods / "api.toml").write_text(f'{POD}age = """\n{encrypt("canary", other)}"""\n')
    (home / "tls.key").unlink()
    code, stdout, said = tank(home, "check", "--config", "agent.toml", "pods")
    assert (code, stdout) == (2, "pods/db.age: ok\npods/web.toml: db: ok\n")
    first, _, second, _ = said.splitlines()
    assert first.startswith(f"pods/api.toml: secret db: no key of this machine opens it (tried {home}/ours)")
    assert second == f"pods/host.toml: secret db: {home}/tls.key is not there"
    code, stdout, said = tank(home, "check", "--config", "agent.toml", "-o", "json", "pods")
    found = json.loads(stdout)
    assert (code, said) == (2, "")
    assert [(one["file"], one["error"] is None) for one in found] == [
        ("pods/api.toml", False),
        ("pods/db.age", True),
        ("pods/host.toml", False),
        ("pods/web.toml", True),
    ]
    assert tank(home, "check", "-i", "other", "pods/api.toml")[0] == 0
    assert "canary" not in stdout


def test_check_tells_what_is_wrong_with_a_pod_file(home: Path) -> None:
    (home / "web.toml").write_text(f'{POD}source = "missing.age"\n')
    code, stdout, said = tank(home, "check", "--config", "agent.toml", "web.toml")
    assert (code, stdout) == (2, "")
    assert said.startswith('web.toml:9: secrets[0].source: "missing.age"')
    code, _, said = tank(home, "check", "--config", "agent.toml", "nothing.age")
    assert (code, said) == (1, "tank: nothing.age: cannot read: No such file or directory\n")


def test_recipients_are_those_of_the_key_files(home: Path) -> None:
    ours = (home / "ours.txt").read_text().strip()
    assert tank(home, "recipients", "--config", "agent.toml") == (0, f"{ours}\n", "")
    line = make_ssh_key(home / "ssh")
    locked = make_ssh_key(home / "locked", "a passphrase")
    assert locked
    words = ("recipients", "-i", "ssh", "-i", "missing", "-i", "locked", "-i", "ours")
    code, stdout, said = tank(home, *words)
    assert (code, said) == (0, "tank: locked: is no key without a passphrase\n")
    kind, key = line.split()[:2]
    assert [text.split()[:2] for text in stdout.splitlines()] == [[kind, key], [ours]]
    code, stdout, _ = tank(home, *words, "-o", "json")
    assert [one["file"] for one in json.loads(stdout)] == ["ssh", "ours"]
    code, stdout, said = tank(home, "recipients", "-i", "missing")
    assert (code, stdout) == (1, "") and "this machine has no key for secrets (missing)" in said


def test_what_recipients_prints_encrypts_for_this_machine(home: Path) -> None:
    make_ssh_key(home / "ssh")
    (home / "both.txt").write_text(tank(home, "recipients", "-i", "ssh", "-i", "ours")[1])
    armor = tank(home, "encrypt", "-R", "both.txt", stdin="x")[1]
    assert opened(home, armor, "ssh") == opened(home, armor) == "x"
