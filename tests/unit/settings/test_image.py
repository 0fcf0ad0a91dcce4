"""`[image]` and `[registry."HOST"]` of agent.toml: every key, the defaults, and every rule with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tank_agent.errors import InvalidSpec, Stalled
from tank_agent.image.registry.http import tls_context
from tank_agent.settings.declaration import settings_of, table_of
from tank_agent.settings.image import ImageSettings, RegistrySettings, UnpackLimits
from tank_agent.settings.settings import Settings, load_settings
from tank_agent.spec.findings import Finding

FULL = """\
[image]
pull = "always"
platform = "linux/arm64/v8"
auth_files = ["/srv/auth.json"]
parallel = 7
attempts = 2
connect_timeout = "500ms"
read_timeout = 12
minimum_rate = "10K"
image_size = "2G"
check = "90m"
[image.limits]
size = "1G"
file_size = "500M"
entries = 1000
depth = 12
headers = "64K"
cpu_time = "1m30s"
memory = "256M"
stall = "5s"
[registry."docker.io"]
mirrors = ["mirror.lan:5000", "cache.example/hub"]
[registry."old.lan:5000"]
insecure = true
[registry."lan.example"]
ca = "/etc/ssl/lan.pem"
[registry."evil.example"]
blocked = true
"""


def load(tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    return load_settings(file, environ={})


def test_nothing_said_is_the_stores_own_defaults(tmp_path: Path) -> None:
    findings: list[Finding] = []
    assert settings_of(ImageSettings, table_of(ImageSettings)(), ("image",), findings) == ImageSettings()
    assert findings == []
    assert load(tmp_path, "").image == Settings().image == ImageSettings()


def test_every_key(tmp_path: Path) -> None:
    assert load(tmp_path, FULL).image == ImageSettings(
        pull="always",
        platform="linux/arm64/v8",
        auth_files=("/srv/auth.json",),
        parallel=7,
        attempts=2,
        connect_timeout=0.5,
        read_timeout=12.0,
        minimum_rate=10 << 10,
        image_size=2 << 30,
        check=5400.0,
        limits=UnpackLimits(
            size=1 << 30,
            file_size=500 << 20,
            entries=1000,
            depth=12,
            headers=64 << 10,
            cpu_time=90,
            memory=256 << 20,
            stall=5.0,
        ),
        registries={
            "docker.io": RegistrySettings(mirrors=("mirror.lan:5000", "cache.example/hub")),
            "old.lan:5000": RegistrySettings(insecure=True),
            "lan.example": RegistrySettings(ca="/etc/ssl/lan.pem"),
            "evil.example": RegistrySettings(blocked=True),
        },
    )


@pytest.mark.parametrize("off", ["'off'", "0", "'0s'"])
def test_nobody_looks_for_newer_images_if_that_is_off(tmp_path: Path, off: str) -> None:
    assert load(tmp_path, f"[image]\ncheck = {off}\n").image.check == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[image]\ncheck = '10ms'\n",
            '2: image.check: "10ms" is out of range; it must be at least 1s and at most 720h',
        ),
        ("[image]\npulls = 'never'\n", "2: image.pulls: unknown key; did you mean pull?"),
        (
            "[image]\npull = 'often'\n",
            '2: image.pull: must be one of "always", "missing", "never", not "often"',
        ),
        ("[image]\nparallel = 0\n", "2: image.parallel: must be from 1 to 64"),
        ("[image]\nattempts = 101\n", "2: image.attempts: must be from 1 to 100"),
        (
            "[image]\nplatform = 'arm'\n",
            '2: image.platform: "arm" is not a platform; write one such as "linux/arm64/v8"',
        ),
        (
            "[image]\nauth_files = ['a.json']\n",
            '2: image.auth_files[0]: "a.json" is not an absolute path; it must start with "/"',
        ),
        (
            "[image]\nread_timeout = '1h'\n",
            '2: image.read_timeout: "1h" is out of range; it must be at least 100ms and at most 10m',
        ),
        (
            "[image]\nminimum_rate = 0\n",
            "2: image.minimum_rate: 0 is out of range; it must be at least 1 and at most 1G",
        ),
        (
            "[image.limits]\nmemory = '1K'\n",
            '2: image.limits.memory: "1K" is out of range; it must be at least 128M and at most 64G',
        ),
        ("[image.limits]\ndepth = 0\n", "2: image.limits.depth: must be from 1 to 4096"),
        (
            "[registry.'https://lan.example']\ninsecure = true\n",
            '1: registry."https://lan.example": "https://lan.example" is not a host; '
            'write one such as "registry.lan:5000"',
        ),
        (
            "[registry.'lan.example:99999']\ninsecure = true\n",
            '1: registry."lan.example:99999": "lan.example:99999" is not a host; '
            'write one such as "registry.lan:5000"',
        ),
        (
            "[registry.'registry-1.docker.io']\nblocked = true\n",
            '1: registry."registry-1.docker.io": is called "docker.io" in references; '
            'write [registry."docker.io"]',
        ),
        (
            "[registry.'a.b']\nmirror = ['c.d']\n",
            '2: registry."a.b".mirror: unknown key; did you mean mirrors?',
        ),
        (
            "[registry.'a.b']\nmirrors = ['http://c.d']\n",
            '2: registry."a.b".mirrors[0]: "http://c.d" is not a host; write "c.d"',
        ),
        (
            "[registry.'a.b']\nca = 'ca.pem'\n",
            '2: registry."a.b".ca: "ca.pem" is not an absolute path; it must start with "/"',
        ),
    ],
)
def test_one_mistake_gives_one_problem_at_its_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path, text)
    assert [str(problem).removeprefix(f"{tmp_path}/agent.toml:") for problem in caught.value.problems] == [
        expected
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x30\x82\xff\x00", "holds no certificate in PEM"),
        (
            b"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n",
            "holds a key, but no certificate",
        ),
        (None, "can't be read: No such file"),
    ],
)
def test_a_file_of_authorities_that_cannot_be_used_is_named(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Stalled) as caught:
        tls_context(RegistrySettings(ca=str(file)))
    assert str(file) in caught.value.message and words in caught.value.message
    assert "SSL" not in str(caught.value) and caught.value.hint
