"""`tank cp` with real containers: the rules of `docker cp`, hostile containers, and what is killed."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tank_agent.api import frames
from tank_agent.client.fast import http
from tests.support.agent import Agent, running_agent, wait_for
from tests.support.terminal import add_commands

MIB = 1 << 20
# Other tests run beside these, with agents of their own.
SLOW_FILE = f"/slow-{os.getpid()}"
COMMANDS = (
    "stat",
    "mkdir",
    "ln",
    "rm",
    "mv",
    "mkfifo",
    "dd",
    "chown",
    "chmod",
    "sha256sum",
    "find",
    "wc",
    "test",
)
POD = """
[[volumes]]
name = "data"
[[volumes]]
name = "single"
host = "{single}"
[[containers]]
name = "app"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
[[containers.mounts]]
volume = "data"
path = "/data"
[[containers.mounts]]
tmpfs = "64M"
path = "/scratch"
[[containers.mounts]]
volume = "single"
path = "/etc/single"
[[containers]]
name = "closed"
rootfs = "{rootfs}"
command = ["/bin/sleep", "infinity"]
stop_grace = "0s"
read_only = true
"""


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("cp")) as started:
        prepare(started)
        yield started


def prepare(agent: Agent) -> None:
    add_commands(agent, *COMMANDS)
    (agent.rootfs / "srv").mkdir()
    (agent.home / "single").write_text("old\n")
    agent.write("web", POD.format(rootfs=agent.rootfs, single=agent.home / "single"))
    agent.wait_phase("web", "running")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a directory with what directories have."""
    made = tmp_path / "site"
    (made / "deep" / "er").mkdir(parents=True)
    (made / "index.html").write_text("hello\n")
    (made / "deep" / "er" / "end").write_bytes(b"x" * 100_000)
    (made / "link").symlink_to("/etc/passwd")
    (made / ("n" * 200)).write_text("long\n")
    os.link(made / "index.html", made / "same")
    os.utime(made / "index.html", ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    return made


def copied(agent: Agent, *words: str | Path) -> str:
    """Copy, and return what was said."""
    done = agent.tank("cp", *map(str, words))
    assert done.returncode == 0, done.stderr
    return done.stderr


def refused(agent: Agent, *words: str | Path) -> str:
    done = agent.tank("cp", *map(str, words))
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr


def inside(agent: Agent, script: str, container: str = "web/app") -> str:
    done = agent.tank("exec", "-T", container, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


# Where the source goes to, by what is there: "new" is not, "dir" and "file" are.
RULES = [
    ("file", "new", "new"),
    ("file", "new/", None),
    ("file", "dir", "dir/index.html"),
    ("file", "dir/", "dir/index.html"),
    ("file", "file", "file"),
    ("file", "file/", None),
    ("file", "missing/new", None),
    ("directory", "new", "new/index.html"),
    ("directory", "new/", "new/index.html"),
    ("directory", "dir", "dir/site/index.html"),
    ("directory", "file", None),
    ("directory", "missing/new", None),
    ("contents", "new", "new/index.html"),
    ("contents", "dir", "dir/index.html"),
    ("contents", "file", None),
]


@pytest.mark.parametrize(("source", "target", "stored"), RULES)
def test_the_rules_of_docker_cp_into_a_container(
    agent: Agent, tree: Path, source: str, target: str, stored: str | None
) -> None:
    inside(agent, "rm -rf /srv/t; mkdir -p /srv/t/dir; echo old > /srv/t/file")
    words = {"file": f"{tree}/index.html", "directory": f"{tree}", "contents": f"{tree}/."}[source]
    if stored is None:
        assert refused(agent, words, f"web:/srv/t/{target}")
        assert inside(agent, "cd /srv/t; find . -type f; cat file") == "./file\nold\n"
    else:
        copied(agent, words, f"web:srv/t/{target}")
        assert inside(agent, f"cat /srv/t/{stored}") == "hello\n"


@pytest.mark.parametrize(("source", "target", "stored"), RULES)
def test_the_rules_of_docker_cp_out_of_a_container(
    agent: Agent, tree: Path, tmp_path: Path, source: str, target: str, stored: str | None
) -> None:
    inside(agent, "rm -rf /srv/site")
    copied(agent, tree, "web:/srv")
    place = tmp_path / "t"
    (place / "dir").mkdir(parents=True)
    (place / "file").write_text("old")
    words = {"file": "/srv/site/index.html", "directory": "/srv/site", "contents": "/srv/site/."}[source]
    if stored is None:
        assert refused(agent, f"web:{words}", f"{place}/{target}")
        assert (place / "file").read_text() == "old"
    else:
        copied(agent, f"web:{words}", f"{place}/{target}")
        assert (place / stored).read_text() == "hello\n"


def test_a_tree_comes_back_as_it_was(agent: Agent, tree: Path, tmp_path: Path) -> None:
    inside(agent, "rm -rf /data/site")
    copied(agent, "-a", tree, "web:/data")
    copied(agent, "-a", "web:/data/site", tmp_path / "back")
    back = tmp_path / "back"
    assert sorted(names(back)) == sorted(names(tree))
    assert (back / "deep/er/end").read_bytes() == b"x" * 100_000
    assert (back / "link").readlink() == Path("/etc/passwd")
    assert (back / "index.html").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert (back / "same").samefile(back / "index.html")
    assert not [name for name in names(back) if name.startswith(".tank-cp")]


def test_owners_and_setuid_bits_are_kept_only_with_archive(agent: Agent, tmp_path: Path) -> None:
    inside(agent, "echo x > /srv/own; chown 1000:2000 /srv/own; chmod 4755 /srv/own")
    copied(agent, "web:/srv/own", tmp_path / "plain")
    copied(agent, "-a", "web:/srv/own", tmp_path / "kept")
    plain, kept = (tmp_path / "plain").stat(), (tmp_path / "kept").stat()
    assert (plain.st_uid, plain.st_mode & 0o7777) == (os.getuid(), 0o755)
    assert (kept.st_uid, kept.st_gid, kept.st_mode & 0o7777) == (1000, 2000, 0o4755)
    copied(agent, tmp_path / "kept", "web:/srv/in")
    copied(agent, "-a", tmp_path / "kept", "web:/srv/in-kept")
    assert inside(agent, "stat -c '%u:%g %a' /srv/in /srv/in-kept") == "0:0 755\n1000:2000 4755\n"


def test_what_a_container_opens_to_all_is_closed_by_the_umask_here(agent: Agent, tmp_path: Path) -> None:
    inside(agent, "rm -rf /srv/m; mkdir -m 777 /srv/m; echo x > /srv/m/f; chmod 666 /srv/m/f")
    command = [sys.executable, "-m", "tank_agent", "cp", "web:/srv/m", str(tmp_path / "m")]
    env = {**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")}
    subprocess.run(command, env=env, check=True, umask=0o027)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "m", tmp_path / "m/f")] == [0o750, 0o640]


def test_links_are_copied_or_followed(agent: Agent, tmp_path: Path) -> None:
    inside(agent, "ln -sf /etc/passwd /srv/pw")
    copied(agent, "web:/srv/pw", tmp_path / "link")
    copied(agent, "-L", "web:/srv/pw", tmp_path / "file")
    assert (tmp_path / "link").is_symlink()
    assert "is a link now" in copied(agent, "web:/srv/pw", tmp_path / "planted")
    assert "is a link now" not in copied(agent, "web:/srv/pw", tmp_path)
    assert (tmp_path / "file").read_text() == (agent.rootfs / "etc/passwd").read_text()
    # A target that is a link leads where it leads in the container.
    inside(agent, "ln -sfn /data /srv/todata")
    copied(agent, tmp_path / "file", "web:/srv/todata")
    assert inside(agent, "test -f /data/file && echo there") == "there\n"


def test_volumes_and_tmpfs_are_the_containers_own(agent: Agent, tree: Path, tmp_path: Path) -> None:
    copied(agent, tree / "index.html", "web:/scratch/here")
    copied(agent, "web:/scratch/here", tmp_path / "there")
    assert (tmp_path / "there").read_text() == "hello\n"


def test_what_is_read_only_is_said(agent: Agent, tree: Path) -> None:
    assert "read-only" in refused(agent, tree / "index.html", "web/closed:/etc/x")


def test_a_mount_of_one_file_is_written_in_place(agent: Agent, tree: Path) -> None:
    inode = (agent.home / "single").stat().st_ino
    assert "in place" in copied(agent, tree / "index.html", "web:/etc/single")
    assert (agent.home / "single").read_text() == "hello\n"
    assert (agent.home / "single").stat().st_ino == inode


def test_streams_of_tar(agent: Agent, tree: Path) -> None:
    env = {**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")}
    inside(agent, "rm -rf /srv/site /srv/from; mkdir /srv/from")
    copied(agent, tree, "web:/srv")
    command = [sys.executable, "-m", "tank_agent", "cp"]
    out = subprocess.run([*command, "web:/srv/site", "-"], env=env, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(out)) as archive:
        assert archive.extractfile("site/index.html").read() == b"hello\n"  # type: ignore[union-attr]
        assert archive.getmember("site/link").linkname == "/etc/passwd"
        assert "site/" + "n" * 200 in archive.getnames()
    subprocess.run([*command, "-", "web:/srv/from"], env=env, input=out, check=True)
    assert inside(agent, "cat /srv/from/site/same") == "hello\n"
    gone = subprocess.run(
        [*command, "-", "web:/srv/from"], env=env, input=b"", capture_output=True, check=False
    )
    assert gone.returncode == 1
    assert b"ends too early" in gone.stderr


def test_words_for_what_cannot_be(agent: Agent, tree: Path) -> None:
    assert agent.tank("cp", "web:/a", "web:/b").returncode == 2
    assert agent.tank("cp", "a", "b").returncode == 2
    assert "no pod nope" in refused(agent, tree, "nope:/srv")
    assert "there is no /nix in the container" in refused(agent, "web:/nix", tree)
    assert "No such file" in refused(agent, tree / "nix", "web:/srv")
    assert "kernel's own" in refused(agent, "web:/proc/self", tree)
    assert "kernel's own" in refused(agent, tree / "index.html", "web:/proc/x")
    assert "a device" in refused(agent, "web:/dev/null", tree)
    assert "device" in refused(agent, tree / "index.html", "web:/dev/null")


def test_a_fifo_holds_nobody(agent: Agent, tmp_path: Path) -> None:
    inside(agent, "rm -rf /srv/f; mkdir /srv/f; mkfifo /srv/f/pipe; echo x > /srv/f/x")
    assert "a FIFO" in copied(agent, "web:/srv/f", tmp_path / "f")
    assert names(tmp_path / "f") == ["x"]
    assert "a FIFO" in refused(agent, "web:/srv/f/pipe", tmp_path)


def test_a_container_that_does_not_run(agent: Agent, tmp_path: Path) -> None:
    agent.write("over", agent.pod_text(command=["/bin/true"], head='restart = "never"'))
    agent.wait_phase("over", "completed")
    assert "not running" in refused(agent, "over:/etc", tmp_path)


def test_a_container_of_one_static_file(agent: Agent, tmp_path: Path) -> None:
    bare = agent.home / "bare"
    bare.mkdir()
    (bare / "busybox").write_bytes((agent.rootfs / "bin/busybox").read_bytes())
    (bare / "busybox").chmod(0o755)
    text = agent.pod_text(command=["/busybox", "sleep", "1000"]).replace(str(agent.rootfs), str(bare))
    agent.write("bare", text)
    agent.wait_phase("bare", "running")
    (tmp_path / "x").write_text("in")
    copied(agent, tmp_path / "x", "bare:/x")
    copied(agent, "bare:/x", tmp_path / "y")
    assert (tmp_path / "y").read_text() == "in"
    (agent.pods / "bare.toml").unlink()
    agent.wait_gone("bare")


SWAP = (
    "cd /srv/w; mkdir -p a b; while :; do "
    "mv a c; ln -s {outside} a; rm a; mv c a; "
    "mv a/f a/g; ln -s {outside}/secret a/f; rm a/f; mv a/g a/f; done"
)


def test_a_container_that_swaps_directories_for_links_gains_nothing(agent: Agent, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("of the host")
    source = tmp_path / "w"
    (source / "a").mkdir(parents=True)
    (source / "a" / "f").write_text("ours")
    (source / "a" / "later").write_text("ours")
    inside(agent, "rm -rf /srv/w; mkdir -p /srv/w/a; echo x > /srv/w/a/f")
    swapper = subprocess.Popen(
        [sys.executable, "-m", "tank_agent", "exec", "-T", "web", "sh", "-c", SWAP.format(outside=outside)],
        env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for number in range(8):
            agent.tank("cp", "-L", "web:/srv/w/a/f", str(tmp_path / f"file{number}"))
            agent.tank("cp", "web:/srv/w", str(tmp_path / f"tree{number}"))
            agent.tank("cp", f"{source}/.", "web:/srv/w")
            agent.tank("cp", str(source / "a" / "f"), "web:/srv/w/a/f")
    finally:
        swapper.terminate()
        swapper.wait()
    assert names(outside) == ["secret"]
    assert (outside / "secret").read_text() == "of the host"
    read = [path for path in tmp_path.glob("file*") if path.is_file() and not path.is_symlink()]
    read += [path for path in tmp_path.glob("tree*/**/*") if path.is_file() and not path.is_symlink()]
    assert all("of the host" not in path.read_text() for path in read)


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "link/out"])
def test_a_hostile_archive_stays_below_its_directory(agent: Agent, name: str) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/srv"
    sent = archive_of((link, b""), (tarfile.TarInfo(name), b"bad"))
    inside(agent, "rm -rf /srv/out /srv/in; mkdir /srv/in")
    done = subprocess.run(
        [sys.executable, "-m", "tank_agent", "cp", "-", "web:/srv/in"],
        env={**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")},
        input=sent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done
    assert inside(agent, "test -e /srv/out || echo none") == "none\n"


def test_a_sparse_gigabyte_streams_in_fixed_memory(agent: Agent, tmp_path: Path) -> None:
    inside(agent, "dd if=/dev/zero of=/data/big bs=1 count=1 seek=1073741823 2>/dev/null")
    # RLIMIT_AS of the client; the agent's child has one of its own.
    limited = f"ulimit -v 600000; exec {sys.executable} -m tank_agent cp web:/data/big {tmp_path}/big"
    env = {**os.environ, "TANK_SOCKET": str(agent.run / "tank.sock")}
    subprocess.run(["/bin/sh", "-c", limited], env=env, check=True, timeout=120)
    found = (tmp_path / "big").stat()
    assert found.st_size == 1 << 30
    assert found.st_blocks * 512 < 16 * MIB
    assert peak(agent) < 300 * MIB
    inside(agent, "rm /data/big")


def peak(agent: Agent) -> int:
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def copying(agent: Agent) -> list[int]:
    """Return the processes that copy for this agent."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            words = _words(entry)
            if b"copy_child" in words and SLOW_FILE.encode() in words:
                found.append(int(entry.name))
    return found


def _words(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def begin_slow_copy(agent: Agent) -> subprocess.Popen[bytes]:
    """Begin to copy an archive that does not end, over a file."""
    inside(agent, f"echo old > {SLOW_FILE}")
    client = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(agent.run / "tank.sock"), SLOW_FILE], stdin=subprocess.DEVNULL
    )
    wait_for(lambda: copying(agent), "the copy is under way")
    return client


SLOW = """
import os, sys, threading
from tank_agent.client import copying
from tank_agent.linux.tar_stream import TarEntry, FILE, header
reader, writer = os.pipe()
os.write(writer, header(TarEntry(b"slow", FILE, 0o644, 0, 0, size=1 << 40)) + bytes(4096))
copying.send(sys.argv[1], "web", sys.argv[2], reader, base=b"slow")
"""


def test_a_client_that_is_killed_leaves_nothing(agent: Agent) -> None:
    client = begin_slow_copy(agent)
    client.kill()
    client.wait()
    wait_for(lambda: not copying(agent), "no process copies any more")
    assert inside(agent, f"cat {SLOW_FILE}; find / -xdev -name '.tank-cp*'") == "old\n"


def test_a_client_that_detaches_ends_the_copy(agent: Agent) -> None:
    inside(agent, f"dd if=/dev/zero of={SLOW_FILE} bs=1M count=1 seek=1M 2>/dev/null")
    target = http.target_path("web", "files", {"path": SLOW_FILE})
    asked = http.ask_for_session(str(agent.run / "tank.sock"), target, method="GET")
    with closing(asked.answer(expected=101).connection) as connection:
        connection.sendall(frames.frame(frames.DETACH))
        while connection.recv(1 << 18):
            pass
    wait_for(lambda: not copying(agent), "no process copies any more")


def test_a_container_that_ends_ends_the_copy(agent: Agent) -> None:
    client = begin_slow_copy(agent)
    os.kill(agent.pid("web"), signal.SIGKILL)
    wait_for(lambda: not copying(agent), "no process copies any more")
    assert client.wait(60) != 0
    agent.wait_phase("web", "running")


def test_an_agent_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    with running_agent(tmp_path) as agent:
        prepare(agent)
        client = begin_slow_copy(agent)
        agent.kill()
        wait_for(lambda: not copying(agent), "no process copies any more")
        client.wait(60)
        agent.start()
        agent.wait_phase("web", "running")
        assert inside(agent, f"cat {SLOW_FILE}; find / -xdev -name '.tank-cp*'") == "old\n"


def test_owners_of_a_user_namespace_are_the_containers(agent: Agent, tmp_path: Path) -> None:
    home = Path("/tmp") / f"tank-cp-{os.getpid()}"
    home.mkdir(mode=0o711)
    try:
        with running_agent(home) as own:
            own.write("web", own.pod_text(extra='[containers.security]\nuserns = "auto"\n'))
            own.wait_phase("web", "running")
            file = tmp_path / "f"
            file.write_text("x")
            os.chown(file, 1000, 2000)
            script = "busybox stat -c %u:%g /f /g"
            copied(own, file, "web:/f")
            copied(own, "-a", file, "web:/g")
            assert inside(own, script) == "0:0\n1000:2000\n"
            copied(own, "-a", "web:/g", tmp_path / "back")
            assert (tmp_path / "back").stat().st_uid == 1000
            os.chown(file, 3_000_000, 0)
            assert "user namespace" in refused(own, "-a", file, "web:/h")
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)
