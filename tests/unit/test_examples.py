"""Examples and the sample are valid as they are, and so is the sample with every comment taken away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tank_agent.linux.whole_files import beside_directory
from tank_agent.spec.parse import parse_pod_file

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.toml"))
# Those that need more of a machine than `./dev run` may take.
OTHERS = sorted(set((ROOT / "examples").rglob("*.toml")) - {*EXAMPLES, ROOT / "examples/gitops/agent.toml"})
ENCRYPTED = b"age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\nabc"
ENCRYPTED = b"age-encryption.org/v1\n-> X25519 abc\nabc\n--- abc\nabc"
SAMPLE = ROOT / "pods.d/example.toml.sample"


@pytest.mark.parametrize("path", [*EXAMPLES, *OTHERS], ids=lambda path: path.stem)
def test_an_example_runs_as_it_is(path: Path) -> None:
    files = beside_directory(path.parent)

    def beside(name: str) -> bytes:
        # Users make these first, for their own keys.
        return ENCRYPTED if name.endswith(".age") else files(name)

    parsed = parse_pod_file(path.read_text(), str(path), beside=beside)
    assert parsed.problems == ()
    (found,) = parsed.pods
    assert found.pod.name == path.stem


def test_every_example_is_in_the_readme() -> None:
    text = (ROOT / "examples/README.md").read_text()
    assert set(re.findall(r"`(\w+\.toml)`", text)) == {path.name for path in EXAMPLES}
    assert {path.relative_to(ROOT / "examples").parts[0] for path in OTHERS} == set(
        re.findall(r"\((\w+)/", text)
    )


def test_the_sample_is_valid_and_starts_nothing() -> None:
    assert SAMPLE.suffix != ".toml"
    assert parse_pod_file(SAMPLE.read_text(), "/etc/tank/pods.d/example.toml").problems == ()


def test_the_sample_is_valid_with_every_comment_taken_away() -> None:
    lines = [line for line in SAMPLE.read_text().splitlines() if not line.startswith("network =")]
    text = "\n".join(re.sub(r"^# (?=\[|\w+ = )", "", line) for line in lines)
    parsed = parse_pod_file(text, "/etc/tank/pods.d/example.toml")
    assert parsed.problems == ()
    (pod,) = [found.pod for found in parsed.pods]
    assert pod.network.mode == "nics"
    assert pod.containers[0].mounts
    assert pod.containers[0].limits.memory == 256 * 1024**2
