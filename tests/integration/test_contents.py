"""Files, secrets, file systems in memory and directories of volumes, as a container sees them."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tank_agent.linux import mounts, pidfd
from tank_agent.runtime.mounts import restore
from tank_agent.runtime.mounts.contents import Contents, Payload
from tank_agent.runtime.mounts.volumes import Volumes
from tank_agent.runtime.run import RECORD, LiveRun, RunRecord, read_file
from tank_agent.spec.model import Mount, Volume
from tests.support.agent import Agent, ended, wait_for

SOON = 10.0
USERNS = '[containers.security]\nuserns = "auto"\n'
READ_ONLY = "read_only = true\n"
# Prints a line for each signal, and ends as it is asked to.
ON_HUP = "trap 'echo hup' HUP; trap 'exit 0' TERM; echo started; while :; do sleep 1000 & wait $!; done"


def shell(text: str) -> list[str]:
    return ["/bin/busybox", "sh", "-c", text]


def file(name: str, content: str) -> str:
    return f'[[files]]\nname = "{name}"\ncontent = """{content}"""\n'


def mount(what: str, path: str = "", *more: str) -> str:
    lines = [what, *([f'path = "{path}"'] if path else []), *more]
    return "".join(f"{line}\n" for line in ("[[containers.mounts]]", *lines))


def key(agent: Agent, name: str, content: str) -> str:
    """Write a secret in a file of the host, and return its table."""
    (agent.home / name).write_text(content)
    return f'[[secrets]]\nname = "{name}"\nhost = "{agent.home / name}"\n'


def inside(agent: Agent, *argv: str, pod: str = "web", check: bool = True) -> str:
    """Run a program of this machine in a container's mount namespace."""
    command = ["nsenter", "--target", str(agent.pid(pod)), "--mount", "--root", "/bin/busybox", *argv]
    return subprocess.run(command, check=check, timeout=10, capture_output=True, text=True).stdout


def root(agent: Agent, pod: str = "web") -> Path:
    return Path(f"/proc/{agent.pid(pod)}/root")


def mounted(agent: Agent, pod: str = "web") -> list[str]:
    return mounts_of(agent.pid(pod))


