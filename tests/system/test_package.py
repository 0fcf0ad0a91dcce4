"""The package: what apt installs, and what systemd makes of it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import COUNT, Installed
from tests.support.page import differences, script_of, steps_of


def contiguous(lines: list[str]) -> int:
    """Return the last number that was printed; fail if one before it is missing or there twice."""
    numbers = [int(line) for line in lines if line.isdigit()]
    assert numbers == list(range(1, len(numbers) + 1)), numbers[:5]
    return len(numbers)


def test_everything_has_its_place(package: Path, installed: Installed) -> None:
    listed = installed.sh("dpkg -L tank-agent")
    for path in (
        "/usr/bin/tank",
        "/usr/lib/systemd/system/tank-agent.service",
        "/usr/lib/systemd/system/tank-pods.service",
        "/usr/lib/sysusers.d/tank-agent.conf",
        "/usr/lib/tmpfiles.d/tank-agent.conf",
        "/etc/apparmor.d/tank-default",
        "/etc/needrestart/conf.d/tank-agent.conf",
        "/usr/share/bash-completion/completions/tank",
        "/usr/share/fish/vendor_completions.d/tank.fish",
        "/usr/share/zsh/vendor-completions/_tank",
        "/usr/share/man/man1/tank.1.gz",
        "/usr/share/man/man1/tank-exec.1.gz",
        "/usr/share/man/man5/tank-agent.toml.5.gz",
        "/usr/share/man/man5/tank-pod.5.gz",
        "/usr/share/man/man8/tank-agent.8.gz",
        "/usr/share/tank-agent/agent.schema.json",
        "/usr/share/tank-agent/pod.schema.json",
    ):
        assert path in listed.splitlines()
    conffiles = installed.sh("dpkg-query -W -f '${Conffiles}' tank-agent")
    assert "/etc/tank/agent.toml" in conffiles
    assert "/etc/tank/pods.d/example.toml.sample" in conffiles
    assert "/etc/apparmor.d/tank-default" in conffiles
    assert (
        installed.sh("grep ^tank-default /sys/kernel/security/apparmor/profiles") == "tank-default (enforce)"
    )
    assert installed.sh("getent group tank").startswith("tank:")
    schema = json.loads(installed.sh("cat /usr/share/tank-agent/pod.schema.json"))
    assert schema == json.loads(installed.vm.tank("schema").out)
    # Messages name what is there to be read.
    installed.vm.write("/root/odd.toml", '[[containers]]\nname = "app"\nrootfs = "/srv"\nflavour = "sweet"\n')
    assert "`man tank-pod`" in installed.vm.tank("validate", "/root/odd.toml", check=False).err
    assert (
        installed.sh("test -s $(python3 -c 'from tank_agent.spec.pages import *; print(page(\"images\"))')")
        == ""
    )
    # At power off, pods end before network file systems that they may have volumes on.
    assert {"network.target", "remote-fs.target"} <= set(
        installed.sh("systemctl show -P After tank-pods").split()
    )
    # Nothing in it is of one architecture.
    assert _field(package, "Architecture") == "all"
    # Without these, it lacks no more than secrets, profiles, the examples' image, speed and the YAML of CDI.
    assert _field(package, "Recommends") == "age, apparmor, busybox-static, python3-isal, python3-yaml"
    assert {"python3-croniter", "tzdata"} <= {
        name.split()[0] for name in _field(package, "Depends").split(", ")
    }


def _field(package: Path, name: str) -> str:
    shown = subprocess.run(["dpkg-deb", "-f", str(package), name], capture_output=True, check=True)
    return shown.stdout.decode().strip()


def test_the_sample_starts_nothing_and_the_machine_is_well(machine: Installed) -> None:
    assert machine.statuses() == {}
    assert machine.sh("systemctl is-active tank-agent tank-pods") == "active\nactive"
    assert machine.sh("systemctl --failed --no-legend") == ""
    doctor = json.loads(machine.vm.tank("doctor", "-o", "json").out)
    assert doctor, "the doctor is silent"


def test_the_group_may_use_the_agent_and_nobody_else(installed: Installed) -> None:
    installed.sh("useradd -G tank member && useradd stranger")
    try:
        assert installed.sh("runuser -u member -- tank list -o json") == "[]"
        refused = installed.vm.run("runuser", "-u", "stranger", "--", "tank", "list", check=False)
        assert refused.code == 1
        assert "only root and members of group tank" in refused.err
        assert "usermod -aG tank" in refused.err
        # The socket is not the only place where passwords of pods are: their files have them, too.
        assert installed.sh("stat -c '%a %U %G' /etc/tank") == "750 root tank"
        sample = "/etc/tank/example.toml"
        installed.sh(f"cp /etc/tank/pods.d/example.toml.sample {sample}")
        installed.sh(f"runuser -u member -- tank validate {sample}")
        for reading in (f"cat {sample}", "cat /etc/tank/agent.toml", f"tank validate {sample}"):
            denied = installed.vm.run("sh", "-c", f"runuser -u stranger -- {reading}", check=False)
            assert denied.code == 1 and "denied" in denied.err, reading
        doctor = installed.vm.run("runuser", "-u", "stranger", "--", "tank", "doctor", check=False)
        assert "/etc/tank/agent.toml: can't be read: Permission denied" in doctor.out, doctor
        assert "Traceback" not in doctor.err
    finally:
        installed.sh("userdel member; userdel stranger; rm -f /etc/tank/example.toml")


def test_the_run_directory_is_made_again_by_systemd(machine: Installed) -> None:
    machine.sh("systemctl stop tank-pods && rm -r /run/tank && systemd-tmpfiles --create")
    assert machine.sh("stat -c '%a %U %G' /run/tank /var/lib/tank") == "711 root root\n711 root root"
    machine.sh("systemctl start tank-agent")
    machine.wait_for_agent()


def test_the_security_page_has_systemds_figure_and_every_option(installed: Installed) -> None:
    said = installed.sh("systemd-analyze security --no-pager tank-agent | tail -1")
    figure = re.search(r"tank-agent\.service: ([0-9.]+) ", said)
    assert figure is not None, said
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert f"`systemd-analyze security tank-agent` says {figure.group(1)} (of 10" in page
    looked_at = json.loads(
        installed.sh("systemd-analyze security --no-pager --json=short tank-agent", check=False)
    )
    # Such as "User=/DynamicUser=" or "CapabilityBoundingSet=~CAP_SYS_ADMIN".
    options = {option for check in looked_at for option in re.findall(r"[A-Z][A-Za-z]+=", check["name"])}
    assert len(options) > 30
    assert sorted(option for option in options if option not in page) == []


def test_the_first_pod_from_a_file(machine: Installed) -> None:
    machine.pod("web")
    status = machine.wait_phase("web")
    assert status["owner"] == "dir:/etc/tank/pods.d/web.toml"
    pid = status["containers"][0]["pid"]
    assert machine.cgroup(pid).parts[4:7] == ("tank.slice", "tank-pods.service", "tank")
    # Its monitor outlives the agent, too.
    monitor = int(machine.sh("pgrep -x conmon"))
    assert machine.cgroup(monitor).parts[4:] == ("tank.slice", "tank-pods.service", "tank-monitors")
    assert machine.sh("cat /sys/fs/cgroup/tank.slice/tank-agent.service/cgroup.procs | wc -l") == "1"
    # The monitor is spared by the kernel's memory killer; the container is not.
    assert int(machine.sh(f"cat /proc/{pid}/oom_score_adj")) == 0
    machine.remove_pod("web")
    machine.wait("nothing of it is left", lambda: not machine.statuses() and not machine.leftovers())


def test_the_journal_has_the_agents_log_with_fields(machine: Installed) -> None:
    machine.pod("web")
    machine.wait_phase("web")
    entries = [json.loads(line) for line in machine.sh("journalctl -b -o json TANK_POD=web").splitlines()]
    assert {entry["_SYSTEMD_UNIT"] for entry in entries} == {"tank-agent.service"}
    started = [entry for entry in entries if entry["TANK_EVENT"].startswith("start container")]
    assert started
    assert started[-1]["PRIORITY"] == "6"
    assert re.fullmatch("[0-9a-f]{12}", started[-1]["TANK_REVISION"])


# Prints as COUNT does, but enough to fill a log of 64 KiB every few seconds.
_FAST = COUNT.replace("i=$((i+1)); echo $i;", "for _ in {}; do i=$((i+1)); echo $i; done;").format("1 " * 20)


@pytest.fixture
def small_logs(machine: Installed) -> Iterator[None]:
    """Have logs rotated all the time, and none of them forgotten."""
    machine.sh("cp /etc/tank/agent.toml /root/agent.toml")
    machine.vm.write("/etc/tank/agent.toml", '[logs]\nmax_size = "64K"\nmax_files = 100\n')
    machine.sh("systemctl reload tank-agent")
    yield
    machine.sh("cp /root/agent.toml /etc/tank/agent.toml; systemctl restart tank-agent")


@pytest.mark.usefixtures("small_logs")
def test_restart_kill_reload_and_reexec_leave_pods_limits_and_logs_alone(machine: Installed) -> None:
    machine.pod("web", _FAST, extra='[containers.limits]\nmemory = "64M"\npids = 50\ncpu = 0.5')
    pid = machine.wait_phase("web")["containers"][0]["pid"]
    group = machine.cgroup(pid)
    monitor = machine.sh("pgrep -x conmon")
    rotated = _rotated(machine)
    for disturbance, replaces in (
        ("systemctl restart tank-agent", True),
        ("systemctl kill -s KILL tank-agent", True),
        ("systemctl reload tank-agent", False),
        ("systemctl daemon-reload && systemctl daemon-reexec", False),
        ("systemctl stop tank-agent && systemctl start tank-agent", True),
    ):
        machine.wait_for_agent()
        agent = machine.agent()
        machine.sh(disturbance)
        if replaces:
            machine.wait_for_another_agent(agent)
        machine.wait_for_agent()
        assert (machine.answering() != agent, machine.agent() != agent) == (replaces, replaces), disturbance
        status = machine.wait_phase("web")["containers"][0]
        assert (status["pid"], status["restarts"]) == (pid, 0), disturbance
        assert machine.sh("pgrep -x conmon") == monitor, disturbance
        limits = machine.sh(f"cd {group} && cat memory.max pids.max cpu.max").splitlines()
        assert limits == [str(64 << 20), "50", "50000 100000"], disturbance
    machine.wait("logs were rotated meanwhile", lambda: _rotated(machine) > rotated + 1)
    # Without an agent no file changes its name while they are read.
    machine.sh("systemctl stop tank-agent")
    before = contiguous(machine.lines("web"))
    machine.wait("it goes on to print", lambda: contiguous(machine.lines("web")) > before)
    assert "left-over process" not in machine.sh("journalctl -b -u tank-agent -u tank-pods -o cat")


def _rotated(machine: Installed) -> int:
    return int(machine.sh("ls /var/lib/tank/logs/web | grep -c 'log[.]' || true"))


def test_a_mistake_in_agent_toml_takes_nothing_down(machine: Installed) -> None:
    machine.pod("web")
    pid = machine.wait_phase("web")["containers"][0]["pid"]
    machine.sh("cp /etc/tank/agent.toml /root/agent.toml")
    machine.vm.write("/etc/tank/agent.toml", '[reconcile]\nresink = "5s"\n')
    mistake = "agent.toml:2: reconcile.resink"
    said = "journalctl -b -u tank-agent -p warning -o cat"
    try:
        agent = machine.agent()
        refused = machine.vm.run("systemctl", "reload", "tank-agent", check=False)
        assert refused.code != 0 and "tank-agent.service failed" in refused.err, refused
        # The agent's own word, and that of `tank agent --check`, which is the first that says it.
        machine.wait("both say why", lambda: machine.sh(f"{said} -n 20").count(mistake) >= 2)
        shown = machine.sh("systemctl status --no-pager tank-agent")
        assert "agent.toml has errors" in shown and mistake in shown
        assert (machine.agent(), machine.answering()) == (agent, agent)
        assert machine.sh("systemctl is-active tank-agent") == "active"
        # A file that is right counts at once, in the same agent.
        machine.vm.write("/etc/tank/agent.toml", '[reconcile]\nresync = "5s"\n')
        machine.sh("systemctl reload tank-agent")
        assert "errors" not in machine.sh("systemctl show -P StatusText tank-agent")
        assert machine.agent() == agent
        # A new agent cannot start with it; it is tried again until the file is right.
        machine.vm.write("/etc/tank/agent.toml", '[reconcile]\nretry = "5s"\n')
        machine.sh("systemctl restart --no-block tank-agent")
        machine.wait(
            "it fails", lambda: machine.sh("systemctl show -P NRestarts tank-agent") not in ("", "0")
        )
        assert "agent.toml:2: reconcile.retry" in machine.sh(f"{said} -n 20")
        assert machine.sh(f"cat /proc/{pid}/comm") == "sh"
    finally:
        machine.sh("cp /root/agent.toml /etc/tank/agent.toml")
    machine.wait_for_agent()
    assert machine.wait_phase("web")["containers"][0]["pid"] == pid


def test_a_hung_agent_is_restarted_by_the_watchdog(machine: Installed) -> None:
    machine.pod("web")
    pid = machine.wait_phase("web")["containers"][0]["pid"]
    machine.sh(
        "mkdir -p /run/systemd/system/tank-agent.service.d && "
        "printf '[Service]\\nWatchdogSec=8s\\n' > /run/systemd/system/tank-agent.service.d/test.conf && "
        "systemctl daemon-reload && systemctl restart tank-agent"
    )
    agent = machine.agent()
    machine.sh(f"kill -STOP {agent}")
    try:
        machine.wait_for_another_agent(agent)
        machine.wait_for_agent()
        assert machine.wait_phase("web")["containers"][0]["pid"] == pid
    finally:
        machine.sh(
            "rm -r /run/systemd/system/tank-agent.service.d; systemctl daemon-reload; "
            "systemctl restart tank-agent"
        )


def test_stopping_the_pods_unit_stops_agent_and_pods_in_order(machine: Installed) -> None:
    machine.pod("web", COUNT)
    machine.wait_phase("web")
    machine.sh("systemctl stop tank-pods")
    assert machine.sh("systemctl is-active tank-agent tank-pods", check=False) == "inactive\ninactive"
    assert machine.leftovers() == ""
    assert machine.lines("web")[-1] == "bye"
    machine.sh("systemctl start tank-agent")
    machine.wait_phase("web")


def test_the_guide_and_the_shipped_example_run_as_they_stand(machine: Installed) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    steps = steps_of(page)
    # One shell, as a person has one; by itself it takes the machine half a minute.
    printed = machine.sh(script_of(steps), check=False, timeout=400)
    assert differences(steps, printed) == [], printed
    # The image is there now.
    machine.sh("cp /usr/share/doc/tank-agent/examples/hello.toml /etc/tank/pods.d/")
    machine.wait_phase("hello")
    machine.remove_pod("hello")
    machine.sh("rm -r /srv/images/busybox")
