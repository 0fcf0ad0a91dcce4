"""`tank import compose` as a person types it: files, standard output, remarks, exit codes, the next step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tank_agent.cli.main import main
from tank_agent.linux import atomic

WHOLE = "services: {web: {image: nginx:1.27, restart: always, ports: ['8080:80']}}\n"
LOST = "services: {web: {image: nginx:1.27, init: true, env_file: app.env}}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "shop"
    made.mkdir()
    (made / "app.env").write_text("A=1\n")
    return made


def tank(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["import", "compose", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_pod_files_are_on_standard_output(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "compose.yaml").write_text(WHOLE)
    code, out, err = tank(capsys, directory)
    assert (code, out.splitlines()[0]) == (0, "# file: web.toml")
    assert 'ports = ["8080:80"]' in out
    assert err.splitlines() == [
        "tank: 1 pod of 3 keys: 3 mapped, 0 with a note, 0 lost",
        "next: the same with -o DIR, `tank validate DIR`, and copy it to /etc/tank/pods.d",
    ]


def test_files_are_written_and_never_over_others(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (directory / "compose.yaml").write_text(LOST)
    pods = directory / "pods"
    code, out, err = tank(capsys, directory / "compose.yaml", "-o", pods)
    assert (code, out) == (0, "")
    assert sorted(path.name for path in pods.rglob("*") if path.is_file()) == ["app.env", "web.toml"]
    # A pod file may have passwords in it.
    assert stat.S_IMODE((pods / "web.toml").stat().st_mode) == 0o640
    place = f"{directory / 'compose.yaml'}:1: services.web.init: lost: there is no init process"
    assert err.splitlines()[0].startswith(place)
    assert err.splitlines()[1:] == [
        "tank: 1 pod of 3 keys: 2 mapped, 0 with a note, 1 lost",
        f"next: `tank validate {pods}`, and `cp -r {pods}/. /etc/tank/pods.d/`",
        "images that will be pulled: nginx:1.27",
    ]
    assert main(["validate", os.fspath(pods)]) == 0
    capsys.readouterr()
    code, _, err = tank(capsys, directory, "-o", pods)
    assert code == 1
    assert "there already: shop/app.env, web.toml" in err
    assert "--force writes over them" in err
    assert tank(capsys, directory, "-o", pods, "--force")[0] == 0


def test_strict_writes_nothing_if_anything_is_lost(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "compose.yaml").write_text(LOST)
    code, out, err = tank(capsys, directory, "-o", directory / "pods", "--strict")
    assert (code, out, err.splitlines()[-1]) == (1, "", "tank: nothing was written (--strict)")
    assert not (directory / "pods").exists()
    (directory / "compose.yaml").write_text(WHOLE)
    assert tank(capsys, directory, "--strict")[0] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: [", "compose.yaml:2: is no YAML"),
        ("services: {web: {image: Not An Image}}\n", "tank: there is no pod in it, so nothing was written"),
    ],
)
def test_what_is_no_project_is_2(
    directory: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (directory / "compose.yaml").write_text(text)
    code, out, err = tank(capsys, directory)
    assert (code, out) == (2, "")
    assert said in err


def test_a_file_that_is_not_there_is_2(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = tank(capsys, directory / "none.yaml")
    assert code == 2
    assert "none.yaml" in err


def test_what_can_not_be_written_leaves_nothing_new(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "compose.yaml").write_text(
        "services: {a: {image: x, env_file: app.env}, b: {image: x}, c: {image: x}, d: {image: x}}\n"
    )
    pods = directory / "pods"
    (pods / "c.toml").mkdir(parents=True)
    (pods / "b.toml").write_text("theirs")
    code, _, err = tank(capsys, directory, "-o", pods, "--force")
    assert code == 1
    assert f"{pods / 'c.toml'}: cannot write: " in err
    assert sorted(path.name for path in pods.rglob("*") if not path.is_dir()) == ["b.toml"]
    (pods / "c.toml").rmdir()
    assert tank(capsys, directory, "-o", pods, "--force")[0] == 0


def test_what_a_pod_file_names_is_there_before_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "compose.yaml").write_text("services: {a: {image: x, env_file: app.env}, b: {image: x}}\n")
    order: list[str] = []
    write = atomic.write

    def noted(path: Path, data: bytes, *, mode: int) -> None:
        order.append(path.name)
        write(path, data, mode=mode)

    monkeypatch.setattr(atomic, "write", noted)
    assert main(["import", "compose", os.fspath(directory), "-o", os.fspath(directory / "pods")]) == 0
    assert order == ["app.env", "a.toml", "b.toml"]
