"""A test for each row of the change table: what a change does to processes and network, on a real agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import Struct

from tank_agent.linux.pidfd import command_line, start_time
from tank_agent.reconcile.core.changes import TABLE, row_of
from tank_agent.spec.keys import Effect
from tank_agent.spec.structure import toml_value
from tests.support.agent import busybox_rootfs, wait_for
from tests.support.images import busybox_layout
from tests.support.lan import LanAgent, nic, stopped_lan_agent
from tests.unit.test_completeness import OTHER

VOLUMES = '[[volumes]]\nname = "data"\nhost = "{home}/first"\n'
MANAGED = '[[volumes]]\nname = "data"\n'
MOUNT = '[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'


class Case(Struct, frozen=True, kw_only=True):
    """One edit; `key` is the row that it is for, `before` and `after` are parts of the file, see `text`.

    `restarts` says whether the edited container and the other one restart, where the row alone does not.
    """

    key: str
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    restarts: tuple[bool, bool] | None = None


BRIDGED = {"network": 'network = "bridge"\n'}
PUBLISHED = {"network": "", "top": 'ports = ["127.0.0.1:8080:80"]\n'}
FILE = VOLUMES + '[[files]]\nname = "conf"\n'
SECRET = VOLUMES + '[[secrets]]\nname = "key"\n'
FILE_MOUNT = MOUNT + '[[containers.mounts]]\nfile = "conf"\npath = "/etc/conf"\n'
SECRET_MOUNT = MOUNT + '[[containers.mounts]]\nsecret = "key"\n'
# Keys that choose machines, and are no part of what runs: their change is no new generation.
SELECTING = {"hosts", "labels"}
CASES = [
    Case(key="restart", after={"restart": "never"}),
    Case(key="hosts", after={"top": 'hosts = ["*"]'}),
    Case(key="labels", after={"top": 'labels = { site = "lab" }'}),
    Case(
        key="containers.pull",
        before={"root": "oci:one"},
        after={"root": "oci:one", "app": 'pull = "never"\n'},
    ),
    Case(key="network", after={"network": 'network = "host"\n'}, restarts=(True, True)),
    Case(
        key="network",
        before={"network": 'network = "none"\n'},
        after={"network": f"[network]\n[[network.nics]]\n{nic()}\n"},
        restarts=(False, False),
    ),
    Case(key="network", before=BRIDGED, after={"network": 'network = "host"\n'}, restarts=(True, True)),
    Case(key="network", before={"network": 'network = "host"\n'}, after=BRIDGED, restarts=(True, True)),
    Case(key="network", after=BRIDGED, restarts=(False, False)),
    Case(key="network", before={"network": 'network = "none"\n'}, after=BRIDGED, restarts=(False, False)),
    Case(key="ports", before=BRIDGED, after={**BRIDGED, "top": 'ports = ["8080:80"]\n'}),
    Case(key="ports", before={"network": "", "top": 'ports = ["8080:80", "81:81"]\n'}, after=PUBLISHED),
    # The first port brings a pod into the bridge, and the last takes it out.
    Case(key="ports", before={"network": ""}, after=PUBLISHED),
    Case(key="ports", before=PUBLISHED, after={"network": ""}),
    Case(key="network.bridges", before=BRIDGED, after={"network": '[network]\nbridges = ["a", "b"]\n'}),
    Case(
        key="network.bridges",
        before={"network": '[network]\nbridges = ["a", "b"]\n'},
        after={"network": '[network]\nbridges = ["b"]\n'},
    ),
    Case(key="network.aliases", before=BRIDGED, after={"network": '[network]\naliases = ["my_db"]\n'}),
    Case(key="network.dns", before=BRIDGED, after={"network": '[network]\ndns = ["10.0.0.9"]\n'}),
    *(
        Case(key=f"network.{key}", before=before, after={"network": f"[network]\n{key} = {value}\n{nics}"})
        for key, value in {
            "dns_search": '["lan"]',
            "dns_options": '["ndots:2"]',
            "extra_hosts": '{ nas = "10.0.0.9" }',
        }.items()
        for before, nics in (({}, f"[[network.nics]]\n{nic()}\n"), (BRIDGED, ""))
    ),
    Case(key="network.dns", after={"network": f'[network]\ndns = ["10.0.0.9"]\n[[network.nics]]\n{nic()}\n'}),
    Case(key="network.nics", after={"network": f"[network]\n[[network.nics]]\n{nic('10.0.0.9/24')}\n"}),
    Case(key="volumes", after={"volumes": VOLUMES + '[[volumes]]\nname = "more"\n'}),
    Case(key="after", after={"top": 'after = ["no-such-pod"]\n'}),
    Case(key="update", after={"top": "update = { min_healthy = 0 }\n"}),
    Case(
        key="volumes.snapshot", before={"volumes": MANAGED}, after={"volumes": MANAGED + "snapshot = true\n"}
    ),
    Case(key="containers.after", after={"app": 'after = ["other"]\n'}),
    Case(
        key="volumes.shared",
        before={"volumes": MANAGED},
        after={"volumes": MANAGED + "shared = true\n"},
        restarts=(True, False),
    ),
    Case(key="files", after={"volumes": FILE + 'content = "x"\n'}),
    *(
        Case(
            key=f"files.{key}",
            before={"volumes": f"{FILE}{key} = {one}\n", "mounts": f"{FILE_MOUNT}on_change = {follows}\n"},
            after={"volumes": f"{FILE}{key} = {two}\n", "mounts": f"{FILE_MOUNT}on_change = {follows}\n"},
            restarts=(follows == '"restart"', False),
        )
        for key, one, two in (("content", '"1"', '"2"'), ("base64", '"AAAA"', '"AAAB"'))
        for follows in ('"restart"', '"nothing"')
    ),
    Case(key="secrets", after={"volumes": SECRET + 'host = "{home}/key-1"\n'}),
    *(
        Case(
            key="secrets.host",
            before={"volumes": SECRET + 'host = "{home}/key-1"\n', "mounts": SECRET_MOUNT},
            after={"volumes": SECRET + f'host = "{{home}}/key-{number}"\n', "mounts": SECRET_MOUNT},
            restarts=(number == 2, False),
        )
        # The third has what the first has.
        for number in (2, 3)
    ),
    Case(key="hostname", after={"top": 'hostname = "nas.lan"\n'}),
    Case(key="sysctls", after={"top": 'sysctls = { "net.core.somaxconn" = "99" }\n'}),
    Case(key="containers.mounts", after={"mounts": MOUNT + 'subpath = "inner"\n'}),
    Case(
        key="containers.mounts",
        after={"mounts": MOUNT + '[[containers.mounts]]\ntmpfs = "1M"\npath = "/tmp/x"\n'},
    ),
    Case(
        key="containers.mounts.from_image",
        before={"volumes": MANAGED},
        after={"volumes": MANAGED, "mounts": MOUNT + "from_image = true\n"},
    ),
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
# What makes another pod, containers that end, jobs, and what needs a key of age have tests of their own.
ELSEWHERE = {"name", "containers.init", "schedule", "time_zone", "catch_up", "timeout", "secrets.age"}
# A new key of a container needs no case here: its other value is that of the completeness tests.
CASES += [
    Case(
        key=row.key, after={"app": f"{row.key.removeprefix('containers.')} = {toml_value(OTHER[row.key])}\n"}
    )
    for row in TABLE
    if row.key.startswith("containers.") and row.key not in {case.key for case in CASES} | ELSEWHERE
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanAgent]:
    with stopped_lan_agent(tmp_path_factory.mktemp("changes")) as agent:
        with agent.config.open("a") as config:
            config.write('[labels]\nsite = "lab"\n')
        agent.start()
        for directory in ("first", "second"):
            (agent.home / directory).mkdir()
        busybox_rootfs(agent.home / "other")
        for name in ("one", "two"):
            busybox_layout(agent.home / name)
        (agent.pods / "app.env").write_text("A=1\n")
        for number, content in enumerate(("a", "b", "a"), start=1):
            key = agent.home / f"key-{number}"
            key.write_text(content)
            key.chmod(0o600)
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
        given.get("top", ""),
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
    status = next(pod for pod in found if pod.name == "web")
    return bool(status.generation >= generation and status.phase == "running")


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
    wanted = generation + (case.key not in SELECTING)
    wait_for(lambda: settled(agent, wanted), f"{case.key} is changed")
    assert agent.status("web")["generation"] == wanted  # type: ignore[index]
    agent.wait_phase("web", "running")
    restarted = [now != then for now, then in zip(processes(agent), before, strict=True)]
    effect = row_of(case.key).effect
    default = (effect in (Effect.CONTAINER, Effect.POD), effect is Effect.POD)
    assert tuple(restarted) == (case.restarts or default)
    same_network = Path(f"/proc/{agent.pid('web', 1)}/ns/net").stat().st_ino == inode
    if case.key != "hostname":
        # That is no part of the network, which is made anew only where both end in one moment.
        assert same_network is not all(restarted)
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")


@pytest.mark.parametrize(
    ("here", "elsewhere"),
    [
        ('hosts = ["*"]', 'hosts = ["no-such-machine"]'),
        ("labels = { site = 'l*' }", "labels = { site = 'x' }"),
    ],
    ids=["hosts", "labels"],
)
def test_a_pod_comes_and_goes_with_the_machines_it_is_for(
    shared: LanAgent, here: str, elsewhere: str
) -> None:
    agent = shared
    agent.write("web", text(agent, {"top": here}))
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.write("web", text(agent, {"top": elsewhere}))
    agent.wait_gone("web")
    assert command_line(pid) == ()
    agent.write("web", text(agent, {"top": here}))
    agent.wait_phase("web", "running")
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")


def test_another_name_is_another_pod(shared: LanAgent) -> None:
    agent = shared
    script = '["/bin/sh", "-c", "echo from $(busybox hostname); exec sleep 1000"]'
    agent.write("web", text(agent, {"command": script}))
    wait_for(lambda: agent.output("web") == ["from web"], "the pod runs")
    agent.wait_phase("web", "running")
    former = processes(agent)
    (agent.pods / "web.toml").rename(agent.pods / "other.toml")
    agent.wait_gone("web")
    # The old one goes, with its logs.
    assert all(command_line(pid) == () for pid, _ in former)
    assert not (agent.data / "logs" / "web").exists()
    agent.wait_phase("other", "running")
    # With the same address, which was free only then.
    wait_for(lambda: agent.output("other") == ["from other"], "it is a pod of its own")
    assert not {pid for pid, _ in former} & {agent.pid("other", 0), agent.pid("other", 1)}
    (agent.pods / "other.toml").unlink()
    agent.wait_gone("other")


def started(agent: LanAgent) -> dict[str, tuple[object, int]]:
    """Return the process of each container that runs, and how often each that is over has begun."""
    containers = agent.status("web")["containers"]  # type: ignore[index]
    return {one["name"]: (one["pid"], len(agent.output("web", one["name"]))) for one in containers}


def test_the_change_of_an_init_container_restarts_all_that_are_not(shared: LanAgent) -> None:
    agent = shared
    script = '["/bin/sh", "-c", "echo {word}"]'
    first = (
        f'[[containers]]\nname = "first"\nrootfs = "{agent.home}/rootfs"\ninit = true\ncommand = {script}\n'
    )

    def written(text_: str, restarted: bool, generation: int) -> dict[str, tuple[object, int]]:
        before = started(agent) if agent.status("web") else {}
        agent.write("web", text_)
        wait_for(lambda: settled(agent, generation), f"it is {generation}")
        agent.wait_phase("web", "running")
        after = started(agent)
        for name in ("app", "other"):
            assert (before.get(name, (0, 0))[0] != after[name][0]) is restarted, (name, before, after)
        return after

    plain = text(agent, {})
    written(plain, True, 1)
    # It comes, changes, is limited, and goes.
    assert written(plain + first.format(word="one"), True, 2)["first"] == (None, 1)
    agent.wait_output("web", "one", container="first")
    written(plain + first.format(word="two"), True, 3)
    agent.wait_output("web", "one", "two", container="first")
    written(plain + first.format(word="two") + "limits.pids = 50\n", False, 4)
    written(plain, True, 5)
    # It has run once for each change of its own.
    assert agent.output("web", "first") in ([], ["one", "two"])
    (agent.pods / "web.toml").unlink()
    agent.wait_gone("web")