def mounts_of(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
    return sorted(" ".join(line.split()[4:6]) for line in lines)


def status(agent: Agent, pod: str = "web") -> dict[str, Any]:
    found = agent.status(pod)
    assert found is not None
    return found


def events(agent: Agent, pod: str = "web") -> list[str]:
    return [event.type for event in agent.client.events() if event.pod == pod]


@pytest.mark.parametrize("more", ["", READ_ONLY, USERNS])
def test_owner_and_mode_are_those_of_the_mount(open_agent: Agent, more: str) -> None:
    agent, base = open_agent, 0
    head = file("conf", "a = 1\n") + key(agent, "password", "hunter2")
    extra = 'user = "web"\n' + more.partition("[")[0] + mount('file = "conf"', "/etc/app/app.conf")
    extra += mount('file = "conf"', "/srv/own.conf", 'mode = "0440"', 'owner = "1000:2000"')
    extra += mount('secret = "password"')
    extra += mount('secret = "password"', "/srv/key", 'mode = "0640"', 'owner = "root:extra"')
    extra += more if more == USERNS else ""
    agent.write("web", agent.pod_text(head=head, extra=extra))
    agent.wait_phase("web", "running")
    if more == USERNS:
        base = int(Path(f"/proc/{agent.pid('web')}/uid_map").read_text().split()[1])
    found = {
        path: root(agent).joinpath(path.lstrip("/"))
        for path in ("/etc/app/app.conf", "/srv/own.conf", "/run/secrets/password", "/srv/key")
    }
    stats = {path: file.stat() for path, file in found.items()}
    shown = {
        path: (stat.S_IMODE(one.st_mode), one.st_uid - base, one.st_gid - base) for path, one in stats.items()
    }
    assert shown == {
        "/etc/app/app.conf": (0o644, 0, 0),
        "/srv/own.conf": (0o440, 1000, 2000),
        "/run/secrets/password": (0o400, 1000, 1000),
        "/srv/key": (0o640, 0, 2000),
    }
    assert found["/etc/app/app.conf"].read_text() == "a = 1\n"
    assert found["/srv/key"].read_text() == found["/run/secrets/password"].read_text() == "hunter2"
    options = {line.split()[0]: line.split()[1].split(",") for line in mounted(agent)}
    for path in found:
        assert {"ro", "nosuid", "nodev"} <= set(options[path])


def test_secrets_are_in_memory_that_is_never_swapped_and_gone_with_the_run(agent: Agent) -> None:
    head = key(agent, "password", "hunter2")
    pod = agent.write("web", agent.pod_text(head=head, extra=mount('secret = "password"')))
    agent.wait_phase("web", "running")
    secrets = agent.run / "secrets"
    line = next(line for line in Path("/proc/mounts").read_text().splitlines() if f" {secrets} " in line)
    kind, options = line.split()[2:4]
    assert (kind == "tmpfs" and "noswap" in options) or kind == "ramfs"
    assert {"nosuid", "nodev", "noexec"} <= set(options.split(","))
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    (run,) = secrets.iterdir()
    assert [entry.read_text() for entry in run.iterdir()] == ["hunter2"]
    pod.unlink()
    agent.wait_gone("web")
    assert not secrets.exists()
    assert f" {secrets} " not in Path("/proc/mounts").read_text()


def given(path: str, *more: str) -> str:
    return mount('file = "conf"', path, *more)


NESTED = '[[volumes]]\nname = "data"\n'


@pytest.mark.parametrize("more", ["", USERNS, READ_ONLY])
@pytest.mark.parametrize("path", ["/etc/app.conf", "/data/sub/app.conf", "/run/app/app.conf"])
def test_new_content_reaches_a_container_that_goes_on_and_a_signal_follows(
    open_agent: Agent, path: str, more: str
) -> None:
    agent = open_agent

    def text(content: str) -> str:
        extra = more if more == READ_ONLY else ""
        extra += mount('volume = "data"', "/data") + mount('tmpfs = "1M"', "/run")
        extra += given(path, 'on_change = "signal:HUP"') + (more if more == USERNS else "")
        return agent.pod_text(command=shell(ON_HUP), head=NESTED + file("conf", content), extra=extra)

    agent.write("web", text("one"))
    agent.wait_output("web", "started")
    agent.wait_phase("web", "running")
    pid, seen = agent.pid("web"), root(agent) / path.lstrip("/")
    assert seen.read_text() == "one"
    stacked = len(mounted(agent))
    for number, content in enumerate(("two", "three", "one", "four"), start=1):
        agent.write("web", text(content))
        wait_for(lambda number=number: agent.output("web").count("hup") == number, "it is told")  # type: ignore[misc]
        assert seen.read_text() == content
    agent.wait_phase("web", "running")
    assert agent.pid("web") == pid
    assert agent.output("web") == ["started", *["hup"] * 4]
    # One that a user namespace has locked stays below the others.
    assert len(mounted(agent)) <= stacked + (1 if more == USERNS else 0)
    status = wait_for(
        lambda: (agent.status("web") or {})["rollout"]["outcome"] and agent.status("web"), "a verdict"
    )
    assert status["generation"] == 5
    assert status["rollout"]["outcome"] == "good"
    (run,) = [entry for entry in (agent.run / "containers").iterdir() if entry.is_dir()]
    assert [entry.read_text() for entry in (run / "contents").iterdir()] == ["four"]


def test_content_that_nobody_is_told_of_changes_and_what_restarts_restarts(agent: Agent) -> None:
    def text(quiet: str, loud: str) -> str:
        head = file("quiet", quiet) + file("loud", loud)
        extra = mount('file = "quiet"', "/quiet", 'on_change = "nothing"') + mount('file = "loud"', "/loud")
        other = agent.pod_text(extra=mount('file = "quiet"', "/quiet", 'on_change = "nothing"'))
        return agent.pod_text(command=shell(ON_HUP), head=head, extra=extra) + other.replace(
            '"app"', '"other"'
        )

    agent.write("web", text("one", "one"))
    agent.wait_phase("web", "running")
    pid, other = agent.pid("web"), agent.pid("web", 1)
    seen = root(agent) / "quiet"
    agent.write("web", text("two", "one"))
    wait_for(lambda: seen.read_text() == "two", "it is there")
    agent.wait_phase("web", "running")
    assert (agent.pid("web"), agent.output("web")) == (pid, ["started"])
    agent.write("web", text("two", "two"))
    wait_for(lambda: agent.output("web") == ["started", "started"], "it is restarted")
    agent.wait_phase("web", "running")
    assert (root(agent) / "loud").read_text() == "two"
    # A container that does not mount it goes on.
    assert agent.pid("web", 1) == other
    assert agent.pid("web") != pid


READER = """\
import sys
path, sizes, bad, count = sys.argv[1], set(), 0, 0
print("ready", flush=True)
import os
while not os.path.exists(sys.argv[2]):
    with open(path, "rb") as file:
        data = file.read()
    count += 1
    sizes.add(data[:1])
    if len(data) != 100_000 or len(set(data)) != 1:
        bad += 1
print(count, bad, len(sizes), flush=True)
"""


@pytest.mark.parametrize("path", ["/etc/app.conf", "/data/app.conf"])
def test_a_reader_finds_a_whole_file_during_two_hundred_changes(
    agent: Agent, path: str, tmp_path: Path
) -> None:
    def text(number: int) -> str:
        head = NESTED + file("conf", chr(97 + number % 26) * 100_000)
        extra = mount('volume = "data"', "/data") + given(path, 'on_change = "nothing"')
        return agent.pod_text(head=head, extra=extra)

    agent.write("web", text(0))
    agent.wait_phase("web", "running")
    stop, seen = tmp_path / "stop", root(agent) / path.lstrip("/")
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(seen), str(stop)], stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    for number in range(1, 201):
        agent.write("web", text(number))
        want = chr(97 + number % 26)
        wait_for(lambda want=want: seen.read_text()[:1] == want, "it is there")  # type: ignore[misc]
    stop.touch()
    output, _ = reader.communicate(timeout=60)
    count, bad, kinds = map(int, output.split())
    assert (bad, kinds) == (0, 26)
    assert count > 1000
    assert len([line for line in mounted(agent) if line.split()[0] == path]) == 1


