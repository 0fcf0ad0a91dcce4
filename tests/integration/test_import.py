"""A compose project that becomes pod files, and runs: names, a volume of several, and who waits for whom."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent
from tests.support.images import busybox_layout
from tests.support.lan import LanAgent

STAY = "trap 'exit 0' TERM; while :; do sleep 1000 & wait $$!; done"
COMPOSE = f"""
services:
  web:
    image: IMAGE
    command:
      - /bin/sh
      - -c
      - |
        cat /srv/shared/order; wget -qO- http://app:8080/index.html
        {STAY}
    restart: always
    depends_on: {{app: {{condition: service_healthy}}}}
    volumes: ["shared:/srv/shared:ro"]
  app:
    image: IMAGE
    command:
      - /bin/sh
      - -c
      - |
        echo app >> /srv/shared/order
        mkdir /www; echo "$$GREETING from app" > /www/index.html; httpd -p 8080 -h /www
        until wget -qO- http://db:5432/index.html; do sleep 0.1; done
        touch /tmp/ready
        {STAY}
    restart: always
    environment: {{GREETING: hello}}
    healthcheck: {{test: test -e /tmp/ready, interval: 1s, start_interval: 500ms}}
    depends_on: {{setup: {{condition: service_completed_successfully}}, db: {{condition: service_started}}}}
    volumes: ["shared:/srv/shared"]
  setup:
    image: IMAGE
    command: sh -c "echo setup >> /srv/shared/order"
    volumes: ["shared:/srv/shared"]
  db:
    image: IMAGE
    command:
      - /bin/sh
      - -c
      - |
        mkdir /www; hostname > /www/index.html; httpd -p 5432 -h /www
        {STAY}
    restart: unless-stopped
    deploy: {{resources: {{limits: {{memory: 64M}}}}}}
volumes:
  shared:
"""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with bridge_agent(tmp_path) as made:
        yield made


def imported(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `tank import compose` where no agent runs."""
    return subprocess.run(
        [sys.executable, "-m", "tank_agent", "import", "compose", str(directory / "compose.yaml"), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def project(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    layout = busybox_layout(tmp_path / "layout")
    (directory / "compose.yaml").write_text(COMPOSE.replace("IMAGE", f"oci:{layout}:latest"))
    return directory


def test_a_stack_of_services_runs_as_pods(agent: LanAgent, tmp_path: Path) -> None:
    done = imported(project(tmp_path), "-o", str(agent.pods), "--strict")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "lost" not in done.stderr.replace("0 lost", "")
    names = ["app.toml", "db.toml", "setup.toml", "web.toml"]
    assert sorted(path.name for path in agent.pods.iterdir()) == names
    assert agent.tank("validate", str(agent.pods)).returncode == 0
    agent.start()
    for name in ("db", "app", "web"):
        agent.wait_phase(name, "running")
    wait_for(lambda: len(agent.output("web", "web")) == 3, "web has read what the others wrote")
    assert agent.output("web", "web") == ["setup", "app", "hello from app"]
    assert agent.output("app", "app") == ["db"]
    assert agent.wait_phase("setup", "completed")["containers"][0]["restarts"] == 0
    assert agent.wait_phase("app", "running")["health"] == "healthy"
    (volume,) = (agent.data / "volumes-shared").iterdir()
    assert volume.name == "shop-shared"


def test_a_stack_runs_as_one_pod(agent: LanAgent, tmp_path: Path) -> None:
    done = imported(project(tmp_path), "-o", str(agent.pods), "--one-pod")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in agent.pods.iterdir()] == ["shop.toml"]
    agent.start()
    agent.wait_phase("shop", "running")
    wait_for(lambda: len(agent.output("shop", "web")) == 3, "web has read what the others wrote")
    assert agent.output("shop", "web") == ["setup", "app", "hello from app"]
