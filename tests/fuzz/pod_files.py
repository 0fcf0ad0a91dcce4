"""Pod files, from any text to pods or problems; what is accepted reads back the same."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from tank_agent.spec.beside import BesideError
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import ParsedFile, parse_pod_file
from tank_agent.spec.printable import escape
from tank_agent.spec.render import render_pod
from tests.fuzz.rounds import repeat

FULL = """\
name = "db"
restart = "on-failure"
[network]
dns = ["10.0.0.1", "fd00::1"]
[[network.nics]]
name = "eth0"
parent = "eno1"
ip = ["10.0.0.5/24", "fd00::5/64"]
gateway = ["10.0.0.1", "fe80::1"]
[[volumes]]
name = "data"
snapshot = "reflink"
[[volumes]]
name = "config"
host = "/etc/db"
[[containers]]
name = "postgres"
image = "docker.io/library/postgres:17"
command = ["/usr/bin/postgres"]
args = ["-c", "fsync=on"]
env = { LOG_LEVEL = "debug", "odd key" = '''long
text''' }
working_dir = "/srv"
user = "postgres:70"
tty = true
stop_signal = "SIGINT"
stop_grace = "1m30s"
[[containers.mounts]]
volume = "data"
path = "/var/lib/postgresql/data"
read_only = true
[containers.limits]
memory = "256M"
pids = 100
cpu = { quota = 50000, period = 100000 }
[containers.health]
exec = ["pg_isready", "-q"]
interval = "1m30s"
timeout = 2.5
retries = 3
start_period = "5m"
start_interval = "500ms"
on_failure = "none"
"""
ORDERED = """\
name = "shop"
after = ["db", "cache"]
[update]
min_healthy = "30s"
deadline = "10m"
max_restarts = 0
rollback = false
image = "digest"
[[containers]]
name = "migrate"
image = "shop"
init = true
[[containers]]
name = "cache"
image = "redis"
health = { tcp = 6379 }
[[containers]]
name = "app"
image = "shop"
after = ["cache"]
[containers.health]
http = { port = 8080, path = "/healthz?a=%20", headers = { Host = "shop.lan" }, tls = true }
[[containers]]
name = "side"
image = "side"
after = ["app", "cache"]
health.image = false
"""
BRIDGED = """\
name = "web"
ports = [
    "8080:80", "127.0.0.1:5432:5432/tcp", "53:53/udp", "[::1]:8443:443", "9000-9010:9000-9010",
]
[network]
bridges = ["front", "back"]
dns = ["10.0.0.1"]
dns_search = ["lan", "example.com"]
dns_options = ["ndots:2", "rotate"]
extra_hosts = { "nas.lan" = "192.168.1.3", "machine" = "host-gateway", "db" = "fd00::5" }
[[containers]]
name = "app"
image = "nginx"
"""
CONFIGURED = """\
name = "backup"
schedule = "0 3 * * mon-fri"
time_zone = "Europe/Berlin"
catch_up = true
timeout = "2h"
sysctls = { "net.core.somaxconn" = "1024" }
hostname = "backup.lan"
[[volumes]]
name = "media"
shared = true
[[files]]
name = "conf"
content = '''
a "b"
'''
[[files]]
name = "beside"
source = "conf/nginx.conf"
[[files]]
name = "bytes"
base64 = "AAEC/w=="
[[secrets]]
name = "key"
host = "/etc/keys/x"
[[secrets]]
name = "password"
source = "password.age"
[[containers]]
name = "app"
image = "nginx"
env_file = ["app.env"]
env = { A = "1" }
read_only = true
shm_size = "256M"
groups = ["video", 44]
ulimits = { nofile = 65536, memlock = "unlimited", nproc = { soft = 1024, hard = 2048 } }
[[containers.mounts]]
file = "conf"
path = "/etc/nginx/nginx.conf"
on_change = "signal:HUP"
mode = "0400"
owner = "1000:1000"
[[containers.mounts]]
secret = "password"
[[containers.mounts]]
tmpfs = "64M"
path = "/scratch"
[[containers.mounts]]
volume = "media"
path = "/media"
subpath = "a/b"
[containers.limits]
memory = "256M"
memory_reservation = "128M"
swap = "0"
cpu_weight = 100
cpus = "0-3,6"
"""
BESIDE = {
    "conf/nginx.conf": b"x",
    "password.age": b"age-encryption.org/v1\n-> X25519 x\n",
    "app.env": b"B=${A:-x}\nC='y\nz'\n",
}


def beside(path: str) -> bytes:
    """Return the content of a file that is named, if it is there."""
    if path not in BESIDE:
        raise BesideError("is not there")
    return BESIDE[path]


SEVERAL = """\
[[pods]]
name = "a"
network = "host"
[[pods.containers]]
name = "one"
rootfs = "/srv/one"
command = ["/bin/sh"]
[pods.containers.env]
A = "1"
[[pods]]
name = "b"
containers = [{ name = "two", image = "oci:/srv/two:latest", limits = { cpu = 0.5 } }]
"""
FILES = (FULL, BRIDGED, ORDERED, CONFIGURED, SEVERAL)
# fmt: off
TOKENS = [
    "[[", "]]", "[", "]", "{", "}", "=", ",", ".", '"', "'", '"""', "'''", "\n", "\\", "#", "\0", "\ufeff",
    "\r", "true", "-1", "0x7fffffffffffffffffff", "1e400", "nan", "inf", "1979-05-27T07:32:00Z", "07:32:00",
    "[]", "{}", "8080", '"0-0:0/udp"', '"[::]:1:1"', '"dhcp"', '"host-gateway"', "[[network.nics]]",
    "[update]", "[containers.health]", "http = ", "init = true", 'after = ["app"]', "{ port = 1 }",
    "[[files]]", "[[secrets]]", 'source = "x"', "tmpfs = 1", '"@daily"', '"* * * * *"', "{ soft = 1 }",
    "[[pods]]", "[[containers]]", "[network]", "[[volumes]]", "name", "null", "9" * 5000, "é",
    '"\\u0000"', '"\\r\\n"', '"x"', '""', "5", "1.5", "[1]", '["x"]', "{ x = 1 }", "\U0001f41f",
]
# fmt: on


