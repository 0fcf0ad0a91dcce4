"""The argv rule, configurations that must not reach a runtime, and passwd files made to hurt their reader."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageConfig
from tank_agent.image.parameters import DEFAULT_PATH, Identity, merge, resolve_user, with_groups
from tank_agent.spec.model import Container
from tank_agent.spec.values import signal_number

IMAGE = ImageConfig(entrypoint=("/entry",), cmd=("serve", "--fast"))


def container(**fields: object) -> Container:
    return Container(name="app", image="nginx", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "argv"),
    [
        ({}, ("/entry", "serve", "--fast")),
        ({"args": ("x",)}, ("/entry", "x")),
        ({"args": ()}, ("/entry",)),
        ({"command": ("/bin/sh",)}, ("/bin/sh",)),
        ({"command": ("/bin/sh",), "args": ("-c", "true")}, ("/bin/sh", "-c", "true")),
    ],
)
def test_argv_is_command_and_args_or_entrypoint_and_cmd(
    fields: dict[str, object], argv: tuple[str, ...]
) -> None:
    assert merge(container(**fields), IMAGE).argv == argv


@pytest.mark.parametrize("fields", [{}, {"command": ()}, {"command": ("",)}, {"args": ()}])
def test_no_command_is_an_error_that_says_what_to_write(fields: dict[str, object]) -> None:
    with pytest.raises(Stalled, match="no command to run") as caught:
        merge(container(**fields), ImageConfig())
    assert "command = " in str(caught.value)


def test_environment_is_the_images_with_the_pods_over_it() -> None:
    config = ImageConfig(cmd=("x",), env=("A=1", "B=2=3", "A=4", "EMPTY="))
    merged = merge(container(env={"B": "pod"}), config).env
    assert merged == {"A": "4", "B": "pod", "EMPTY": "", "PATH": DEFAULT_PATH}


def test_environment_entries_that_would_pull_in_host_variables_are_dropped() -> None:
    config = ImageConfig(cmd=("x",), env=("HOME", "=x", "", "PATH=/only", "N=a\0b"))
    assert merge(container(), config).env == {"PATH": "/only"}


@pytest.mark.parametrize(
    ("pod", "image", "cwd"),
    [(None, "", "/"), (None, "/app/", "/app"), ("/srv", "/app", "/srv"), (None, "//a/./b//", "/a/b")],
)
def test_working_directory_is_normal(pod: str | None, image: str, cwd: str) -> None:
    assert merge(container(working_dir=pod), ImageConfig(cmd=("x",), working_dir=image)).cwd == cwd


@pytest.mark.parametrize(
    "path", ["app", "/a/../etc", "..", "/proc/self/fd/7", "/proc", "//dev", "/sys/", "/./proc/1", "/a\0b"]
)
def test_working_directories_that_could_leave_the_container_are_refused(path: str) -> None:
    with pytest.raises(Stalled, match="working directory"):
        merge(container(), ImageConfig(cmd=("x",), working_dir=path))


@pytest.mark.parametrize(
    ("pod", "image", "name"),
    [
        (None, "", "SIGTERM"),
        (None, "QUIT", "SIGQUIT"),
        ("SIGINT", "SIGQUIT", "SIGINT"),
        (None, "9", "SIGKILL"),
        (None, "SIGRTMIN+3", "SIGRTMIN+3"),
        (None, "37", "SIGRTMIN+3"),
        (None, "rtmin", "SIGRTMIN"),
    ],
)
def test_stop_signal_is_the_pods_or_the_images(pod: str | None, image: str, name: str) -> None:
    parameters = merge(container(stop_signal=pod), ImageConfig(cmd=("x",), stop_signal=image))
    assert parameters.stop_signal == name
    assert signal_number(parameters.stop_signal) == signal_number(pod or image or "TERM")


@pytest.mark.parametrize("name", ["SIGFOO", "0", "65", "SIGRTMIN+99", "-9", "SIG", "__class__"])
def test_unknown_stop_signals_are_refused(name: str) -> None:
    with pytest.raises(Stalled, match="stop signal"):
        merge(container(), ImageConfig(cmd=("x",), stop_signal=name))


def test_user_is_the_pods_or_the_images_or_root() -> None:
    assert merge(container(user="app"), ImageConfig(cmd=("x",), user="www")).user == "app"
    assert merge(container(), ImageConfig(cmd=("x",), user="www")).user == "www"
    assert merge(container(), ImageConfig(cmd=("x",))).user == "0:0"


PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
app:x:1000:1001:App:/home/app:/bin/sh
broken
sneaky:x:2000:2000::../..:/bin/sh
overflow:x:4294967296:0::/:/bin/sh
nobody:x:65534:65534::/nonexistent:/bin/false
"""
GROUP = """root:x:0:
app:x:1001:
extra:x:3000:app,nobody
more:x:3001:x, app
self:x:1001:app
big:x:99999999999:
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def resolve(rootfs: Path, user: str) -> Identity:
    with opened(rootfs) as fd:
        return resolve_user(fd, user)


@pytest.mark.parametrize(
    ("user", "uid", "gid", "groups", "home"),
    [
        ("", 0, 0, (0,), "/root"),
        ("0:0", 0, 0, (0,), "/root"),
        ("app", 1000, 1001, (1001, 3000, 3001), "/home/app"),
        ("1000", 1000, 1001, (1001, 3000, 3001), "/home/app"),
        ("app:extra", 1000, 3000, (3000,), "/home/app"),
        ("app:7", 1000, 7, (7,), "/home/app"),
        ("app:", 1000, 1001, (1001, 3000, 3001), "/home/app"),
        (":app", 0, 1001, (1001,), "/root"),
        ("5000", 5000, 0, (0,), "/"),
        ("5000:6000", 5000, 6000, (6000,), "/"),
        ("0001000", 1000, 1001, (1001, 3000, 3001), "/home/app"),
        ("4294967294", 4294967294, 0, (0,), "/"),
        ("sneaky", 2000, 2000, (2000,), "/"),
        ("nobody", 65534, 65534, (65534, 3000), "/nonexistent"),
    ],
)
def test_names_and_numbers(
    rootfs: Path, user: str, uid: int, gid: int, groups: tuple[int, ...], home: str
) -> None:
    found = resolve(rootfs, user)
    assert (found.uid, found.gid, found.groups, found.home) == (uid, gid, groups, home)


@pytest.mark.parametrize(
    "user",
    [
        "missing",
        "app:missing",
        "overflow",
        "app:big",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "0:4294967296",
        "9" * 5000,
        "-1",
        "+1",
        "1e3",
        "٣",  # a digit, but not one of ours
        "a:b:c",
    ],
)
def test_what_is_no_user_is_refused_and_never_becomes_root(rootfs: Path, user: str) -> None:
    with pytest.raises(Stalled):
        resolve(rootfs, user)


def test_further_groups_come_after_the_users_own_each_once(rootfs: Path) -> None:
    with opened(rootfs) as fd:
        found = with_groups(fd, resolve_user(fd, "app"), ("44", "extra", "root", "3001"))
        assert found.groups == (1001, 3000, 3001, 44, 0)
        for wrong in ("missing", "big", "4294967295"):
            with pytest.raises(Stalled):
                with_groups(fd, found, (wrong,))


def test_a_number_needs_no_files(tmp_path: Path) -> None:
    assert resolve(tmp_path, "1000:1000") == Identity(uid=1000, gid=1000, groups=(1000,))


def test_digits_are_a_number_even_if_a_user_has_that_name(rootfs: Path) -> None:
    (rootfs / "etc/passwd").write_text("1234:x:0:0::/root:/bin/sh\n")
    assert resolve(rootfs, "1234").uid == 1234


def test_a_fifo_does_not_hang_the_agent(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    os.mkfifo(rootfs / "etc/passwd")
    with pytest.raises(Stalled, match="not a regular file"):
        resolve(rootfs, "app")


def test_a_huge_file_is_refused(rootfs: Path) -> None:
    with (rootfs / "etc/passwd").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Stalled, match="larger than"):
        resolve(rootfs, "app")


def test_links_are_followed_inside_the_image_only(
    rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("host") / "passwd"
    outside.write_text("app:x:0:0::/root:/bin/sh\n")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to(outside)
    with pytest.raises(Stalled, match="no user"):
        resolve(rootfs, "app")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to("../../../../../../usr/lib/passwd")
    (rootfs / "usr/lib").mkdir(parents=True)
    (rootfs / "usr/lib/passwd").write_text("app:x:42:43::/:/bin/sh\n")
    assert resolve(rootfs, "app").uid == 42


def test_links_in_a_circle_and_links_through_proc_are_refused(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to("group")
    (rootfs / "etc/group").unlink()
    (rootfs / "etc/group").symlink_to("passwd")
    with pytest.raises(Stalled, match="cannot read"):
        resolve(rootfs, "app")
    with opened(Path("/")) as root, pytest.raises(OSError, match="symbolic links"):
        from tank_agent.linux.paths import read_in_root

        read_in_root(root, "/proc/self/exe", limit=1 << 30)


def test_a_user_in_absurdly_many_groups_is_refused(rootfs: Path) -> None:
    (rootfs / "etc/group").write_text("".join(f"g{n}:x:{n}:app\n" for n in range(5000, 8000)))
    with pytest.raises(Stalled, match="more than 1024 groups"):
        resolve(rootfs, "app")
