"""Whatever the text is, the parser answers with pods or with problems, never with a traceback."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tank_agent.errors import InvalidSpec
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import ParsedFile, parse_pod_file

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
"""
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
# fmt: off
TOKENS = [
    "[[", "]]", "[", "]", "{", "}", "=", ",", ".", '"', "'", '"""', "'''", "\n", "\\", "#", "\0", "\ufeff",
    "\r", "true", "-1", "0x7fffffffffffffffffff", "1e400", "nan", "inf", "1979-05-27T07:32:00Z", "07:32:00",
    "[]", "{}", "[[pods]]", "[[containers]]", "[network]", "[[volumes]]", "name", "null", "9" * 5000, "é",
    '"\\u0000"', '"x"', '""', "5", "1.5", "[1]", '["x"]', "{ x = 1 }", "\U0001f41f",
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
    parsed = parse_pod_file(text, "pods.d/web.toml")
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


def test_nine_thousand_mutated_files_never_raise() -> None:
    rng = random.Random(20261122)
    good = 0
    for _ in range(9_000):
        good += bool(check(mutate(rng.choice((FULL, SEVERAL)), rng)).pods)
    # Both answers must be among them, or the mutator tests nothing.
    assert 300 < good < 8_000


@settings(max_examples=700, deadline=None)
@given(st.text(max_size=200))
def test_random_text_never_raises(text: str) -> None:
    check(text)


KEYS = st.sampled_from(
    [
        "name",
        "containers",
        "pods",
        "network",
        "nics",
        "volumes",
        "limits",
        "mounts",
        "env",
        "cpu",
        "image",
        "x",
        "a b",
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.binary(max_size=2),
        st.just(10**50),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_random_mappings_make_a_pod_or_an_invalid_spec(fields: dict[str, object]) -> None:
    try:
        pod = Pod.new(fields)
    except InvalidSpec as error:
        assert error.problems
    else:
        assert pod.name


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{a=" * 100_000,
        ".".join("a" * 400_000) + " = 1",
        "[" + ".".join("a" * 400_000) + "]",
        "a = " + "9" * 100_000,
        "a = 0x" + "f" * 100_000,
        "containers = [{limits = {pids = 0x" + "f" * 100_000 + ", memory = 0x" + "f" * 50_000 + "}}]",
        "containers = " + "[" * 200 + "]" * 200,
        ".".join("a" * 450) + " = 1\n[x]" + ".y" * 450,
        "#" * (1024**2 + 1),
        "x" * 1024**2,
        '"' * 1024**2,
        "\n" * 1024**2,
    ],
    ids=range(13),
)
def test_hostile_texts_get_an_answer_in_time(text: str) -> None:
    check(text)


@pytest.mark.parametrize(
    "unit", ["[[pods]]\n", "[[containers]]\n", "[[pods]]\nname='a'\n[[pods.containers]]\n"]
)
def test_a_file_full_of_mistakes_has_a_bounded_number_of_problems(unit: str) -> None:
    parsed = parse_pod_file(unit * 3_000, "web.toml")
    assert not parsed.pods
    assert len(parsed.problems) == 1_001
    assert parsed.problems[-1].message == "there are more problems; these are the first 1000"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"[[volumes]]\nname='v{number}'\n" for number in range(3_000))
        + "[[containers]]\nname='a'\n"
        + "[[containers.mounts]]\nvolume='w'\npath='/a'\n" * 3_000,
        "[[pods]]\nname='a'\n" * 10_000,
        "[network]\ndns = [" + "'10.0.0.1', " * 20_000 + "]\n",
        "[[network.nics]]\nname = 'a'\n"
        + "ip = [" + ", ".join(f"'10.{n // 256}.{n % 256}.1/24'" for n in range(5_000)) + "]\n"
        + "gateway = [" + "'10.200.0.2', " * 10_000 + "]\n",
    ],
    ids=range(4),
)  # fmt: skip
def test_much_of_everything_does_not_take_forever(text: str) -> None:
    start = time.monotonic()
    assert check(text).problems
    assert time.monotonic() - start < 10


def test_unknown_keys_without_number_do_not_take_forever() -> None:
    text = "\n".join(f"key{number} = {number}" for number in range(5_000))
    assert len(parse_pod_file(text, "web.toml").problems) == 1_001