def mutate(text: str, rng: random.Random) -> str:
    """Return the text with a few random changes, of the kinds that editors, people and broken disks make."""
    for _ in range(rng.randint(1, 4)):
        text = _mutate_once(text, rng)
    return text


def _mutate_once(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(text) + 1)
    line = rng.randrange(len(lines))
    other = rng.randrange(len(lines))
    changes: list[Callable[[], str]] = [
        lambda: text[:at] + rng.choice(TOKENS) + text[at:],
        lambda: text[:at] + text[at + rng.randint(1, 12) :],
        lambda: text[:at] + rng.choice(string.printable) + text[at + 1 :],
        lambda: text[:at],
        lambda: "\n".join(lines[:line] + lines[line + 1 :]),
        lambda: "\n".join([*lines[: line + 1], *lines[line:]]),
        lambda: "\n".join([*lines[:line], lines[other], *lines[line:]]),
        lambda: "\n".join([*lines[:line], _with_value(lines[line], rng), *lines[line + 1 :]]),
    ]
    return rng.choice(changes)()


def _with_value(line: str, rng: random.Random) -> str:
    key, equals, _ = line.partition("=")
    return f"{key}= {rng.choice(TOKENS)}" if equals else line


def check(text: str) -> ParsedFile:
    """Parse, and check what must hold of every answer."""
    parsed = parse_pod_file(text, "pods.d/web.toml", beside=beside)
    count = text.count("\n") + 1
    assert parsed.pods or parsed.problems
    for pod in parsed.pods:
        assert isinstance(pod.pod, Pod)
        assert 1 <= pod.line <= count
        assert all(problem.pod != pod.pod.name for problem in parsed.problems)
    for problem in parsed.problems:
        assert problem.file == "pods.d/web.toml"
        assert 0 <= problem.line <= count
        assert problem.message
        assert str(problem).isprintable()
        assert len(str(problem)) < 400
    return parsed


def once(rng: random.Random) -> None:
    """Parse one mutated file; render and parse again what was accepted."""
    parsed = check(mutate(rng.choice(FILES), rng))
    for found in parsed.pods:
        text = render_pod(found.pod)
        assert escape(text, keep="\n") == text
        (again,) = parse_pod_file(text, "again.toml").pods
        assert again.pod == found.pod


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Fuzz pod files."""
    repeat(seed, seconds, rounds, once)
