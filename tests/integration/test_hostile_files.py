"""Files in pods.d that are not what they should be, one quirk a row: each is told, and disturbs nobody."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.cli.main import main
from tests.support.agent import Agent, running_agent, wait_for

# What makes the file, given its path and a pod's text; and what is said of it (None: it runs; "": nothing).
Maker = Callable[[Path, str], object]


def bound_socket(path: Path, text: str) -> None:
    # A path in a socket's address has at most 107 bytes.
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def mode(bits: int) -> Maker:
    def make(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(bits)

    return make


def content(make: Callable[[str], bytes]) -> Maker:
    return lambda path, text: path.write_bytes(make(text))


def link(target: str) -> Maker:
    return lambda path, text: path.symlink_to(target)


def link_to_outside(path: Path, text: str) -> None:
    target = path.parent.parent / "elsewhere.toml"
    target.write_text(text)
    path.symlink_to(target)


def sparse(size: int) -> Maker:
    def make(path: Path, text: str) -> None:
        with path.open("w") as file:
            file.truncate(size)

    return make


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff\nsize 12\n"

CASES: dict[str, tuple[Maker, str | None]] = {
    # Kinds of files.
    "fifo": (lambda path, text: os.mkfifo(path), "is not a regular file"),
    "socket": (bound_socket, "is not a regular file"),
    "null device": (
        lambda path, text: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)),
        "is not a regular file",
    ),
    "endless device": (
        lambda path, text: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),
        "is not a regular file",
    ),
    "directory": (lambda path, text: path.mkdir(), "is a directory"),
    # Links.
    "link to itself": (lambda path, text: path.symlink_to(path.name), "symbolic links"),
    "link to nothing": (link("/no/such/file"), "is a link to /no/such/file, which is not there"),
    "link to a directory": (link("/etc"), "is a directory"),
    "link to an endless device": (link("/dev/zero"), "is not a regular file"),
    "link to a terminal": (link("/dev/tty"), "is not a regular file"),
    "link to a process": (link("/proc/self/environ"), "another size than the file system says"),
    "link to a control file": (link("/proc/version"), "another size than the file system says"),
    "link to a file elsewhere": (link_to_outside, None),
    # Sizes.
    "empty": (content(lambda text: b""), "there is no pod in this file"),
    "only spaces": (content(lambda text: b" \n\t\n"), "there is no pod in this file"),
    "50 MB": (sparse(50_000_000), "has 50000000 bytes"),
    "one byte too many": (sparse((1 << 20) + 1), "has 1048577 bytes"),
    "8 EiB": (sparse(1 << 42), "bytes; a pod file has at most"),
    "a megabyte of one line": (content(lambda text: b"x = '" + b"a" * 1_000_000 + b"'\n"), ":1:"),
    "deep": (content(lambda text: b"x = " + b"[" * 100_000), "nested too deep"),
    # Bytes.
    "NUL": (content(lambda text: text.encode() + b"\0"), "control character"),
    "only NUL": (content(lambda text: b"\0" * 4096), "save the file as UTF-8"),
    "latin-1": (content(lambda text: text.encode() + b"# gr\xf6\xdfer\n"), "is not UTF-8"),
    "UTF-8 with a mark": (content(lambda text: b"\xef\xbb\xbf" + text.encode()), None),
    "UTF-16 with a mark": (content(lambda text: text.encode("utf-16")), "UTF-8"),
    "UTF-16 without a mark": (content(lambda text: text.encode("utf-16-le")), "the text is UTF-16"),
    "UTF-32": (content(lambda text: text.encode("utf-32")), "UTF-8"),
    "surrogates": (content(lambda text: text.encode() + b"# \xed\xa0\x80\n"), "is not UTF-8"),
    "overlong": (content(lambda text: text.encode() + b"# \xc0\xae\n"), "is not UTF-8"),
    "gzip": (content(lambda text: b"\x1f\x8b\x08\0" + text.encode()), "is not UTF-8"),
    "Windows line ends": (content(lambda text: text.replace("\n", "\r\n").encode()), None),
    "old Mac line ends": (content(lambda text: text.strip().replace("\n", "\r").encode()), ":1"),
    "no last line end": (content(lambda text: text.rstrip().encode()), None),
    "LFS pointer": (content(lambda text: LFS.encode()), "LFS"),
    "merge conflict": (content(lambda text: f"<<<<<<< HEAD\n{text}=======\n>>>>>>> x\n".encode()), ":1"),
    "YAML": (content(lambda text: b"name: web\nkind: Pod\n"), 'TOML has "=" where YAML has ":"'),
    "a manifest of Kubernetes": (
        content(lambda text: b"apiVersion: v1\nkind: Pod\n"),
        "this is a manifest of Kubernetes; write its containers as [[containers]] of a pod file",
    ),
    "JSON": (content(lambda text: b'{"containers": []}\n'), ":1"),
    # Modes: the agent is root.
    "mode 000": (mode(0o000), None),
    "setuid": (mode(0o6755), None),
}
# Names, each with a pod's text.
NAMES: dict[str, str | None] = {
    "a b.toml": "the file's name gives the pod's",
    "UPPER.toml": "the file's name gives the pod's",
    "naïve.toml": "the file's name gives the pod's",
    "web (conflicted copy).toml": "the file's name gives the pod's",
    "-rf.toml": "the file's name gives the pod's",
    "new\nline.toml": "has a name that can't be printed",
    "escape\x1b[2J.toml": "has a name that can't be printed",
    f"{'n' * 250}.toml": "the file's name gives the pod's",
    ".hidden.toml": "",
    ".toml": "",
    "web.toml~": "",
    "web.toml.bak": "",
    "web.sync-conflict-20261122-060000-ABCDEFG.toml": "the file's name gives the pod's",
}


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with running_agent(tmp_path_factory.mktemp("hostile-files")) as started:
        started.write("good", started.pod_text())
        started.wait_phase("good", "running")
        yield started


@contextmanager
def undisturbed(agent: Agent) -> Iterator[None]:
    """Look that neither the agent nor the pod beside is disturbed."""
    assert agent.process is not None
    before = agent.process.pid, agent.pid("good")
    yield
    status = agent.status("good")
    assert status is not None and status["error"] is None
    assert (agent.process.poll(), agent.process.pid, agent.pid("good")) == (None, *before)
    assert "Traceback" not in agent.log.read_text()


@contextmanager
def removed(agent: Agent, path: Path) -> Iterator[None]:
    """Take a file away at the end, and with it all that was said of it."""
    try:
        yield
    finally:
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    wait_for(lambda: [pod["name"] for pod in agent.statuses()] == ["good"], "only the other pod is left")


def errors(agent: Agent) -> str:
    return "\n".join(pod["error"] for pod in agent.statuses() if pod["error"])


def is_told(agent: Agent, path: Path, said: str | None) -> None:
    if said is None:
        name = path.name.removesuffix(".toml")
        wait_for(
            lambda: (agent.status(name) or {}).get("phase") == "running", f"{name} runs: {errors(agent)}"
        )
    elif said:
        wait_for(lambda: said in errors(agent), f"{said!r} is told: {errors(agent)}")
    else:
        agent.client.sync()
        assert [pod["name"] for pod in agent.statuses() if pod["phase"] == "running"] == ["good"]


@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_not_as_it_should_be_is_told_and_disturbs_nobody(agent: Agent, case: str) -> None:
    make, said = CASES[case]
    path = agent.pods / "odd.toml"
    with undisturbed(agent), removed(agent, path):
        make(path, agent.pod_text())
        is_told(agent, path, said)
        # Without an agent, neither hangs, though directories are looked into, and links in them are not read.
        for argument in (agent.pods, path):
            assert main(["validate", str(argument)]) in ((0,) if said is None else (0, 1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_not_as_it_should_be_is_told_and_disturbs_nobody(agent: Agent, name: str) -> None:
    path = agent.pods / name
    with undisturbed(agent), removed(agent, path):
        path.write_text(agent.pod_text())
        is_told(agent, path, NAMES[name])


@pytest.mark.parametrize("name", [b"latin-\xe4.toml", b"\xff\xfe.toml"])
def test_a_name_that_is_no_text_is_told_and_disturbs_nobody(agent: Agent, name: bytes) -> None:
    path = agent.pods / os.fsdecode(name)
    with undisturbed(agent), removed(agent, path):
        path.write_text(agent.pod_text())
        is_told(agent, path, "has a name that can't be printed")
        for form in ((), ("-o", "json")):
            assert main(["validate", str(path), *form]) == 2


def test_files_that_come_and_go_while_they_are_read_disturb_nobody(agent: Agent) -> None:
    # Removed, replaced by a directory, a fifo and a link, truncated and grown, all as fast as a shell can.
    script = """
    for i in $(seq 60); do
        cp good.toml odd.toml; rm odd.toml; mkdir odd.toml; rmdir odd.toml; mkfifo odd.toml; rm odd.toml
        ln -s good.toml odd.toml; rm odd.toml; head -c $((i * 97)) /dev/zero > odd.toml
        : > odd.toml; rm odd.toml
    done
    """
    with undisturbed(agent):
        subprocess.run(["/bin/sh", "-c", script], cwd=agent.pods, check=True, timeout=60)
        agent.write("after", agent.pod_text())
        agent.wait_phase("after", "running")
        (agent.pods / "after.toml").unlink()
        agent.wait_gone("after")
        agent.wait_gone("odd")
        wait_for(lambda: not errors(agent), "nothing is left of them")