def test_a_secret_of_the_host_that_changes_is_delivered_or_restarts(agent: Agent) -> None:
    head = key(agent, "live", "one") + key(agent, "firm", "one")
    extra = mount('secret = "live"', "", 'on_change = "signal:HUP"') + mount('secret = "firm"')
    agent.write("web", agent.pod_text(command=shell(ON_HUP), head=head, extra=extra))
    agent.wait_output("web", "started")
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    (agent.home / "live").write_text("two")
    wait_for(lambda: "hup" in agent.output("web"), "it is told")
    assert (root(agent) / "run" / "secrets" / "live").read_text() == "two"
    assert agent.pid("web") == pid
    # One that can't be read is as it was.
    (agent.home / "firm").rename(agent.home / "away")
    agent.client.sync()
    (agent.home / "away").rename(agent.home / "firm")
    (agent.home / "firm").write_text("two")
    wait_for(lambda: agent.output("web") == ["started", "hup", "started"], "it is restarted")
    agent.wait_phase("web", "running")
    assert (root(agent) / "run" / "secrets" / "firm").read_text() == "two"
    assert status(agent)["generation"] == 1


def test_a_secret_that_is_not_there_is_said_in_a_sentence(agent: Agent) -> None:
    head = f'[[secrets]]\nname = "key"\nhost = "{agent.home}/absent"\n'
    agent.write("web", agent.pod_text(head=head, extra=mount('secret = "key"')))
    error = wait_for(lambda: (agent.status("web") or {}).get("error"), "it is said")
    assert "key" in error
    assert str(agent.home / "absent") in error
    (agent.home / "absent").write_text("here")
    agent.wait_phase("web", "running")


@pytest.mark.parametrize("path", ["/etc/app.conf", "/data/app.conf", "/run/secrets/key"])
def test_what_a_container_lost_is_there_again(agent: Agent, path: str) -> None:
    head = NESTED + file("conf", "one") + key(agent, "key", "one")
    extra = READ_ONLY + mount('volume = "data"', "/data") + mount('secret = "key"')
    extra += given("/etc/app.conf") + given("/data/app.conf")
    agent.write("web", agent.pod_text(head=head, extra=extra))
    agent.wait_phase("web", "running")
    before, pid, seen = mounted(agent), agent.pid("web"), root(agent) / path.lstrip("/")
    inside(agent, "umount", "-l", path)
    wait_for(lambda: mounted(agent) == before, "it is mounted again", SOON)
    assert seen.read_text() == "one"
    # A file of its own on top.
    inside(
        agent,
        "sh",
        "-c",
        f"busybox echo fake > /tmp/fake; busybox mount --bind /tmp/fake {path}",
        check=False,
    )
    subprocess.run(
        ["nsenter", "-t", str(pid), "-m", "/bin/busybox", "sh", "-c",
         f"echo fake > /tmp/fake && mount --bind /tmp/fake {path}"], check=True, timeout=10,
    )  # fmt: skip
    wait_for(lambda: seen.read_text() == "one", f"it is there again: {status(agent)}", SOON)
    assert agent.pid("web") == pid
    agent.wait_phase("web", "running")


