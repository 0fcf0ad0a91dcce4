"""CDI files: which of them count, which of two wins, and what each of their edits gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tank_agent.errors import Stalled
from tank_agent.runtime.container import cdi
from tank_agent.runtime.container.devices import Granted
from tank_agent.runtime.container.oci import BindMount, Device

KIND = "vendor.test/gpu"
NONE = Granted()


class Library:
    """Two directories of CDI files, the second of which counts more."""

    def __init__(self, tmp_path: Path) -> None:
        self.directories = (tmp_path / "etc", tmp_path / "run")
        for directory in self.directories:
            directory.mkdir(mode=0o755)

    def write(self, name: str, *devices: dict[str, Any], at: int = 0, **more: Any) -> Path:
        content = {"cdiVersion": "0.6.0", "kind": KIND, "devices": devices, **more}
        return self.text(name, json.dumps(content), at=at)

    def text(self, name: str, text: str, *, at: int = 0) -> Path:
        path = self.directories[at] / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def add(self, *names: str, granted: Granted = NONE) -> Granted:
        return cdi.add(granted, [f"{KIND}={name}" for name in names], (7, 8), self.directories)

    def refused(self, name: str = "all") -> str:
        with pytest.raises(Stalled) as raised:
            self.add(name)
        return str(raised.value)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path)


def named(name: str = "all", **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def test_the_edits_of_a_device_and_of_its_file(library: Library) -> None:
    library.write(
        "gpu.json",
        named("0", env=["ONE=0"], additionalGids=[0, 44, 44]),
        named("1", env=["TWO=1=1"]),
        named("2", env=["THREE=2"]),
        containerEdits={"env": ["ALL=yes", "ONE=file"]},
    )
    found = library.add("0", "1", granted=Granted(env={"KEPT": "x"}))
    assert found.env == {"KEPT": "x", "ALL": "yes", "ONE": "0", "TWO": "1=1"}
    assert found.groups == (44,)


def test_a_device_node_is_the_hosts(library: Library) -> None:
    library.write(
        "gpu.json",
        named(
            deviceNodes=[
                {"path": "/dev/mine", "hostPath": "/dev/null", "permissions": "rw"},
                {"path": "/dev/zero", "uid": 3, "gid": 0, "fileMode": 0o640},
                {"path": "/dev/numbered", "type": "b", "major": 7, "minor": 3, "permissions": "none"},
            ]
        ),
    )
    assert library.add("all").devices == (
        Device(path="/dev/mine", kind="c", major=1, minor=3, mode=0o666, uid=7, gid=8, access="rw"),
        Device(path="/dev/zero", kind="c", major=1, minor=5, mode=0o640, uid=3, gid=0, access="rwm"),
        Device(path="/dev/numbered", kind="b", major=7, minor=3, mode=0o666, uid=7, gid=8, access=""),
    )


def test_a_mount_is_of_the_real_path(library: Library, tmp_path: Path) -> None:
    (tmp_path / "libx.so.1").touch()
    (tmp_path / "libx.so").symlink_to("libx.so.1")
    library.write(
        "gpu.json",
        named(
            mounts=[
                {"hostPath": str(tmp_path / "libx.so"), "containerPath": "/usr/lib/libx.so",
                 "options": ["ro", "nosuid", "nodev", "rbind", "rprivate", "noexec"]},
                {"hostPath": str(tmp_path), "containerPath": "/srv/x", "type": "bind"},
            ]
        ),
    )  # fmt: skip
    one, two = library.add("all").mounts
    assert one == BindMount(
        source=tmp_path / "libx.so.1",
        target="/usr/lib/libx.so",
        read_only=True,
        options=("nosuid", "nodev", "noexec"),
    )
    assert (two.target, two.read_only, two.options) == ("/srv/x", False, ("nosuid", "nodev"))


def test_hooks(library: Library) -> None:
    library.write(
        "gpu.json",
        named(
            hooks=[
                {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", "x"], "env": ["A=b"],
                 "timeout": 3},
                {"hookName": "startContainer", "path": "/not/on/the/host", "timeout": 999},
            ]
        ),
    )  # fmt: skip
    one, two = library.add("all").hooks
    assert (one.step, one.path, one.env, one.timeout) == ("createContainer", "/bin/sh", ("A=b",), 5)
    assert one.args[3:] == ("sh", "3", "/bin/sh", "-c", "x")
    assert two.path == "/not/on/the/host"
    assert (two.args, two.timeout) == (("/not/on/the/host",), 20)
    assert two.env[0].startswith("PATH=")


def test_many_threads_may_be_the_first(library: Library) -> None:
    """msgspec crashes when two threads at once are the first to read a struct."""
    library.write("gpu.json", named("all", env=["A=b"]))
    program = f"""
