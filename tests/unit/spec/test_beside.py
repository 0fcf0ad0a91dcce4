"""Paths of files beside a pod file, and the limits of one pod file."""

from __future__ import annotations

import pytest

from tank_agent.spec.beside import FILE_MAX, BesideError, Reading, Sent, path_complaint


@pytest.mark.parametrize("path", ["a", "nginx.conf", "a/b/c.age", "é ü", "a..b", "a/b..", "web~", "x" * 255])
def test_paths_beside_a_pod_file(path: str) -> None:
    assert path_complaint(path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "write a relative one"),
        ("/etc/passwd", "write a relative one"),
        ("..", 'write no ".."'),
        ("../x", 'write no ".."'),
        ("a/../x", 'write no ".."'),
        ("a//b", 'write "a/b"'),
        ("./a", 'write "a"'),
        ("a/", 'write "a"'),
        (".", "starts with a dot"),
        (".git/config", "starts with a dot"),
        ("a/.hidden", "starts with a dot"),
        ("a\\b", "no such path may have"),
        ("a\0b", "no such path may have"),
        ("a\nb", "no such path may have"),
        ("x" * 256, "too long"),
        ("x/" * 600 + "x", "too long"),
    ],
)
def test_paths_that_are_none(path: str, words: str) -> None:
    assert words in str(path_complaint(path))

    def never(_path: str) -> bytes:
        raise AssertionError

    with pytest.raises(BesideError, match=r"\w"):
        Reading(never)(path)


def test_what_one_pod_file_names_is_limited() -> None:
    asked: list[str] = []

    def read(path: str) -> bytes:
        asked.append(path)
        if path == "none":
            raise BesideError("is not there")
        return b"x" * (FILE_MAX + (path == "large"))

    reading = Reading(read)
    for _ in range(2):
        for path, words in (("none", "is not there"), ("large", "has 262145 bytes")):
            with pytest.raises(BesideError, match=words):
                reading(path)
    # Eight MiB are 32 files.
    for number in range(32):
        reading(str(number))
    with pytest.raises(BesideError, match="at most 8388608 bytes together"):
        reading("32")
    assert len(asked) == 35
    sent = reading.sent()
    assert len(sent.contents) == 32 and sent("0") == b"x" * FILE_MAX
    with pytest.raises(BesideError, match="is not there"):
        sent("none")


def test_what_many_pods_have_counts_as_often_as_they_name_it() -> None:
    reading = Reading(lambda _: b"x" * FILE_MAX)
    for _ in range(32):
        reading("conf")
    with pytest.raises(BesideError, match="each as often as it is named"):
        reading("conf")
    assert reading.sent()("conf") == b"x" * FILE_MAX


def test_what_was_not_sent_is_not_there() -> None:
    with pytest.raises(BesideError, match="was not sent"):
        Sent()("nginx.conf")
