"""What any git transport must do, held against real servers; both transports pass the same tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tank_agent.errors import TankError
from tank_agent.settings.git import GitSettings, problems
from tank_agent.source.git.access import GitError, Wanted
from tank_agent.source.git.address import parse_url
from tank_agent.source.git.child import HelperPool
from tank_agent.source.git.clone import Clone, Look
from tests.support.git import (
    PASSWORD,
    USER,
    Keys,
    Work,
    git_daemon,
    https_server,
    known_hosts,
    make_certificate,
    ssh_server,
)

SERVERS = ("git", "https", "password", "token", "netrc", "ssh", "file", "path")


class Site:
    """All servers, for one repository."""

    def __init__(self, base: Path, stack: ExitStack) -> None:
        self.base = base
        self.keys = Keys(base)
        self.ca, pem = make_certificate(base)
        self.work = Work(base)
        self.work.write("pods/web.toml")
        self.first = self.work.commit("first")
        self.work.write("pods/db.toml")
        self.second = self.work.commit("second")
        self.git = stack.enter_context(git_daemon(base))
        self.https = stack.enter_context(https_server(base, pem))
        self.user, self.ssh_port = stack.enter_context(ssh_server(base, self.keys))
        (base / "private/fleet.git").symlink_to(self.work.bare)
        for name, text in (
            ("password", f"{PASSWORD}\n"),
            ("wrong", "hunter2\n"),
            ("netrc", f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n'),
            ("known_hosts", known_hosts(self.keys, self.ssh_port)),
            ("known_wrong", known_hosts(self.keys, self.ssh_port, self.keys.other)),
        ):
            (base / name).write_text(text)

    def settings(self, server: str, transport: str, **more: object) -> GitSettings:
        base = self.base
        fields: dict[str, object] = {
            "git": {"url": f"{self.git}/fleet.git"},
            "https": {"url": f"{self.https}/fleet.git", "ca_file": f"{self.ca}"},
            "password": {"username": USER, "password_file": f"{base}/password"},
            "token": {"username": USER, "token_file": f"{base}/password"},
            "netrc": {"netrc": f"{base}/netrc"},
            "ssh": {
                "url": f"ssh://{self.user}@127.0.0.1:{self.ssh_port}{self.work.bare}",
                "ssh_key": f"{self.keys.client}",
                "known_hosts": f"{base}/known_hosts",
            },
            "file": {"url": f"file://{self.work.bare}"},
            "path": {"url": f"{self.work.bare}"},
        }[server]  # type: ignore[assignment]
        if server in ("password", "token", "netrc"):
            fields = {"url": f"{self.https}/private/fleet.git", "ca_file": f"{self.ca}", **fields}
        if not {"tag", "commit"} & more.keys():
            fields["branch"] = "main"
        settings = GitSettings(transport=transport, timeout=30, **{**fields, **more})  # type: ignore[arg-type]
        assert problems(settings) == ()
        return settings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("git"), stack)


@pytest.fixture(params=["dulwich", "git"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def open_clone(settings: GitSettings, directory: Path) -> Clone:
    return Clone(settings, parse_url(settings.url), directory, HelperPool())


def commits(look: Look, tip: str) -> list[str]:
    """Return all commits that our copy holds, from the tip."""
    _, found = look.session.history(tip, "0" * 40, full=True)
    return list(found)


@pytest.mark.parametrize("server", SERVERS)
def test_lists_fetches_and_follows(site: Site, transport: str, server: str, tmp_path: Path) -> None:
    settings = site.settings(server, transport, depth=0)
    site.work.git("push", "--quiet", "--force", "origin", f"{site.first}:refs/heads/main")
    clone = open_clone(settings, tmp_path / "git")
    with clone.open() as look:
        assert look.latest() == site.first
        assert look.session.list_refs(("refs/heads/main", "refs/heads/no")) == {"refs/heads/main": site.first}
        assert look.fetch(Wanted(ref=settings.ref)) == site.first
        assert commits(look, site.first) == [site.first]
        look.repository.set_have(site.first)
    site.work.git("push", "--quiet", "origin", f"{site.second}:refs/heads/main")
    with clone.open() as look:
        assert look.latest() == site.second
        assert look.fetch(Wanted(ref=settings.ref)) == site.second
        assert commits(look, site.second) == [site.second, site.first]
        # A whole history of a directory is copied as it lies there, with what no ref names yet.
        assert look.repository.packs() == (1 if transport == "dulwich" and server in ("file", "path") else 2)
        _, found = look.session.history(site.second, None)
        objects, omitted = look.session.tree(found[site.second].tree, "pods", frozenset())
        assert (len(objects), omitted) == (3, {})  # the two pods are the same blob, below two trees
    assert sorted(entry.name for entry in (tmp_path / "git").iterdir()) == ["repository"]


@pytest.mark.parametrize("server", ["git", "https", "ssh", "file"])
def test_shallow(site: Site, transport: str, server: str, tmp_path: Path) -> None:
    site.work.git("push", "--quiet", "--force", "origin", f"{site.second}:refs/heads/main")
    settings = site.settings(server, transport, depth=1)
    clone = open_clone(settings, tmp_path / "git")
    with clone.open() as look:
        assert look.fetch(Wanted(ref=settings.ref)) == site.second
        assert commits(look, site.second) == [site.second]
        assert look.repository.is_shallow()
        look.repository.set_have(site.second)
    third = site.work.commit("third")
    with clone.open() as look:
        assert look.fetch(Wanted(ref=settings.ref)) == third
        assert commits(look, third) == [third, site.second]
    site.work.git("reset", "--quiet", "--hard", site.second)


@pytest.mark.parametrize("server", ["git", "https", "ssh", "file"])
def test_a_fixed_commit_and_tags(site: Site, transport: str, server: str, tmp_path: Path) -> None:
    work = site.work
    work.git("tag", "--force", "light", site.first)
    work.git("tag", "--force", "-a", "-m", "release", "v1", site.first)
    work.git("push", "--quiet", "--force", "origin", "light", "v1", f"{site.second}:refs/heads/main")
    settings = site.settings(server, transport, commit=site.first)
    with open_clone(settings, tmp_path / "commit").open() as look:
        assert look.latest() == site.first
        assert look.fetch(Wanted(commit=site.first)) == site.first
        assert commits(look, site.first) == [site.first]
    for tag in ("light", "v1"):
        settings = site.settings(server, transport, tag=tag)
        with open_clone(settings, tmp_path / tag).open() as look:
            name = look.fetch(Wanted(ref=settings.ref))
            tags, found = look.session.history(name, None)
            assert [tag.name for tag in tags] == (["v1"] if tag == "v1" else [])
            assert list(found) == [site.first]


def failure(settings: GitSettings, tmp_path: Path) -> GitError:
    """Return how a fetch fails; nothing secret may be in it, and nothing left behind."""
    with pytest.raises(GitError) as caught, open_clone(settings, tmp_path / "git").open() as look:
        look.fetch(Wanted(ref=settings.ref))
    text = f"{caught.value} {caught.value.__cause__!r}"
    assert PASSWORD not in text and "hunter2" not in text and "\n" not in caught.value.message
    assert sorted(entry.name for entry in (tmp_path / "git").iterdir()) == ["repository"]
    return caught.value


@pytest.mark.parametrize(
    ("server", "changes", "kind", "words"),
    [
        ("git", {"branch": "nope"}, "not-found", "no "),
        ("git", {"url": "{git}/other.git"}, "not-found", "no such repository"),
        ("git", {"url": "git://127.0.0.1:1/fleet.git"}, "unreachable", ""),
        ("https", {"branch": "nope"}, "not-found", "no "),
        ("https", {"url": "{https}/other.git"}, "not-found", "no such repository"),
        ("https", {"ca_file": None}, "refused", "certificate is not trusted"),
        ("https", {"url": "{https}/redirect/fleet.git"}, "*", ""),
        ("https", {"url": "{https}/page/"}, "not-found", ""),
        ("https", {"url": "{https}/private/fleet.git"}, "refused", "password"),
        ("https", {"url": "https://127.0.0.1:1/fleet.git"}, "unreachable", ""),
        ("password", {"password_file": "{base}/wrong"}, "refused", "refused"),
        ("ssh", {"known_hosts": "{base}/known_wrong"}, "refused", "host's key is not the one"),
        ("ssh", {"known_hosts": None}, "refused", "host's key is not the one"),
        ("ssh", {"ssh_key": "{base}/other_key"}, "refused", "key or user was refused"),
        ("ssh", {"ssh_key": "{base}/password"}, "refused", "not a private key"),
        ("ssh", {"url": "ssh://root@127.0.0.1:1/fleet.git"}, "unreachable", "nobody answers"),
        ("ssh", {"url": "ssh://{user}@127.0.0.1:{port}/no.git"}, "not-found", "no such repository"),
        ("file", {"branch": "nope"}, "not-found", "no "),
        ("file", {"url": "{base}/other.git"}, "not-found", "No such file"),
        ("file", {"url": "{base}/page"}, "not-found", "repository"),
    ],
)
def test_failures_have_one_clear_line(
    site: Site, transport: str, server: str, changes: dict[str, str], kind: str, words: str, tmp_path: Path
) -> None:
    places = {
        "git": site.git,
        "https": site.https,
        "base": site.base,
        "user": site.user,
        "port": site.ssh_port,
    }
    filled = {key: value and value.format(**places) for key, value in changes.items()}
    error = failure(site.settings(server, transport, **filled), tmp_path)
    assert words in error.message
    assert error.hint
    if kind != "*":
        assert error.kind == kind, error.message


def test_a_fetch_that_is_too_large_is_refused(site: Site, transport: str, tmp_path: Path) -> None:
    site.work.git("checkout", "--quiet", "-B", "large", site.first)
    for number in range(4):
        site.work.write(f"large{number}.toml", f"# {os.urandom(450_000).hex()}\n")
    site.work.commit("large", push=False)
    site.work.push("--force")
    site.work.git("checkout", "--quiet", "main")
    for server in ("git", "file"):
        settings = site.settings(server, transport, branch="large", max_size=1 << 20)
        error = failure(settings, tmp_path)
        assert (error.kind, error.message) == ("too-big", "the fetch is larger than git.max_size")


def test_secrets_are_in_no_argument_and_no_environment(site: Site, transport: str, tmp_path: Path) -> None:
    """While a fetch runs, look at everything that the helper and its children show in /proc."""
    seen: set[str] = set()
    key = site.keys.client.read_text().splitlines()[1]
    for settings in (site.settings("password", transport), site.settings("ssh", transport)):
        clone = open_clone(settings, tmp_path / "git")
        with clone.open() as look:
            worker = threading.Thread(target=look.session.fetch, args=(Wanted(ref=settings.ref),))
            worker.start()
            while worker.is_alive():
                for process in Path("/proc").glob("[0-9]*"):
                    for name in ("cmdline", "environ"):
                        try:
                            text = (process / name).read_bytes().decode(errors="replace")
                        except OSError:
                            continue
                        seen.add(f"{process.name}:{name}")
                        assert PASSWORD not in text and key not in text
            worker.join()
    assert len(seen) > 10


def test_the_helper_can_write_nowhere_else(site: Site, tmp_path: Path) -> None:
    """As root, the helper is another user, sees a read-only system, and holds no capability."""
    if os.geteuid() != 0:
        pytest.fail("this test needs root")
    settings = site.settings("git", "dulwich")
    with open_clone(settings, tmp_path / "git").open() as look:
        look.latest()
        pid = look.session._helper.process.pid
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        assert status["Uid"].split() == ["65534"] * 4
        assert status["Gid"].split() == ["65534"] * 4
        assert status["Groups"].strip() == ""
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
        mounts = [
            line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="replace").splitlines()
        ]
        writable = {fields[4] for fields in mounts if "rw" in fields[5].split(",")}
        assert writable == {"/mnt", "/mnt/scratch"}
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert f"Max address space         {1 << 30}" in limits


def test_the_helper_holds_no_directory_outside_of_its_view(
    site: Site, transport: str, tmp_path: Path
) -> None:
    """From a descriptor of the machine's own mounts, .. leads to all that its user may write."""
    settings = site.settings("path", transport)
    with open_clone(settings, tmp_path / "git").open() as look:
        look.fetch(Wanted(ref="refs/heads/main"))
        descriptors = Path(f"/proc/{look.session._helper.process.pid}/fd")
        assert [entry.readlink() for entry in descriptors.iterdir() if entry.is_dir()] == []


def test_a_user_that_is_missing_or_root_is_refused(site: Site, tmp_path: Path) -> None:
    for user in ("nobody-of-that-name", "root", "0"):
        settings = site.settings("git", "dulwich", run_as=user)
        with (
            pytest.raises(TankError, match=r"run_as|no user"),
            open_clone(settings, tmp_path / "git").open() as look,
        ):
            look.latest()
