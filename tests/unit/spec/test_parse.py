"""A pod file becomes the normalised pod that the rest of the agent works with."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tank_agent.errors import InvalidSpec
from tank_agent.spec.model import (
    Container,
    CpuLimit,
    Limits,
    Mount,
    Network,
    Nic,
    Pod,
    RestartPolicy,
    Volume,
    content_hash,
)
from tank_agent.spec.parse import ParsedFile, ParsedPod, parse_inline_pods, parse_pod_file, pod_from_mapping
from tests.support.counting import operations

FULL = """\
name = "db"
restart = "on-failure"
[network]
dns = ["10.0.0.1", "FD00:0::1"]
[[network.nics]]
name = "eth0"
ip = ["10.0.0.5/24", "fd00:0:0::5/64"]
gateway = ["10.0.0.1", "fe80::1"]
[[network.nics]]
name = "eth1"
parent = "eno2"
ip = "192.168.5.5/24"
[[volumes]]
name = "data"
[[volumes]]
name = "config"
host = "/etc/db"
[[containers]]
name = "postgres"
image = "docker.io/library/postgres:17"
command = ["/usr/bin/postgres"]
args = ["-c", "fsync=on"]
env = { LOG_LEVEL = "debug" }
working_dir = "/srv"
user = "postgres:070"
groups = ["video", "044"]
tty = true
stop_signal = "int"
stop_grace = "1m30s"
[[containers.mounts]]
volume = "data"
path = "/var/lib/postgresql/data"
[[containers.mounts]]
volume = "config"
path = "/etc/db"
read_only = true
[containers.limits]
memory = "256m"
pids = 100
cpu = 0.5
"""
DB = Pod(
    name="db",
    restart=RestartPolicy.ON_FAILURE,
    network=Network(
        mode="nics",
        nics=(
            Nic(name="eth0", ip=("10.0.0.5/24", "fd00::5/64"), gateway=("10.0.0.1", "fe80::1")),
            Nic(name="eth1", parent="eno2", ip=("192.168.5.5/24",)),
        ),
        dns=("10.0.0.1", "fd00::1"),
    ),
    volumes=(Volume(name="data"), Volume(name="config", host="/etc/db")),
    containers=(
        Container(
            name="postgres",
            image="docker.io/library/postgres:17",
            command=("/usr/bin/postgres",),
            args=("-c", "fsync=on"),
            env={"LOG_LEVEL": "debug"},
            working_dir="/srv",
            user="postgres:70",
            groups=("44", "video"),
            tty=True,
            stop_signal="SIGINT",
            stop_grace=90.0,
            mounts=(
                Mount(volume="data", path="/var/lib/postgresql/data"),
                Mount(volume="config", path="/etc/db", read_only=True),
            ),
            limits=Limits(memory=256 * 1024**2, pids=100, cpu=CpuLimit(quota=50_000, period=100_000)),
        ),
    ),
)
# As long as a typical pod file, for the speed that the agent and `tank validate` have.
TYPICAL = """\
name = "web"
restart = "always"

[network]
[[network.nics]]
name = "eth0"
ip = "10.0.0.5/24"
gateway = "10.0.0.1"

[[volumes]]
name = "data"

[[containers]]
name = "app"
image = "registry.example/team/app:1.2.3"
command = ["/app/server"]
args = ["--listen", ":8080"]
env = { LOG_LEVEL = "debug" }

[[containers.mounts]]
volume = "data"
path = "/data"

