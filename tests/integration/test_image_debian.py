"""Real software from a real image: nginx serves a page, and PostgreSQL keeps its data over a restart."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import Agent, running_agent, wait_for
from tests.support.images import debian_layout
from tests.support.trees import big_directory

# Packages are fetched once, by one test at a time.
pytestmark = pytest.mark.timeout(900)

NGINX = """
[[containers]]
name = "nginx"
image = "{image}"
command = ["/usr/sbin/nginx", "-g", "daemon off;"]
stop_signal = "SIGQUIT"
stop_grace = "2s"
"""
# As the official images do: make the data on the first start, then become the server.
START = (
    "test -s PG_VERSION || $BIN/initdb -D . -A trust >/dev/null;"
    " exec $BIN/postgres -D . -k /tmp -c listen_addresses="
)
POSTGRES = """
[[volumes]]
name = "data"
[[containers]]
name = "postgres"
image = "{image}"
command = ["/bin/bash", "-ec"]
args = ["BIN=$(echo /usr/lib/postgresql/*/bin); {start}"]
user = "postgres"
working_dir = "/srv/data"
stop_signal = "SIGINT"
[[containers.mounts]]
volume = "data"
path = "/srv/data"
"""


@pytest.fixture(scope="module")
def layout() -> Iterator[Path]:
    with big_directory() as place:
        yield debian_layout(place / "layout")


@pytest.fixture
def agent() -> Iterator[Agent]:
    with big_directory() as home, running_agent(home) as started:
        yield started


def inside(agent: Agent, pod: str, script: str) -> subprocess.CompletedProcess[str]:
    return agent.tank("exec", "-T", pod, "--", "/bin/bash", "-c", script)


def test_nginx_serves_a_page_over_the_loopback(agent: Agent, layout: Path) -> None:
    agent.write("web", NGINX.format(image=f"oci:{layout}:debian"))
    agent.wait_phase("web", "running", 120)
    ask = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    page = wait_for(lambda: inside(agent, "web", ask).stdout, "nginx answers", 60)
    assert "200 OK" in page
    assert "Welcome to nginx!" in page


def test_postgres_keeps_its_data_over_a_restart(agent: Agent, layout: Path) -> None:
    agent.write("db", POSTGRES.format(image=f"oci:{layout}:debian", start=START))
    agent.wait_phase("db", "running", 120)

    def query(sql: str) -> str:
        done = inside(agent, "db", f'psql -h /tmp -U postgres -d postgres -Atc "{sql}"')
        return done.stdout.strip() if done.returncode == 0 else ""

    wait_for(lambda: query("SELECT 1") == "1", "PostgreSQL answers", 60)
    assert query("CREATE TABLE kept (x int); INSERT INTO kept VALUES (42)") != ""
    before = agent.pid("db")
    # PostgreSQL is process 1 there, and ends cleanly when it is asked to.
    assert inside(agent, "db", "kill -INT 1").returncode == 0

    def restarted() -> bool:
        status = agent.status("db")
        return status is not None and status["containers"][0]["pid"] not in (None, before)

    wait_for(restarted, "the container was restarted", 60)
    wait_for(lambda: query("SELECT x FROM kept") == "42", "the row is still there", 60)