def test_file_systems_in_memory_have_a_size_and_a_mode(open_agent: Agent) -> None:
    agent = open_agent
    extra = (
        mount('tmpfs = "1M"', "/scratch")
        + mount('tmpfs = "2M"', "/data/cache")
        + mount('volume = "data"', "/data")
    )
    for name, more in (("web", ""), ("userns", USERNS)):
        agent.write(name, agent.pod_text(head=NESTED, extra=extra + more))
    for name in ("web", "userns"):
        agent.wait_phase(name, "running")
        for path, size in (("scratch", 1), ("data/cache", 2)):
            found = root(agent, name) / path
            assert stat.S_IMODE(found.stat().st_mode) == 0o1777
            usage = os.statvfs(found)
            assert usage.f_blocks * usage.f_frsize == size << 20
        options = {line.split()[0]: line.split()[1] for line in mounted(agent, name)}
        assert all("nosuid,nodev" in options[path] for path in ("/scratch", "/data/cache"))
    # Not even a directory of it is on the disk.
    assert sorted(entry.name for entry in (agent.data / "volumes" / "web" / "data").iterdir()) == ["cache"]
    inside(agent, "touch", "/data/cache/x")
    assert not (agent.data / "volumes" / "web" / "data" / "cache" / "x").exists()


def test_a_read_only_root_has_places_to_write(agent: Agent) -> None:
    (agent.rootfs / "run" / "app").mkdir(parents=True)
    os.chown(agent.rootfs / "run" / "app", 1000, 1000)
    (agent.rootfs / "var").mkdir()
    (agent.rootfs / "var" / "tmp").symlink_to("/tmp")
    script = "for d in /tmp /run /run/app /var/tmp /etc; do busybox touch $d/x && echo $d; done; sleep 1000"
    extra = 'user = "web"\n' + READ_ONLY
    agent.write("web", agent.pod_text(command=shell(script), extra=extra))
    wait_for(lambda: len(agent.output("web")) >= 5, "it tried")
    assert [line for line in agent.output("web") if line.startswith("/")] == [
        "/tmp",
        "/run",
        "/run/app",
        "/var/tmp",
    ]
    paths = [line.split()[0] for line in mounted(agent)]
    assert paths.count("/tmp") == paths.count("/run") == 1
    assert "/var/tmp" not in paths


def test_a_file_system_in_memory_counts_to_the_memory_of_the_container(agent: Agent) -> None:
    script = "busybox head -c 20000000 /dev/zero > /scratch/x; echo $?; busybox sleep 1000"
    extra = mount('tmpfs = "64M"', "/scratch") + '[containers.limits]\nmemory = "16M"\n'
    agent.write("web", agent.pod_text(command=shell(script), extra=extra))
    wait_for(lambda: agent.output("web"), "it tried")
    assert agent.output("web")[0] != "0"


def test_a_directory_of_a_volume_is_made_for_the_user(open_agent: Agent) -> None:
    agent = open_agent
    for name, more in (("web", ""), ("userns", USERNS)):
        extra = 'user = "web"\n' + mount('volume = "data"', "/data", 'subpath = "a/b"') + more
        agent.write(name, agent.pod_text(head=NESTED, extra=extra))
    for name in ("web", "userns"):
        agent.wait_phase(name, "running")
        volume = agent.data / "volumes" / name / "data"
        assert [entry.name for entry in volume.iterdir()] == ["a"]
        found = (volume / "a" / "b").stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1000, 0o755)
        (volume / "a" / "b" / "x").touch()
        assert (root(agent, name) / "data" / "x").exists()
    before = mounted(agent)
    inside(agent, "umount", "-l", "/data")
    wait_for(lambda: mounted(agent) == before, "it is mounted again", SOON)
    assert (root(agent) / "data" / "x").exists()


