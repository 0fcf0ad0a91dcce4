"""The completions of bash, zsh and fish: every word of the parser, and names that a real server gives."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from tank_agent.cli.parser import module_of, verbs
from tank_agent.spec.model import Container, Pod
from tests.support.fake_service import FakeService, open_directory, serving
from tests.support.shells import completed

ROOT = Path(__file__).parents[2]
EVERY_SHELL = ("bash", *(pytest.param(shell, marks=pytest.mark.machine) for shell in ("zsh", "fish")))
FILES = {"bash": "tank", "zsh": "_tank", "fish": "tank.fish"}


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    command = [sys.executable, str(ROOT / "packaging" / "generate.py"), str(out)]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return out


def words_of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    """Yield what may follow a verb: verbs of its own and options, with the verb that each belongs to."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield name, word
                yield from words_of(below, f"{name} {word}")
        else:
            yield from ((name, flag) for flag in action.option_strings)


def everything() -> dict[str, set[str]]:
    """Return the words that may follow "tank" and every verb, by lines that ask for them."""
    found: dict[str, set[str]] = {"tank ": set(verbs()), "tank -": {"--version", "--socket", "--debug"}}
    for verb in verbs():
        parser = argparse.ArgumentParser(prog=f"tank {verb}")
        module_of(verb).add_arguments(parser)
        for name, word in words_of(parser, verb):
            line = f"tank {name} -" if word.startswith("-") else f"tank {name} "
            found.setdefault(line, set()).add(word)
    return found


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Serve three services, one of two containers, and a job, to a `tank` in PATH."""
    service = FakeService()
    for name in ("db", "solo", "web"):
        service.add(name)
    pair = Pod(name="web", containers=(Container(name="app", image="a"), Container(name="side", image="b")))
    service.pods["web"] = msgspec.structs.replace(service.pods["web"], pod=pair)
    with open_directory() as directory, serving(service, directory / "tank.sock"):
        yield {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TANK_SOCKET": str(directory / "tank.sock"),
        }


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_a_shell_can_read_its_completion(generated: Path, shell: str) -> None:
    file = generated / FILES[shell]
    subprocess.run([shell, "-n", str(file)], check=True, timeout=20)
    assert re.findall(r"@[A-Z]+@", file.read_text()) == []


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_every_verb_and_every_option_of_the_parser_is_offered(generated: Path, shell: str) -> None:
    wanted = everything()
    found = completed(shell, generated, [*wanted], {"PATH": os.environ["PATH"]}, every=True)
    assert [
        (line, missing)
        for (line, words), now in zip(wanted.items(), found, strict=True)
        if (missing := words.difference(now.split()))
    ] == []


# What a line becomes with all that its last word could be.
LINES = {
    "tank status ": "db solo web",
    "tank exec ": "db solo web",
    "tank exec web/": "web/app web/side",
    "tank exec so": "solo",
    "tank logs w": "web web/app web/side",
    "tank logs web -c ": "app side",
    "tank logs db -n 5 s": "solo",
    "tank attach web/s": "web/side",
    "tank events --pod ": "db solo web",
    "tank events --pod=w": "--pod=web",
    "tank wait web --for sch": "scheduled",
    "tank wait web --for=re": "--for=ready",
    "tank rollback web ": "1",
    "tank rollback ": "db solo web",
    "tank export kubernetes so": "solo",
    "tank image rm ": "docker.io/library/nginx:1.27",
    "tank image rm docker.io/library/nginx:": "docker.io/library/nginx:1.27",
    "tank image update s": "solo",
    "tank volume rm web/": "web/data web/old",
    "tank volume rm m": "media",
    "tank volume restore web/data ": "7 manual-3",
    "tank help vol": "volume",
    "tank help image pr": "prune",
    "tank git init /x --owner roo": "root",
    "tank run ": "",
    # What nobody knows, and a command in a container.
    "tank logs web --run ": "",
    "tank exec web ": "",
    "tank exec web -": "",
    "tank status -o ": "json text",
    "tank image ls -o j": "json",
    **{
        f"tank {verb} ": "db solo web"
        for verb in ("get", "delete", "wait", "history", "why", "top", "suspend", "resume")
    },
    **{f"tank {verb} s": "solo" for verb in ("stop", "start", "restart")},
}


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_names_are_those_of_what_a_verb_takes(
    generated: Path, environment: Mapping[str, str], shell: str
) -> None:
    found = completed(shell, generated, [*LINES], environment, every=True)
    shown = {}
    for line, now in zip(LINES, found, strict=True):
        begin = line.rpartition(" ")[0]
        assert now.startswith(begin)
        typed = line[len(begin) :].strip()
        words = now[len(begin) :].split()
        # A line that could become nothing else stays as it was.
        shown[line] = " ".join(sorted(words, key=str)) if words != [typed] or LINES[line] == typed else ""
    assert shown == LINES


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_files_are_offered_where_a_verb_takes_them(generated: Path, tmp_path: Path, shell: str) -> None:
    (tmp_path / "compose.yaml").touch()
    (tmp_path / "composed").mkdir()
    env = {"PATH": os.environ["PATH"]}
    here = f"tank import compose {tmp_path}/comp"
    lines = [f"{here}ose.", f"tank apply {tmp_path}/compose.", f"tank import compose x -o {tmp_path}/"]
    found = completed(shell, generated, lines, env)
    assert [line.rstrip(" /") for line in found] == [
        f"{here}ose.yaml",
        f"tank apply {tmp_path}/compose.yaml",
        f"tank import compose x -o {tmp_path}/composed",
    ]


@pytest.mark.parametrize("shell", EVERY_SHELL)
def test_a_line_without_names_is_left_alone_and_quiet(
    generated: Path, environment: Mapping[str, str], shell: str
) -> None:
    # No agent; another machine, whose names this one doesn't know; and more words than a verb takes.
    lines = ["tank --socket /nowhere/s status d", "tank get web d", "tank list d"]
    assert completed(shell, generated, lines, environment) == lines
    elsewhere = {**environment, "TANK_HOST": "far"}
    assert completed(shell, generated, ["tank status d"], elsewhere) == ["tank status d"]