[containers.limits]
memory = "256M"
cpu = 0.5
"""
SMALL = '[[containers]]\nname = "app"\nimage = "oci:/srv/app"\n'


def only_pod(text: str, file: str = "web.toml") -> Pod:
    parsed = parse_pod_file(text, file)
    assert parsed.problems == ()
    (pod,) = parsed.pods
    return pod.pod


def test_every_key_of_the_pod_file() -> None:
    assert parse_pod_file(FULL, "/etc/tank/pods.d/other.toml") == ParsedFile(pods=(ParsedPod(DB, 1),))


def test_the_smallest_pod_gets_all_defaults() -> None:
    pod = only_pod('[[containers]]\nname = "app"\nimage = "nginx"\n')
    assert pod == Pod(name="web", containers=(Container(name="app", image="nginx"),))
    assert pod.restart is RestartPolicy.ALWAYS
    assert pod.network == Network(mode="none")
    assert pod.containers[0].stop_grace == 10.0


class _NewerContainer(Container, frozen=True, kw_only=True):
    added: str = "default"


def test_a_key_that_a_newer_version_adds_changes_no_hash() -> None:
    old = Container(name="app", image="nginx")
    assert content_hash(_NewerContainer(name="app", image="nginx")) == content_hash(old)
    assert content_hash(_NewerContainer(name="app", image="nginx", added="x")) != content_hash(old)


def test_two_files_that_mean_the_same_have_one_hash() -> None:
    other = FULL
    for old, new in (
        ('"256m"', "268435456"),
        ('"int"', "2"),
        ('"1m30s"', "90"),
        ("cpu = 0.5", "cpu = { quota = 50000 }"),
        ("fd00:0:0::5", "FD00::5"),
        ('env = { LOG_LEVEL = "debug" }', "env.LOG_LEVEL = 'debug'"),
        ("070", "70"),
        ('"192.168.5.5/24"', '["192.168.5.5/24"]'),
        ('name = "eth0"\n', 'name = "eth0"\nmode = "macvlan"\nparent = "auto"\n'),
    ):
        assert old in other
        other = other.replace(old, new)
    assert content_hash(only_pod(other)) == content_hash(DB)
    assert content_hash(only_pod(other.replace("fsync=on", "fsync=off"))) != content_hash(DB)


@pytest.mark.parametrize("network", ["none", "host"])
def test_networks_without_interfaces(network: str) -> None:
    assert only_pod(f'network = "{network}"\n{SMALL}').network.mode == network


def test_several_pods_in_one_file_with_their_lines() -> None:
    text = (
        '# two\n\n[[pods]]\nname = "a"\ncontainers = [{ name = "c", image = "i" }]\n\n[[pods]]\nname = "b"\n'
    )
    parsed = parse_pod_file(text + '[[pods.containers]]\nname = "c"\nimage = "i"\n', "several.toml")
    assert [(pod.pod.name, pod.line) for pod in parsed.pods] == [("a", 3), ("b", 7)]
    assert parsed.problems == ()


def test_several_pods_in_a_list_in_brackets() -> None:
    text = 'pods = [\n{ name = "a", containers = [{ name = "c", image = "i" }] },\n{ name = "b" }]\n'
    parsed = parse_pod_file(text, "several.toml")
    assert [(pod.pod.name, pod.line) for pod in parsed.pods] == [("a", 2)]
    assert [str(problem) for problem in parsed.problems] == [
        "several.toml:3: pods[1].containers: is missing; add [[containers]]"
    ]


@pytest.mark.parametrize("file", ["web.toml", "/etc/tank/pods.d/web.toml", "hosts/edge-1/web.toml", "web"])
def test_the_file_names_its_only_pod(file: str) -> None:
    assert only_pod(SMALL, file).name == "web"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("pods.d/db.v2.toml", "the file's name gives the pod's: \"db.v2\" is not a name; use"),
        ("pods.d/Db.toml", 'such as "db"; rename the file or give name'),
        ("-", 'is missing; write name = "db"'),
        ("<stdin>", 'is missing; write name = "db"'),
        ("/dev/fd/63", 'is missing; write name = "db"'),
        ("/proc/self/fd/0", 'is missing; write name = "db"'),
    ],
)
def test_a_file_whose_name_is_no_pod_name(file: str, message: str) -> None:
    (problem,) = parse_pod_file(SMALL, file).problems
    assert (problem.line, problem.key, problem.pod) == (1, "name", None)
    assert message in problem.message


def test_a_given_name_wins_over_the_file() -> None:
    assert only_pod('name = "db"\n' + SMALL, "db.v2.toml").name == "db"


def test_pods_of_a_list_do_not_get_the_name_of_the_file() -> None:
    text = "[[pods]]\n[[pods.containers]]\nname = 'c'\nimage = 'i'\n"
    assert [str(problem) for problem in parse_pod_file(text, "web.toml").problems] == [
        'web.toml:1: pods[0].name: is missing; write name = "db"'
    ]


def test_inline_pods_keep_the_lines_of_their_document() -> None:
    text = 'data_dir = "/x"\n[[pods]]\nname = "a"\n[[pods.containers]]\nname = "c"\nimage = 5\n'
    parsed = parse_inline_pods([{"name": "a", "containers": [{"name": "c", "image": 5}]}], text, "agent.toml")
    assert [str(problem) for problem in parsed.problems] == [
        'agent.toml:6: pods[0].containers[0].image: must be text, not a whole number; write "5"'
    ]
    assert parsed.problems[0].pod == "a"


@pytest.mark.parametrize(
    ("words", "is_valid"),
    [
        ('image = "i"', True),
        ('image = "i"\nargs = []', True),
        ('image = "i"\ncommand = []\nargs = ["x"]', True),
        ('rootfs = "/r"\ncommand = ["x"]', True),
        ('rootfs = "/r"\nargs = ["x"]', True),
        ('rootfs = "/r"\ncommand = []', False),
        ('rootfs = "/r"\nargs = []', False),
        ('image = "i"\ncommand = []', False),
    ],
)
def test_an_argv_that_is_known_to_be_empty_is_an_error(words: str, is_valid: bool) -> None:
    parsed = parse_pod_file(f'[[containers]]\nname = "c"\n{words}\n', "web.toml")
    assert bool(parsed.pods) is is_valid
    assert bool(parsed.problems) is not is_valid


def test_pods_from_python() -> None:
    container = {"name": "c", "image": "i", "user": None, "env": {"A": "b"}}
    fields: dict[str, object] = {"name": "a", "containers": (container,)}
    assert Pod.new(fields) == Pod(name="a", containers=(Container(name="c", image="i", env={"A": "b"}),))


def test_the_package_gives_a_pod_that_can_be_made_of_a_mapping() -> None:
    """In a process of its own, in which nothing has loaded the parser."""
    program = """if True:
        from tank_agent import InvalidSpec, Pod
        assert Pod.new({"name": "a", "containers": [{"name": "c", "image": "i"}]}).name == "a"
        try:
            Pod.new({})
        except InvalidSpec:
            print("refused")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "refused\n"


