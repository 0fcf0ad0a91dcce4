"""Files, secrets, devices and jobs on a whole machine, over reboots and power cuts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from tests.support.installed import Installed

_KEY = "/etc/ssh/ssh_host_ed25519_key"
_CDI = "/etc/cdi/conf-test.yaml"
_PODS = "/etc/tank/pods.d"
_DISK = "nvme-QEMU_NVMe_Ctrl_1"
_CONF = f"""
[[files]]
name = "settings"
source = "conf/app.conf"
[[secrets]]
name = "db"
source = "conf/db.age"
[[volumes]]
name = "conf-media"
shared = true
[[containers]]
name = "app"
rootfs = "/srv/busybox"
command = ["/bin/sh", "-c", '''
trap 'exit 0' TERM
trap 'echo hup; cat /etc/app/app.conf' HUP
cat /media/word || echo first > /media/word
while :; do sleep 0.2; done
''']
stop_grace = "2s"
read_only = true
env_file = ["conf/app.env"]
[[containers.mounts]]
file = "settings"
path = "/etc/app/app.conf"
on_change = "signal:HUP"
mode = "0440"
[[containers.mounts]]
secret = "db"
[[containers.mounts]]
tmpfs = "16M"
path = "/var/cache/app"
[[containers.mounts]]
volume = "conf-media"
path = "/media"
subpath = "app"
[containers.security]
devices = ["/dev/disk/by-id/{_DISK}:/dev/disk0:r", "conf.test/thing=one"]
"""
_OTHER = (
    '[[volumes]]\nname = "conf-media"\nshared = true\n',
    '[[containers.mounts]]\nvolume = "conf-media"\npath = "/media"\nread_only = true\n',
)
# JSON is YAML, too; by the name of its file it is read as that.
_THING = {
    "cdiVersion": "0.6.0",
    "kind": "conf.test/thing",
    "devices": [
        {
            "name": "one",
            "containerEdits": {
                "env": ["THING=one"],
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/zero"}],
                "mounts": [{"hostPath": "/etc/debian_version", "containerPath": "/thing", "options": ["ro"]}],
            },
        }
    ],
}
# What is seen from inside, a line each.
_LOOK = r"""
cat /etc/app/app.conf; cat /run/secrets/db; echo; echo $GREETING $THING
busybox stat -c '%n %a %u' /etc/app/app.conf /run/secrets/db
busybox test -s /thing && echo thing; head -c 3 /dev/thing | busybox od -An -tx1
busybox dd if=/dev/disk0 bs=1 skip=1080 count=2 2>/dev/null | busybox od -An -tx1
(echo x > /dev/disk0) 2>/dev/null || echo 'disk: closed'
(echo x > /new) 2>/dev/null || echo 'root: closed'
(echo x > /run/secrets/db) 2>/dev/null || echo 'secret: closed'
(echo x > /etc/app/app.conf) 2>/dev/null || echo 'file: closed'
echo x > /tmp/new && echo x > /run/new && echo x > /var/tmp/new && echo 'tmp: open'
busybox grep -c ' /var/cache/app tmpfs .*size=16384k' /proc/mounts; cat /media/word
"""


def _seen(value: str) -> list[str]:
    return [
        f"value = {value}",
        "hunter2",
        "hello to all one",
        "/etc/app/app.conf 440 0",
        "/run/secrets/db 400 0",
        "thing",
        " 00 00 00",
        " 53 ef",
        *(f"{what}: closed" for what in ("disk", "root", "secret", "file")),
        "tmp: open",
        "1",
        "first",
    ]


@pytest.fixture
def configured(machine: Installed) -> Iterator[Installed]:
    """Give a machine with a host key, a CDI file, and what is beside the pod's file."""
    machine.sh(
        f"mkdir -p {_PODS}/conf /etc/cdi; test -e {_KEY} || ssh-keygen -q -t ed25519 -N '' -f {_KEY}\n"
        f"printf 'value = 1\\n' > {_PODS}/conf/app.conf\n"
        f"""printf 'WHOM=all\\nexport GREETING="hello to ${{WHOM}}"\\n' > {_PODS}/conf/app.env\n"""
        "tank secret recipients > /root/recipients.txt\n"
        f"printf %s hunter2 | tank secret encrypt -R /root/recipients.txt -o {_PODS}/conf/db.age"
    )
    machine.vm.write(_CDI, json.dumps(_THING))
    yield machine
    machine.vm.switch_on()
    machine.sh(
        f"rm -rf {_PODS}/*.toml {_PODS}/conf {_CDI} {_KEY} {_KEY}.pub {_KEY}.away /root/recipients.txt"
    )
    machine.wait("its pods are gone", lambda: machine.answers() and not machine.statuses())
    machine.vm.tank("volume", "rm", "conf-media")


