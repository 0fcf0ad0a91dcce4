"""The end of the package: apt remove and apt purge leave nothing but the user's own data."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.installed import Installed

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


# A file capability and an attribute, by root; and who owns it by number.
_MARK = """
import os, struct, sys
path, uid = sys.argv[1], int(sys.argv[2])
os.chown(path, uid, uid)
os.setxattr(path, "user.note", b"kept")
os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
"""
_MARKS = """
import os, sys
path, status = sys.argv[1], os.stat(sys.argv[1])
print(status.st_uid, status.st_gid, *((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))))
"""


def test_a_backup_is_restored_after_everything_was_lost(installed: Installed, package: Path) -> None:
    machine = installed
    back_up, restore = re.findall(
        r"test_removal.py runs these lines -->\n```sh\n(.*?)```", OPERATIONS.read_text(), re.S
    )
    machine.pod(
        "web",
        head='[[volumes]]\nname = "data"\n',
        extra='[[containers.mounts]]\nvolume = "data"\npath = "/data"',
    )
    machine.pod("applied")
    machine.sh("mv /etc/tank/pods.d/applied.toml /root/")
    machine.wait("it is no file's", lambda: "applied" not in machine.statuses())
    machine.vm.tank("apply", "/root/applied.toml")
    for name in ("web", "applied"):
        machine.wait_phase(name)
    machine.vm.tank("exec", "-T", "web", "--", "/bin/sh", "-c", "echo precious > /data/file")
    file = "/var/lib/tank/volumes/web/data/file"
    machine.sh("useradd -u 4242 database")
    machine.vm.run("python3", "-c", _MARK, file, "4242")
    marks = machine.vm.run("python3", "-c", _MARKS, file).out
    # A volume that is a disk of its own.
    disk = "/var/lib/tank/volumes/web/disk"
    machine.sh(f"mkdir {disk} && mount -t tmpfs disk {disk} && echo precious > {disk}/file")
    machine.sh(back_up)
    machine.sh(f"umount {disk}")

    machine.apt("purge", "tank-agent")
    machine.sh("rm -r /var/lib/tank /etc/tank")
    # Another machine gives its users and groups other numbers.
    machine.sh("userdel database; useradd -u 4343 database; groupmod -g 4444 tank")
    machine.install(package)
    machine.wait_for_agent()
    assert machine.statuses() == {}
    machine.sh(restore)
    machine.wait_for_agent()
    assert machine.wait_phase("applied")["owner"] == "api"
    machine.wait_phase("web")
    assert machine.vm.tank("exec", "-T", "web", "--", "cat", "/data/file").out == "precious\n"
    assert machine.sh(f"cat {disk}/file") == "precious"
    assert marks.startswith("4242 4242") and "security.capability" in marks and "user.note" in marks
    assert machine.vm.run("python3", "-c", _MARKS, file).out == marks
    assert machine.sh("stat -c '%a %U %G' /etc/tank") == "750 root tank"
    machine.vm.tank("delete", "applied")
    machine.sh("userdel database")
    machine.clean()


def test_remove_stops_everything_and_purge_keeps_volumes(installed: Installed, package: Path) -> None:
    machine = installed
    machine.sh(
        "age-keygen -o /etc/tank/age.key; printf %s hunter2 | age -a -r $(age-keygen -y /etc/tank/age.key) "
        "> /etc/tank/pods.d/word.age"
    )
    machine.pod(
        "web",
        head='[network]\n[[network.nics]]\nname = "eth0"\nip = "10.77.0.51/24"\n[[volumes]]\nname = "data"\n'
        '[[volumes]]\nname = "media"\nshared = true\n[[secrets]]\nname = "word"\nsource = "word.age"\n',
        extra='[[containers.mounts]]\nvolume = "data"\npath = "/data"\n'
        '[[containers.mounts]]\nvolume = "media"\npath = "/media"\n'
        '[[containers.mounts]]\nsecret = "word"',
    )
    machine.pod("other")
    machine.wait_phase("web")
    machine.wait_phase("other")
    machine.vm.tank(
        "exec", "-T", "web", "--", "/bin/sh", "-c", "echo precious | tee /data/file > /media/file"
    )

    assert machine.vm.tank("exec", "-T", "web", "--", "cat", "/run/secrets/word").out == "hunter2"

    machine.apt("remove", "tank-agent")
    assert_nothing_runs(machine)
    # Desired state and images wait for the package to come back.
    assert machine.sh("ls /var/lib/tank/journal") != ""
    machine.install(package)
    for name in ("web", "other"):
        machine.wait_phase(name)
    assert machine.vm.tank("exec", "-T", "web", "--", "cat", "/data/file").out == "precious\n"

    machine.apt("purge", "tank-agent")
    assert_nothing_runs(machine)
    assert machine.sh("cat /var/lib/tank/volumes/web/data/file") == "precious"
    assert machine.sh("cat /var/lib/tank/volumes-shared/media/file") == "precious"
    assert machine.sh("ls -A /var/lib/tank") == "volumes\nvolumes-shared"
    # What it was encrypted for is the administrator's.
    assert machine.sh("ls /etc/tank/pods.d /etc/tank/age.key") == (
        "/etc/tank/age.key\n\n/etc/tank/pods.d:\nother.toml\nweb.toml\nword.age"
    )
    assert machine.sh("test -e /etc/tank/agent.toml || echo gone") == "gone"
    machine.sh("rm -r /var/lib/tank /etc/tank")


def test_purge_without_volumes_leaves_nothing(installed: Installed, package: Path) -> None:
    machine = installed
    machine.install(package)
    machine.pod("web")
    machine.wait_phase("web")
    machine.sh("rm /etc/tank/pods.d/web.toml")
    said = machine.apt("purge", "tank-agent")
    assert_nothing_runs(machine)
    assert machine.sh("ls -d /var/lib/tank /etc/tank /etc/needrestart 2>/dev/null || true") == ""
    assert machine.sh("find /etc/apparmor.d /var/cache/apparmor -name '*tank*'") == ""
    assert "volumes are kept" not in said.err


def test_purge_gets_along_with_what_others_mounted(installed: Installed, package: Path) -> None:
    machine = installed
    mounts = ("/var/lib/tank", "/var/lib/tank/logs", "/var/lib/tank/images", "/var/lib/tank/volumes")
    for target in mounts:
        machine.sh(f"mkdir -p {target} && mount -t tmpfs data {target}")
    machine.install(package)
    # It can't be told from /proc/mounts how to undo this one, so it is there when the directory is removed.
    foreign = "'/run/tank/of somebody'"
    machine.sh(
        f"mkdir /root/kept {foreign}; echo precious > /root/kept/file; mount --bind /root/kept {foreign}"
    )
    machine.pod("web")
    machine.wait_phase("web")
    try:
        machine.apt("purge", "tank-agent")
        assert (
            machine.sh("dpkg-query -W -f '${db:Status-Status}' tank-agent 2>/dev/null || echo gone") == "gone"
        )
        assert machine.leftovers() == machine.sh("grep -E ' (/run|/var/lib)/tank' /proc/mounts")
        assert machine.sh("cat /root/kept/file") == "precious"
        # What could be made again is gone, the mounts are there.
        assert machine.sh("find /var/lib/tank -mindepth 1 | sort").splitlines() == sorted(mounts[1:])
    finally:
        machine.sh(f"umount {foreign} {' '.join(reversed(mounts))}; rm -r /run/tank /var/lib/tank /etc/tank")
    assert_nothing_runs(machine)


def assert_nothing_runs(machine: Installed) -> None:
    assert machine.leftovers() == ""
    assert machine.sh("test -e /run/tank || echo gone") == "gone"
    assert machine.sh("find /sys/fs/cgroup -path '*/tank*' | head -1") == ""
    assert machine.sh("ip netns list; grep -c /run/tank /proc/mounts || true") == "0"
    assert machine.sh("grep -c ^tank- /sys/kernel/security/apparmor/profiles || true") == "0"
    assert machine.sh("systemctl list-units --all --no-legend --state=active 'tank*'") == ""
