"""Compose projects are read as compose reads them: each of these is read by the real program, too.

What is read here is written as one plain file, which the program reads again: both of its models must be the
same, apart from extensions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct, field

from tank_agent.convert.compose.read import read_project
from tank_agent.convert.model import InvalidSource
from tests.support.compose import compose_2, config, plain_file

# Packages are fetched once, by one test at a time.
pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

WEB = "services:\n  web:\n    image: nginx\n"


class Sample(Struct):
    """Files by their path, and how compose is called; without `-f`, it finds its files itself."""

    files: dict[str, str]
    use: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    profiles: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    directory: str | None = None
    name: str | None = None


def one(text: str, **environ: str) -> Sample:
    return Sample({"compose.yaml": text}, environ=environ)


def service(text: str, **environ: str) -> Sample:
    lines = "".join(f"    {line}\n" for line in text.strip("\n").split("\n"))
    return one(WEB + lines, **environ)


def over(base: str, other: str) -> Sample:
    """Return two files whose only service has these keys."""
    both = [WEB + "".join(f"    {line}\n" for line in text.strip("\n").split("\n")) for text in (base, other)]
    return Sample({"a.yml": both[0], "b.yml": both[1]}, ("a.yml", "b.yml"))


SAME: dict[str, Sample] = {
    "words": service(
        "environment:\n  A: yes\n  B: on\n  C: true\n  D: 0777\n  E: 0o17\n  F: 0x1F\n  G: 1_000\n"
        "  H: 08\n  I: ~\n"
        "  J: 'yes'\n  K: !!str 12\n  L: 1.50\n  M: 1e6\n  N: 22:22\n  O: .5\n  P: 2024-01-02\n"
        "  Q: 1.2.3\n  R: NULL\n"
        "  S: +5\n  T: 12345678.25\n  U: 1e-7\n  V: -0\n  W: 123456789012345678901\n  X: 2024-1-2 3:4:5.60\n"
        "  Y: 2001-12-14t21:59:43.10-05:00\n  Z: =\n"
    ),
    "numbers that become texts": over(
        "labels: [z=1]",
        "labels:\n  a: 1e20\n  b: 1e21\n  c: 0.0001\n  d: 0.00001\n  e: 123456.5\n  f: 1234567.0\n"
        "  g: 1e5\n  h: 1000000.5\n  i: 3.0\n  j: 1234567890123456789.0\n  k: -0.0\n  l: 1_000\n  m: true\n"
        "  n: 12345678901234567890\n  o: 123456789012345678901\n  p: 0.1\n  q: 1.10\n  r: -1.5e-9",
    ),
    "ports": service("ports: [22:22, 80, '8080:80', 127.0.0.1:53:53/udp, '9000-9002:9000-9002', 0600]"),
    "typed": service(
        "privileged: yes\ntty: 'on'\ninit: ${B}\nread_only: NO\ncpus: '0.5'\nscale: ${N}\npids_limit: '20'\n"
        "ulimits:\n  nofile: '100'\n  nproc:\n    soft: ${N}\n    hard: 3\nhealthcheck:\n  test: x\n"
        "  retries: ${N}\n",
        B="true",
        N="2",
    ),
    "modes": service("configs:\n  - source: c\n    target: /c\n    mode: 0440\n"),
    "block texts": service("command: |\n  a\n   b\nlabels:\n  x: >-\n    one\n    two\n\n    three\n"),
    "anchors": one(
        "x-a: &a\n  image: nginx\n  labels: &l {a: 1}\nservices:\n  web: *a\n  db:\n    <<: *a\n"
        "    image: db\n"
        "    labels:\n      <<: *l\n      b: 2\n"
    ),
    "list of merges": one(
        "x-a: &a {image: one, user: a}\nx-b: &b {image: two, hostname: b}\nx-c: &c\n  <<: *b\n  tty: true\n"
        "services:\n  web:\n    <<: [*a, *b]\n    restart: always\n  db:\n    user: d\n    <<: [*c, *a]\n"
    ),
    "merge in place": one("services:\n  web:\n    <<: {image: nginx, user: a}\n    user: b\n"),
    "flow": one('{"services": {"web": {"image": "nginx", "ports": ["80:80"]}}}'),
    "documents": one(WEB + "---\nservices:\n  web:\n    user: a\n---\nservices:\n  db: {image: db}\n"),
    "extensions": one(f"x-any: {{a: 1}}\n{WEB}    x-own: 1\n    labels: {{x-l: 1}}\n"),
    "utf-8 with mark": one(f"\ufeff{WEB}    labels: {{a: ä}}\n"),
    "crlf": one(WEB.replace("\n", "\r\n")),
    "variables": service(
        "environment:\n  - A=$A-${A}-${A:-x}-${A-x}-${A:+y}-${A+y}-$$A-$${A}\n"
        "  - E=${E:-x}${E-y}${E:+p}${E+q}\n"
        "  - U=${U:-u}${U-v}${U:+p}${U+w}\n  - N=${U:-${A}}${U-${V:-deep}}e}f\n  - B=${U:-{x}}${A:+${E:-z}}\n"
        "  - D=$1 $ 100$ $-\n  - Q=${A:?no}${A?no}\n  - L=${a_1}\n",
        A="1",
        E="",
        a_1="low",
    ),
    "braces in defaults": service(
        "labels:\n  - 'a=${A:-{}}'\n  - 'b=${A:-{\"x\": 1}} ${B:-{b}}'\n"
        "  - 'c=${A:-x} }'\n  - 'd=${A:-{} } }'\n"
        "  - 'e=${A:-${B:-{}}}'\n  - \"f=${A:-x}\\n}\"\n  - 'g=${A-}}'\n"
    ),
    "values are not filled twice": service("labels: ['a=$A']", A="$B ${C"),
    "keys are not filled": service("labels: {'$A': $A}", A="1"),
    "a blank": service("labels: ['a=$NOT', 'b=${NOT2}']"),
    "a variable without a value": service("environment:\n  - A\n  - B\n  - C=\n", A="1"),
    "variables in a mapping without a value": service("environment:\n  A:\n  B:\n  C: ''\n", A="1"),
    "dot env": Sample(
        {"compose.yaml": WEB + "    labels: ['a=$A$B$C']\n", ".env": "A=1\nexport B='x y'\nC=${A}${NOT}\nD\n"}
    ),
    "the environment wins over dot env": Sample(
        {"compose.yaml": WEB + "    labels: ['a=$A$B']\n", ".env": "A=1\nB=${A}\n"}, environ={"A": "2"}
    ),
    "files of variables": Sample(
        {
            "compose.yaml": WEB + "    labels: ['a=$A$B$C']\n",
            ".env": "A=no\n",
            "a.env": "A=1\nB=1\n",
            "b.env": "B=2\nC=${A}\n",
        },
        env_files=("a.env", "b.env"),
    ),
    "env_file": Sample(
        {
            "compose.yaml": WEB + "    env_file: [a.env, {path: sub/b.env}]\n    environment: {A: 3}\n",
            "a.env": "A=1\nB=1\n",
            "sub/b.env": "B=2\nC=$B\n",
        }
    ),
    "env_file that need not be there": service("env_file:\n  - path: no.env\n    required: false\n"),
    "override file": Sample(
        {"compose.yaml": WEB + "    user: a\n", "compose.override.yaml": "services: {web: {user: b}}\n"}
    ),
    "other names": Sample(
        {"docker-compose.yml": WEB, "docker-compose.override.yml": "services: {web: {user: b}}\n"}
    ),
    "the first of two names": Sample(
        {"compose.yml": WEB, "docker-compose.yaml": "services: {x: {image: x}}\n"}
    ),
    "COMPOSE_FILE": Sample(
        {"a.yml": WEB, "b.yml": "services: {web: {user: b}}\n", ".env": "COMPOSE_FILE=a.yml:b.yml\n"}
    ),
    "scalars, mappings": over("user: a\nlabels: {a: 1, b: 1}\nhostname: h", "user: b\nlabels: {b: 2, c: 3}"),
    "a mapping over a list": over("environment: ['A=1', B=2]", "environment: {B: 3, C: true, D: 1.50}"),
    "a list over a mapping": over("environment: {A: 1, B: yes}", "environment: ['B=3', D]"),
    "ports are added": over(
        "ports: ['80:80', 81]", "ports: ['80:80', '82:82', {target: 83, published: '83'}]"
    ),
    "lists are added": over(
        "cap_add: [A, B]\ndns: 1.1.1.1\nexpose: [80, '81']\ntmpfs: /a\ndns_search: [a]\ngroup_add: [a]\n"
        "security_opt: [a]",
        "cap_add: [B, C]\ndns: [1.1.1.1, 2.2.2.2]\nexpose: ['80', 82]\ntmpfs: [/b]\ndns_search: b\n"
        "group_add: [b]\n"
        "security_opt: [b]",
    ),
    "what is replaced": over(
        "command: [a, b]\nentrypoint: x\nhealthcheck: {test: [CMD, a], retries: 1}\n"
        "ulimits: {nofile: {soft: 1, hard: 2}}",
        "command: c d\nentrypoint: [y]\nhealthcheck: {test: b, timeout: 1s}\nulimits: {nofile: 5}",
    ),
    "null takes nothing away": over("user: a\nlabels: {a: 1}\ncommand: x", "user:\nlabels:\ncommand:\n"),
    "volumes by target": over(
        "volumes: ['./a:/x', '/b:/y:ro', 'v:/z']",
        "volumes: ['./c:/x', {type: bind, source: ./d, target: /y}]",
    ),
    "devices by target": over("devices: ['/dev/a:/dev/x', /dev/b]", "devices: ['/dev/c:/dev/x']"),
    "extra hosts": over("extra_hosts: ['a:1.1.1.1', 'b=2.2.2.2']", "extra_hosts: {a: 1.1.1.1, c: 3.3.3.3}"),
    "sysctls": over("sysctls: {net.a: 1}", "sysctls: ['net.a=2', net.b=3]"),
    "networks": over("networks: [a]", "networks: {a: {aliases: [x]}, b: {}}"),
    "logging": over(
        "logging: {driver: json-file, options: {a: '1'}}", "logging: {driver: json-file, options: {b: '2'}}"
    ),
    "logging of another driver": over(
        "logging: {driver: json-file, options: {a: '1'}}", "logging: {driver: syslog, options: {b: '2'}}"
    ),
    "build": over("build: .", "build: {dockerfile: D, args: {A: 1}}"),
    "configs by target": over(
        "configs: [c, {source: d, target: /d}]", "configs: [{source: c, target: /d}, c]"
    ),
    "reset": over(
        "user: a\nports: [80]\nlabels: {a: 1, b: 2}",
        "user: !reset\nports: !reset []\nlabels: {a: !reset null}",
    ),
    "override": over(
        "ports: [80, 81]\nenvironment: {A: 1}", "ports: !override [82]\nenvironment: !override {B: 2}"
    ),
    "twice in one list": service("environment: [A=1, B=1, A=2]\nports: ['80:80', '80:80']"),
    "depends_on": Sample(
        {
            "a.yml": "services:\n  web: {image: a, depends_on: [db]}\n  db: {image: b}\n  x: {image: c}\n",
            "b.yml": "services:\n  web:\n    depends_on:\n      db: {condition: service_healthy}\n"
            "      x: {condition: service_started, required: false}\n",
        },
        ("a.yml", "b.yml"),
    ),
    "extends": one(
        "services:\n  base: {image: a, environment: {A: 1, B: 1}, volumes: ['./x:/x'], command: c}\n"
        "  web: {extends: base, environment: ['B=2'], ports: [80]}\n"
        "  db: {extends: {service: web}, user: b}\n"
    ),
    "extends in another file": Sample(
        {
            "compose.yaml": "services:\n  web:\n    extends: {file: sub/base.yml, service: base}\n"
            "    user: b\n",
            "sub/base.yml": "services:\n  base:\n    extends: root\n"
            "    volumes: ['./x:/x', '~/y:/y', 'v:/v']\n"
            "    build: ./ctx\n    env_file: e.env\n  root: {image: '$A', user: a}\n",
            "sub/e.env": "E=1\n",
            ".env": "A=img\n",
        }
    ),
    "extends of extends": Sample(
        {
            "compose.yaml": "services:\n  web:\n    extends: {file: a/one.yml, service: one}\n",
            "a/one.yml": "services:\n  one:\n    extends: {file: b/two.yml, service: two}\n"
            "    volumes: ['./one:/one']\n",
            "a/b/two.yml": "services:\n  two: {image: x, volumes: ['./two:/two']}\n",
        }
    ),
    "extends with reset": one(
        "services:\n  base: {image: a, ports: [80], user: a}\n  web:\n    extends: base\n"
        "    ports: !override [81]\n    user: !reset\n"
    ),
    "include": Sample(
        {
            "compose.yaml": f"include: [sub/compose.yaml]\n{WEB}    labels: ['a=$A']\n    depends_on: [db]\n",
            "sub/compose.yaml": "services:\n  db: {image: 'db$A', volumes: ['./x:/x', 'd:/d']}\n"
            "volumes: {d: }\n",
            "sub/.env": "A=sub\n",
        }
    ),
    "include with all": Sample(
        {
            "compose.yaml": "include:\n  - path: [sub/a.yaml, sub/b.yaml]\n"
            "    project_directory: other\n    env_file: e.env\n" + WEB,
            "sub/a.yaml": "services:\n  db: {image: '$A', volumes: ['./x:/x']}\n",
            "sub/b.yaml": "services:\n  db: {user: b}\n",
            "e.env": "A=env\n",
            "other/keep": "",
        }
    ),
    "include in include": Sample(
        {
            "compose.yaml": f"include:\n  - a/compose.yaml\n{WEB}",
            "a/compose.yaml": "include:\n  - b/compose.yaml\nservices:\n  a: {image: a, build: .}\n",
            "a/b/compose.yaml": "services:\n  b: {image: b, build: .}\nnetworks: {n: }\n",
        }
    ),
    "an included service that is overridden": Sample(
        {
            "compose.yaml": "include: [sub.yaml]\n",
            "compose.override.yaml": "services: {db: {user: b}}\n",
            "sub.yaml": "services: {db: {image: db, user: a}}\n",
        }
    ),
    "profiles": Sample(
        {"compose.yaml": WEB + "  a: {image: a, profiles: [x]}\n  b: {image: b, profiles: [y, z]}\n"},
        profiles=("y",),
    ),
    "all profiles": Sample({"compose.yaml": WEB + "  a: {image: a, profiles: [x]}\n"}, profiles=("*",)),
    "profiles of dot env": Sample(
        {
            "compose.yaml": WEB + "  a: {image: a, profiles: [x]}\n  b: {image: b, profiles: [y]}\n",
            ".env": "COMPOSE_PROFILES=x, z\n",
        }
    ),
    "what need not be there": Sample(
        {
            "compose.yaml": WEB + "    depends_on:\n      a: {condition: service_started, required: false}\n"
            "  a: {image: a, profiles: [x]}\n"
        }
    ),
    "a name": one(f"name: My.${{A:-x}}_1\n{WEB}    labels: ['n=$COMPOSE_PROJECT_NAME']\n"),
    "a name by the environment": one(f"name: other\n{WEB}", COMPOSE_PROJECT_NAME="mine"),
    "another directory": Sample(
        {"sub/a.yml": WEB + "    volumes: ['./x:/x']\n    env_file: e.env\n", "e.env": "A=1\n"},
        ("sub/a.yml",),
        directory=".",
    ),
    "contents": Sample(
        {
            "compose.yaml": WEB
            + "    configs: [a, b]\n    secrets: [s, {source: t, target: u, mode: 0400}]\n"
            + "configs:\n  a: {content: 'x $A'}\n  b: {file: ./b}\nsecrets:\n  s: {file: ~/s}\n"
            "  t: {environment: A}\n",
        },
        environ={"A": "1"},
    ),
    "version": one(f'version: "3.8"\n{WEB}'),
    "long forms": service(
        "volumes:\n  - {type: tmpfs, target: /t, tmpfs: {size: 1000}}\n"
        "  - {type: volume, source: v, target: /v, volume: {nocopy: 'true'}}\n"
        "  - {type: bind, source: ../b, target: /b, read_only: 'yes'}\n"
        "deploy: {replicas: '2', resources: {limits: {cpus: '0.5', memory: 1g}}}\nmem_limit: 1g\n"
    ),
    "a volume of a directory": one(
        f"{WEB}    volumes: ['d:/d', 'n:/n']\nvolumes:\n"
        "  d: {driver: local, driver_opts: {type: none, o: bind, device: ./d}}\n"
        "  n: {driver: local, driver_opts: {type: nfs, o: addr=a, device: ':/x'}}\n"
    ),
    "links": one("services:\n  web: {image: a, links: ['db:sql'], volumes_from: [db]}\n  db: {image: b}\n"),
}

# What both refuse; compose's words, and ours.
REFUSED: dict[str, tuple[Sample, str]] = {
    "a key that is there twice": (one(WEB + "    image: x\n"), 'compose.yaml:4: "image" is there twice'),
    "a number as a key": (service("labels: {1: x}"), 'compose.yaml:4: "1" is no name of a key; write "1":'),
    "a tab": (one("services:\n\tweb: {image: a}\n"), "compose.yaml:2: is no YAML: "),
    "no closing quote": (one('services:\n  web: {image: "a}\n'), "is no YAML: "),
    "an alias of nothing": (one("services: *a\n"), "compose.yaml:1: "),
    "an alias of itself": (one("x-a: &a [*a]\n" + WEB), "compose.yaml:1: *a has no &a that ends before it"),
    "a merge of a text": (one("services:\n  web:\n    <<: x\n"), "compose.yaml:3: <<: takes a mapping"),
    "a list": (one("- a\n"), "compose.yaml:1: is no compose file"),
    "nothing": (one(""), "compose.yaml: has no service to run"),
    "a variable that is needed": (
        service("labels:\n  - a=${A:?say ${B:-it}}"),
        'compose.yaml:5: services.web.labels.0: A is needed here and has no value: "say it"',
    ),
    "an open reference": (
        service("labels: ['a=${A']"),
        "compose.yaml:4: services.web.labels.0: a ${ is not closed",
    ),
    "a reference over two lines": (
        service('labels: {a: "${A:-x\\ny}"}'),
        "compose.yaml:4: services.web.labels.a: a ${ is not closed",
    ),
    "no reference": (
        service("labels: ['a=${A.b}']"),
        'compose.yaml:4: services.web.labels.0: "${A.b}" is no reference',
    ),
    "no number": (service("scale: many"), 'compose.yaml:4: services.web.scale: "many" is no whole number'),
    "no boolean": (
        service("tty: perhaps"),
        'compose.yaml:4: services.web.tty: "perhaps" is neither true nor false',
    ),
    "a section of no name": (
        one(f"service: {{}}\n{WEB}"),
        'compose.yaml:1: "service" is no section of a compose file; write services',
    ),
    "no image": (one("services:\n  web: {user: a}\n"), "compose.yaml:2: services.web needs image or build"),
    "a list for services": (one("services: [a]\n"), "compose.yaml:1: services must be a mapping"),
    "a text for a service": (
        one("services:\n  web: nginx\n"),
        "compose.yaml:2: services.web must be a mapping",
    ),
    "a mapping over a text": (
        over("cap_add: [a]", "cap_add: {a: 1}"),
        "b.yml:4: services.web.cap_add is a mapping here and a list at a.yml:4",
    ),
    "a circle of extends": (
        one("services:\n  a: {extends: b, image: x}\n  b: {extends: a}\n"),
        "compose.yaml:2: extends goes in a circle: a of compose.yaml extends b of compose.yaml extends a of",
    ),
    "extends of nothing": (
        one("services:\n  a: {extends: b}\n"),
        'compose.yaml:2: services.a: there is no service "b"',
    ),
    "extends of no file": (
        one("services:\n  a: {extends: {file: no.yml, service: b}}\n"),
        "no.yml\" can't be read: No such file",
    ),
    "a circle of includes": (
        Sample({"compose.yaml": f"include: [a.yml]\n{WEB}", "a.yml": "include: [compose.yaml]\n"}),
        "a.yml:1: include goes in a circle: compose.yaml includes a.yml includes compose.yaml",
    ),
    "what includes and included have": (
        Sample({"compose.yaml": f"include: [a.yml]\n{WEB}", "a.yml": "services: {web: {image: other}}\n"}),
        "compose.yaml:3: services.web is at a.yml:1, too",
    ),
    "a dependency of nothing": (
        service("depends_on: [db]"),
        'compose.yaml:4: services.web: there is no service "db" to depend on',
    ),
    "a network of nothing": (
        service("networks: [n]"),
        'compose.yaml:4: services.web.networks: "n" is not declared',
    ),
    "a volume of nothing": (
        service("volumes: ['v/x:/v']"),
        '"v/x" is not declared; write ./v/x if it is a directory',
    ),
    "a secret of nothing": (
        service("secrets: [s]"),
        'compose.yaml:4: services.web.secrets: "s" is not declared',
    ),
    "an empty volume": (service("volumes: ['$NOT:/v']"), 'services.web.volumes: ":/v" is no volume'),
    "a file of variables that is not there": (Sample({"compose.yaml": WEB}, env_files=("no.env",)), "no.env"),
    "a mistake in dot env": (
        Sample({"compose.yaml": WEB, ".env": "A=1\nB='x\n"}),
        ".env:2: a value is not closed",
    ),
    "no file": (Sample({"other.txt": ""}), "there is no compose.yaml or compose.yml here"),
    "a name of no project": (
        Sample({"compose.yaml": WEB}, name="My App"),
        '"My App" is no name of a project',
    ),
}


def arguments(sample: Sample) -> list[str]:
    found = [part for file in sample.use for part in ("-f", file)]
    found += [part for profile in sample.profiles for part in ("--profile", profile)]
    found += [part for file in sample.env_files for part in ("--env-file", file)]
    found += ["--project-directory", sample.directory] if sample.directory is not None else []
    return found + (["-p", sample.name] if sample.name is not None else [])


def write(sample: Sample, directory: Path) -> None:
    # What samples name without saying where it comes from.
    for name, text in sample.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())


def environment(sample: Sample, directory: Path) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(directory), **sample.environ}


def read(sample: Sample, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(directory)
    return read_project(
        sample.use,
        directory=sample.directory,
        env_files=sample.env_files,
        environ=environment(sample, directory),
        profiles=sample.profiles,
        name=sample.name,
    )


def compared(model: Any) -> Any:
    """Return a model without what is left out: extensions, and what need not be waited for."""
    if isinstance(model, Mapping):
        kept = {key: compared(item) for key, item in model.items() if not key.startswith("x-")}
        depends = kept.get("depends_on")
        if depends:
            kept["depends_on"] = {name: item for name, item in depends.items() if item["required"]}
        return {key: item for key, item in kept.items() if key != "depends_on" or item}
    return [compared(item) for item in model] if isinstance(model, list) else model


@pytest.mark.parametrize("name", SAME)
def test_it_is_read_as_compose_reads_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAME[name]
    project_directory = tmp_path / "project"
    project_directory.mkdir()
    with_declared = declared(sample)
    write(with_declared, project_directory)
    theirs = config(compose_2(), project_directory, arguments(sample), sample.environ)
    assert not isinstance(theirs, str), theirs
    project = read(with_declared, project_directory, monkeypatch)
    plain = tmp_path / "plain.json"
    plain.write_text(plain_file(project))
    again = ["-f", str(plain), "--project-directory", project.directory, "--profile", "*"]
    again += [part for file in sample.env_files for part in ("--env-file", file)]
    ours = config(compose_2(), project_directory, again, sample.environ)
    assert compared(ours) == compared(theirs)


def declared(sample: Sample) -> Sample:
    """Return a sample whose first file declares what samples name in passing."""
    first = (sample.use or tuple(sample.files))[0]
    extra = {
        "volumes": ("v",),
        "networks": ("a", "b"),
        "configs": ("c", "d"),
    }
    text = sample.files[first]
    lines = []
    for section, names in extra.items():
        if f"\n{section}:" not in text and "\n---" not in text and not text.startswith("{"):
            entries = {name: {"file": "./f"} if section == "configs" else {} for name in names}
            lines.append(f"{section}: {json.dumps(entries)}\n")
    return Sample(
        {**sample.files, first: text + "".join(lines)},
        sample.use,
        sample.environ,
        sample.profiles,
        sample.env_files,
        sample.directory,
        sample.name,
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_compose_refuses_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, message = REFUSED[name]
    write(sample, tmp_path)
    assert isinstance(config(compose_2(), tmp_path, arguments(sample), sample.environ), str)
    with pytest.raises(InvalidSource) as found:
        read(sample, tmp_path, monkeypatch)
    assert message in str(found.value)
