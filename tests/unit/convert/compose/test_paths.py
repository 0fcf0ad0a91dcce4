"""Relative paths of compose files made absolute."""

from __future__ import annotations

import pytest

from tank_agent.convert.compose.paths import Roots, absolute_paths, is_path
from tank_agent.convert.compose.tree import read_documents
from tank_agent.convert.model import Value

pytest.importorskip("yaml")


def plain(value: Value) -> object:
    if isinstance(value.plain, dict):
        return {key: plain(item) for key, item in value.plain.items()}
    return [plain(item) for item in value.plain] if isinstance(value.plain, tuple) else value.plain


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ("volumes: ['./a/../b:/x:ro']", {"volumes": ["/p/b:/x:ro"]}),
        (
            "volumes: ['~/a:/x', 'a/b:/x', '/a:/x', 'C:\\a:/x', /x]",
            {"volumes": ["/h/a:/x", "a/b:/x", "/a:/x", "C:\\a:/x", "/x"]},
        ),
        (
            "volumes: [{type: bind, source: a}, {type: volume, source: a}]",
            {"volumes": [{"type": "bind", "source": "/p/a"}, {"type": "volume", "source": "a"}]},
        ),
        ("env_file: a.env", {"env_file": "/p/a.env"}),
        ("env_file: [{path: ../a.env}]", {"env_file": [{"path": "/a.env"}]}),
        ("build: .", {"build": "/p"}),
        ("build: {context: 'https://x/y.git'}", {"build": {"context": "https://x/y.git"}}),
    ],
)
def test_services(given: str, result: object) -> None:
    (document,) = read_documents(f"services: {{web: {{{given}}}}}".encode(), "f")
    assert plain(absolute_paths(document.value, Roots("/p", "/h"))) == {"services": {"web": result}}


def test_a_directory_with_a_colon_needs_the_long_form() -> None:
    (document,) = read_documents(b"services: {web: {volumes: ['./a:/x:ro']}}", "f")
    found = plain(absolute_paths(document.value, Roots("/p:q", None)))
    volume = {"type": "bind", "source": "/p:q/a", "target": "/x", "read_only": True}
    assert found == {"services": {"web": {"volumes": [volume]}}}


def test_what_is_a_path() -> None:
    assert all(map(is_path, ("./a", "/a", "~", "C:\\a", "\\\\pipe")))
    assert not any(map(is_path, ("a", "a/b", "", "data")))
