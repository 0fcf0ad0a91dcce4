"""What the doctor says of age, of this machine's keys, and of the secrets of its pods."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.doctor.secrets import age, identities, of_pods
from tank_agent.spec.model import Container, Pod, Secret
from tests.support.age import encrypt, make_key


def test_age() -> None:
    assert (age("1.1.1\n").result, age("1.1.1\n").found) == ("ok", "version 1.1.1")
    assert (age(None).result, age(None).fix) == ("warn", "apt install age")
    assert age("(devel)").found == "of an unknown version"


def test_keys(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("one", "two")]
    assert identities(files).found == f"none of {tmp_path}/one, {tmp_path}/two is there"
    assert identities([]).found == "none is named"
    (tmp_path / "one").write_text("key")
    (tmp_path / "one").chmod(0o600)
    assert (identities(files).result, identities(files).found) == ("ok", files[0])
    (tmp_path / "two").write_text("key")
    (tmp_path / "two").chmod(0o644)
    assert identities(files).result == "warn"
    assert (
        identities(files).found == f"{files[0]} is there; {files[1]} is open to others: chmod 600 {files[1]}"
    )


@pytest.mark.machine
def test_secrets_of_pods(tmp_path: Path) -> None:
    ours, other = make_key(tmp_path / "ours"), make_key(tmp_path / "other")
    (tmp_path / "host").write_text("x")

    def pod(*secrets: Secret) -> Pod:
        return Pod(name="web", containers=(Container(name="app", rootfs="/srv"),), secrets=secrets)

    good = Secret(name="db", age=encrypt("x", ours))
    host = Secret(name="tls", host=str(tmp_path / "host"))
    bad = Secret(name="api", age=encrypt("y", other))
    files = [str(tmp_path / "ours")]
    assert of_pods([pod()], files, ()).found == "there are none"
    found = of_pods([pod(good, host)], files, ())
    assert (found.result, found.found) == ("ok", "all 2 can be had")
    found = of_pods([pod(good, bad)] * 4, files, ())
    assert found.result == "fail"
    assert found.found.startswith("pod web: secret api: no key of this machine opens it")
    assert found.found.endswith("; and 1 more")
