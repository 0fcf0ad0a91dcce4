"""The rules by which a copy gets its place and its name."""

from __future__ import annotations

import pytest

from tank_agent.linux.copy_target import split_source


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("etc/passwd", ("/etc/passwd", b"passwd", False)),
        ("/srv/", ("/srv", b"srv", False)),
        ("/srv/.", ("/srv", b".", True)),
        ("//srv//x", ("/srv/x", b"x", False)),
        (".", ("/", b".", True)),
        ("/", ("/", b".", True)),
        ("/a/../../b", ("/b", b"b", False)),
    ],
)
def test_a_source_is_split(path: str, found: tuple[str, bytes, bool]) -> None:
    assert split_source(path) == found
