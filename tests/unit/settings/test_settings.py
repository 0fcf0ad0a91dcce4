"""agent.toml: defaults, precedence, every rule with its line, and pods that are written in it."""

# ruff: noqa: E501
# A case stays on as few lines as a table's row may have.

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tank_agent.errors import InvalidSpec
from tank_agent.reconcile.core.restart import Backoff
from tank_agent.settings import settings as settings_module
from tank_agent.settings.git import GitSettings, GitVerify, GitWebhook, is_reference_name
from tank_agent.settings.settings import (
    HostSettings,
    ReconcileSettings,
    Settings,
    load_directories,
    load_settings,
)

FULL = """\
data_dir = "/srv/tank"
run_dir = "/run/other"
pods_dir = "/srv/pods.d"
seed_dir = "/srv/seed.d"
[git]
url = "https://git.example/fleet.git"
branch = "main"
path = "hosts/edge-1"
poll = "90s"
[host]
adapter = "static"
uplink = "eno1"
dns = ["10.0.0.1", "FD00::1"]
[reconcile]
resync = "5s"
backoff_base = "100ms"
backoff_cap = "1m"
stable_after = 30
workers = 8
[labels]
site = "edge-1"
[[pods]]
name = "first"
[[pods.containers]]
name = "app"
image = "oci:/srv/app"
"""
COMMIT = "9fceb02d0ae598e95dc970b74767f19372d61af8"


def load(tmp_path: Path, text: str | bytes) -> Settings:
    file = tmp_path / "agent.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_settings(file, environ={})


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    """Return the problems of a file without its name: `line: key: message`."""
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path, text)
    assert caught.value.exit_code == 2
    return [str(problem).removeprefix(f"{tmp_path}/agent.toml:").strip() for problem in caught.value.problems]


def test_a_missing_default_file_means_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "DEFAULT_FILE", tmp_path / "none.toml")
    found = load_settings(None, environ={})
    assert found == Settings()
    assert (found.data_dir, found.run_dir) == (Path("/var/lib/tank"), Path("/run/tank"))
    assert (found.pods_dir, found.seed_dir) == (Path("/etc/tank/pods.d"), Path("/etc/tank/seed.d"))
    assert found.reconcile == ReconcileSettings(
        resync=10.0, backoff_base=0.5, backoff_cap=300.0, stable_after=600.0, workers=4
    )
    assert (found.git, found.host, found.labels, found.seeds) == (None, HostSettings(adapter="auto"), {}, ())


def test_the_default_file_is_read_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('data_dir = "/srv/tank"\n')
    monkeypatch.setattr(settings_module, "DEFAULT_FILE", file)
    assert load_settings(None, environ={}).data_dir == Path("/srv/tank")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    found = load(tmp_path, "# nothing\n")
    assert found.file == tmp_path / "agent.toml"
    assert (found.data_dir, found.reconcile, found.host) == (
        Path("/var/lib/tank"),
        ReconcileSettings(),
        HostSettings(),
    )


def test_every_key(tmp_path: Path) -> None:
    found = load(tmp_path, FULL)
    assert (found.data_dir, found.run_dir) == (Path("/srv/tank"), Path("/run/other"))
    assert (found.pods_dir, found.seed_dir) == (Path("/srv/pods.d"), Path("/srv/seed.d"))
    assert found.git == GitSettings(
        url="https://git.example/fleet.git", branch="main", path="hosts/edge-1", poll=90.0
    )
    assert found.host == HostSettings(adapter="static", uplink="eno1", dns=("10.0.0.1", "fd00::1"))
    assert found.reconcile == ReconcileSettings(
        resync=5.0, backoff_base=0.1, backoff_cap=60.0, stable_after=30.0, workers=8
    )
    assert found.labels == {"site": "edge-1"}
    assert [(seed.pod.name, seed.line) for seed in found.seeds] == [("first", 22)]
    assert found.seed_problems == ()


