"""What runs: the argv rule, and configurations that must not reach a runtime."""

from __future__ import annotations

import pytest

from tank_agent.errors import Stalled
from tank_agent.image.config import ImageConfig
from tank_agent.image.merge import DEFAULT_PATH, merge
from tank_agent.spec.model import Container
from tank_agent.spec.signals import signal_number

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
