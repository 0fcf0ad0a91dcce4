"""Firewalls of other programs, put up in the network of a test's machine as the programs put them up.

Their files lie in a mount namespace of its own: nothing of this machine's is read or changed.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.lan import Network

DEADLINE = 60

# What covers /etc, /usr and /run; the unpacked packages are $1, their Python and D-Bus files among them.
_MOUNTS = """
set -e
mount --make-rprivate /
mount -t tmpfs none /media
mkdir -p /media/etc /media/etc-work /media/actions $1/usr $1/etc
mount -t overlay none -o lowerdir=$1/etc:/etc,upperdir=/media/etc,workdir=/media/etc-work /etc
mount -t overlay none -o lowerdir=$1/usr:/usr /usr
mount -t tmpfs none /run
mount -t tmpfs none /var/log
mkdir -p /run/dbus /etc/sysctl.d
echo ready
exec sleep infinity
"""

# libnetwork's, as `iptables-save` shows them after the start of Docker 20.10 to 27 with one network.
DOCKER = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
"""

# Those of Docker 28, without the set of its bridges' networks, which needs ipset.
DOCKER_28 = """
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
COMMIT
"""

# Where Docker has IPv6, too.
DOCKER_IPV6 = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
"""

PLAIN = """
table inet filter {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lan0" oifname "wan0" accept
    }
}
"""


class Shell:
    """Runs what a person or a program of the machine types."""

    def __init__(self, network: Network, process: int) -> None:
        self._network, self._process = network, process

    def __call__(self, script: str, stdin: str = "") -> str:
        """Run a script; fail with its output if it fails."""
        argv = ["nsenter", "--mount", "--target", str(self._process), "sh", "-c", f"cd /; {script}"]

        def run() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                argv, input=stdin, capture_output=True, text=True, timeout=DEADLINE, check=False
            )

        done = self._network(run)
        assert done.returncode == 0, f"{script}: {done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def shell(network: Network, packages: Path) -> Iterator[Shell]:
    """Give a shell whose /etc and /run are its own; `packages` has unpacked Debian packages, or is empty."""
    argv = ["unshare", "--mount", "sh", "-c", _MOUNTS, "sh", str(packages)]
    with network(lambda: subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Shell(network, process.pid)
        finally:
            process.kill()


FIREWALLD_PACKAGES = ("firewalld", "python3-firewall", "python3-nftables", "gir1.2-nm-1.0")
# polkit asks for each command of firewall-cmd whether it is registered.
_FIREWALLD = """
set -e
mkdir -p /media/actions
cp /usr/share/polkit-1/actions/* /media/actions
cp /usr/share/polkit-1/actions/org.fedoraproject.FirewallD1.server.policy.choice \
    /media/actions/org.fedoraproject.FirewallD1.policy
mount --bind /media/actions /usr/share/polkit-1/actions
dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid --log-target=console &
for _ in $(seq 100); do
    test "$(firewall-cmd --state 2>&1)" = running && break
    sleep 0.1
done
touch /run/firewalld-is-up
wait
"""


def unpack_firewalld(directory: Path) -> bool:
    """Unpack firewalld of this Debian, without installing it; False if there is no such package here."""
    packages = directory / "packages"
    packages.mkdir()
    done = subprocess.run(
        ["apt-get", "download", "-q", *FIREWALLD_PACKAGES],
        cwd=packages,
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    if done.returncode:
        return False
    for package in packages.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, directory / "root"], check=True, timeout=DEADLINE)
    return True


@contextlib.contextmanager
def running_firewalld(network: Network, at: Shell) -> Iterator[None]:
    """Run firewalld, with a message bus of its own, in a process namespace that ends with all of it."""
    argv = ["nsenter", "--mount", "--target", str(at._process), "unshare", "--pid", "--fork"]
    argv += ["--mount-proc", "--kill-child", "sh", "-c", _FIREWALLD]
    with network(
        lambda: subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ) as process:
        try:
            at("for _ in $(seq 200); do test -e /run/firewalld-is-up && exit 0; sleep 0.1; done; exit 1")
            yield
        finally:
            process.kill()
