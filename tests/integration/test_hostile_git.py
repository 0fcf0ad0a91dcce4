"""Quirks of git servers and repositories, one a row: each was somebody's bug report, or could be the next.

A quirk of a server ends in one clear line without a secret. A quirk of a repository touches at most its own
pod, and the next commit mends whatever it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from tank_agent.settings.git import GitSettings
from tank_agent.source.git.access import GitError, Wanted
from tank_agent.source.git.address import parse_url
from tank_agent.source.git.child import HelperPool
from tank_agent.source.git.clone import Clone
from tests.integration.test_git_source import Machine, write_bomb
from tests.support.agent import ended
from tests.support.git import (
    Keys,
    Work,
    git_daemon,
    https_server,
    known_hosts,
    make_certificate,
    pod_text,
    ssh_server,
)
from tests.support.git_quirks import Proxy, saying, serving, silent
from tests.support.gitops import Fleet

GIT = b"Content-Type: application/x-git-upload-pack-advertisement\r\n"


def http(status: str, *headers: bytes, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n".encode()
    return head + b"".join(header.rstrip(b"\r\n") + b"\r\n" for header in headers) + b"\r\n" + body


def lines(*texts: bytes) -> bytes:
    """Return texts as git's packet lines, with a flush at the end (gitprotocol-common(5))."""
    return b"".join(b"%04x%s" % (len(text) + 4, text) for text in texts) + b"0000"


SERVICE = lines(b"# service=git-upload-pack\n")


class Server(Struct, frozen=True):
    """What a server says to every request, and what the error is, in words that both transports have."""

    reply: bytes
    kinds: tuple[str, ...]
    words: str = ""


SERVERS = {
    "redirect with a password": Server(
        http("302 Found", b"Location: http://alice:S3cret@127.0.0.1:1/x.git"), ("broken", "unreachable")
    ),
    "redirect without a scheme": Server(
        http("301 Moved", b"Location: //alice:S3cret@127.0.0.1/x.git"), ("broken", "unreachable")
    ),
    "redirect with a token": Server(
        http("307 Moved", b"Location: http://127.0.0.1:1/x.git?access_token=S3cret"),
        ("broken", "unreachable"),
    ),
    "redirect to nowhere": Server(http("302 Found"), ("broken", "unreachable")),
    "redirect to a file": Server(
        http("302 Found", b"Location: file:///etc/shadow"), ("broken", "unreachable")
    ),
    "wrong password": Server(http("401 Unauthorized", b'WWW-Authenticate: Basic realm="x"'), ("refused",)),
    "no rights": Server(http("403 Forbidden"), ("refused",)),
    "gone": Server(http("404 Not Found"), ("not-found",), "no such repository"),
    "too many requests": Server(http("429 Too Many Requests", b"Retry-After: 3600"), ("unreachable",)),
    "down": Server(http("503 Service Unavailable"), ("unreachable",)),
    "a page to log in": Server(
        http("200 OK", b"Content-Type: text/html", body=b"<html>Log in</html>"), ("not-found", "broken")
    ),
    "nothing at all": Server(b"", ("unreachable", "broken")),
    "no HTTP": Server(b"SSH-2.0-OpenSSH_9.2\r\n", ("unreachable", "broken")),
    "an empty answer": Server(http("200 OK", GIT), ("broken", "not-found", "unreachable")),
    "no packet lines": Server(http("200 OK", GIT, body=b"hello" * 100), ("broken", "not-found")),
    "half a packet line": Server(
        http("200 OK", GIT, body=SERVICE + b"00ff" + b"0" * 40), ("broken", "not-found")
    ),
    "an error with a password": Server(
        http("200 OK", GIT, body=SERVICE + lines(b"ERR mirror of https://alice:S3cret@h/x failed\x1b[2J\n")),
        ("broken", "not-found", "unreachable"),
    ),
    "an empty repository": Server(
        http(
            "200 OK",
            GIT,
            body=SERVICE + lines(b"0" * 40 + b" capabilities^{}\0symref=HEAD:refs/heads/main\n"),
        ),
        ("not-found",),
        "empty or has no refs/heads/main",
    ),
    "names of SHA-256": Server(
        http("200 OK", GIT, body=SERVICE + lines(b"a" * 64 + b" refs/heads/main\0object-format=sha256\n")),
        ("broken", "not-found"),
    ),
}


