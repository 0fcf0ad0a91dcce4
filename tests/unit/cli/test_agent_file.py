"""What `tank validate` says of machines, of agent.toml, and of one pod in several files."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from tests.unit.cli.test_verbs import POD, Tank

HERE = platform.node()


@pytest.fixture
def alone(tmp_path: Path) -> Tank:
    return Tank(tmp_path / "none.sock", tmp_path)


def test_it_names_the_machines_of_a_pod(alone: Tank, tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(f'hosts = ["edge-*"]\nlabels = {{ site = "fra" }}\n{POD}')
    (tmp_path / "db.toml").write_text(f'hosts = ["{HERE}"]\n{POD}')
    (tmp_path / "config.toml").write_text('[labels]\nsite = "ber"\n')
    named = ("--config", "config.toml")
    assert alone("validate", "web.toml", "--config", "none.toml") == (
        0,
        "web.toml: ok, web\n  web: only machines with hosts edge-* and labels site=fra\n",
        "",
    )
    why = (
        f'hosts: "edge-*" is not this machine\'s name, {HERE};'
        ' labels: site = "fra" is not a label of this machine (here, site = "ber")'
    )
    here = f"; this one, {HERE}, is none: {why}"
    assert alone("validate", "web.toml", *named)[1].splitlines()[1] == (
        f"  web: only machines with hosts edge-* and labels site=fra{here}"
    )
    assert alone("validate", "db.toml", *named)[1].splitlines()[1].endswith(f"{HERE}, is one of them")
    (found,) = alone.json("validate", "db.toml", *named)
    assert (found["kind"], len(found["notes"]), found["warnings"]) == ("pods", 1, [])


def test_labels_of_compose_are_a_warning(alone: Tank, tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(f'labels = {{ "traefik.enable" = "true" }}\n{POD}')
    code, stdout, stderr = alone("validate", "web.toml")
    assert (code, stdout.splitlines()[0]) == (0, "web.toml: ok, web")
    assert stderr.startswith(
        "warning: web.toml:1: labels: traefik.enable looks like a label of a container, which nothing here"
    )
    (found,) = alone.json("validate", "web.toml")
    assert (found["valid"], found["warnings"][0]["pod"]) == (True, "web")


@pytest.mark.parametrize("key", ["labels", "label"])
@pytest.mark.parametrize("head", ["", "[[volumes]]\nname = 'data'\n"])
def test_labels_of_a_container_lead_nobody_into_the_trap(
    alone: Tank, tmp_path: Path, key: str, head: str
) -> None:
    before, after = (head, POD) if head else (POD, "")
    (tmp_path / "web.toml").write_text(f'{before}{key} = {{ "traefik.enable" = "true" }}\n{after}')
    code, _, stderr = alone("validate", "web.toml")
    assert code == 2
    assert f"{key}: unknown key; labels for other tools, such as traefik, mean nothing here" in stderr
    assert "belongs" not in stderr


def test_it_knows_an_agent_toml(alone: Tank, tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('pods_dir = "/srv/pods"\n')
    assert alone("validate", "agent.toml") == (0, "agent.toml: ok, the agent's configuration\n", "")
    (tmp_path / "agent.toml").write_text('pods_dir = "/srv/pods"\n[logs]\nmax_sice = "1M"\n')
    code, stdout, stderr = alone("validate", "agent.toml")
    assert (code, stdout) == (2, "")
    assert stderr.startswith("agent.toml:3: logs.max_sice: unknown key; did you mean max_size?")
    # By its keys, under another name, as of a copy that is about to be put there.
    (tmp_path / "new.toml").write_text('[git]\nurl = "/srv/x.git"\n[reconcile]\nresync = "1"\n')
    assert alone.json("validate", "new.toml", code=2)[0]["kind"] == "agent"
    (tmp_path / "pod.toml").write_text(f'reconcile = 1\nrestart = "always"\n{POD}')
    assert alone.json("validate", "pod.toml", code=2)[0]["kind"] == "pods"
    (tmp_path / "agent.toml").write_text("[labels\n")
    assert alone("validate", "agent.toml")[2].startswith("agent.toml:1: ")
    (tmp_path / "agent.toml").write_text(f'[[pods]]\nname = "seed"\n{POD.replace("[[", "[[pods.")}')
    assert alone("validate", "agent.toml")[1] == "agent.toml: ok, the agent's configuration, seed\n"
    (tmp_path / "agent.toml").write_text('[[pods]]\nname = "seed"\n')
    assert alone("validate", "agent.toml")[:2] == (2, "")


def test_one_pod_in_a_directory_and_one_below_it_is_what_an_agent_refuses(
    alone: Tank, tmp_path: Path
) -> None:
    for file in ("a/web.toml", "web.toml", "z/deep/web.toml"):
        (tmp_path / "pods" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pods" / file).write_text(POD)
    code, stdout, stderr = alone("validate", "pods")
    assert (code, stdout) == (2, "pods/web.toml: ok, web\n")
    assert stderr.splitlines() == [
        'pods/a/web.toml:1: name: pod "web" is declared in pods/web.toml already',
        'pods/z/deep/web.toml:1: name: pod "web" is declared in pods/web.toml already',
    ]
    (tmp_path / "pods/web.toml").unlink()
    code, _, stderr = alone("validate", "pods")
    assert (code, stderr.splitlines()) == (
        0,
        [
            "note: pod web is declared in pods/a/web.toml and pods/z/deep/web.toml: right if each directory"
            " is for another machine; one that follows all of them refuses the second"
        ],
    )