def test_problems_of_a_mapping_have_no_line() -> None:
    with pytest.raises(InvalidSpec) as caught:
        pod_from_mapping({"containers": [{"name": "C", "image": "i"}]})
    assert [str(problem) for problem in caught.value.problems] == [
        '<pod>: name: is missing; write name = "db"',
        '<pod>: containers[0].name: "C" is not a name; use 1 to 63 of a-z, 0-9 and -, starting and ending '
        'with a letter or a digit, such as "c"',
    ]
    assert caught.value.exit_code == 2


def test_mappings_that_no_file_could_hold() -> None:
    endless: dict[str, object] = {}
    endless["containers"] = [endless]
    for fields in (
        {1: 2},
        {"name": "\ud800"},
        {"name": {1, 2}},
        endless,
        {"name": "a", "containers": object()},
    ):
        with pytest.raises(InvalidSpec):
            pod_from_mapping(fields)  # type: ignore[arg-type]


def test_a_typical_file_is_read_in_well_under_a_millisecond() -> None:
    """Counted, not timed: 4,000 operations of our own take 0.15 ms, and msgspec's and tomllib's are few."""
    assert parse_pod_file(TYPICAL, "web.toml").pods
    assert 0 < operations(lambda: parse_pod_file(TYPICAL, "web.toml")) < 8000


def test_the_good_path_imports_nothing_slow() -> None:
    program = (
        "import sys; from tank_agent.spec.parse import parse_pod_file;"
        f"assert parse_pod_file({TYPICAL!r}, 'web.toml').pods;"
        "print(sorted({'jsonschema', 'tomlkit', 'requests', 'socket'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "[]\n"