def test_command_line_wins_over_environment_wins_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('data_dir = "/srv/file"\nrun_dir = "/run/file"\n')
    environ = {"TANK_DATA_DIR": "/srv/environ", "TANK_RUN_DIR": "/srv/ignored"}
    assert load_settings(file, environ=environ).data_dir == Path("/srv/environ")
    assert load_settings(file, environ={"TANK_DATA_DIR": ""}).data_dir == Path("/srv/file")
    monkeypatch.chdir(tmp_path)
    found = load_settings(file, environ=environ, overrides={"data_dir": "here/../data", "run_dir": None})
    assert found.data_dir == tmp_path / "data"
    assert found.run_dir == Path("/run/file")


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"none\.toml: there is no such file$"):
        load_settings(tmp_path / "none.toml", environ={})
    with pytest.raises(InvalidSpec, match=r"can't be read: Is a directory$"):
        load_settings(tmp_path, environ={})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('\ndata_dri = "/x"\n', "2: data_dri: unknown key; did you mean data_dir?"),
        ("[gti]\nurl = 'x'\n", "1: gti: unknown key; did you mean git?"),
        ("resync = '5s'\n", "1: resync: unknown key here; resync belongs in [reconcile]"),
        ("data_dir = 5\n", '1: data_dir: must be text, not a whole number; write "5"'),
        ('data_dir = "tank"\n', '1: data_dir: "tank" is not an absolute path; it must start with "/"'),
        ('run_dir = "/"\n', "1: run_dir: can't be the root directory"),
        (f'run_dir = "/{"a" * 98}"\n', "1: run_dir: is too long for the sockets in it; at most 97 bytes"),
        ('data_dir = "/x"\nrun_dir = "/x"\n', "run_dir: is the same directory as data_dir; each needs one of its own"),
        ("[git]\nbranch = 'main'\n", '1: git.url: is missing; write url = "https://git.example/fleet.git"'),
        ("git = 'https://x'\n", "1: git: must be a table, not text"),
        ("[[git]]\nurl = 'https://git.example/x'\n", "1: git: must be one table, not a list; write [git] with one bracket"),
        ("[git]\nurl = 'file://srv/repo.git'\n",
         "2: git.url: file://srv/repo.git names a host; write file:///path, or ssh://host/path"),
        ("[git]\nurl = 'http://git.example/x'\n",
         "2: git.url: anybody on the way could change what comes over http://; use https://"),
        ("[git]\nurl = 'https://ann:secret@git.example/x'\n",
         "2: git.url: the URL holds a password; put it into a file and name that in password_file"),
        (f"[git]\nurl = 'https://git.example/x'\nbranch = 'a'\ncommit = '{COMMIT}'\n",
         "4: git.commit: branch is given too; keep one of branch, tag and commit"),
        ("[git]\nurl = 'https://git.example/x'\ncommit = '9fceb02'\n",
         "3: git.commit: must be the full name of a commit: 40 hexadecimal digits in lower case"),
        ("[git]\nurl = 'https://git.example/x'\ntag = 'a..b'\n", '3: git.tag: "a..b" is not a name that git allows for a tag'),
        ("[git]\nurl = 'https://git.example/x'\npath = '../x'\n",
         '3: git.path: "../x" is not a path in the repository; write one such as "hosts/edge-1"'),
        ("[git]\nurl = 'https://git.example/x'\npath = '/x'\n",
         '3: git.path: "/x" is not a path in the repository; write one such as "hosts/edge-1"'),
        ("[git]\nurl = 'https://git.example/x'\npoll = '100ms'\n",
         '3: git.poll: "100ms" is out of range; it must be at least 1s and at most 24h'),
        ("[git]\nurl = '/x'\nmax_size = '1K'\n",
         '3: git.max_size: "1K" is out of range; it must be at least 1M and at most 1T'),
        ("[git]\nurl = '/x'\nbudget = -1\n", "3: git.budget: must be 0 or more"),
        ("[git]\nurl = '/x'\nssh_key = 'key'\n",
         '3: git.ssh_key: "key" is not an absolute path; it must start with "/"'),
        ("[git]\nurl = '/x'\nnetrc = '/a'\ntoken_file = '/b'\n",
         "3: git.netrc: token_file is given too; keep one of password_file, token_file and netrc"),
        ("[git]\nurl = '/x'\n[git.verify]\nmode = 'commits'\n",
         "3: git.verify: allowed_signers (SSH) or keyring (OpenPGP) is needed"),
        ("[git]\nurl = '/x'\npath = 'hosts/{hostnme}'\n",
         "3: git.path: {hostnme} stands for nothing; only {hostname} is replaced"),
        ("[git]\nurl = '/x'\n[git.webhook]\nsecret_file = '/s'\nlisten = 'localhost:9470'\n",
         '5: git.webhook.listen: "localhost:9470" is no address with a port; write one such as "127.0.0.1:9480"'),
        ("[git]\nurl = '/x'\n[git.webhook]\nsecret_file = '/s'\nlisten = '[::1]:99999'\n",
         '5: git.webhook.listen: "[::1]:99999" is no address with a port; write one such as "127.0.0.1:9480"'),
        ("[git]\nurl = '/x'\n[git.webhook]\nlisten = '127.0.0.1:1'\n",
         "3: git.webhook.secret_file: is needed: without a secret anybody could wake the agent"),
        ("[git]\nurl = '/x'\n[git.verify]\nkeyrin = '/k'\n", "4: git.verify.keyrin: unknown key; did you mean keyring?"),
        ("[host]\nadapter = 'atuo'\n",
         '2: host.adapter: "atuo" is not an adapter; write "auto", "static" or a dotted Python path'),
        ("[host]\nadapter = 'acme.Facts'\nuplink = 'eno1'\n",
         '3: host.uplink: is not asked for with adapter = "acme.Facts"; remove it'),
        ("[host]\nadapter = 'static'\nuplink = 'a/b'\n",
         '3: host.uplink: "a/b" is not an interface name; use 1 to 15 letters, digits and . _ @ + -, such as "eth0"'),
        ("[host]\nadapter = 'static'\ndns = [\n'x']\n",
         '4: host.dns[0]: "x" is not an IP address; write one such as "10.0.0.1"'),
        ("[reconcile]\nresync = 0\n", "2: reconcile.resync: 0 is out of range; it must be at least 100ms and at most 1h"),
        ("[reconcile]\nresync = 'often'\n",
         '2: reconcile.resync: "often" is not a length of time; use numbers with h, m, s or ms, such as "10s" or "1m30s"'),
        ("[reconcile]\nworkers = 0\n", "2: reconcile.workers: must be from 1 to 64"),
        ("[labels]\na = 1\n", '2: labels.a: must be text, not a whole number; write "1"'),
        ("[labels]\na = '''x\ny'''\n", "2: labels.a: a label needs a name, and has no control characters"),
        ("data_dir = /x\n", '1: text needs quotes; write data_dir = "/x"'),
        (b"a = 1\nb = '\xff'\n", "2: the text is not UTF-8; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_one_mistake_gives_one_problem_at_its_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


def test_all_problems_at_once_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("pods_dir = 'x'\n[reconcile]\nworker = 3\nresync = 1.5\nstable_after = -1\n")
    with pytest.raises(InvalidSpec) as caught:
        load_settings(file, environ={"TANK_DATA_DIR": "/"}, overrides={"run_dir": "/"})
    assert [(Path(problem.file).name, problem.line, problem.key) for problem in caught.value.problems] == [
        ("agent.toml", 1, "pods_dir"),
        ("agent.toml", 3, "reconcile.worker"),
        ("agent.toml", 5, "reconcile.stable_after"),
        ("command line", 0, "--run-dir"),
        ("environment", 0, "TANK_DATA_DIR"),
    ]


def test_a_bad_inline_pod_keeps_nobody_from_starting(tmp_path: Path) -> None:
    found = load(tmp_path, FULL + '[[pods]]\nname = "second"\nrestrat = "never"\n')
    assert [seed.pod.name for seed in found.seeds] == ["first"]
    assert [(problem.line, problem.key, problem.pod) for problem in found.seed_problems] == [
        (27, "pods[1].containers", "second"),
        (29, "pods[1].restrat", "second"),
    ]
    assert load(tmp_path, "pods = 5\n").seed_problems[0].line == 1


def test_inline_pods_have_files_beside_agent_toml(tmp_path: Path) -> None:
    text = (
        '[[pods]]\nname = "web"\n[[pods.files]]\nname = "conf"\nsource = "conf/web.conf"\n'
        '[[pods.containers]]\nname = "app"\nimage = "oci:/srv/x"\n'
    )
    (problem,) = load(tmp_path, text).seed_problems
    assert (problem.line, problem.key) == (5, "pods[0].files[0].source")
    assert problem.message == '"conf/web.conf" is not there; put it into the directory of the pod file'
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "web.conf").write_text("content")
    found = load(tmp_path, text)
    assert (found.seed_problems, found.seeds[0].pod.files[0].content) == ((), b"content")