def test_what_a_container_is_given_is_there_again_after_each_boot(configured: Installed) -> None:
    machine = configured
    assert machine.vm.tank("secret", "check", f"{_PODS}/conf/db.age").out.endswith("ok\n")
    machine.vm.write(f"{_PODS}/conf.toml", _CONF)
    machine.pod("conf-other", head=_OTHER[0], extra=_OTHER[1])
    _wait_running(machine)
    assert _look(machine) == _seen("1")
    assert _look(machine, "conf-other", "cat /media/app/word") == ["first"]
    _check_secret_stays_in_memory(machine)

    # Live, and over another agent.
    pids = machine.pids()
    machine.vm.write(f"{_PODS}/conf/app.conf", "value = 2\n")
    machine.wait("it has the signal", lambda: machine.lines("conf")[-2:] == ["hup", "value = 2"])
    machine.sh("systemctl restart tank-agent")
    machine.wait_for_agent()
    assert machine.pids() == pids
    assert _look(machine) == _seen("2")

    machine.vm.reboot()
    machine.wait_for_agent()
    _wait_running(machine)
    assert _look(machine) == _seen("2")
    _check_secret_stays_in_memory(machine)

    machine.sh(f"mv {_KEY} {_KEY}.away; sync")
    machine.vm.cut_power()
    machine.vm.start()
    machine.wait_for_agent()
    machine.wait_phase("conf-other")
    waiting = machine.wait("it says why", lambda: _with_error(machine, "conf"))
    assert _KEY in waiting["error"], waiting
    assert not waiting["containers"][0]["pid"] and "hunter2" not in json.dumps(waiting)
    doctor = machine.vm.tank("doctor", check=False).out
    assert _KEY in doctor
    machine.sh(f"mv {_KEY}.away {_KEY}")
    _wait_running(machine)
    assert _look(machine) == _seen("2")
    assert machine.statuses()["conf"]["error"] is None
    # Nowhere on the disk.
    found = "grep -rl hunter2 /var/lib/tank /etc/tank /run/log /var/log /run/tank/pods 2>/dev/null || true"
    assert machine.sh(found) == ""


def _wait_running(machine: Installed) -> None:
    for name in ("conf", "conf-other"):
        machine.wait_phase(name)


def _with_error(machine: Installed, name: str) -> dict[str, Any] | None:
    status = machine.statuses().get(name)
    return status if status is not None and status["error"] else None


def _look(machine: Installed, name: str = "conf", script: str = _LOOK) -> list[str]:
    said = machine.vm.tank("exec", "-T", name, "--", "/bin/sh", "-c", f"PATH=/bin; {script}")
    return said.out.splitlines()


def _check_secret_stays_in_memory(machine: Installed) -> None:
    mounts = [line.split() for line in machine.sh("grep ' /run/tank/' /proc/mounts").splitlines()]
    held = [mount for mount in mounts if mount[2] == "tmpfs" and "noswap" in mount[3].split(",")]
    assert held, mounts
    assert machine.sh(f"stat -c '%a %U' {held[0][1]}") == "700 root"
    inside = machine.sh(f"grep ' /run/secrets/db ' /proc/{machine.pids()['conf']}/mounts").split()
    assert inside[2] == "tmpfs" and {"ro", "noswap", "nosuid", "nodev"} <= set(inside[3].split(",")), inside


_ROOTFS = '[[containers]]\nname = "app"\nrootfs = "/srv/busybox"\n'
_NOTES = '[[containers.mounts]]\nvolume = "notes"\npath = "/notes"\n'


def _job(machine: Installed, name: str, script: str, head: str) -> None:
    """Write a job with a volume, into which it writes a line for each start."""
    text = f'{head}[[volumes]]\nname = "notes"\n{_ROOTFS}{_NOTES}'
    command = json.dumps(["/bin/sh", "-c", f"echo start >> /notes/starts; {script}"])
    machine.vm.write(f"{_PODS}/{name}.toml", text.replace(_ROOTFS, f"{_ROOTFS}command = {command}\n"))


def _starts(machine: Installed, name: str) -> int:
    return len(machine.sh(f"cat /var/lib/tank/volumes/{name}/notes/starts 2>/dev/null || true").splitlines())


def _runs(machine: Installed, name: str) -> list[tuple[Any, ...]]:
    """Return number, cause and outcome of the runs of a job."""
    job = machine.statuses()[name]["job"]
    return [(run["number"], run["cause"], run["outcome"]) for run in job["runs"]]


