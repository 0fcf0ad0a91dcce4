"""A stack as people have them, of one push: nginx, PHP-FPM, a web app, PostgreSQL and Redis in three pods.

nginx is reached through a published port, its neighbours in the pod by the names of their containers, and the
database and the cache by the names of their pods.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.gitops import Fleet
from tests.support.images import debian_layout, directory, layer, member
from tests.support.lan import LanAgent, stopped_lan_agent
from tests.support.registry import docker_registry, skopeo_copy
from tests.support.trees import big_directory
from tests.support.web import fetched

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

_PORT = 8080
_SLOW = 60.0

WEB = """
ports = ["8080:80"]

[network]
bridges = ["shop"]

[[containers]]
name = "nginx"
image = "{image}"
command = ["nginx", "-c", "/srv/nginx.conf"]
stop_grace = "1s"

[[containers]]
name = "php"
image = "{image}"
command = ["/bin/sh", "-c", "exec /usr/sbin/php-fpm* -y /srv/php.conf"]
stop_grace = "1s"

[[containers]]
name = "app"
image = "{image}"
command = ["python3", "/srv/app.py"]
stop_grace = "0s"
"""

# As the official images do: make the data on the first start, then become the server.
DB = """
[network]
bridges = ["shop"]

[[volumes]]
name = "data"

[[containers]]
name = "postgres"
image = "{image}"
command = ["/bin/bash", "-ec", '''
cd $(echo /usr/lib/postgresql/*/bin)
if ! test -s $DATA/PG_VERSION; then
  ./initdb -N -A trust $DATA
  echo "host all all samenet trust" >> $DATA/pg_hba.conf
fi
exec ./postgres -D $DATA -k /tmp -c "listen_addresses=*"
''']
user = "postgres"
env = {{ DATA = "/srv/data", NOTE = "{note}" }}
stop_signal = "SIGINT"
[[containers.mounts]]
volume = "data"
path = "/srv/data"
"""

CACHE = """
[network]
bridges = ["shop"]

[[volumes]]
name = "data"

[[containers]]
name = "redis"
image = "{image}"
command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/srv/data"]
args = ["--appendonly", "yes", "--appendfsync", "always"]
user = "redis"
[[containers.mounts]]
volume = "data"
path = "/srv/data"
"""

NGINX_CONF = """
daemon off;
error_log stderr;
pid /tmp/nginx.pid;
user www-data;
events {}
http {
  access_log off;
  server {
    listen 80;
    location / {
      proxy_pass http://app:8000;
    }
    location ~ [.]php$ {
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME /srv$fastcgi_script_name;
      fastcgi_pass php:9000;
    }
  }
}
"""

PHP_CONF = """
[global]
daemonize = no
error_log = /dev/stderr
[site]
user = www-data
group = www-data
listen = 127.0.0.1:9000
pm = static
pm.max_children = 2
"""

# What the app counted, as each of the two has it.
PAGE_PHP = """<?php
$cache = fsockopen("cache", 6379, $number, $message, 2);
fwrite($cache, "GET visits\\r\\n");
fgets($cache);
$counted = trim(fgets($cache));
$db = pg_connect("host=db user=postgres connect_timeout=2");
$kept = pg_fetch_result(pg_query($db, "SELECT max(number) FROM visits"), 0, 0);
echo "$kept of $counted";
"""

# Redis counts, PostgreSQL keeps the number and is asked for it.
APP_PY = """
import contextlib, http.server, socket
import psycopg2

def visit():
    with socket.create_connection(("cache", 6379), 2) as cache:
        cache.sendall(b"INCR visits\\r\\n")
        number = int(cache.recv(64)[1:])
    with contextlib.closing(psycopg2.connect(host="db", user="postgres", connect_timeout=2)) as db:
        with db, db.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS visits (number int)")
            cursor.execute("INSERT INTO visits VALUES (%s)", (number,))
            cursor.execute("SELECT max(number) FROM visits")
            return cursor.fetchone()[0]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status, text = 200, f"visit {visit()}"
        except Exception as error:
            status, text = 503, str(error)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""
FILES = {"nginx.conf": NGINX_CONF, "php.conf": PHP_CONF, "page.php": PAGE_PHP, "app.py": APP_PY}
PODS = ("cache", "db", "web")