RELOADS = """
reload() { busybox rm -f /tmp/well; busybox grep -q good /etc/app.conf && busybox touch /tmp/well; }
trap 'reload; echo hup' HUP; trap 'exit 0' TERM; reload; echo started; while :; do sleep 1000 & wait $!; done
"""
HEALTH = """
[containers.health]
exec = ["/bin/busybox", "test", "-e", "/tmp/well"]
interval = "1s"
retries = 1
on_failure = "none"
[update]
min_healthy = "1s"
deadline = "60s"
"""


def test_new_content_that_makes_a_program_unhealthy_goes_back(agent: Agent) -> None:
    def text(content: str, deadline: str = "60s") -> str:
        extra = given("/etc/app.conf", 'on_change = "signal:HUP"') + HEALTH.partition("[update]")[0]
        head = "[update]" + HEALTH.partition("[update]")[2].replace("60s", deadline) + file("conf", content)
        return agent.pod_text(command=shell(RELOADS), head=head, extra=extra)

    agent.write("web", text("good 1"))
    agent.wait_output("web", "started")
    wait_for(lambda: status(agent)["rollout"]["outcome"] == "good", "it is found to be good")
    pid, seen = agent.pid("web"), root(agent) / "etc/app.conf"
    agent.write("web", text("good 2"))
    wait_for(lambda: seen.read_text() == "good 2", "it is there")
    wait_for(lambda: status(agent)["rollout"]["state"] == "good", "it is found to be good, too")
    agent.write("web", text("bad", "6s"))
    wait_for(lambda: seen.read_text() == "bad", "it is there")
    wait_for(lambda: status(agent)["rollout"]["state"] == "rolled-back", "it goes back")
    assert seen.read_text() == "good 2"
    assert status(agent)["health"] == "healthy"
    assert (agent.pid("web"), agent.output("web")) == (pid, ["started", "hup", "hup", "hup"])
    said = [event.message for event in agent.client.events() if event.type == "delivered"]
    assert said == ["give container app the new content of /etc/app.conf while it runs, then send SIGHUP"] * 3
    assert "files[conf].content" in agent.tank("why", "web").stdout


def test_a_plan_says_what_is_delivered(agent: Agent) -> None:
    def text(content: str) -> str:
        extra = given("/etc/app.conf", 'on_change = "signal:HUP"')
        return agent.pod_text(head=file("conf", content), extra=extra)

    path = agent.write("web", text("one"))
    agent.wait_phase("web", "running")
    wait_for(lambda: status(agent)["rollout"]["outcome"] == "good", "it is found to be good")
    other = agent.home / path.name
    other.write_text(text("two"))
    planned = agent.tank("plan", str(other)).stdout
    assert "give container app the new content of /etc/app.conf while it runs, then send SIGHUP" in planned
    assert "start container" not in planned


@pytest.fixture
def stopped_agent(tmp_path: Path) -> Iterator[Agent]:
    """Return an agent that does not run yet."""
    agent = Agent(tmp_path)
    with ended(agent):
        yield agent


def crashing(agent: Agent, content: str) -> str:
    head = NESTED + file("conf", content) + key(agent, "key", content)
    extra = mount('volume = "data"', "/data", 'subpath = "a/b"')
    extra += given("/data/app.conf", 'on_change = "signal:HUP"')
    extra += mount('secret = "key"', "", 'on_change = "signal:HUP"')
    return agent.pod_text(command=shell(ON_HUP), head=head, extra=extra)


def is_delivered(agent: Agent, content: str) -> bool:
    return all((root(agent) / path).read_text() == content for path in ("data/app.conf", "run/secrets/key"))