def _missed(machine: Installed) -> set[str]:
    """Return the jobs that missed a time."""
    events = map(json.loads, machine.vm.tank("events", "-o", "json").out.splitlines())
    return {event["pod"] for event in events if event["type"] == "job-missed"}


class Zoned(NamedTuple):
    """A machine in Berlin, in the night of `sunday`, in which summer time ended last year."""

    machine: Installed
    sunday: date

    def set(self, time_of_day: str) -> None:
        """Set the machine's clock (UTC)."""
        self.machine.sh(f"date -s '{self.sunday} {time_of_day}Z'")

    @property
    def nightly(self) -> str:
        """Return a schedule of this night and the next."""
        nights = (self.sunday, self.sunday + timedelta(1))
        days, months = ({str(night.day) for night in nights}, {str(night.month) for night in nights})
        return f'schedule = "30 2 {",".join(sorted(days))} {",".join(sorted(months))} *"\n'


@pytest.fixture
def zoned(machine: Installed) -> Iterator[Zoned]:
    last = date(datetime.now(UTC).year - 1, 10, 31)
    zoned = Zoned(machine, last - timedelta(last.isoweekday() % 7))
    machine.sh("timedatectl set-timezone Europe/Berlin")
    zoned.set("00:10:00")
    yield zoned
    machine.vm.switch_on()
    machine.sh(f"timedatectl set-timezone Etc/UTC; date -s '@{time.time()}'")


def test_jobs_keep_their_times_over_power_cuts_and_the_end_of_summer_time(zoned: Zoned) -> None:
    machine = zoned.machine
    sleeps = "while :; do sleep 0.2; done"
    _job(machine, "job-nightly", "echo ran", zoned.nightly)
    _job(machine, "job-hourly", "echo ran", 'schedule = "30 * * * *"\n')
    _job(machine, "job-caught", "echo ran", f"{zoned.nightly}catch_up = true\n")
    _job(machine, "job-cut", sleeps, 'schedule = "0 12 1 1 *"\n')
    # The second try comes to its end.
    again = f"test $(busybox wc -l < /notes/starts) = 2 || {sleeps}; echo done"
    _job(machine, "job-again", f"PATH=/bin; {again}", 'schedule = "0 12 1 1 *"\nrestart = "on-failure"\n')
    _job(machine, "job-now", "echo said; exit 3", 'schedule = "0 12 1 1 *"\n')
    names = ("nightly", "hourly", "caught", "cut", "again", "now")
    for name in names:
        machine.wait_phase(f"job-{name}", "scheduled")
    said = machine.vm.tank("run", "job-now", check=False)
    assert (said.code, said.out) == (3, "said\n"), said
    assert "run 1 failed" in machine.wait_phase("job-now", "scheduled")["error"]

    # 02:30 comes twice this night. A time that comes while a run goes on would be skipped.
    due = ("job-hourly", "job-nightly", "job-caught")
    runs = [(number, "schedule", "succeeded") for number in (1, 2)]
    for hour, count in (("00", 1), ("01", 2)):
        zoned.set(f"{hour}:30:01")
        wanted = [runs[:count], runs[:1], runs[:1]]
        machine.wait("they ran", lambda wanted=wanted: [_runs(machine, name) for name in due] == wanted)  # type: ignore[misc]

    # With the power the machine's clock goes back to what the rest of the world has, months later.
    for name in ("job-cut", "job-again"):
        machine.vm.tank("run", "-d", name)
        machine.wait(f"{name} has begun", lambda name=name: _starts(machine, name) == 1)  # type: ignore[misc]
    machine.sh("sync")
    machine.vm.cut_power()
    machine.vm.start()
    machine.wait_for_agent()
    # What was synced is there, or no second try would know that it is one.
    assert (_starts(machine, "job-cut"), _starts(machine, "job-again") in (1, 2)) == (1, True)
    for name in names:
        machine.wait_phase(f"job-{name}", "scheduled")
    assert _runs(machine, "job-nightly") == [(1, "schedule", "succeeded")]
    machine.wait("that is said", lambda: "job-nightly" in _missed(machine))
    machine.wait(
        "it has caught up", lambda: _runs(machine, "job-caught")[-1][1:] == ("catch-up", "succeeded")
    )
    assert _runs(machine, "job-caught")[1:] == [(2, "catch-up", "succeeded")]
    assert (_starts(machine, "job-nightly"), _starts(machine, "job-caught")) == (1, 2)
    # What was under way, once and again.
    assert _runs(machine, "job-cut") == [(1, "manual", "failed")]
    assert "the machine restarted" in machine.statuses()["job-cut"]["error"]
    assert _runs(machine, "job-again") == [(1, "manual", "succeeded")]
    assert (_starts(machine, "job-cut"), _starts(machine, "job-again")) == (1, 2)
