"""CDI devices in real containers, with files of the tests' own in the directories of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.support.agent import Agent, wait_for

STATIC, DYNAMIC = Path("/etc/cdi"), Path("/run/cdi")


class Vendor:
    """A vendor whom no other test and no tool knows, and its CDI files."""

    def __init__(self) -> None:
        self.name = f"tank-test-{uuid4().hex[:8]}"
        self.kind = f"{self.name}.test/gpu"
        self._made = [path for path in (STATIC, DYNAMIC) if not path.exists()]
        for path in self._made:
            path.mkdir(mode=0o755)
        self._files: set[Path] = set()

    def write(self, *, at: Path = STATIC, file: str = "a.json", **devices: dict[str, Any]) -> Path:
        """Write a file of devices, each with its edits; `every` are the edits of all of them."""
        every = devices.pop("every", {})
        listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
        content = {"cdiVersion": "0.6.0", "kind": self.kind, "devices": listed, "containerEdits": every}
        return self.text(json.dumps(content), at=at, file=file)

    def text(self, text: str, *, at: Path = STATIC, file: str = "a.json") -> Path:
        path = at / f"{self.name}-{file}"
        path.write_text(text)
        path.chmod(0o644)
        self._files.add(path)
        return path

    def end(self) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
        for path in self._made:
            path.rmdir()


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    made = Vendor()
    try:
        yield made
    finally:
        made.end()


def pod(agent: Agent, script: str, *devices: str, extra: str = "", more: str = "") -> str:
    listed = ", ".join(f'"{device}"' for device in devices)
    table = f"{extra}[containers.security]\ndevices = [{listed}]\n{more}"
    command = ["/bin/busybox", "sh", "-c", f"exec 2>&1; {script}"]
    return agent.pod_text(command=command, head='restart = "never"\n', extra=table)


def printed(agent: Agent, script: str, *devices: str, **options: str) -> list[str]:
    name = f"web-{uuid4().hex[:8]}"
    agent.write(name, pod(agent, script, *devices, **options))
    agent.wait_phase(name, "completed")
    return agent.output(name)


def said(agent: Agent, *words: str, name: str = "web") -> None:
    def error() -> str:
        return str((agent.status(name) or {}).get("error") or "")

    wait_for(
        lambda: all(word in error() for word in words), f"{words} are said of {name}: {agent.status(name)}"
    )


def test_all_that_a_file_gives(agent: Agent, vendor: Vendor, tmp_path: Path) -> None:
    library = tmp_path / "libgpu.so.1"
    library.write_text("the library\n")
    (tmp_path / "marks").mkdir()
    mark = f"cat > {tmp_path}/marks/$0; echo $GPU >> {tmp_path}/marks/$0"

    def hook(step: str) -> dict[str, Any]:
        return {"hookName": step, "path": "/bin/sh", "args": ["sh", "-c", mark, step], "env": ["GPU=one"]}

    vendor.write(
        every={"env": ["VISIBLE=void", "GREETING=hello"], "additionalGids": [44]},
        one={
            "env": ["ONE=1"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/fuse", "permissions": "rw"}],
            "mounts": [
                {"hostPath": str(library), "containerPath": "/usr/lib/libgpu.so",
                 "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]}
            ],
            "hooks": [
                hook("createRuntime"),
                {"hookName": "startContainer", "path": "/bin/sh",
                 "args": ["sh", "-c", "echo linked > /linked"]},
            ],
        },
        two={"env": ["TWO=2"]},
    )  # fmt: skip
    script = (
        "echo $VISIBLE $GREETING $ONE $TWO; id -G; busybox stat -c '%t:%T %a' /dev/gpu0;"
        "(exec 3<> /dev/gpu0) && echo opened; cat /usr/lib/libgpu.so; cat /linked;"
        "(echo x > /usr/lib/libgpu.so) || echo refused"
    )
    env = 'env = { GREETING = "pod", VISIBLE = "all" }\n'
    lines = printed(agent, script, f"{vendor.kind}=one", extra=env)
    assert lines[:6] == ["void hello 1", "0 44", "a:e5 666", "opened", "the library", "linked"]
    assert lines[-1] == "refused"
    (left,) = (tmp_path / "marks").iterdir()
    state, name = left.read_text().removesuffix("one\n"), left.read_text()[-4:].strip()
    assert (left.name, name) == ("createRuntime", "one")
    assert json.loads(state)["status"] in {"creating", "created"}


def test_a_hook_can_prepare_the_root_of_the_container(agent: Agent, vendor: Vendor) -> None:
    """As nvidia-cdi-hook does, which finds it by the state on its standard input."""
    script = (
        'root=$(sed -n \'s/.*"bundle": *"\\([^"]*\\)".*/\\1/p\')/rootfs; echo cached > $root/etc/ld.so.cache'
    )
    hook = {"hookName": "createContainer", "path": "/bin/sh", "args": ["sh", "-c", script]}
    vendor.write(all={"hooks": [hook]})
    assert printed(agent, "cat /etc/ld.so.cache", f"{vendor.kind}=all") == ["cached"]


def test_yaml_as_tools_write_it(agent: Agent, vendor: Vendor) -> None:
    text = "---\ncdiVersion: 0.5.0\ncontainerEdits:\n  env:\n  - FROM=yaml\ndevices:\n- containerEdits:\n"
    text += f'    deviceNodes:\n    - path: /dev/fuse\n  name: "0"\nkind: {vendor.kind}\n'
    vendor.text(text, file="a.yaml")
    assert printed(agent, "echo $FROM; ls /dev/fuse", f"{vendor.kind}=0") == ["yaml", "/dev/fuse"]


def test_a_user_namespace_has_them_too(open_agent: Agent, vendor: Vendor, open_home: Path) -> None:
    library = open_home / "libgpu.so"
    library.write_text("the library\n")
    vendor.write(
        all={
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/fuse"}],
            "mounts": [
                {"hostPath": str(library), "containerPath": "/lib/gpu.so", "options": ["ro", "rbind"]}
            ],
            "additionalGids": [44],
        }
    )
    script = "busybox stat -c '%t:%T %u:%g' /dev/gpu0; cat /lib/gpu.so; id -G"
    lines = printed(open_agent, script, f"{vendor.kind}=all", more='userns = "auto"\n')
    assert lines == ["a:e5 0:0", "the library", "0 44"]


def test_what_is_unknown_is_said_and_comes_by_itself(agent: Agent, vendor: Vendor) -> None:
    agent.write("web", pod(agent, "echo $FROM", f"{vendor.kind}=all"))
    said(agent, f"no CDI device {vendor.kind}=all is known", "no file in /etc/cdi or /var/run/cdi")
    vendor.write(other={})
    said(agent, "has other")
    broken = vendor.text(f'{{"kind": "{vendor.kind}", "devices": 3}}', file="b.json")
    said(agent, f"this file does not count: {broken}", "Expected `array`, got `int`")
    vendor.write(at=DYNAMIC, file="b.json", all={"env": ["FROM=run"]})
    agent.wait_phase("web", "completed")
    assert agent.output("web") == ["run"]


def test_a_change_of_a_file_counts_at_the_next_start(agent: Agent, vendor: Vendor) -> None:
    vendor.write(all={"env": ["FROM=first"]})
    text = pod(agent, "trap 'exit 0' TERM; echo $FROM; sleep 1000 & wait $!", f"{vendor.kind}=all")
    agent.write("web", text.replace('restart = "never"', ""))
    wait_for(lambda: agent.output("web") == ["first"], "it runs")
    pid = agent.pid("web")
    vendor.write(all={"env": ["FROM=second"]})
    two = vendor.write(file="b.json", all={})
    agent.write("other", pod(agent, "true", f"{vendor.kind}=all"))
    said(agent, f"CDI device {vendor.kind}=all is in ", f" and {two}", name="other")
    assert agent.pid("web") == pid
    two.unlink()
    agent.wait_phase("other", "completed")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: agent.output("web") == ["first", "second"], "the next start has the change")
    shown = agent.tank("exec", "-T", "web", "--", "/bin/sh", "-c", "echo $FROM")
    assert shown.stdout == "second\n"


def test_a_hook_that_fails_or_hangs_is_said(agent: Agent, vendor: Vendor) -> None:
    def hook(script: str, timeout: int) -> dict[str, Any]:
        args = ["sh", "-c", script]
        return {"hooks": [{"hookName": "createRuntime", "path": "/bin/sh", "args": args, "timeout": timeout}]}

    vendor.write(fails=hook("echo no GPU >&2; exit 3", 60), hangs=hook("sleep 1234567; true", 1))
    agent.write("fails", pod(agent, "echo ran", f"{vendor.kind}=fails"))
    agent.write("hangs", pod(agent, "echo ran", f"{vendor.kind}=hangs"))
    said(agent, "hook", "/bin/sh ended with exit code 3", name="fails")
    said(agent, "hook", "/bin/sh was killed, perhaps after 1 s", name="hangs")
    assert agent.output("fails") == agent.output("hangs") == []

    def left() -> list[str]:
        commands = (path.parent / "cmdline" for path in Path("/proc").glob("[0-9]*/exe"))
        found = []
        for command in commands:
            with contextlib.suppress(OSError):
                found += [str(command)] if b"1234567" in command.read_bytes() else []
        return found

    for name in ("fails", "hangs"):
        (agent.pods / f"{name}.toml").unlink()
        agent.wait_gone(name)
    wait_for(lambda: not left(), "the hook is ended with what it started")


def test_nothing_of_the_agents_and_nothing_in_a_volume_is_mounted(
    agent: Agent, vendor: Vendor, tmp_path: Path
) -> None:
    def mounts(host: Path, inside: str) -> dict[str, Any]:
        return {"mounts": [{"hostPath": str(host), "containerPath": inside}]}

    (tmp_path / "lib").mkdir()
    vendor.write(own=mounts(agent.data, "/x"), inner=mounts(tmp_path / "lib", "/data/lib"))
    agent.write("own", pod(agent, "true", f"{vendor.kind}=own"))
    said(agent, "holds the agent's own files", name="own")
    extra = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
    text = pod(agent, "true", f"{vendor.kind}=inner", extra=extra)
    agent.write("inner", f'[[volumes]]\nname = "data"\n{text}'.replace('restart = "never"', ""))
    said(agent, "/data/lib, which a CDI file mounts, is in the pod's own mount /data", name="inner")
