"""Compose projects of several files, from any bytes to a project or a refusal with its place."""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

from tank_agent.convert.compose.read import read_project
from tank_agent.convert.model import InvalidSource, Value
from tests.fuzz.rounds import repeat

MAIN = """\
name: shop-${STAGE:-test}
x-common: &common
  restart: unless-stopped
  environment: &env { TZ: Europe/Berlin, LOG: "${LOG:-info}" }
include:
  - other.yaml
  - path: [more/a.yaml]
    project_directory: .
    env_file: more/a.env
services:
  web:
    <<: *common
    image: "nginx:${TAG:-1}"
    ports: ["8080:80", 127.0.0.1:443:443/tcp, { target: 9000, published: "9000" }]
    volumes: ["./conf:/etc/nginx:ro", "data:/data", { type: bind, source: ~/x, target: /x }]
    depends_on: { db: { condition: service_healthy, required: false } }
    environment:
      <<: *env
      PORT: 8080
      NONE:
    env_file: [{ path: e.env, required: false }]
    ulimits: { nofile: "${N:-100}", nproc: { soft: 1, hard: 2 } }
    healthcheck: { test: [CMD, curl, -f, "http://localhost"], retries: "${R:-3}" }
    configs: [{ source: c, target: /c, mode: 0440 }]
    profiles: [a]
  db:
    extends: { file: base.yaml, service: db }
    image: postgres
    networks: { back: { aliases: [sql] } }
    privileged: "${P:-no}"
    deploy: { replicas: "2", resources: { limits: { cpus: "0.5", memory: 1g } } }
    build: { context: ., args: [A=1] }
volumes: { data: }
networks: { back: { internal: true } }
configs: { c: { content: "a: ${B:-{}}\\n" } }
secrets: { s: { environment: S } }
"""
BASE = """\
services:
  db: { extends: root, command: ["a", "b"], volumes: ["./d:/d"], tmpfs: /t, labels: [a=1] }
  root: { image: base, cap_add: [NET_ADMIN], dns: 1.1.1.1, logging: { driver: none } }
---
services: { root: { user: "1" } }
"""
OVERRIDE = """\
services:
  web: { ports: !override [80], environment: [A=1, B], labels: !reset null, depends_on: [db] }
  db: { command: x, build: , networks: [back], extra_hosts: { a: 1.1.1.1 } }
"""
OTHER = "services: { queue: { image: 'q${Q:+1}', links: ['queue:q'], expose: [1, '2'] } }\n"
MORE = "services: { mail: { image: m, env_file: a.env, secrets: [t] } }\nsecrets: { t: { file: ./t } }\n"
ENV = "A=1\nexport TAG='x'\nB=\"${A:-y}\\n\"\nQ\nCOMPOSE_PROFILES=a\n"
FILES = {
    "compose.yaml": MAIN,
    "compose.override.yaml": OVERRIDE,
    "base.yaml": BASE,
    "other.yaml": OTHER,
    "more/a.yaml": MORE,
    "more/a.env": ENV,
    ".env": ENV,
}
# fmt: off
_TOKENS = [
    "&a", "*a", "*common", "<<: *a", "<<: [*common, *common]", "!!python/object:os.system", "!reset",
    "!override []", "!!str", "!!int", "!!binary", "? ", ": ", "- ", "\n---\n", "\n...\n", "%YAML 1.2",
    "|\n", ">-\n", "\t", "\0", "\ufeff", "#", "'", '"', "{", "}", "[", "]", ",", "[" * 90, "{a: " * 90,
    "${", "${A", "${A:?}", "${A:-" * 25, "$$", "$", "}", "null", "~", "yes", "0o17", "0x", "1e999",
    ".nan", "9" * 200, "2024-01-01", "99:99", "=", "é", "\U0001f41f", "\x85", "services:", "extends: web",
    "extends: { service: db }", "include: [compose.yaml]", "include: more/a.yaml", "env_file: /dev/zero",
    "file: /proc/self/mem", "file: ..", "path: more", "ports: {}", "volumes: [[]]", "volumes: ['']",
    "environment: [[1]]", "depends_on: 1", "profiles: a", "networks: {a: }", "name: ", "version: 3",
    "1: 2", "true: x",
]
# fmt: on


def mutate(text: str, rng: random.Random) -> str:
    """Return the text with a few changes at random places."""
    for _ in range(rng.randint(0, 3)):
        at = rng.randrange(len(text) + 1)
        lines = text.split("\n")
        line = rng.randrange(len(lines))
        change = rng.randrange(6)
        if change == 0:
            text = text[:at] + rng.choice(_TOKENS) + text[at:]
        elif change == 1:
            text = text[:at] + text[at + rng.randint(1, 12) :]
        elif change == 2:
            key, colon, _ = lines[line].partition(":")
            lines[line] = f"{key}{colon} {rng.choice(_TOKENS)}"
            text = "\n".join(lines)
        elif change == 3:
            text = "\n".join(lines[:line] + lines[line + 1 :])
        elif change == 4:
            lines.insert(line, lines[rng.randrange(len(lines))])
            text = "\n".join(lines)
        else:
            lines[line] = " " * rng.randrange(6) + lines[line].lstrip()
            text = "\n".join(lines)
    return text


def check(value: Value, names: set[str], depth: int = 0) -> None:
    """Check that a value is of the form that its class promises, at a place that there is."""
    assert depth < 100
    assert any(value.place.file.endswith(name) for name in names) and value.place.line >= 0, value.place
    if isinstance(value.plain, dict):
        for key, item in value.plain.items():
            assert isinstance(key, str)
            check(item, names, depth + 1)
    elif isinstance(value.plain, tuple):
        for item in value.plain:
            check(item, names, depth + 1)
    else:
        assert value.plain is None or isinstance(value.plain, bool | int | float | str)


def once(rng: random.Random, directory: Path) -> None:
    """Read one project of mutated files."""
    for name, text in FILES.items():
        changed = mutate(text, rng) if name == "compose.yaml" or rng.random() < 0.1 else text
        data = changed.encode(errors="surrogatepass")
        if rng.random() < 0.03:
            at = rng.randrange(len(data) + 1)
            data = data[:at] + rng.randbytes(3) + data[at:]
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    try:
        project = read_project([str(directory)], environ={"HOME": "/root", "LOG": "$x"}, profiles=["a"])
    except InvalidSource as error:
        assert error.message and error.place.line >= 0
        assert str(error).replace("\n", "").isprintable(), str(error)
        return
    for section in (project.services, project.volumes, project.networks, project.configs, project.secrets):
        for value in section.values():
            check(value, set(FILES))
    assert project.services and all(str(remark).isprintable() for remark in project.remarks)


def fuzz(seed: int, seconds: float | None, rounds: int | None) -> None:
    """Fuzz compose projects."""
    with tempfile.TemporaryDirectory(prefix="tank-fuzz-") as directory:
        repeat(seed, seconds, rounds, partial(once, directory=Path(directory)))
