"""What the package is made of: generated files, the sample configuration, and one version everywhere."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from tank_agent import __version__
from tank_agent.cli.main import parsed
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


def words_of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    """Yield every verb of a verb and every option that a parser takes, with the verb that it belongs to."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, below in action.choices.items():
                yield name, word
                yield from words_of(below, f"{name} {word}")
        else:
            yield from ((name, flag) for flag in action.option_strings if flag not in ("-h", "--help"))


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_has_a_page_with_all_that_it_takes(generated: Path, verb: str) -> None:
    overview = (generated / "tank.1").read_text().replace("\\-", "-")
    assert f"\n\\fB{verb}\\fR\n" in overview
    file = "tank-agent.8" if verb == "agent" else f"tank-{verb}.1"
    page = (generated / file).read_text().replace("\\-", "-")
    parser = argparse.ArgumentParser(prog=f"tank {verb}")
    module_of(verb).add_arguments(parser)
    for name, word in words_of(parser, verb):
        group = name.partition(" ")[2]
        text = page.partition(f"\n.SS {group}\n")[2].partition("\n.SS ")[0] if group else page
        text = re.sub(r"\\f[BIR]", "", text)
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text), f"{file}: {name} {word}"
    if verb != "agent":
        examples = page.partition("\n.SH EXAMPLES\n")[2].replace("\\e", "\\")
        assert [
            command for command, _ in module_of(verb).EXAMPLES if f"\\fB{command}\\fR" not in examples
        ] == []


def test_the_first_examples_of_the_manual_can_be_typed(generated: Path) -> None:
    shown = (generated / "tank.1").read_text().replace("\\-", "-").partition(".SH EXAMPLES\n")[2]
    commands = re.findall(r"^\\fBtank (.*)\\fR$", shown.partition(".SH ")[0], re.MULTILINE)
    assert len(commands) > 5
    for command in commands:
        assert hasattr(parsed(command.split()), "run")


@pytest.mark.machine
def test_man_reads_every_page_without_a_warning(generated: Path) -> None:
    pages = sorted(file for file in generated.iterdir() if re.fullmatch(r".*\.[158]", file.name))
    assert len(pages) > len(verbs())
    for page in pages:
        command = ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        assert done.stderr == "", page.name
        # What whatis(1) and apropos(1) find it by.
        found = subprocess.run(["lexgrog", str(page)], capture_output=True, text=True, check=True, timeout=20)
        assert f'"{page.stem} - ' in found.stdout


def test_the_command_that_is_installed_is_ours_and_runs() -> None:
    installed = Path(sys.executable).with_name("tank")
    first, *rest = installed.read_text().splitlines()
    assert first.startswith("#!/")
    assert rest == (PACKAGING / "tank").read_text().splitlines()[1:]
    done = subprocess.run([installed, "--version"], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == f"tank {__version__}\n"


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