@pytest.fixture(params=["dulwich", "git"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("quirk", SERVERS)
def test_quirks_of_servers_end_in_one_clear_line(transport: str, quirk: str, tmp_path: Path) -> None:
    server = SERVERS[quirk]
    with serving(saying(server.reply)) as port:
        error = failure(
            GitSettings(url=f"http://127.0.0.1:{port}/x.git", branch="main", transport=transport), tmp_path
        )
    assert error.kind in server.kinds, (error.kind, error.message)
    assert server.words in error.message


def failure(settings: GitSettings, tmp_path: Path) -> GitError:
    """Return how a look at the remote fails: in one line that no terminal obeys, without a secret."""
    clone = Clone(settings, parse_url(settings.url), tmp_path / "git", HelperPool())
    with pytest.raises(GitError) as caught, clone.open() as look:
        look.latest()
        look.fetch(Wanted(ref=settings.ref))
    text = f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert "S3cret" not in text
    assert caught.value.message and caught.value.message.isprintable()
    assert sorted(entry.name for entry in (tmp_path / "git").iterdir()) == ["repository"]
    return caught.value


class Quirk(Struct, frozen=True):
    """What a push brings; what the machine is then, with the start of each problem; pods that it runs."""

    make: Callable[[Work], None]
    state: str = "in-sync"
    problems: tuple[str, ...] = ()
    runs: str = "a b c"
    subject: str = ""


def raw_file(path: str, data: bytes) -> Callable[[Work], None]:
    def make(work: Work) -> None:
        (work.path / path).write_bytes(data)

    return make


def bomb(path: str) -> Callable[[Work], None]:
    return lambda work: write_bomb(work, path, 200 << 20)


def bomb_in_history(work: Work) -> None:
    write_bomb(work, "films/zeros", 200 << 20)
    work.git("rm", "--quiet", "--cached", "films/zeros")


def malformed_tree(work: Work) -> None:
    """Put a tree that names one file twice below a directory that holds no pod."""
    blob = work.git("hash-object", "-w", "--stdin", stdin="x")
    entry = b"100644 x\0" + bytes.fromhex(blob)
    file = work.path.parent / "tree"
    file.write_bytes(entry * 2)
    bad = work.git("hash-object", "-t", "tree", "-w", "--literally", str(file))
    rest = work.git("ls-tree", "HEAD")
    tree = work.git("mktree", stdin=f"{rest}\n040000 tree {bad}\todd\n")
    commit = work.git("commit-tree", tree, "-p", "HEAD", "-m", "odd")
    work.git("config", "--file", str(work.bare / "config"), "receive.fsckObjects", "false")
    work.git("update-ref", "HEAD", commit)


def many_refs(work: Work) -> None:
    work.commit("many", push=True)
    head = work.head()
    names = "".join(f"{head} refs/heads/robot/{number:05}\n" for number in range(20_000))
    with (work.bare / "packed-refs").open("a") as file:
        file.write(names)


def many_entries(work: Work) -> None:
    blob = work.git("hash-object", "-w", "--stdin", stdin="x")
    index = "".join(f"100644 {blob}\tdata/{number:06}\n" for number in range(50_000))
    work.git("update-index", "--index-info", stdin=index)
    work.git("commit", "--quiet", "-m", "wide")


def deep_deltas(work: Work) -> None:
    for number in range(120):
        (work.path / "notes.txt").write_text("\n".join(f"line {line * number}" for line in range(300)))
        work.commit(f"note {number}", push=False)
    work.git("repack", "-a", "-d", "-f", "-q", "--depth=4000", "--window=200")


def latin_1(work: Work) -> None:
    message = work.path.parent / "message"
    message.write_bytes("Mehr Gedächtnis".encode("latin-1"))
    work.git("-c", "i18n.commitEncoding=ISO-8859-1", "commit", "-q", "--allow-empty", "-F", str(message))


def odd_dates(work: Work) -> None:
    for date in ("@0 +0000", "@1900000000 -1200", "@99999999999 +1400", "@1 +0000"):
        env = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
        work.git("commit", "--quiet", "--allow-empty", "-m", "odd", env=env)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 12\n" % (b"0" * 64)
REPOSITORIES = {
    "a file that unpacks to gigabytes": Quirk(bomb("films/zeros")),
    "a pod file that unpacks to gigabytes": Quirk(
        bomb("pods/z.toml"), problems=("pods/z.toml: is larger than",)
    ),
    "a history that unpacks to gigabytes": Quirk(bomb_in_history),
    "a large pod file": Quirk(
        raw_file("pods/z.toml", b"# " + b"x" * (2 << 20)),
        problems=("pods/z.toml: is larger than 1048576 bytes",),
    ),
    "a pointer of Git LFS": Quirk(
        raw_file("pods/a.toml", POINTER), problems=("pods/a.toml: this is a Git LFS pointer",)
    ),
    "UTF-16 without a mark": Quirk(
        raw_file("pods/a.toml", pod_text().encode("utf-16-le")), problems=("pods/a.toml: the text is UTF-16",)
    ),
    "UTF-16 with a mark": Quirk(
        raw_file("pods/a.toml", pod_text().encode("utf-16")), problems=("pods/a.toml:1: byte 0xff",)
    ),
    "a pod file with NUL": Quirk(
        raw_file("pods/a.toml", b"a = 1\0\n"), problems=("pods/a.toml:1: there is a",)
    ),
    "a malformed tree elsewhere": Quirk(malformed_tree),
    "many refs": Quirk(many_refs),
    "many files": Quirk(many_entries),
    "deep delta chains": Quirk(deep_deltas),
    "a commit in Latin-1": Quirk(latin_1, subject="Mehr Gedächtnis"),
    "a huge message": Quirk(lambda work: work.commit("huge " + "x" * 100_000, push=False) and None),
    "no message": Quirk(
        lambda work: work.git("commit", "-q", "--allow-empty", "--allow-empty-message", "-m", "") and None
    ),
    "dates out of time": Quirk(odd_dates),
    "names in Latin-1": Quirk(
        lambda work: (work.path / os.fsdecode(b"pods/\xe4.toml")).write_text(pod_text()) and None,
        problems=("pods/�.toml: the name is not UTF-8",),
    ),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    base = tmp_path_factory.mktemp("served")
    with git_daemon(base) as address:
        yield base, address


# git speaks its protocol to a directory, too.
@pytest.mark.parametrize(
    ("transport", "server"), [("dulwich", "daemon"), ("dulwich", "path"), ("git", "daemon")]
)
@pytest.mark.parametrize("quirk", REPOSITORIES)
def test_quirks_of_repositories_touch_their_own_pod_and_the_next_commit_mends_them(
    transport: str, quirk: str, server: str, daemon: tuple[Path, str], tmp_path: Path
) -> None:
    found = REPOSITORIES[quirk]
    base = daemon[0] / f"{tmp_path.name}-{transport}"
    base.mkdir()
    work = Work(base)
    for name in ("a", "b", "c"):
        work.write(f"pods/{name}.toml")
    work.commit("begin")
    url = str(work.bare) if server == "path" else f"{daemon[1]}/{base.name}/fleet.git"
    machine = Machine(work, tmp_path / "data", transport, url=url)
    machine.source._clone.limits = msgspec.structs.replace(machine.source._clone.limits, memory=190 << 20)
    assert machine.sync().state == "in-sync"
    before = work.head()
    found.make(work)
    if work.head() == before:
        work.commit("quirk", push=False)
    work.push()
    for _ in range(2):
        status = machine.sync()
        assert (status.state, machine.runs) == (found.state, found.runs), status
    assert status.applied.revision == work.head()
    problems = [str(problem) for problem in machine.published[-1].problems]
    assert len(problems) == len(found.problems), problems
    for problem, start in zip(problems, found.problems, strict=True):
        assert problem.startswith(start)
    if found.subject:
        assert status.commit is not None and status.commit.subject == found.subject
    # What is bad goes, a good pod comes: by the next commit, and as by a machine that never saw the quirk.
    work.git("checkout", "--quiet", "HEAD~1", "--", "pods") if found.problems else None
    for file in (work.path / "pods").iterdir():
        if file.name not in ("a.toml", "b.toml", "c.toml"):
            file.unlink()
    work.git("rm", "-r", "--quiet", "--cached", "--ignore-unmatch", "pods/z.toml")
    work.write("pods/d.toml")
    mended = work.commit("mended")
    status = machine.sync()
    assert (status.state, status.applied.revision, machine.runs) == ("in-sync", mended, "a b c d"), status
    assert machine.published[-1].problems == ()


class Site(Struct, frozen=True):
    """A repository behind TLS, and its authority."""

    url: str
    ca: Path
    head: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("site")
    work = Work(base)
    work.write("pods/a.toml")
    head = work.commit("begin")
    ca, pem = make_certificate(base)
    with https_server(base, pem) as address:
        yield Site(f"{address}/fleet.git", ca, head)


def look(site: Site, transport: str, directory: Path) -> str:
    settings = GitSettings(url=site.url, branch="main", transport=transport, ca_file=str(site.ca))
    with Clone(settings, parse_url(site.url), directory / "git", HelperPool()).open() as found:
        assert found.latest() == site.head
        return found.fetch(Wanted(ref=settings.ref))


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


def test_git_goes_through_the_proxy_of_the_environment(
    site: Site, transport: str, no_proxy: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy = Proxy("alice:p@ss/w%rd")
    with proxy.running() as address:
        no_proxy.setenv("HTTPS_PROXY", f"http://alice:p%40ss%2Fw%25rd@{address}")
        assert look(site, transport, tmp_path) == site.head
        asked = len(proxy.asked)
        assert asked and set(proxy.asked) == {site.url.split("/")[2]}
        no_proxy.setenv("NO_PROXY", "git.invalid,127.0.0.0/8")
        assert look(site, transport, tmp_path) == site.head
        assert len(proxy.asked) == asked


def test_a_proxy_that_lets_nobody_through_is_named_without_its_password(
    site: Site, transport: str, no_proxy: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Proxy("alice:right").running() as address:
        for place in (address, "127.0.0.1:1"):
            no_proxy.setenv("https_proxy", f"http://alice:S3cret@{place}")
            error = failure(GitSettings(url=site.url, transport=transport, ca_file=str(site.ca)), tmp_path)
            assert error.kind == "unreachable"
            assert f"through the proxy http://{place}" in error.message
            assert "HTTPS_PROXY" in (error.hint or "")


def test_a_key_with_windows_line_ends_is_taken(transport: str, tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    work = Work(tmp_path)
    work.write("pods/a.toml")
    head = work.commit("begin")
    text = keys.client.read_bytes().rstrip(b"\n")
    with ssh_server(tmp_path, keys) as (user, port):
        (tmp_path / "known").write_text(known_hosts(keys, port).replace("\n", "\r\n"))
        for number, data in enumerate((text.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + text + b"\r\n\r\n")):
            (tmp_path / "key").write_bytes(data)
            settings = GitSettings(
                url=f"ssh://{user}@127.0.0.1:{port}{work.bare}",
                transport=transport,
                ssh_key=str(tmp_path / "key"),
                known_hosts=str(tmp_path / "known"),
            )
            directory = tmp_path / f"git{number}"
            with Clone(settings, parse_url(settings.url), directory, HelperPool()).open() as found:
                assert found.latest() == head


@pytest.mark.parametrize("server", ["daemon", "path"])
def test_who_renamed_a_branch_is_told_the_new_name(
    transport: str, server: str, daemon: tuple[Path, str], tmp_path: Path
) -> None:
    base = daemon[0] / f"{tmp_path.name}-{transport}"
    base.mkdir()
    work = Work(base)
    work.commit("begin")
    url = str(work.bare) if server == "path" else f"{daemon[1]}/{base.name}/fleet.git"
    error = failure(GitSettings(url=url, branch="master", transport=transport), tmp_path)
    assert error.kind == "not-found"
    assert "the remote's HEAD is the branch main" in (error.hint or "")


def test_timeout_bounds_all_of_sync_while_git_says_nothing(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(serving(silent))
        fleet = Fleet(tmp_path, 'timeout = "60s"', url=f"http://127.0.0.1:{port}/x.git")
        stack.enter_context(ended(fleet.agent))
        fleet.agent.start()
        for arguments in (("--timeout", "1s"), ("--wait", "--timeout", "1s")):
            began = time.monotonic()
            done = fleet.agent.tank("sync", *arguments)
            assert done.returncode == 1 and "git is still being looked at after 1 s" in done.stderr
            assert time.monotonic() - began < 15, "30 s is what one look may take without a --timeout"
