"""`tank export` of pod files, without an agent."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tank_agent.cli.main import main

PLAIN = '[[containers]]\nname = "web"\nimage = "docker.io/library/nginx:1.27"\n'
LOST = f'labels = {{ site = "fra" }}\n{PLAIN}'


@pytest.fixture
def web(tmp_path: Path) -> Path:
    path = tmp_path / "web.toml"
    path.write_text(PLAIN)
    return path


@pytest.mark.parametrize(
    ("form", "name"),
    [("compose", "compose.yaml"), ("quadlet", "web.container"), ("kubernetes", "web.yaml")],
)
def test_a_file_is_on_standard_output(
    web: Path, capsys: pytest.CaptureFixture[str], form: str, name: str
) -> None:
    assert main(["export", form, str(web)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"# file: {name}"
    assert "docker.io/library/nginx:1.27" in out
    assert err == ""


def test_files_are_written_and_never_over_others(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    units = web.parent / "units"
    words = ["export", "quadlet", str(web), "-o", str(units)]
    assert main(words) == 0
    assert [path.name for path in units.iterdir()] == ["web.container"]
    assert main(words) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0


def test_what_is_lost_is_on_stderr_with_its_line(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web.write_text(LOST)
    assert main(["export", "compose", str(web)]) == 0
    out, err = capsys.readouterr()
    assert yaml.safe_load(out)["services"].keys() == {"web"}
    assert err.startswith(f"{web}:1: labels: lost: ")
    assert main(["export", "compose", str(web), "--strict"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "nothing was written" in err


def test_a_directory_is_one_project(web: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = '\n[[pods]]\nname = "{}"\n[[pods.containers]]\nname = "a"\nimage = "a"\n'
    both += "[pods.update]\nmax_restarts = 1\n"
    (web.parent / "more.toml").write_text(both.format("a") + both.format("b"))
    assert main(["export", "kubernetes", str(web.parent)]) == 0
    out, err = capsys.readouterr()
    assert [line for line in out.splitlines() if line.startswith("# file")] == [
        "# file: a.yaml",
        "# file: b.yaml",
        "# file: web.yaml",
    ]
    assert len(list(yaml.safe_load_all(out))) == 3
    more = web.parent / "more.toml"
    assert [line.split(": ")[0] for line in err.splitlines()] == [f"{more}:8", f"{more}:16"]


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [("containers = 1\n", 2, "containers"), (None, 1, "no such file")],
)
def test_what_is_no_pod_file_is_an_error(
    web: Path, capsys: pytest.CaptureFixture[str], text: str | None, code: int, words: str
) -> None:
    web.unlink()
    if text is not None:
        web.write_text(text)
    assert main(["export", "compose", str(web)]) == code
    assert words in capsys.readouterr().err.lower()


def test_a_directory_without_pod_files_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "compose", str(tmp_path)]) == 1
    assert "no pod file" in capsys.readouterr().err


def test_units_are_imported_by_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.container").write_text("[Container]\nImage=docker.io/library/a:1\nVolume=%h/x:/x\n")
    assert main(["import", "quadlet", str(tmp_path), "--home", "/home/ann"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("# file: web.toml\n")
    assert 'host = "/home/ann/x"' in out
    assert f"{tmp_path}/web.container: Install.WantedBy: note: " in err
    assert main(["import", "quadlet", str(tmp_path / "none")]) == 1
