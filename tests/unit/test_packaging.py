"""What the package is made of: generated files, the sample configuration, and one version everywhere."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tank_agent import __version__
from tank_agent.cli.parser import module_of, verbs
from tank_agent.settings.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    command = [sys.executable, str(PACKAGING / "generate.py"), str(out)]
    subprocess.run(command, check=True, timeout=60, stdin=subprocess.DEVNULL)
    return out


@pytest.mark.parametrize("name", ["tank", "_tank", "tank.fish", "tank.1"])
def test_every_verb_is_in_completions_and_manual(generated: Path, name: str) -> None:
    text = (generated / name).read_text()
    assert [verb for verb in verbs() if not re.search(rf"\b{verb}\b", text)] == []


def words_of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    """Yield every verb, verb of a verb and option that a parser takes, with the verb that it belongs to."""
    yield name, name.rsplit(" ", maxsplit=1)[-1]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield from words_of(below, f"{name} {word}")
        else:
            yield from ((name, flag) for flag in action.option_strings if flag not in ("-h", "--help"))


def everything() -> list[tuple[str, str]]:
    found = []
    for verb in verbs():
        parser = argparse.ArgumentParser(prog=f"tank {verb}")
        module_of(verb).add_arguments(parser)
        found += list(words_of(parser, verb))
    return found


def test_every_verb_of_a_verb_and_every_option_is_in_the_manual(generated: Path) -> None:
    page = (generated / "tank.1").read_text().replace("\\-", "-")
    sections = {
        " ".join(section.partition("\n")[0].split()): section for section in page.split("\n.SS tank ")
    }
    for name, word in everything():
        section = next((text for title, text in sections.items() if f"{title} ".startswith(f"{name} ")), None)
        assert section is not None, f"tank {name}"
        assert re.search(rf"{re.escape(word)}(?![\w-])", section), f"tank {name}: {word}"


def completed_by_bash(generated: Path, *words: str, path: str = os.defpath) -> list[str]:
    array = " ".join(f"'{word}'" for word in words)
    script = f". {generated / 'tank'}; COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _tank"
    done = subprocess.run(
        ["bash", "-c", f'{script}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
        env={"PATH": path},
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_every_verb_of_a_verb_and_every_option(generated: Path) -> None:
    wanted: dict[str, set[str]] = {}
    for name, word in everything():
        wanted.setdefault(name, set())
        group, _, last = name.rpartition(" ")
        if word.startswith("-"):
            wanted[name].add(word)
        elif group:
            wanted.setdefault(f"{group}\n", set()).add(last)
    for name, words in wanted.items():
        group = name.endswith("\n")
        typed = "" if group else "-"
        if name in ("image", "volume", "git"):
            continue
        found = set(completed_by_bash(generated, "tank", *name.split(), typed))
        assert words <= found, f"tank {name}"


@pytest.mark.parametrize(
    "verb",
    ["status", "get", "delete", "wait", "history", "exec", "attach", "logs", "rollback", "suspend", "resume"],
)
def test_bash_completes_pods_where_a_verb_takes_them(generated: Path, tmp_path: Path, verb: str) -> None:
    fake = tmp_path / "tank"
    fake.write_text("""#!/bin/sh\necho '[{"name": "web"}, {"name": "db"}]' | tr , '\\n'\n""")
    fake.chmod(0o755)
    path = f"{tmp_path}:{os.defpath}"
    assert completed_by_bash(generated, "tank", verb, "", path=path) == ["db", "web"]
    assert completed_by_bash(generated, "tank", "events", "--pod", "w", path=path) == ["web"]