class Stack:
    """The agent, the repository that it follows, and what the second machine of its LAN sees."""

    def __init__(self, fleet: Fleet, agent: LanAgent, image: str) -> None:
        self.fleet, self.agent, self.image = fleet, agent, image

    def files(self, note: str = "first") -> dict[str, str]:
        """Return what the repository holds."""
        texts = {"web": WEB, "db": DB, "cache": CACHE}
        return {f"pods/{name}.toml": text.format(image=self.image, note=note) for name, text in texts.items()}

    def visits(self) -> int:
        """Visit the app from the second machine; return how many did so far; 0 if the app cannot tell."""
        status, text = self.agent.lan(fetched, "10.0.0.2", _PORT, "/")
        return int(text.removeprefix("visit ")) if status == 200 else 0

    def wait_visit(self, after: int) -> int:
        """Wait for an answer that all parts have had a share in, and return the number of visits."""
        visits = wait_for(self.visits, "the app answers", _SLOW)
        assert visits > after, "both have kept what they had"
        told = (200, f"{visits} of {visits}")
        wait_for(
            lambda: self.agent.lan(fetched, "10.0.0.2", _PORT, "/page.php") == told, "so does PHP", _SLOW
        )
        return visits

    def pids(self) -> dict[str, list[int | None]]:
        """Return the processes of all containers."""
        return {
            pod["name"]: [container["pid"] for container in pod["containers"]]
            for pod in self.agent.statuses()
        }

    def addresses(self) -> dict[str, list[str]]:
        """Return the addresses of all pods."""
        return {pod["name"]: pod["addresses"] for pod in self.agent.statuses()}

    def wait_running(self) -> None:
        """Wait until all pods run."""
        for name in PODS:
            self.agent.wait_phase(name, "running", _SLOW)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Return a stack that one push has started."""
    with big_directory() as home, stopped_lan_agent(home) as agent:
        agent.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        above = layer([directory("srv"), *(member(f"srv/{name}", text) for name, text in FILES.items())])
        layout = debian_layout(home / "layout", above=[above])
        registry = docker_registry(home / "registry")
        # On the loopback of the machine that the agent is on.
        host = agent.host(registry.__enter__)
        try:
            image = f"{host}/shop:1"
            agent.host(skopeo_copy, f"oci:{layout}:debian", f"docker://{image}")
            fleet = Fleet(home, agent=agent)
            fleet.push({"README": "Pods of this machine"})
            agent.start()
            made = Stack(fleet, agent, image)
            fleet.push(made.files())
            made.wait_running()
            yield made
        finally:
            registry.__exit__(None, None, None)


def test_one_push_starts_all_of_it(stack: Stack) -> None:
    visits = stack.wait_visit(after=0)
    assert stack.wait_visit(after=visits) == visits + 1
    assert len({address for addresses in stack.addresses().values() for address in addresses}) == 3


def test_they_find_each_other_after_each_was_killed(stack: Stack) -> None:
    visits, before, addresses = stack.wait_visit(after=0), stack.pids(), stack.addresses()
    for pids in before.values():
        for pid in pids:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)

    def all_are_new() -> bool:
        now = stack.pids()
        return all(pid not in (None, *before[name]) for name in PODS for pid in now[name])

    wait_for(all_are_new, "all are started again", _SLOW)
    stack.wait_visit(after=visits)
    assert stack.addresses() == addresses


def test_they_go_on_without_the_agent_and_under_the_next(stack: Stack) -> None:
    visits, pids, addresses = stack.wait_visit(after=0), stack.pids(), stack.addresses()
    stack.agent.kill()
    visits = stack.wait_visit(after=visits)
    stack.agent.start()
    stack.wait_running()
    stack.wait_visit(after=visits)
    assert (stack.pids(), stack.addresses()) == (pids, addresses)


def test_an_edit_of_the_database_leaves_the_others_alone(stack: Stack) -> None:
    visits, before, addresses = stack.wait_visit(after=0), stack.pids(), stack.addresses()
    stack.fleet.push(stack.files("second"))
    wait_for(lambda: stack.pids()["db"] not in (before["db"], [None]), "it is another", _SLOW)
    stack.wait_running()
    stack.wait_visit(after=visits)
    assert stack.addresses() == addresses
    now = stack.pids()
    assert {name: now[name] for name in ("web", "cache")} == {name: before[name] for name in ("web", "cache")}