def test_every_key_of_git(tmp_path: Path) -> None:
    found = load(
        tmp_path,
        """[git]
url = "git@git.example:fleet.git"
tag = "v1"
path = "hosts/{hostname}"
timeout = 30
depth = 0
max_size = "1G"
max_file = "64K"
transport = "git"
run_as = "git"
ssh_key = "/etc/tank/key"
known_hosts = "/etc/tank/known_hosts"
budget = 3
allow_rewrite = true
allow_empty = true
[git.verify]
mode = "tag"
allowed_signers = "/etc/tank/signers"
keyring = "/etc/tank/keyring"
[git.webhook]
listen = "127.0.0.1:9470"
secret_file = "/etc/tank/secret"
""",
    )
    assert found.git == GitSettings(
        url="git@git.example:fleet.git",
        tag="v1",
        path="hosts/{hostname}",
        timeout=30.0,
        depth=0,
        max_size=1 << 30,
        max_file=64 << 10,
        transport="git",
        run_as="git",
        ssh_key="/etc/tank/key",
        known_hosts="/etc/tank/known_hosts",
        budget=3,
        allow_rewrite=True,
        allow_empty=True,
        verify=GitVerify(mode="tag", allowed_signers="/etc/tank/signers", keyring="/etc/tank/keyring"),
        webhook=GitWebhook(listen="127.0.0.1:9470", secret_file="/etc/tank/secret"),
    )


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/fleet.git",
        "https://git.example:8443/fleet.git",
        "ssh://git@git.example/fleet.git",
        "git@git.example:team/fleet.git",
        "git.example:fleet.git",
        "git://git.example/fleet.git",
        "file:///srv/fleet.git",
        "http://127.0.0.1:8080/fleet.git",
        "http://[::1]/fleet.git",
        "/srv/fleet.git",
    ],
)
def test_urls_of_repositories(tmp_path: Path, url: str) -> None:
    found = load(tmp_path, f'[git]\nurl = "{url}"\n')
    assert found.git == GitSettings(url=url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fleet",
        "--upload-pack=x",
        "ssh://-oProxyCommand=x/y",
        "ssh://-x@git.example/y",
        "-x@git.example:y",
        "git@git.example:-x",
        "git@-x:y",
        "ext::sh -c x",
        "ftp://git.example/x",
        "https:///x",
        "https://git.example:x/y",
        "https://[::1/x",
        "https://git.example/a b",
        "https://git.example/a\\u0007",
        "file://host/x",
    ],
)
def test_what_is_no_url_of_a_repository(tmp_path: Path, url: str) -> None:
    (problem,) = problems(tmp_path, f'[git]\nurl = "{url}"\n')
    assert problem.startswith("2: git.url: ")


