"""Compose projects and sets of units, in the shapes that people's have, are imported, and do what they say.

They are in tests/stacks. The images are stand-ins (tests/support/stand_ins.py); one agent runs all of them,
one after the other, so that it unpacks each image once.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent import wait_for
from tests.support.bridges import bridge_agent
from tests.support.compose import compose_2
from tests.support.lan import LanAgent
from tests.support.stand_ins import stand_ins
from tests.support.trees import big_directory
from tests.support.web import fetched

# The first test fetches packages.
pytestmark = pytest.mark.timeout(900)

STACKS = Path(__file__).parents[1] / "stacks"
SLOW = 90.0


class Machine:
    """The agent, the images that it has in place of real ones, and where projects are."""

    def __init__(self, agent: LanAgent, images: dict[str, str], home: Path) -> None:
        self.agent = agent
        self.home = home
        self._images = {name.removeprefix("docker.io/library/"): image for name, image in images.items()}

    def import_stack(self, format_: str, name: str, *options: str) -> str:
        """Copy a stack to the machine, import it, and let the agent run it; return what import says."""
        project, made = self.home / name, self.home / f"{name}.pods"
        shutil.copytree(STACKS / name, project)
        done = self._tank("import", format_, str(project), "-o", str(made), *options)
        assert done.returncode == 0, done.stderr
        for file in made.glob("*.toml"):
            file.write_text(
                re.sub(r'(?<=^image = ")[^"]+', self._image, file.read_text(), flags=re.MULTILINE)
            )
        valid = self._tank("validate", str(made))
        assert valid.returncode == 0, valid.stdout + valid.stderr
        # What a pod file names beside itself is there first.
        for one in sorted(made.iterdir(), key=lambda path: path.suffix == ".toml"):
            one.rename(self.agent.pods / one.name)
        return done.stderr

    def _image(self, found: re.Match[str]) -> str:
        return self._images[found[0].removeprefix("docker.io/library/")]

    def _tank(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tank_agent", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def page(self, port: int, address: str = "127.0.0.1", path: str = "/") -> str:
        """Return the page at a port of the machine as soon as there is one."""

        def ready() -> str:
            status, text = self.agent.host(fetched, address, port, path)
            told.append(f"{status} {text}")
            return text if status == 200 else ""

        told: list[str] = []
        try:
            return wait_for(ready, f"port {port} answers", SLOW)
        except AssertionError as error:
            said = "".join(self.agent.tank("why", pod["name"]).stdout for pod in self.agent.statuses())
            raise AssertionError(f"{error}: {told[-1]}\n{said[-2500:]}\n{self._logs()[-1500:]}") from None

    def closed(self, port: int, address: str = "127.0.0.1") -> bool:
        """Return whether nothing answers at a port of the machine."""
        return self.agent.host(fetched, address, port)[0] == 0

    def in_container(self, target: str, command: str) -> str:
        """Return what a shell command prints in a container."""
        done = self.agent.tank("exec", "-T", target, "--", "sh", "-c", command)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def export(self) -> None:
        """Export all pods, and let compose read that."""
        names = [pod["name"] for pod in self.agent.statuses()]
        done = self.agent.tank("export", "compose", *names, "-o", str(self.home / "back"))
        assert done.returncode == 0, done.stderr
        (file,) = (self.home / "back").glob("*.y*ml")
        read = subprocess.run(
            [compose_2(), "-f", str(file), "config", "-q"],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert read.returncode == 0, read.stderr

    def clear(self) -> None:
        """Remove all pods with their volumes, so that the next stack has the names for itself."""
        names = [pod["name"] for pod in self.agent.statuses()]
        for one in self.agent.pods.iterdir():
            shutil.rmtree(one) if one.is_dir() else one.unlink()
        for name in names:
            self.agent.wait_gone(name, SLOW)
        volumes = [*self.agent.data.glob("volumes/*"), *self.agent.data.glob("volumes-shared/*")]
        for one in [*volumes, *self.home.iterdir()]:
            shutil.rmtree(one)

    def _logs(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text()[-500:]}"
            for file in sorted((self.agent.data / "logs").rglob("*.log"))
        )


@pytest.fixture(scope="module")
def running() -> Iterator[Machine]:
    with big_directory() as home:
        agent_home, projects = home / "agent", home / "projects"
        agent_home.mkdir()
        projects.mkdir()
        images = stand_ins(home / "layout")
        with bridge_agent(agent_home) as agent:
            agent.start()
            yield Machine(agent, images, projects)


@pytest.fixture
def machine(running: Machine) -> Iterator[Machine]:
    yield running
    try:
        running.export()
    finally:
        running.clear()


def lost(said: str) -> list[str]:
    """Return the remarks about losses."""
    return [line for line in said.splitlines() if ": lost: " in line]


def test_a_proxy_finds_two_of_one_program_and_they_a_store(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "counter")) == []
    answers = {machine.page(80) for _ in range(4)}
    assert answers == {"web1 hits:1", "web2 hits:2", "web1 hits:3", "web2 hits:4"}
    assert machine.page(82) == "web2 hits:5"
    assert not machine.closed(81, "10.0.0.2")
    store = machine.agent.tank("exec", "-T", "redis", "--", "redis-cli", "get", "hits")
    assert store.stdout.strip() == "6"
    assert machine.closed(6379, "10.0.0.2"), "a port of 127.0.0.1 is none of the LAN"


def test_a_site_waits_for_its_database_and_both_keep_their_volumes(machine: Machine) -> None:
    (one,) = lost(machine.import_stack("compose", "blog"))
    assert "depends_on.db.restart" in one
    assert machine.page(8080) == "visits: 1"
    assert (machine.agent.status("db") or {})["health"] == "healthy"
    for name in ("db", "wordpress"):
        assert machine.agent.tank("restart", name).returncode == 0
    assert machine.page(8080) == "visits: 2"
    assert "index.php" in machine.in_container("wordpress", "ls /var/www/html")


def test_services_share_settings_a_volume_and_a_secret(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "cloud")) == []

    def jobs() -> int:
        return int(re.findall(r"\+PONG, (\d+) jobs", machine.page(8080, path="/status.php"))[0])

    before = jobs()
    wait_for(lambda: jobs() > before, "cron does its jobs in the database of the other", SLOW)
    assert machine.in_container("cron", "echo $WHO $REDIS_HOST $MYSQL_USER") == "cron cache nextcloud"
    assert machine.in_container("app", "cat /run/secrets/db_password") == "pass-of-a-file"
    names = machine.in_container("db", "getent hosts cache || echo none")
    assert names == "none", "the database is not in the network of the cache"


def test_variables_a_network_and_data_beside_the_file(machine: Machine) -> None:
    said = machine.import_stack("compose", "forge")
    assert lost(said) == []
    directory = str(machine.home / "forge" / "data")
    assert f"mkdir -p {directory}" in said
    Path(directory).mkdir()
    whole = "server sql=connected"
    # Its depends_on asks for no more than that the database has started.
    wait_for(lambda: machine.page(3001) == whole, "the database lets it in", SLOW)
    assert machine.page(222) == whole
    assert machine.in_container("db", "getent hosts gitea") != ""
    machine.in_container("server", "echo pushed > /data/repository")
    assert (Path(directory) / "repository").read_text() == "pushed\n"
    assert machine.in_container("server", "cat /etc/localtime | md5sum") != ""
    assert machine.in_container("db", "df -m /dev/shm | tail -1").split()[1] == "128"


def test_files_of_the_project_and_the_names_that_are_in_them(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "watch")) == []
    text = machine.page(9090)
    assert "node_exporter:9100=[node-exporter]" in text
    assert "exporter.of_others:9101=[other-exporter]" in text
    assert "other_exporter:9101=[other-exporter]" in text
    assert machine.in_container("prometheus", "cat /etc/rules.yml; stat -c %a /etc/rules.yml") == (
        "groups: [none]\n440"
    )
    assert machine.in_container("prometheus", "getent hosts printer.lan").split()[0] == "192.0.2.7"
    assert machine.in_container("prometheus", "getent hosts host.docker.internal") != ""
    assert machine.closed(9090, "10.0.0.2")


def test_extends_overrides_and_profiles(machine: Machine) -> None:
    said = machine.import_stack("compose", "layers")
    assert lost(said) == []
    assert "services.debug.profiles: note" in said
    assert machine.page(8000) == "web"
    assert machine.closed(8001)
    told = machine.in_container("web", 'echo "$COLOUR, $FROM, $SHARED"; cat /notes/note.txt')
    assert told == "green, common, of an env file\na note"


def test_a_job_ends_before_the_program_begins(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "shop")) == []
    assert machine.page(3000).endswith(" sql=lamp")
    job = machine.agent.wait_phase("migrate", "completed")
    assert job["containers"][0]["restarts"] == 0


def test_programs_in_the_network_of_another(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "vpn")) == []
    assert {machine.page(port) for port in (8100, 8101, 8102)} == {"vpn"}
    machine.in_container("vpn/torrent", "echo a film > /downloads/film")
    assert machine.in_container("vpn/search", "cat /found/film; echo more > /found/x || echo refused") == (
        "a film\nrefused"
    )
    sees = "python3 -c \"import urllib.request as u; print(u.urlopen('http://%s').read().decode())\""
    assert machine.in_container("vpn/torrent", sees % "localhost:8102") == "vpn"
    assert machine.in_container("reader", sees % "vpn:8101") == "vpn"
    assert machine.in_container("vpn/torrent", sees % "reader:8103") == "reader"


def test_a_service_with_all_that_makes_it_narrow(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "hard")) == []
    for port in (9000, 9001, 9002, 9010, 9011):
        assert machine.page(port) == "narrow"
    assert machine.closed(9001, "10.0.0.2")
    assert machine.page(9010, "10.0.0.2") == "narrow"
    lines = machine.in_container(
        "narrow",
        "id -u; id -G; pwd; touch /srv/x 2>/dev/null || echo read only; touch /tmp/x && echo writes;"
        "df -m /tmp /dev/shm | awk 'NR > 1 {print $2}'; ulimit -Sn; ulimit -Hn;"
        "awk '/^Max processes/ {print $3}' /proc/self/limits;"
        "grep -E '^(CapBnd|NoNewPrivs):' /proc/self/status; grep search /etc/resolv.conf",
    ).split("\n")
    assert lines == [
        *("1234", "4321 44", "/var/tmp", "read only", "writes", "16", "32", "1000", "2000", "300"),
        *("CapBnd:\t0000000000000400", "NoNewPrivs:\t1", "search example.org"),
    ]
    begun = machine.agent.pid("narrow")
    assert machine.agent.tank("restart", "narrow").returncode == 0
    machine.agent.wait_phase("narrow", "running")
    assert machine.agent.pid("narrow") != begun


def test_all_the_names_of_services_and_networks_that_some_are_not_in(machine: Machine) -> None:
    assert lost(machine.import_stack("compose", "names")) == []
    machine.page(8200)

    def reached(target: str, *names: str) -> list[str]:
        return [
            name
            for name in names
            if machine.in_container(target, f"getent -s files hosts {name} || echo none") != "none"
        ]

    machine.agent.wait_phase("my-db", "running")
    machine.agent.wait_phase("api-v1", "running")
    api = ["api_v1", "the_api", "api", "API.internal", "api.example.test"]
    assert reached("front", *api, "my_db", "the-store") == api
    stores = ["my_db", "the-store", "Store_2", "kept"]
    assert reached("api-v1", *stores) == stores
    assert reached("my-db", "front", *api) == api, (
        "docker lets each other's names be found in any shared network"
    )
    assert machine.in_container("api-v1", "hostname") == "api.example.test"


def test_units_of_one_pod_and_a_volume(machine: Machine) -> None:
    assert lost(machine.import_stack("quadlet", "units-pod")) == []
    assert machine.page(8300) == "count hits:1"
    assert machine.in_container("count/page", "cat /etc/localtime | md5sum") != ""
    assert machine.agent.tank("restart", "count").returncode == 0
    assert machine.page(8300) == "count hits:2"


def test_units_in_a_network_that_others_are_not_in(machine: Machine) -> None:
    assert lost(machine.import_stack("quadlet", "units-net")) == []
    assert machine.page(8310) == "web.shop.test sql=connected"
    assert (machine.agent.status("db") or {})["health"] == "healthy"
    machine.agent.wait_phase("apart", "running")
    asked = "for name in web.shop.test the_store; do getent -s files hosts $name; done | awk '{print $2}'"
    assert machine.in_container("db", asked).split() == ["web.shop.test", "the_store"]
    assert machine.in_container("apart", asked) == ""
