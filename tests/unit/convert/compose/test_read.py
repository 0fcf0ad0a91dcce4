"""Projects: the places of values, remarks, and what is refused; an integration test compares with compose."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tank_agent.convert.compose.project import Project
from tank_agent.convert.compose.read import read_project
from tank_agent.convert.model import InvalidSource, Value
from tests.fuzz import compose_files

pytest.importorskip("yaml")
WEB = "services:\n  web:\n    image: nginx\n"


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(**files: str) -> None:
    for name, text in files.items():
        Path(name.replace("__", "/").replace("_", ".")).write_text(text)


def refused(*files: str) -> str:
    with pytest.raises(InvalidSource) as found:
        read_project(files)
    return str(found.value)


def entry(project: Project, service: str, key: str) -> Value:
    found = project.services[service].plain
    assert isinstance(found, dict)
    return found[key]


def test_each_value_has_the_place_of_the_file_that_it_comes_from() -> None:
    write(
        a_yml=WEB + "    environment: [A=1]\n    volumes:\n      - ./x:/x\n",
        b_yml="services:\n  web:\n    environment:\n      B: 2\n",
    )
    project = read_project(["a.yml", "b.yml"])
    items = entry(project, "web", "environment").plain
    assert isinstance(items, tuple)
    assert [(item.plain, str(item.place)) for item in items] == [("A=1", "a.yml:4"), ("B=2", "b.yml:4")]
    volumes = entry(project, "web", "volumes").plain
    assert isinstance(volumes, tuple)
    assert (volumes[0].plain, str(volumes[0].place)) == (f"{Path.cwd()}/x:/x", "a.yml:6")
    assert project.directory == str(Path.cwd())


def test_what_is_not_set_is_a_remark_with_variable_file_and_line() -> None:
    write(compose_yaml=WEB + "    user: $WHO\n    environment:\n      - A=${B}\n")
    assert [str(remark) for remark in read_project([]).remarks] == [
        "compose.yaml:4: services.web.user: WHO is not set, so it is blank, as compose has it; "
        "set it in .env or --env-file",
        "compose.yaml:6: services.web.environment.0: B is not set, so it is blank, as compose has it; "
        "set it in .env or --env-file",
    ]


def test_what_is_refused_because_of_a_blank_says_which() -> None:
    write(compose_yaml=WEB + "    volumes: ['$MEDIA:/media']\n")
    assert refused() == (
        'compose.yaml:4: services.web.volumes: ":/media" is no volume; write source:target, or '
        "source:target:ro\n"
        "  MEDIA is not set, so it is blank, as compose has it; set it in .env or --env-file"
    )


def test_services_of_other_profiles_are_left_out_with_a_note_unless_another_needs_them() -> None:
    write(
        compose_yaml=WEB
        + "    depends_on: {db: {condition: service_started}, log: {condition: service_started, "
        "required: false}}\n"
        "  db: {image: d, profiles: [x]}\n  log: {image: l, profiles: [y, z]}\n"
    )
    project = read_project(["compose.yaml"])
    assert list(project.services) == ["web", "db"]
    depends = entry(project, "web", "depends_on").plain
    assert isinstance(depends, dict)
    assert list(depends) == ["db"]
    assert [(remark.kind, str(remark)) for remark in project.remarks] == [
        (
            "note",
            "compose.yaml:5: services.db.profiles: has a profile that is not asked for (x), "
            "but web depends on it",
        ),
        (
            "note",
            "compose.yaml:6: services.log.profiles: is left out, since its profiles (y, z) are not "
            "asked for; --profile takes it in",
        ),
    ]
    assert list(read_project(["compose.yaml"], profiles=["z"]).services) == ["web", "db", "log"]


def test_a_project_of_which_nothing_is_active_says_so() -> None:
    write(compose_yaml="services: {a: {image: a, profiles: [x]}}\n")
    assert refused() == (
        "compose.yaml: has no service to run; ask for their profiles with --profile, or * for all"
    )


def test_standard_input_is_a_file_of_the_working_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tank_agent.convert.compose.load.read_stdin", lambda most: WEB.encode())
    project = read_project(["-"])
    assert (project.directory, str(project.services["web"].place)) == (str(Path.cwd()), "<stdin>:2")


def test_a_file_of_the_first_form_is_read_with_a_note() -> None:
    write(fig_yml="web:\n  image: nginx\n  links: [db]\n  volumes: ['data:/d']\ndb:\n  image: db\n")
    project = read_project(["fig.yml"])
    assert list(project.services) == ["web", "db"]
    assert str(project.remarks[0]).startswith("fig.yml:1: web: services stand at the top")


def test_the_files_of_a_directory_above_are_found_when_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a/b").mkdir(parents=True)
    write(compose_yml=WEB)
    project = read_project([str(Path.cwd())])
    monkeypatch.chdir("a/b")
    assert read_project([]).directory == project.directory == str(Path.cwd().parents[1])
    assert "there is no compose.yaml or compose.yml here; name the compose file" in refused(".")


def test_the_name_of_a_project() -> None:
    Path("My App").mkdir()
    write(**{"My App__a_yml": WEB, "b_yml": f"name: Other\n{WEB}"})
    assert read_project(["My App/a.yml"]).name == "myapp"
    assert read_project(["b.yml"]).name == "other"
    assert read_project(["b.yml"], environ={"COMPOSE_PROJECT_NAME": "mine"}).name == "mine"
    assert read_project(["b.yml"], name="given").name == "given"


def test_contents_of_variables() -> None:
    write(compose_yaml=f"{WEB}configs: {{c: {{environment: A}}}}\nsecrets: {{s: {{environment: B}}}}\n")
    project = read_project([], environ={"A": "1"})
    config, secret = project.configs["c"].plain, project.secrets["s"].plain
    assert isinstance(config, dict)
    assert config["content"].plain == "1"
    assert isinstance(secret, dict)
    assert "content" not in secret


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.yml", "no.yml: can't be read: No such file or directory"),
        ("fifo", "fifo: is no regular file; name a file"),
        ("/dev/zero", "/dev/zero: is no regular file; name a file"),
        ("large.yml", "large.yml: it is larger than 1048576 bytes; name another file"),
        ("link.yml", "link.yml: can't be read: Too many levels of symbolic links"),
        ("a\0b", "can't be read: embedded null byte"),
    ],
)
def test_only_whole_regular_files_of_a_bounded_size_are_read(name: str, message: str) -> None:
    os.mkfifo("fifo")
    Path("link.yml").symlink_to("link.yml")
    with Path("large.yml").open("wb") as file:
        file.truncate(1 << 40)
    assert message in refused(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: {file: /dev/zero, service: a}", '"/dev/zero" is no regular file'),
        ("extends: {file: ., service: a}", "is a directory; name a file"),
        ("extends: {file: 'https://example.com/a.yml', service: a}", "is not on this machine; fetch it"),
        ("extends: [a]", "services.web.extends needs service; write service: NAME"),
    ],
)
def test_what_extends_can_not_name(text: str, message: str) -> None:
    write(compose_yaml=f"{WEB}    {text}\n")
    assert refused().startswith("compose.yaml:4: ")
    assert message in refused()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("include: a.yml\n", "compose.yaml:4: include must be a list; write - path/of/compose.yaml below it"),
        ("include: [{}]\n", "include: an item needs path"),
        ("include: [[a]]\n", "include: path must be a path")
        if False
        else ("include: [5]\n", "path must be a text"),
        ("include: ['oci://x/y']\n", '"oci://x/y" is not on this machine; fetch it and name the file'),
        ("include: [{path: a.yml, env_file: no.env}]\n", "no.env\" can't be read: No such file"),
    ],
)
def test_what_include_can_not_name(text: str, message: str) -> None:
    write(compose_yaml=WEB + text, a_yml=WEB)
    assert message in refused()


def test_files_that_include_each_other_again_and_again_end_soon() -> None:
    for number in range(30):
        write(**{f"f{number}_yml": f"include: [f{number + 1}.yml, f{number + 1}.yml]\nservices: {{}}\n"})
    write(f30_yml=WEB)
    before = time.process_time()
    assert "too many files include each other" in refused("f0.yml")
    assert time.process_time() - before < 10


def test_services_that_extend_each_other_end_soon() -> None:
    chain = "".join(f"  s{number}: {{extends: s{number + 1}}}\n" for number in range(200))
    write(long_yml=f"services:\n{chain}  s200: {{image: x}}\n")
    assert "more than 50 services extend each other" in refused("long.yml")
    items = ", ".join(f"A{number}" for number in range(60_000))
    many = "".join(f"  s{number}: {{extends: base, environment: [X]}}\n" for number in range(500))
    write(wide_yml=f"services:\n  base: {{image: x, environment: [{items}]}}\n{many}")
    before = time.process_time()
    assert "all files together have more values than a project needs" in refused("wide.yml")
    assert time.process_time() - before < 20


def test_no_input_is_a_fault() -> None:
    compose_files.fuzz(seed=41, seconds=None, rounds=150)
