"""The stacks of people's homes in examples/ run as they are: files, secrets, names, order, jobs, backups.

Their images are stand-ins made of Debian's packages (tests/support/stand_ins.py), and the machine has a LAN
of its own; all else is as the files say.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.support.agent import wait_for
from tests.support.lan import LanAgent, stopped_lan_agent
from tests.support.stand_ins import stand_ins
from tests.support.trees import big_directory
from tests.support.web import fetched

# The first test fetches packages.
pytestmark = pytest.mark.timeout(900)

EXAMPLES = Path(__file__).parents[2] / "examples"
SLOW = 90.0


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, str]]:
    with big_directory() as home:
        yield stand_ins(home / "layout")


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[LanAgent]:
    with big_directory() as home, stopped_lan_agent(home) as made:
        made.host(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        key = home / "age.key"
        subprocess.run(["age-keygen", "-o", key], check=True, capture_output=True)
        with made.config.open("a") as config:
            config.write(f'[secrets]\nidentities = ["{key}"]\n')
        yield made


def copy(agent: LanAgent, stack: str, images: dict[str, str], **others: object) -> list[str]:
    """Put an example into pods.d, with stand-ins for its images, and other texts; return its pods."""
    names = []
    for file in sorted((EXAMPLES / stack).iterdir()):
        text = file.read_text()
        for old, new in {**images, **{str(key): str(value) for key, value in others.items()}}.items():
            text = text.replace(old, new)
        target = agent.pods / file.name
        partial = target.with_suffix(".new")
        partial.write_text(text)
        partial.rename(target)
        if file.suffix == ".toml":
            names.append(file.stem)
    return sorted(names)


def encrypt(agent: LanAgent, name: str, plaintext: str) -> None:
    """Put an encrypted secret into pods.d, as docs/secrets.md tells a user to."""
    recipient = re.findall("age1[0-9a-z]+", (agent.home / "age.key").read_text())[0]
    done = agent.tank("secret", "encrypt", "-r", recipient, "-o", str(agent.pods / name), stdin=plaintext)
    assert done.returncode == 0, done.stderr


def run_job(agent: LanAgent, name: str) -> str:
    """Run a job now, and return what it printed."""
    done = agent.tank("run", name)
    assert done.returncode == 0, (done.stdout, done.stderr, agent.status(name))
    return done.stdout


def wait_healthy(agent: LanAgent, name: str) -> None:
    """Wait until a pod is healthy; a failure shows why it is not."""

    def healthy() -> bool:
        return (agent.status(name) or {}).get("health") == "healthy"

    try:
        wait_for(healthy, f"{name} is healthy", SLOW)
    except AssertionError as error:
        told = agent.tank("status", name).stdout + agent.tank("why", name).stdout
        raise AssertionError(f"{error}\n{told}\n{agent.log.read_text()[-2000:]}") from None


def certificate(agent: LanAgent) -> str:
    return agent.host(ssl.get_server_certificate, ("127.0.0.1", 443))


def test_a_proxy_with_certificates(agent: LanAgent, images: dict[str, str]) -> None:
    assert copy(agent, "proxy", images) == ["renew", "web"]
    agent.start()
    wait_healthy(agent, "web")
    agent.wait_phase("renew", "scheduled")
    first = certificate(agent)
    pid = agent.pid("web", 1)

    assert "renew done" in run_job(agent, "renew")
    assert agent.tank("exec", "-T", "web/nginx", "--", "nginx", "-s", "reload").returncode == 0
    wait_for(lambda: certificate(agent) != first, "nginx has the renewed certificate", SLOW)

    conf = agent.pods / "nginx.conf"
    new = conf.with_name("nginx.conf.new")
    new.write_text(conf.read_text().replace("fine", "finer"))
    new.rename(conf)
    finer = (200, "finer\n")
    wait_for(lambda: agent.host(fetched, "127.0.0.1", 80, "/healthz") == finer, "the new file counts", SLOW)
    assert agent.pid("web", 1) == pid, "nginx read it anew, and was not restarted"


def test_a_home_with_a_radio_stick(agent: LanAgent, images: dict[str, str]) -> None:
    place = Path(f"/dev/tank-test-{uuid4().hex[:8]}")
    keys = agent.home / "keys"
    keys.mkdir(mode=0o700)
    password = uuid4().hex
    (keys / "zigbee2mqtt.yaml").write_text(f"password: {password}\n")
    (keys / "mosquitto-passwd").write_text(_mosquitto_line("zigbee2mqtt", password))
    place.mkdir()
    try:
        os.mknod(place / "stick", stat.S_IFCHR | 0o660, os.makedev(1, 3))
        (place / "by-id").symlink_to("stick")
        by_id = re.findall(r'devices = \["([^:]+):', (EXAMPLES / "home" / "zigbee2mqtt.toml").read_text())[0]
        names = copy(agent, "home", images, **{by_id: place / "by-id", "/etc/tank/keys": keys})
        assert names == ["home-assistant", "mosquitto", "zigbee2mqtt"]
        agent.start()
        for name in names:
            wait_healthy(agent, name)
        agent.wait_output("zigbee2mqtt", "published", container="zigbee2mqtt")
        status, text = agent.host(fetched, "127.0.0.1", 8123, "/manifest.json")
        assert status == 200
        assert "name: Home" in text
        assert text.endswith("Europe/Berlin")
        # The stick is pulled out: one sentence, and it comes back with the stick.
        (place / "stick").unlink()
        os.kill(agent.pid("zigbee2mqtt", 1), signal.SIGKILL)
        said = wait_for(lambda: (agent.status("zigbee2mqtt") or {}).get("error"), "it is said", SLOW)
        wait_for(
            lambda: str(place) in str((agent.status("zigbee2mqtt") or {}).get("error")),
            f"the stick is named: {said}",
        )
        os.mknod(place / "stick", stat.S_IFCHR | 0o660, os.makedev(1, 3))
        wait_healthy(agent, "zigbee2mqtt")
    finally:
        shutil.rmtree(place)


def _mosquitto_line(user: str, password: str) -> str:
    """Return a line as mosquitto_passwd writes it: salted SHA-512, 101 rounds."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


