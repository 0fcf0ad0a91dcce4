"""A test for each row of the change table: what a change does to processes and network, on a real agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tank_agent.linux.pidfd import start_time
from tank_agent.reconcile.changes import TABLE, Effect, row_of
from tests.support.agent import busybox_rootfs, wait_for
from tests.support.images import busybox_layout
from tests.support.lan import LanAgent, lan_agent, nic

VOLUMES = '[[volumes]]\nname = "data"\nhost = "{home}/first"\n'
MOUNT = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'


class Case(Struct, frozen=True, kw_only=True):
    """One edit; `key` is the row that it is for, `before` and `after` are parts of the file, see `text`.

    `restarts` says whether the edited container and the other one restart, where the row alone does not.
    """

    key: str
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    restarts: tuple[bool, bool] | None = None


CASES = [
    Case(key="restart", after={"restart": "never"}),
    Case(key="network", after={"network": 'network = "host"\n'}, restarts=(True, True)),
    Case(
        key="network",
        before={"network": 'network = "none"\n'},
        after={"network": f"[network]\n[[network.nics]]\n{nic()}\n"},
        restarts=(False, False),
    ),
    Case(key="network.dns", after={"network": f'[network]\ndns = ["10.0.0.9"]\n[[network.nics]]\n{nic()}\n'}),
    Case(key="network.nics", after={"network": f"[network]\n[[network.nics]]\n{nic('10.0.0.9/24')}\n"}),
    Case(key="volumes", after={"volumes": VOLUMES + '[[volumes]]\nname = "more"\n'}),
    Case(key="volumes.host", after={"volumes": VOLUMES.replace("first", "second")}, restarts=(True, False)),
    Case(key="containers", after={"more": "yes"}, restarts=(False, False)),
    Case(key="containers.image", before={"root": "oci:one"}, after={"root": "oci:two"}),
    Case(key="containers.rootfs", after={"root": "other"}),
    Case(key="containers.command", after={"command": '["/bin/sleep", "4321"]'}),
    Case(key="containers.args", after={"app": 'args = ["5"]\n'}),
    Case(key="containers.env", after={"app": 'env = { A = "b" }\n'}),
    Case(key="containers.working_dir", after={"app": 'working_dir = "/tmp"\n'}),
    Case(key="containers.user", after={"app": 'user = "1000"\n'}),
    Case(key="containers.tty", after={"app": "tty = true\n"}),
    Case(key="containers.mounts", after={"mounts": MOUNT.replace("/data", "/other")}),
    Case(key="containers.security", after={"tail": "[containers.security]\nread_only_root = true\n"}),
    Case(key="containers.stop_signal", after={"app": 'stop_signal = "INT"\n'}),
    Case(key="containers.stop_grace", after={"grace": "400ms"}),
    Case(key="containers.limits", after={"tail": "[containers.limits]\npids = 77\n"}),
]
# What is another pod, and what is not of a container that runs.
ELSEWHERE = {"name", "hosts", "labels", "containers.pull"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanAgent]:
    with lan_agent(tmp_path_factory.mktemp("changes")) as agent:
        for directory in ("first", "second"):
            (agent.home / directory).mkdir()
        busybox_rootfs(agent.home / "other")
        for name in ("one", "two"):
            busybox_layout(agent.home / name)
        yield agent


def text(agent: LanAgent, given: dict[str, str]) -> str:
    """Return the pod file: a container that is edited, and one that is not."""
    root, plain = given.get("root", "rootfs"), f'rootfs = "{agent.home}/rootfs"'
    source = f'image = "oci:{agent.home}/{root[4:]}"' if root.startswith("oci:") else plain
    source = source.replace("/rootfs", f"/{root}")
    grace = f'stop_grace = "{given.get("grace", "100ms")}"\n'
    tables = given.get("mounts", MOUNT) + given.get("tail", "")
    command = given.get("command", '["/bin/sleep", "1234"]')
    quick = 'command = ["/bin/sleep", "1234"]\nstop_grace = "100ms"\n'
    parts = [
        f'restart = "{given.get("restart", "always")}"',
        given.get("network", f"[network]\n[[network.nics]]\n{nic()}"),
        given.get("volumes", VOLUMES).replace("{home}", str(agent.home)),
        f'[[containers]]\nname = "app"\n{source}\ncommand = {command}\n{given.get("app", "")}{grace}{tables}',
        f'[[containers]]\nname = "other"\n{plain}\n{quick}',
    ]
    parts += [f'[[containers]]\nname = "more"\n{plain}\n{quick}'] if given.get("more") else []
    return "\n".join(parts)


def processes(agent: LanAgent) -> list[tuple[int, int | None]]:
    pids = [agent.pid("web", number) for number in (0, 1)]
    return [(pid, start_time(pid)) for pid in pids]


def settled(agent: LanAgent, generation: int) -> bool:
    found = agent.client.sync(wait=10)
    status = next(pod for pod in found if pod["name"] == "web")
    return bool(status["generation"] >= generation and status["phase"] == "running")


def test_every_row_has_a_case() -> None:
    assert {case.key for case in CASES} | ELSEWHERE >= {row.key for row in TABLE}


@pytest.mark.parametrize("case", CASES, ids=[f"{case.key}-{number}" for number, case in enumerate(CASES)])
def test_a_change_does_what_its_row_says(shared: LanAgent, case: Case) -> None:
    agent = shared
    agent.write("web", text(agent, case.before))
    wait_for(lambda: settled(agent, 1), "the pod runs")
    agent.wait_phase("web", "running")
    before, inode = processes(agent), Path(f"/proc/{agent.pid('web', 1)}/ns/net").stat().st_ino
    generation = agent.status("web")["generation"]  # type: ignore[index]
    agent.write("web", text(agent, case.after))
    wait_for(lambda: settled(agent, generation + 1), f"{case.key} is changed")
    agent.wait_phase("web", "running")
    restarted = [now != then for now, then in zip(processes(agent), before, strict=True)]
    effect = row_of(case.key).effect
    default = (effect in (Effect.CONTAINER, Effect.POD), effect is Effect.POD)
    assert tuple(restarted) == (case.restarts or default)
    same_network = Path(f"/proc/{agent.pid('web', 1)}/ns/net").stat().st_ino == inode
    assert same_network is not all(restarted)
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