@pytest.mark.machine
def test_fish_completes_verbs_of_verbs(generated: Path) -> None:
    script = f"source {generated / 'tank.fish'}; complete -C 'tank image '; complete -C 'tank git init --ow'"
    command = ["fish", "--no-config", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["ls", "prune", "pull", "rm", "--owner"]


def test_the_command_that_is_installed_is_ours_and_runs() -> None:
    installed = Path(sys.executable).with_name("tank")
    first, *rest = installed.read_text().splitlines()
    assert first.startswith("#!/")
    assert rest == (PACKAGING / "tank").read_text().splitlines()[1:]
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == f"tank {__version__}\n"


def test_the_shells_can_read_their_completions(generated: Path) -> None:
    subprocess.run(["bash", "-n", str(generated / "tank")], check=True, timeout=20)
    assert "@" not in (generated / "tank").read_text().replace("$@", "").replace('"@"', "")
    assert not re.search(r"@[A-Z]+@", (generated / "_tank").read_text())


@pytest.mark.machine
def test_fish_completes_verbs_and_options(generated: Path) -> None:
    script = f"source {generated / 'tank.fish'}; complete -C 'tank sta'; complete -C 'tank status -o '"
    command = ["fish", "--no-config", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == ["status", "json", "text"]
    assert done.stderr == ""


@pytest.mark.machine
def test_zsh_reads_its_completion(generated: Path) -> None:
    subprocess.run(["zsh", "-n", str(generated / "_tank")], check=True, timeout=20)


# zsh completes only at a terminal, and zpty gives it one. Ctrl-X shows the line after Tab, and empties it.
_ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; path=($1 $path); fpath=($2 $fpath); autoload -Uz compinit; compinit -u -D'
zpty -w shell 'show() { print -r -- "<$BUFFER>"; BUFFER=; zle redisplay }; zle -N show; bindkey "^X" show'
zpty -w shell 'print ready'
zpty -r shell out '*ready*ready*'
for line in ${@[3,-1]}; do
  zpty -n -w shell "$line"$'\\t\\x18'
  zpty -r shell out '*<*>*'
  print -r -- "${${out##*<}%%>*}"
done
zpty -d shell
"""


@pytest.mark.machine
def test_zsh_completes_verbs_options_values_and_pods(generated: Path, tmp_path: Path) -> None:
    tank = tmp_path / "tank"
    tank.write_text('#!/bin/sh\nprintf \'[\\n{\\n"name": "web"\\n},\\n{\\n"name": "db"\\n}]\\n\'\n')
    tank.chmod(0o755)
    script = _ZSH.replace("$1", str(tmp_path)).replace("$2", str(generated))
    lines = ("tank stat", "tank status -o j", "tank apply --wa", "tank get w")
    command = ["zsh", "-f", "-c", script, "zsh", "", "", *lines]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    whole = ["tank status ", "tank status -o json ", "tank apply --wait ", "tank get web "]
    assert done.stdout.splitlines() == whole


def test_needrestart_leaves_the_pods_alone() -> None:
    # As needrestart reads its files, and then looks a service up.
    script = r"""
    our %nrconf = (override_rc => {qr(^dbus) => 0});
    eval do { local $/; <STDIN> }; die $@ if $@;
    my $rules = $nrconf{override_rc};
    for my $service (@ARGV) {
        print "$service\n" if grep { $service =~ /$_/ && !$rules->{$_} } keys %$rules;
    }
    """
    file = PACKAGING / "needrestart" / "tank-agent.conf"
    services = ("tank-pods.service", "tank-agent.service", "tank-podsxservice", "dbus.service")
    done = subprocess.run(
        ["perl", "-we", script, *services],
        input=file.read_text(),
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert (done.stdout.split(), done.stderr) == (["tank-pods.service", "dbus.service"], "")


def test_bash_completes_verbs_and_options(generated: Path) -> None:
    script = (
        f"source {generated / 'tank'}; COMP_WORDS=(tank st); COMP_CWORD=1; _tank; echo ${{COMPREPLY[@]}};"
        "COMP_WORDS=(tank status -o j); COMP_CWORD=3; _tank; echo ${COMPREPLY[@]};"
        "COMP_WORDS=(tank --socket /x apply --wa); COMP_CWORD=4; _tank; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "status\njson\n--wait\n"


def test_the_schemas_accept_what_the_package_installs(generated: Path) -> None:
    settings = json.loads((generated / "agent.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(settings)
    jsonschema.validate(tomllib.loads((PACKAGING / "agent.toml").read_text()), settings)
    jsonschema.validate(tomllib.loads(uncommented()), settings)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"nonsense": 1}, settings)
    sample = tomllib.loads((ROOT / "pods.d" / "example.toml.sample").read_text())
    jsonschema.validate(sample, json.loads((generated / "pod.schema.json").read_text()))


def uncommented() -> str:
    """Return the sample agent.toml with every key in force."""
    lines = (PACKAGING / "agent.toml").read_text().splitlines()
    return "\n".join(line[2:] for line in lines if re.match(r"# (\[|[a-z_]+ = )", line))


def test_agent_toml_changes_nothing_as_it_is_and_shows_the_defaults(tmp_path: Path) -> None:
    installed = load_settings(PACKAGING / "agent.toml", environ={})
    assert installed == Settings(file=PACKAGING / "agent.toml")
    file = tmp_path / "agent.toml"
    file.write_text(uncommented())
    shown = load_settings(file, environ={})
    assert (shown.reconcile, shown.logs) == (Settings().reconcile, Settings().logs)
    directories = ("data_dir", "run_dir", "pods_dir", "seed_dir")
    assert [getattr(shown, key) for key in directories] == [getattr(Settings(), key) for key in directories]


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (PACKAGING / "debian" / "changelog").read_text()
    assert [project, re.match(r"tank-agent \((.*?)\)", changelog).group(1)] == [__version__] * 2  # type: ignore[union-attr]


def test_nothing_is_mounted_or_inherited_through_the_units() -> None:
    for unit in ("tank-agent.service", "tank-pods.service"):
        text = (PACKAGING / "systemd" / unit).read_text()
        keys = set(re.findall(r"^([A-Za-z]+)=", text, re.MULTILINE))
        harmful = {"ProtectSystem", "PrivateTmp", "PrivateMounts", "NoNewPrivileges", "CapabilityBoundingSet"}
        assert not keys & (harmful | {"SystemCallFilter", "MemoryDenyWriteExecute", "RestrictSUIDSGID"})


def test_the_examples_of_contributing_select_tests() -> None:
    lines = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    (example,) = (match[1] for line in lines if (match := re.search(r"\./dev test (tests/\S+ -k \S+)", line)))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *example.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_tests_that_the_package_is_built_with_are_there() -> None:
    named = (PACKAGING / "debian/unit-tests").read_text().split()
    assert named
    assert [name for name in named if not (ROOT / "tests/unit" / name).is_file()] == []