import threading
from pathlib import Path
from tank_agent.runtime.container.devices import Granted

begin, seen = threading.Barrier(8), []

def read():
    begin.wait()
    from tank_agent.runtime.container import cdi
    found = cdi.add(Granted(), ["{KIND}=all"], (0, 0), [Path("{library.directories[0]}")])
    seen.append(found.env)

threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert seen == [{{"A": "b"}}] * 8, seen
"""
    for _ in range(5):
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_yaml_is_read_as_json_is(library: Library) -> None:
    pytest.importorskip("yaml")
    library.text(
        "gpu.yaml",
        f"cdiVersion: 0.5.0\nkind: {KIND}\ndevices:\n- name: all\n  containerEdits:\n    env:\n    - A=b\n"
        "    deviceNodes:\n    - path: /dev/null\n      fileMode: 438\n",
    )
    found = library.add("all")
    assert found.env == {"A": "b"}
    assert [device.path for device in found.devices] == ["/dev/null"]


def test_without_the_library_only_what_needs_yaml_is_refused(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    library.text("gpu.yaml", f"cdiVersion: 0.5.0\nkind: {KIND}\n")
    library.text("other.yaml", "kind: other.test/gpu\n")
    library.write("gpu.json", named())
    assert library.add("all") == NONE
    assert "apt install python3-yaml" in library.refused("0")


def test_aliases_are_refused_before_they_become_values(library: Library) -> None:
    pytest.importorskip("yaml")
    lines = [f"kind: {KIND}", "a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40)]
    library.text("bomb.yaml", "\n".join(lines))
    assert "aliases" in library.refused()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ('!!int ""', "has a tag"),
        ('!!bool ""', "has a tag"),
        ('!!timestamp "x"', "has a tag"),
        (f"{'1:' * 3000}1", "has a word of more than 4096 bytes"),
        ("2001-99-99", "month must be"),
    ],
)
def test_values_that_the_yaml_library_fails_at_are_said(library: Library, version: str, words: str) -> None:
    library.text("gpu.yaml", f"kind: {KIND}\ncdiVersion: {version}\n")
    message = library.refused()
    assert "gpu.yaml: " in message and words in message


def test_the_later_directory_wins(library: Library) -> None:
    library.write("a.json", named("all", env=["FROM=etc"]), named("0", env=["ZERO=etc"]))
    library.write("b.json", named("all", env=["FROM=run"]), at=1)
    assert library.add("all").env == {"FROM": "run"}
    assert library.add("0").env == {"ZERO": "etc"}


def test_two_files_of_one_directory_with_one_device(library: Library) -> None:
    one = library.write("a.json", named("all"), named("0"))
    two = library.write("b.json", named("all"))
    assert f"is in {one} and {two}" in library.refused()
    assert library.add("0") == NONE
    library.write("c.json", named("all"), at=1)
    assert library.add("all") == NONE


def test_who_is_not_known_is_told_what_is(library: Library) -> None:
    assert f"about {KIND}" in library.refused()
    library.write("gpu.json", named("0"), named("1"))
    text = library.refused()
    assert text.startswith(f"no CDI device {KIND}=all is known")
    assert "has 0, 1" in text
    library.write("other.json", named(), kind="other.test/gpu")
    assert "has 0, 1" in library.refused()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"kind": "{KIND}"', "truncated"),
        (f'{{"kind": "{KIND}"}}', "missing required field"),
        (f'{{"cdiVersion": "0.6.0", "kind": "{KIND}", "devices": []}}', "no devices"),
        (f'{{"cdiVersion": "2.0.0", "kind": "{KIND}", "devices": [{{"name": "all"}}]}}', "2.0.0"),
        (f'{{"cdiVersion": "0.6.0", "kind": "{KIND}", "devices": [{{"name": "-"}}]}}', "no name"),
        (
            f'{{"cdiVersion": "0.6.0", "kind": "{KIND}", "devices": [{{"name": "a"}}, {{"name": "a"}}]}}',
            "twice",
        ),
        (
            f'{{"cdiVersion": "0.6.0", "kind": "{KIND}", "devices": [{{"name": "a"}}], "x": 1}}',
            "unknown field",
        ),
        (f'{{"kind": "{KIND}", "containerEdits": {{"intelRdt": {{"a": {"[" * 100_000}', "ecursion"),
        ("x" * ((1 << 20) + 1), "larger than"),
    ],
)
def test_a_bad_file_is_said_and_others_count(library: Library, text: str, words: str) -> None:
    path = library.text("bad.json", text)
    library.write("gpu.json", named("0"))
    assert library.add("0") == NONE
    message = library.refused()
    assert f"{path}: " in message
    assert words in message


def test_what_others_could_have_written_does_not_count(library: Library, tmp_path: Path) -> None:
    path = library.write("gpu.json", named(env=["A=b"]))
    path.chmod(0o664)
    assert "must be root's" in library.refused()
    path.chmod(0o644)
    assert library.add("all").env
    library.directories[0].chmod(0o777)
    assert f"{library.directories[0]} must be root's" in library.refused()
    library.directories[0].chmod(0o755)
    path.rename(tmp_path / "gpu.json")
    path.symlink_to(tmp_path / "gpu.json")
    assert "symbolic links" in library.refused()
    path.unlink()
    os.mkfifo(path, 0o644)
    assert "not a regular file" in library.refused()


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"env": ["novalue"]}, "no NAME=VALUE"),
        ({"additionalGids": [-1]}, "-1 is no id"),
        ({"intelRdt": {"closID": "x"}}, "intelRdt"),
        ({"netDevices": [{"hostInterfaceName": "eth0", "name": "x"}]}, "netDevices"),
        ({"deviceNodes": [{"path": "/dev/gpu-none"}]}, "No such file"),
        ({"deviceNodes": [{"path": "/proc/x", "hostPath": "/dev/null"}]}, "not at a path"),
        ({"deviceNodes": [{"path": "/dev/../etc", "hostPath": "/dev/null"}]}, "not at a path"),
        ({"deviceNodes": [{"path": "/dev/pts/9", "hostPath": "/dev/null"}]}, "not at a path"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/etc/passwd"}]}, "leads to /etc/passwd"),
        ({"deviceNodes": [{"path": "/dev/x", "hostPath": "/dev/null", "type": "b"}]}, "of type c, not b"),
        ({"deviceNodes": [{"path": "/dev/x", "type": "p"}]}, "no device"),
        ({"deviceNodes": [{"path": "/dev/x", "type": "c", "major": -1}]}, "no device -1:0"),
        ({"deviceNodes": [{"path": "/dev/null", "permissions": "x"}]}, "permissions"),
        ({"deviceNodes": [{"path": "/dev/null", "fileMode": -1}]}, "-1 are no permissions"),
        ({"deviceNodes": [{"path": "/dev/null", "fileMode": 2**62}]}, "no permissions"),
        ({"mounts": [{"hostPath": "/no/such", "containerPath": "/x"}]}, "/no/such: No such file"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/proc/x"}]}, "nothing may be mounted"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/"}]}, "nothing may be mounted"),
        ({"mounts": [{"hostPath": "/", "containerPath": "/x"}]}, "no container may have"),
        ({"mounts": [{"hostPath": "/proc/sys", "containerPath": "/x"}]}, "no container may have"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/x/../y"}]}, "shortest form"),
        ({"mounts": [{"hostPath": "t", "containerPath": "/x", "type": "tmpfs"}]}, "type 'tmpfs'"),
        ({"mounts": [{"hostPath": "/etc", "containerPath": "/x", "options": ["rshared"]}]}, "'rshared'"),
        ({"hooks": [{"hookName": "poststop", "path": "/bin/sh"}]}, "no step"),
        ({"hooks": [{"hookName": "createRuntime", "path": "/no/such"}]}, "No such file"),
        ({"hooks": [{"hookName": "createRuntime", "path": "sh"}]}, "not an absolute path"),
        ({"hooks": [{"hookName": "createRuntime", "path": "/etc/passwd"}]}, "is no program"),
        ({"hooks": [{"hookName": "createRuntime", "path": "/tmp"}]}, "root's"),
        ({"hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "env": ["x"]}]}, "NAME=VALUE"),
        ({"hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "timeout": -1}]}, "1 or more"),
        ({"env": [f"A{n}=" for n in range(600)]}, "more than 512"),
        (
            {"deviceNodes": [{"path": f"/dev/n{n}", "hostPath": "/dev/null"} for n in range(300)]},
            "more than 256",
        ),
    ],
)
def test_what_cannot_be_given_is_said(library: Library, edits: dict[str, Any], words: str) -> None:
    library.write("gpu.json", named(**edits), named("0", env=["A=b"]))
    assert words in library.refused()
    assert library.add("0").env == {"A": "b"}
