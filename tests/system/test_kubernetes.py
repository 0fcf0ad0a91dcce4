"""`tank export kubernetes`, proved by `podman kube play`: what runs here runs there as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import layout_registry
from tests.support.installed import Installed

# A start of podman is many seconds of an emulated core, so no more of it is asked than to begin and to end:
# each container writes down what it sees of itself, and serves that.
_PODMAN_SECONDS = 600.0
_POD = """
ports = ["8080:80", "8081:8081"]
[[volumes]]
name = "data"
[[files]]
name = "settings"
content = "first = $(one)\\n"
[[files]]
name = "more"
content = "second = '2'\\n"
[[secrets]]
name = "password"
host = "/root/kube-password"
[[containers]]
name = "web"
image = "127.0.0.1:5000/shop:1"
command = ["/bin/sh", "-c"]
args = ['''
trap 'exit 0' TERM
{ echo "$0: $*"; echo "$GREETING [$EMPTY]"; cat /etc/shop/*.conf; stat -Lc '%a %u' /etc/shop/*.conf
echo "user $(id -u)"; } > /data/seen.new 2>&1
mv /data/seen.new /data/seen
httpd -p 80 -h /data
while :; do sleep 0.5; done
''', "web", "two words"]
env = { GREETING = "it's $(HOME)", EMPTY = "" }
stop_grace = "5s"
[containers.health]
exec = ["/bin/sh", "-c", "echo \\"well: $(cat /etc/shop/more.conf)\\" > /data/health"]
interval = "60s"
start_period = "0s"
timeout = "60s"
[[containers.mounts]]
volume = "data"
path = "/data"
[[containers.mounts]]
file = "settings"
path = "/etc/shop/a.conf"
mode = "0440"
[[containers.mounts]]
file = "more"
path = "/etc/shop/more.conf"
mode = "0604"
[[containers]]
name = "side"
image = "127.0.0.1:5000/shop:1"
command = ["/bin/sh", "-c", '''
trap 'exit 0' TERM
until test -s /in/seen; do sleep 0.5; done
{ head -1 /in/seen; pwd; id -u; id -g; id -G; cat /run/secrets/password; cat /sys/fs/cgroup/memory.max
touch /srv/new || echo "no new file in /srv"; touch /in/new || echo "nor in /in"
} > /cache/seen.new 2>/dev/null
mv /cache/seen.new /cache/seen
httpd -p 8081 -h /cache
while :; do sleep 0.5; done
''']
user = "1000:1000"
groups = ["2000"]
working_dir = "/srv"
read_only = true
stop_grace = "5s"
limits = { memory = "64M" }
[[containers.mounts]]
volume = "data"
path = "/in"
read_only = true
[[containers.mounts]]
secret = "password"
mode = "0444"
[[containers.mounts]]
tmpfs = "8M"
path = "/cache"
"""
_PASSWORD = "correct horse\n"
# By port and path. What is in $(...) is for the shell, or as it stands, and never for a kubelet.
_SEEN = {
    (80, "seen"): [
        "web: two words",
        "it's $(HOME) []",
        "first = $(one)",
        "second = '2'",
        "440 0",
        "604 0",
        "user 0",
    ],
    (80, "health"): ["well: second = '2'"],
    (8081, "seen"): [
        "web: two words",
        *("/srv", "1000", "1000", "1000 2000", "correct horse", str(64 << 20)),
        *("no new file in /srv", "nor in /in"),
    ],
}
_ASK = 'printf "GET /%s HTTP/1.0\\r\\n\\r\\n" "$2" | busybox nc -w 10 10.77.0.2 "$1"'


@pytest.fixture
def shop(machine: Installed) -> Iterator[None]:
    """Serve an image of busybox in the machine."""
    machine.vm.write("/root/registry.py", Path(layout_registry.__file__).read_bytes())
    machine.vm.tank("image", "busybox", "/srv/kube")
    machine.vm.write("/root/kube-password", _PASSWORD)
    serve = "systemd-run -q --collect --unit=kube-registry --service-type=notify"
    machine.sh(f"{serve} python3 /root/registry.py /srv/kube 5000")
    # As the agent tells who publishes ports; podman does it itself.
    machine.sh("sysctl net.ipv4.ip_forward=1")
    yield
    machine.sh("sysctl net.ipv4.ip_forward=0")
    machine.sh("systemctl stop kube-registry; rm -r /srv/kube /root/kube-password /root/registry.py")


@contextmanager
def _played(machine: Installed, objects: str) -> Iterator[None]:
    """Have podman run what is declared; at the end nothing of it is left."""
    machine.vm.write("/root/kube.yaml", objects)
    try:
        machine.sh("podman kube play -q --tls-verify=false /root/kube.yaml", timeout=_PODMAN_SECONDS)
        yield
    finally:
        machine.sh("podman kube down --force /root/kube.yaml", timeout=_PODMAN_SECONDS)
        # The copies of files and secrets stay, and rules of the firewall, with nothing in them.
        machine.sh("podman volume rm shop-files shop-secrets", timeout=_PODMAN_SECONDS)
        machine.sh("nft delete table inet netavark; rm /root/kube.yaml", check=False)


def _seen(machine: Installed) -> dict[tuple[int, str], list[str]]:
    """Return what is served at the pod's ports, as one on the other side of the network gets it."""
    ports = {80: "8080", 8081: "8081"}
    return {
        (port, path): machine.vm.outside("sh", "-c", _ASK, "sh", ports[port], path)
        .out.partition("\n\n")[2]
        .splitlines()
        for port, path in _SEEN
    }


def _wait_until_seen(machine: Installed, where: str, seconds: float) -> None:
    def differing() -> dict[tuple[int, str], list[str]]:
        return {key: lines for key, lines in _seen(machine).items() if lines != _SEEN[key]}

    machine.wait(f"both containers see {where} what they should", lambda: not differing(), seconds)


def test_podman_runs_what_is_exported_as_it_ran_here(machine: Installed, shop: None) -> None:
    machine.vm.write("/etc/tank/pods.d/shop.toml", _POD)
    _wait_until_seen(machine, "here", _PODMAN_SECONDS / 4)
    exported = machine.vm.tank("export", "kubernetes", "shop")
    assert re.findall(r"(\S+): lost", exported.err) == ["secrets[0].host"]
    machine.remove_pod("shop")
    machine.wait("it is gone", lambda: not machine.statuses())
    # As the remark says.
    filled = exported.out.replace("REPLACE-ME", '"correct horse\\n"')
    with _played(machine, filled):
        _wait_until_seen(machine, "there", _PODMAN_SECONDS)
    assert (
        machine.sh("ls /var/lib/containers/storage/volumes; pgrep -l 'conmon|catatonit|httpd' || true") == ""
    )
