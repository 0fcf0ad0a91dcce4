"""Following a git repository: push → running, an unchanged remote, a first clone, one pod of 1,000 changed.

Beside the git command line doing the least that a script around it would do: `git ls-remote`, `git clone`,
`git fetch` and reading the files of the new commit. Servers are `git daemon` and a directory, both here.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench._measure import Table, milliseconds
from bench.pods import Fifo, pod_file
from tank_agent.settings.git import GitSettings
from tank_agent.settings.settings import Settings
from tank_agent.source.follower import Inbox
from tank_agent.source.git.child import HelperPool
from tank_agent.source.git.source import GitSource
from tank_agent.spec.model import Host
from tests.support.agent import ended, wait_for
from tests.support.git import ENVIRONMENT, git_daemon, pod_text
from tests.support.gitops import Fleet as Machine

ROUNDS = int(os.environ.get("TANK_BENCH_ROUNDS", "30"))
PODS = 1_000
COMMITS = 10_000


def main() -> None:
    """Print the tables."""
    # On a tmpfs: what is measured is git, not this machine's disk.
    base = Path(tempfile.mkdtemp(prefix="tank-bench-git-", dir="/dev/shm"))
    try:
        fleet = Fleet(base)
        with git_daemon(base) as address, Meter(int(address.rsplit(":", 1)[1])) as meter:
            pushes(base)
            polls(fleet, base, meter)
            clones(fleet, base, address)
            changes(fleet, base, address)
    finally:
        shutil.rmtree(base)


class Fleet:
    """A bare repository of 1,000 pods with 10,000 commits, and a way to push one more change."""

    def __init__(self, base: Path) -> None:
        self.bare = base / "fleet.git"
        self._count = 0
        git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        with subprocess.Popen(
            ["git", "-C", self.bare, "fast-import", "--quiet"], stdin=subprocess.PIPE, env=ENVIRONMENT
        ) as importer:
            assert importer.stdin is not None
            for number in range(COMMITS):
                pods = range(PODS) if number == 0 else (number % PODS,)
                importer.stdin.write(commit(number, [(pod, f"v{number}") for pod in pods]))
        assert importer.returncode == 0
        git("-C", str(self.bare), "repack", "-adq")

    def change(self) -> str:
        """Change one pod, as a push does, and return the commit."""
        self._count += 1
        number = COMMITS + self._count
        stream = commit(number, [(self._count % PODS, f"v{number}")], parent="refs/heads/main^0")
        # As a push of one commit leaves it: loose objects.
        subprocess.run(
            ["git", "-C", self.bare, "-c", "fastimport.unpackLimit=100", "fast-import", "--quiet"],
            input=stream,
            env=ENVIRONMENT,
            check=True,
        )
        return git("-C", str(self.bare), "rev-parse", "main")


def commit(number: int, pods: list[tuple[int, str]], parent: str = "") -> bytes:
    message = f"change {number}"
    lines = [f"commit refs/heads/main\ncommitter A <a@example.com> {1_700_000_000 + number} +0000"]
    lines.append(f"data {len(message)}\n{message}")
    if parent:
        lines.append(f"from {parent}")
    for pod, command in pods:
        text = pod_text(command=command)
        lines.append(f"M 100644 inline pods/{pod % 10}/p{pod:04}.toml\ndata {len(text)}\n{text}")
    return ("\n".join(lines) + "\n").encode()


def git(*argv: str) -> str:
    done = subprocess.run(["git", *argv], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Follower:
    """A source of its own, without an agent."""

    def __init__(
        self, url: str, directory: Path, transport: str, *, depth: int = 1, warm: bool = False
    ) -> None:
        self.pool = HelperPool(warm=warm)
        self.memory: dict[str, bytes] = {}
        self.pods = 0
        inbox = Inbox(
            settings=Settings(data_dir=directory),
            host=Host(name="edge-1"),
            publish=lambda snapshot, _: setattr(self, "pods", len(snapshot.pods)),
            suspended=lambda: False,
            note_unstored=lambda *_: None,
            owned=lambda: (),
            record_event=lambda *_: None,
            remember=self.memory.__setitem__,
            recall=lambda key: self.memory.get(key, b""),
        )
        settings = GitSettings(url=url, branch="main", path="pods", transport=transport, depth=depth)  # type: ignore[arg-type]
        self.source = GitSource(settings, inbox, pool=self.pool)

    def sync(self, revision: str | None = None) -> None:
        status = self.source.poll()
        assert status.state == "in-sync", status
        assert revision is None or status.applied.revision == revision
        assert self.pods == PODS


class Meter:
    """Passes connections on to a server, and counts the bytes that come back."""

    def __init__(self, target: int) -> None:
        self.bytes = 0
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"git://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(("127.0.0.1", self._target)) as server:
                back = threading.Thread(target=self._pass, args=(server, client))
                back.start()
                self._pass(client, server)
                back.join()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                self.bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


@contextmanager
def cpu(table: Table, row: str, peer: str = "") -> Iterator[None]:
    """Add the milliseconds of CPU that we and our ended children used."""

    def used() -> float:
        ours, children = (
            resource.getrusage(resource.RUSAGE_SELF),
            resource.getrusage(resource.RUSAGE_CHILDREN),
        )
        return sum(usage.ru_utime + usage.ru_stime for usage in (ours, children)) * 1000

    before = used()
    yield
    table.add(row, used() - before, peer=peer)


def polls(fleet: Fleet, base: Path, meter: Meter) -> None:
    """Measure a look at a remote in which nothing changed."""
    url = f"{meter.address}/fleet.git"
    lasted, work = Table("Poll, nothing changed", "ms"), Table("CPU of a poll", "ms")
    traffic = Table("Traffic of a poll, both ways", "bytes")
    followers = {
        "dulwich, git://": Follower(url, base / "poll1", "dulwich"),
        "dulwich, git://, helper in reserve": Follower(url, base / "poll2", "dulwich", warm=True),
        "git, git://": Follower(url, base / "poll3", "git"),
        "a directory": Follower(str(fleet.bare), base / "poll4", "dulwich"),
    }
    for follower in followers.values():
        follower.sync()
    peer = "git ls-remote"
    looks: dict[str, Callable[[], object]] = {name: follower.sync for name, follower in followers.items()}
    looks[peer] = lambda: git("ls-remote", url, "refs/heads/main")
    for _ in range(ROUNDS):
        for name, look in looks.items():
            time.sleep(0.3)  # as between two polls: a reserve has loaded
            before, begun = meter.bytes, time.perf_counter()
            against = peer if name != peer else ""
            with cpu(work, name, against):
                look()
            lasted.add(name, (time.perf_counter() - begun) * 1000, peer=against)
            traffic.add(name, meter.bytes - before, peer=against)
    for follower in followers.values():
        follower.pool.close()
    for table in (lasted, work, traffic):
        table.print()


def clones(fleet: Fleet, base: Path, address: str) -> None:
    """Measure a first look, up to the Snapshot."""
    table = Table(f"First clone, {PODS} pods, {COMMITS} commits, to a Snapshot", "ms")
    target = base / "clone"
    for _ in range(max(3, ROUNDS // 10)):
        for depth, what in ((1, "depth 1"), (0, "all")):
            peer = f"git clone --bare, {what}, git://"
            options = [f"--depth={depth}"] if depth else []
            begun = time.perf_counter()
            git("clone", "--quiet", "--bare", *options, f"{address}/fleet.git", str(target))
            read_files(target, "HEAD")
            table.add(peer, (time.perf_counter() - begun) * 1000)
            shutil.rmtree(target)
            for place, url in (("git://", f"{address}/fleet.git"), ("a directory", str(fleet.bare))):
                for transport in ("dulwich", "git"):
                    follower = Follower(url, target, transport, depth=depth)
                    begun = time.perf_counter()
                    follower.sync()
                    table.add(
                        f"{transport}, {what}, {place}", (time.perf_counter() - begun) * 1000, peer=peer
                    )
                    shutil.rmtree(target)
    table.print()


def read_files(repository: Path, revision: str) -> None:
    """Read every pod file as a script would: one `git archive`."""
    subprocess.run(
        ["git", "-C", repository, "archive", revision, "pods"],
        stdout=subprocess.DEVNULL,
        env=ENVIRONMENT,
        check=True,
    )


def changes(fleet: Fleet, base: Path, address: str) -> None:
    """Measure from a push of one changed pod to the Snapshot."""
    table = Table(f"1 of {PODS} pods changed, to a Snapshot", "ms")
    followers: dict[str, Follower] = {}
    for place, url in (("git://", f"{address}/fleet.git"), ("a directory", str(fleet.bare))):
        for transport in ("dulwich", "git"):
            for warm in (False, True):
                name = f"{transport}, {place}{', helper in reserve' if warm else ''}"
                followers[name] = Follower(url, base / f"change{len(followers)}", transport, warm=warm)
        name = f"dulwich, {place}, all commits"
        followers[name] = Follower(url, base / f"change{len(followers)}", "dulwich", depth=0)
    for follower in followers.values():
        follower.sync()
    peer = "git fetch and git archive, git://"
    script = base / "script"
    git("clone", "--quiet", "--bare", "--depth=1", f"{address}/fleet.git", str(script))
    for _ in range(ROUNDS):
        revision = fleet.change()
        time.sleep(0.3)
        begun = time.perf_counter()
        git("-C", str(script), "fetch", "--quiet", "origin", "main")
        read_files(script, "FETCH_HEAD")
        table.add(peer, (time.perf_counter() - begun) * 1000)
        for name, follower in followers.items():
            begun = time.perf_counter()
            follower.sync(revision)
            table.add(name, (time.perf_counter() - begun) * 1000, peer=peer)
    for follower in followers.values():
        follower.pool.close()
    table.print()


def pushes(base: Path) -> None:
    """Measure from `git push` to a directory on this machine to the new container's first instruction."""
    table = Table("From a push, or a file, to the container's first instruction", "ms")
    home = base / "machine"
    home.mkdir()
    fleet = Machine(home)
    agent, fifo = fleet.agent, Fifo(home / "fifo")
    text = pod_file(agent, fifo)
    fleet.push({"pods/README": "pods\n"}, "begin")
    agent.start()
    with ended(agent):
        wait_for(lambda: agent.sources()["git"]["state"] == "in-sync", "git is followed")
        for number in range(ROUNDS + 1):
            fleet.work.write("pods/web.toml", text)
            fleet.work.commit("add", push=False)
            time.sleep(0.3)  # as between two pushes of people: a helper in reserve has loaded
            begun = time.perf_counter()
            fleet.work.push()
            pushed = time.perf_counter()
            fifo.wait()
            running = time.perf_counter()
            fleet.push({"pods/web.toml": None}, "remove")
            agent.wait_gone("web")
            temporary, target = agent.home / "web.new", agent.pods / "web.toml"
            temporary.write_text(text)
            file = milliseconds(lambda: (temporary.rename(target), fifo.wait()))  # noqa: B023 - called at once
            target.unlink()
            agent.wait_gone("web")
            if number:
                table.add("file renamed into pods.d → running", file)
                table.add("git push itself", (pushed - begun) * 1000)
                table.add(
                    "start of git push → running",
                    (running - begun) * 1000,
                    peer="file renamed into pods.d → running",
                )
    table.print()


if __name__ == "__main__":
    main()