def test_a_nextcloud_with_its_database_cache_and_jobs(agent: LanAgent, images: dict[str, str]) -> None:
    names = copy(agent, "nextcloud", images)
    assert names == ["nextcloud", "nextcloud-cron", "nextcloud-db", "nextcloud-redis"]
    encrypt(agent, "db-password.age", uuid4().hex)
    agent.start()
    for name in ("nextcloud-db", "nextcloud-redis", "nextcloud"):
        wait_healthy(agent, name)
    agent.wait_phase("nextcloud-cron", "scheduled")

    def page() -> str:
        return str(agent.host(fetched, "127.0.0.1", 8080, "/status.php")[1])

    def jobs() -> int:
        found = wait_for(lambda: re.findall(r"\+PONG, (\d+) jobs, 1G", page()), "the page counts jobs", SLOW)
        return int(found[0])

    before = jobs()
    assert "did a job" in run_job(agent, "nextcloud-cron")
    assert jobs() > before
    listed = agent.tank("volume", "ls").stdout
    assert "nextcloud" in listed
    refused = agent.tank("volume", "rm", "nextcloud")
    assert refused.returncode == 1
    assert "nextcloud-cron" in refused.stderr


def test_a_backup_is_made_and_restored(agent: LanAgent, images: dict[str, str]) -> None:
    repository = agent.home / "backup"
    repository.mkdir()
    names = copy(agent, "backup", images, **{"/srv/backup": repository})
    assert names == ["db", "dump", "restic"]
    encrypt(agent, "db-password.age", "pass word")
    encrypt(agent, "restic-password.age", "repository's")
    agent.start()
    wait_healthy(agent, "db")

    def sql(statement: str) -> str:
        done = agent.tank(
            "exec", "-T", "--env", "PGPASSWORD=pass word", "db", "--",
            "psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", statement,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    sql("CREATE TABLE kept AS SELECT 'precious' AS what")
    assert "dumped" in run_job(agent, "dump")
    assert "snapshot" in run_job(agent, "restic")
    # A second backup has the first in it, and does not begin anew.
    assert "snapshot" in run_job(agent, "restic")

    # All is lost but the repository.
    sql("DROP TABLE kept")
    dumps = agent.data / "volumes-shared" / "dumps"
    for file in dumps.iterdir():
        file.unlink()

    # As docs/jobs.md has it.
    text = (agent.pods / "restic.toml").read_text()
    back = re.sub(
        r'args = \[""".*?"""\]', 'args = ["restic restore latest --target /"]', text, flags=re.DOTALL
    )
    back = back.replace('path = "/dumps"\nread_only = true', 'path = "/dumps"')
    agent.write("restore", back)
    agent.wait_phase("restore", "scheduled")
    run_job(agent, "restore")
    dump = (dumps / "all.sql").read_text()
    done = agent.tank(
        "exec", "-T", "--env", "PGPASSWORD=pass word", "db", "--", "psql", "-h", "127.0.0.1",
        "-U", "postgres", "-q",
        stdin=dump,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sql("SELECT what FROM kept") == "precious"
