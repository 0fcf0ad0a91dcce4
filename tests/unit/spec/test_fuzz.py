"""Whatever the text is, the parser answers with pods or with problems, never with a traceback."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tank_agent.errors import InvalidSpec
from tank_agent.spec.model import Pod
from tank_agent.spec.parse import parse_pod_file
from tests.fuzz.pod_files import FILES, check, mutate


def test_nine_thousand_mutated_files_never_raise() -> None:
    rng = random.Random(20261122)
    good = 0
    for _ in range(9_000):
        good += bool(check(mutate(rng.choice(FILES), rng)).pods)
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
        "files",
        "secrets",
        "source",
        "ulimits",
        "sysctls",
        "schedule",
        "env_file",
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
    start = time.process_time()
    assert check(text).problems
    assert time.process_time() - start < 10


def test_unknown_keys_without_number_do_not_take_forever() -> None:
    text = "\n".join(f"key{number} = {number}" for number in range(5_000))
    assert len(parse_pod_file(text, "web.toml").problems) == 1_001
