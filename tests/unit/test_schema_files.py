"""schema/: what editors check pod files and agent.toml with, by the program that most of them have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAPLO = Path(sys.executable).with_name("taplo")
SCHEMAS = {kind: ROOT / "schema" / f"{kind}.schema.json" for kind in ("pod", "agent")}
INSTALLED = Path("/usr/share/tank-agent")
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
SEVERAL = '[[pods]]\nname = "a"\nrestrat = "never"\n[[pods.containers]]\nname = "b"\nimage = "c"\n'
CONTAINER = '[[containers]]\nname = "app"\nimage = "nginx"\n'


def lint(file: Path, *options: str) -> str:
    """Return what taplo says against a file, empty if it is right."""
    done = subprocess.run(
        [TAPLO, "lint", "--no-auto-config", *options, file],
        cwd=file.parent,
        env={"NO_COLOR": "1", "RUST_LOG": "error", "HOME": str(file.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stderr if done.returncode else ""


def first_line(file: Path) -> str:
    return file.read_text().partition("\n")[0]


def test_the_files_are_as_the_keys_are_declared() -> None:
    """`.venv/bin/python packaging/key_pages.py` writes them anew."""
    code = (
        "from key_pages import schemas; print([p.name for p, t in schemas().items() if p.read_text() != t])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "packaging", capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("file", EXAMPLES, ids=[str(file.relative_to(ROOT)) for file in EXAMPLES])
def test_an_example_names_its_schema_and_is_right_by_it(file: Path) -> None:
    mark, path = first_line(file).split()
    kind = "agent" if file.name == "agent.toml" else "pod"
    assert mark == "#:schema"
    # By its path from there, which is the same where the package has installed both.
    assert not Path(path).is_absolute()
    assert (file.parent / path).resolve() == SCHEMAS[kind]
    assert lint(file) == ""


@pytest.mark.parametrize(
    ("file", "kind"), [("pods.d/example.toml.sample", "pod"), ("packaging/agent.toml", "agent")]
)
def test_what_is_installed_in_etc_names_the_schema_of_the_package(
    file: str, kind: str, tmp_path: Path
) -> None:
    assert first_line(ROOT / file) == f"#:schema {INSTALLED}/{kind}.schema.json"
    copy = tmp_path / "copy.toml"
    copy.write_text((ROOT / file).read_text())
    assert lint(copy, "--schema", SCHEMAS[kind].as_uri()) == ""


@pytest.mark.parametrize(
    ("kind", "text", "key"),
    [
        ("pod", f'naem = "web"\n{CONTAINER}', "naem"),
        ("pod", f'restrat = "always"\n{CONTAINER}', "restrat"),
        ("pod", f'{CONTAINER}comand = ["x"]\n', "comand"),
        ("pod", f'{CONTAINER}[containers.limits]\nmemori = "1G"\n', "memori"),
        ("pod", f"{CONTAINER}limits.cpu = {{ quota = 5000, peroid = 5 }}\n", "peroid"),
        ("pod", f'{CONTAINER}[network]\ndsn = ["10.0.0.1"]\n', "dsn"),
        ("pod", f'{CONTAINER}[[network.nics]]\nname = "eth0"\ngatway = "10.0.0.1"\n', "gatway"),
        ("pod", f"{CONTAINER}[containers.health]\ntpc = 80\n", "tpc"),
        ("pod", f"{CONTAINER}[containers.health]\nhttp = {{ prot = 80, port = 80 }}\n", "prot"),
        ("pod", f"{CONTAINER}ulimits.nofile = {{ soft = 1, hard = 2, sfot = 1 }}\n", "sfot"),
        ("pod", f'{CONTAINER}[[containers.mounts]]\nvolum = "d"\n', "volum"),
        ("pod", f'{CONTAINER}[[volumes]]\nname = "d"\nhots = "/srv"\n', "hots"),
        ("pod", f"{CONTAINER}[update]\ndeadlin = '5m'\n", "deadlin"),
        ("pod", SEVERAL, "restrat"),
        ("agent", 'data_dri = "/srv"\n', "data_dri"),
        ("agent", '[git]\nurl = "/srv/git"\nbrnach = "main"\n', "brnach"),
        ("agent", "[network.bridge]\npol = '10.0.0.0/8'\n", "pol"),
        ("agent", "[registry.\"a.lan\"]\ninsecur = true\n", "insecur"),
        ("agent", 'pods = [{ name = "a", containers = [{ name = "b", imaeg = "c" }] }]\n', "imaeg"),
    ],
)  # fmt: skip
def test_a_mistyped_key_is_named(kind: str, text: str, key: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"#:schema {SCHEMAS[kind]}\n{text}")
    said = {line for line in lint(file).splitlines() if line.startswith("error: ")}
    assert said == {f"error: Additional properties are not allowed ('{key}' was unexpected)"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (f'restart = "allways"\n{CONTAINER}', 'restart = "allways"'),
        (f'network = "bridged"\n{CONTAINER}', 'network = "bridged"'),
        (f"{CONTAINER}tty = 'yes'\n", "tty = 'yes'"),
        (f'{CONTAINER}limits.memory = "1GB"\n', 'limits.memory = "1GB"'),
        (f'ports = ["80"]\n{CONTAINER}', 'ports = ["80"]'),
    ],
)
def test_a_wrong_value_is_shown_where_it_is(text: str, part: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text(f"#:schema {SCHEMAS['pod']}\n{text}")
    said = lint(file)
    assert part in said
    assert "Additional properties" not in said
    assert "oneOf" not in said


def test_a_file_of_several_pods_has_no_keys_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    text = SEVERAL.replace('restrat = "never"\n', "")
    file.write_text(f'#:schema {SCHEMAS["pod"]}\nrestart = "never"\n{text}')
    said = {line for line in lint(file).splitlines() if line.startswith("error: ")}
    assert said == {'error: False schema does not allow "never"'}