def test_names_that_git_allows() -> None:
    for name in ("main", "release/1.2", "v1.0", "a-b_c", "é"):
        assert is_reference_name(name)
    for name in (
        "",
        "-x",
        "a b",
        "a..b",
        "/a",
        "a/",
        "a//b",
        ".a",
        "a/.b",
        "a.lock",
        "a.",
        "@",
        "a@{1}",
        "a~1",
        "a\\b",
        "a\n",
    ):
        assert not is_reference_name(name)


def test_broken_files_are_answered_with_problems(tmp_path: Path) -> None:
    rng = random.Random(9)
    pieces = [*FULL, "[[", "]]", '"', "= 5", "= []", "\n", "\0", "a." * 600, "[" * 3000]
    file = tmp_path / "agent.toml"
    for _ in range(1_500):
        text = FULL
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(pieces) + text[at + rng.randint(0, 8) :]
        file.write_text(text)
        try:
            load_settings(file, environ={})
        except InvalidSpec as error:
            assert error.problems


@pytest.mark.parametrize(
    ("text", "data_dir"),
    [
        ("data_dir = '/srv/tank'\nnonsense = 1\n", "/srv/tank"),
        ("data_dir = 'relative'\n", "/var/lib/tank"),
        ("data_dir = 3\n", "/var/lib/tank"),
        ("data_dir = '/srv/tank'\nnot TOML", "/var/lib/tank"),
    ],
)
def test_directories_are_told_from_a_file_with_errors(tmp_path: Path, text: str, data_dir: str) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(InvalidSpec):
        load_settings(file, environ={})
    found = load_directories(file, environ={}, overrides={"run_dir": "/run/mine"})
    assert (str(found.data_dir), str(found.run_dir)) == (data_dir, "/run/mine")


def test_a_cap_below_the_base_is_the_delay(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("[reconcile]\nbackoff_cap = '200ms'\n")
    paces = load_settings(file, environ={}).reconcile
    assert Backoff(base=paces.backoff_base, cap=paces.backoff_cap).delay(0) == 0.2