@pytest.mark.parametrize("point", ["content-written", "content-written@2", "secrets-mounted", "subpath-made"])
def test_killed_while_content_is_made_for_a_container(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", crashing(agent, "one"))
    agent.launch(fault=f"runtime:{point}")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_phase("web", "running")
    assert is_delivered(agent, "one")
    assert len(list((agent.run / "secrets").iterdir())) == 1
    volume = agent.data / "volumes" / "web" / "data"
    assert [path.name for path in volume.iterdir()] == ["a"]
    assert [path.name for path in (volume / "a").iterdir()] == ["b"]


@pytest.mark.parametrize(
    "point",
    ["record.json", "content-written", "content-written@2", "content-beneath", "content-beneath@2",
     "content-mounted", "content-signalled", "bound-again"],
)  # fmt: skip
def test_killed_while_new_content_is_delivered(stopped_agent: Agent, point: str) -> None:
    agent = stopped_agent
    agent.write("web", crashing(agent, "one"))
    agent.start()
    agent.wait_output("web", "started")
    agent.wait_phase("web", "running")
    pid = agent.pid("web")
    agent.kill()
    agent.write("web", crashing(agent, "two"))
    agent.launch(fault=f"runtime:{point}")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    wait_for(lambda: is_delivered(agent, "two"), "it is delivered")
    wait_for(lambda: "hup" in agent.output("web"), "it is told")
    agent.wait_phase("web", "running")
    assert agent.pid("web") == pid
    # Once more for a kill at most, and not for ever.
    wait_for(lambda: status(agent)["rollout"]["outcome"] == "good", "it is found to be good")
    assert 1 <= agent.output("web").count("hup") <= 4
    assert agent.output("web").count("started") == 1
    for directory in (*(agent.run / "containers").glob("*/contents"), *(agent.run / "secrets").iterdir()):
        left = {entry.read_text() for entry in directory.iterdir()}
        # A mount too many is below; then the oldest file stays until the container ends.
        assert left == {"two"} or ("beneath" in point and left == {"one", "two"})


def test_killed_while_secrets_are_removed(stopped_agent: Agent) -> None:
    agent = stopped_agent
    path = agent.write("web", crashing(agent, "one"))
    agent.start()
    agent.wait_phase("web", "running")
    agent.kill()
    path.unlink()
    agent.write("other", agent.pod_text())
    agent.launch(fault="runtime:secrets-removed")
    assert agent.died() == -signal.SIGKILL
    agent.start()
    agent.wait_gone("web")
    agent.wait_phase("other", "running")
    assert not (agent.run / "secrets").exists()


def test_secrets_of_runs_that_are_gone_are_swept(stopped_agent: Agent) -> None:
    agent = stopped_agent
    agent.write("web", crashing(agent, "one"))
    agent.start()
    agent.wait_phase("web", "running")
    agent.kill()
    (agent.run / "secrets" / "web-app-0000000000").mkdir()
    (agent.run / "secrets" / "web-app-0000000000" / "x").write_text("old")
    agent.start()
    agent.wait_phase("web", "running")
    assert not (agent.run / "secrets" / "web-app-0000000000").exists()
    assert is_delivered(agent, "one")


SWAPS = """
cd /data; busybox mkdir -p sub/a
while :; do
  busybox mv sub real; busybox ln -s / sub; busybox rm sub; busybox ln -s ../../../../../../etc sub
  busybox rm sub; busybox mv real sub; busybox usleep 20000
done
"""


def test_a_container_that_swaps_links_never_leads_a_subpath_out_of_its_volume(agent: Agent) -> None:
    """The class of CVE-2017-1002101: another container with the volume races with each start."""
    attacker = agent.pod_text(command=shell(SWAPS), extra=mount('volume = "data"', "/data"))
    look = "test -e /sub/passwd -o -e /sub/bin -o -e /sub/shadow && echo escaped; echo looked; exit 1"
    victim = agent.pod_text(
        command=shell(look.replace("test", "busybox test", 1)),
        extra=mount('volume = "data"', "/sub", 'subpath = "sub/a"')
        + mount('volume = "data"', "/two", 'subpath = "sub"'),
    ).replace('"app"', '"victim"')
    before = {path: sorted(Path(path).iterdir()) for path in ("/", "/etc")}
    agent.write("web", NESTED + attacker + victim)

    def tried() -> bool:
        kinds = Counter(event.type for event in agent.client.events() if event.container == "victim")
        return kinds["start-failed"] >= 5 and kinds["started"] >= 20

    wait_for(tried, "it raced often", 60)
    assert "escaped" not in agent.output("web", "victim")
    assert {path: sorted(Path(path).iterdir()) for path in ("/", "/etc")} == before


def of(text: str) -> Payload:
    return Payload(read=lambda: (text.encode(), hashlib.sha256(text.encode()).hexdigest()))


def test_without_beneath_what_is_stacked_stays_few_and_is_whole(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before Linux 6.5 mount on top."""
    extra = mount('volume = "data"', "/data") + given("/data/app.conf", 'on_change = "nothing"')
    agent.write("web", agent.pod_text(head=NESTED + file("conf", "0"), extra=extra))
    agent.wait_phase("web", "running")
    attach, seen = mounts.attach, root(agent) / "data/app.conf"
    bundle = next((agent.run / "containers").iterdir())
    record = read_file(bundle / RECORD, RunRecord)
    pid = agent.pid("web")
    process = pidfd.open_process(pid)
    assert record is not None
    assert process is not None
    agent.kill()

    def refuse(tree: int, target: int | Path, *, beneath: bool = False) -> None:
        if beneath:
            raise OSError(errno.EINVAL, "invalid")
        attach(tree, target)

    monkeypatch.setattr(mounts, "attach", refuse)
    run, binder = LiveRun(record=record, directory=bundle, process=process), Volumes(agent.data, agent.run)
    spec = Mount(volume="data", path="/data"), Mount(file="conf", path="/data/app.conf")
    contents, deepest = Contents(agent.run), 0
    for number in range(1, 41):
        digest = contents.write_again(record.id, bundle, "/data/app.conf", of(str(number)))
        new = {"/data/app.conf": contents.source(record.id, bundle, "/data/app.conf", digest)}
        depth = restore.replace_contents(run, spec, [Volume(name="data")], binder, new)
        contents.keep_only(replace(record, contents={"/data/app.conf": digest}), bundle, stacked=depth)
        assert seen.read_text() == str(number)
        stacked = [line for line in mounts_of(pid) if line.startswith("/data/app.conf ")]
        deepest = max(deepest, depth)
        assert depth == len(stacked)
    os.close(process)
    assert deepest == 16
    assert len(list((bundle / "contents").iterdir())) <= 17


@pytest.mark.parametrize("remount", ["ro", "size=4k"])
def test_a_container_that_remounts_its_secret_keeps_no_other_from_its_own(agent: Agent, remount: str) -> None:
    """It needs CAP_SYS_ADMIN for that, and an init program does it as it ends."""
    admin = '[containers.security]\ncapabilities = { add = ["SYS_ADMIN"] }\n'
    agent.write("web", agent.pod_text(head=key(agent, "a", "one"), extra=mount('secret = "a"') + admin))
    agent.wait_phase("web", "running")
    lines = Path("/proc/mounts").read_text().splitlines()
    kind = next(line.split()[2] for line in lines if f" {agent.run}/secrets " in line)
    if kind == "ramfs" and remount != "ro":
        pytest.skip("a ramfs has no size")
    done = agent.tank("exec", "web", "--", "mount", "-o", f"remount,{remount}", "/run/secrets/a")
    assert done.returncode == 0, done.stderr
    other = agent.write(
        "other", agent.pod_text(head=key(agent, "b", "x" * 100_000), extra=mount('secret = "b"'))
    )
    agent.wait_phase("other", "running")
    assert (root(agent, "other") / "run/secrets/b").read_text() == "x" * 100_000
    agent.tank("exec", "web", "--", "mount", "-o", f"remount,{remount}", "/run/secrets/a")
    other.unlink()
    agent.wait_gone("other")
    assert len(list((agent.run / "secrets").iterdir())) == 1


def test_a_container_does_not_lead_a_secret_of_the_host_to_another_file(agent: Agent) -> None:
    theirs = agent.home / "letsencrypt"
    (theirs / "archive").mkdir(parents=True)
    (theirs / "archive" / "key1").write_text("one")
    (theirs / "archive" / "key2").write_text("two")
    (theirs / "key").symlink_to("archive/key1")
    (agent.home / "shadow").write_text("root's")
    (agent.rootfs / "bin" / "ln").symlink_to("busybox")
    head = f'[[volumes]]\nname = "le"\nhost = "{theirs}"\n'
    agent.write("certbot", agent.pod_text(head=head, extra=mount('volume = "le"', "/le")))
    agent.wait_phase("certbot", "running")
    head = f'[[secrets]]\nname = "key"\nhost = "{theirs / "key"}"\n'
    agent.write("web", agent.pod_text(head=head, extra=mount('secret = "key"', "", 'on_change = "nothing"')))
    agent.wait_phase("web", "running")
    place = root(agent) / "run/secrets/key"
    assert place.read_text() == "one"
    found = agent.client.exec("certbot", ["ln", "-sfn", "../shadow", "/le/key"])
    assert (theirs / "key").readlink() == Path("../shadow"), found
    for _ in range(2):
        agent.client.sync()
        assert place.read_text() == "one"
    agent.client.exec("certbot", ["ln", "-sfn", "archive/key2", "/le/key"])
    wait_for(lambda: place.read_text() == "two", "the secret is the new key")
