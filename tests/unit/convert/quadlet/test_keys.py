"""The tables of keys against podman's manual page and its generator."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from tank_agent.convert.quadlet import keys, systemd_keys
from tank_agent.convert.quadlet.keys import Named
from tank_agent.convert.quadlet.podman_args import FLAGS
from tests.support.quadlet import generate, manual

# The first of them fetches podman's package.
pytestmark = [pytest.mark.machine, pytest.mark.timeout(600)]
_VALUES = {"PublishPort": "1:1", "Exec": "a", "Image": "docker.io/library/a:1", "Yaml": "a.yaml"}


def documented() -> dict[str, set[str]]:
    """Return the keys of each section that the manual page describes."""
    text = gzip.decompress(manual()).decode()
    found = {}
    for part in text.split("\n.SH ")[1:]:
        section = re.match(r".*(?:units|section) \[(\w+)\]", part)
        if section:
            found[section[1]] = set(re.findall(r"^\.SS \\fB(\w+)=", part, re.MULTILINE))
    return found


@pytest.mark.parametrize("section", list(keys.SECTIONS))
def test_every_documented_key_is_in_the_table(section: str) -> None:
    found = documented()[section]
    assert found <= keys.SECTIONS[section].keys()
    # What the manual page forgets; the generator knows it, see below.
    assert keys.SECTIONS[section].keys() - found <= {"ServiceName"}


@pytest.mark.parametrize("section", [name for name in keys.SECTIONS if name != "Quadlet"])
def test_the_generator_knows_every_key_of_the_table(section: str, tmp_path: Path) -> None:
    lines = [f"{key}={_VALUES.get(key, 'x')}" for key in keys.SECTIONS[section]]
    Path(tmp_path, f"a.{section.lower()}").write_text("\n".join([f"[{section}]", *lines]))
    assert "unsupported key" not in generate(tmp_path).said


def test_sentences_say_something() -> None:
    tables = [*keys.SECTIONS.values(), *systemd_keys.SECTIONS.values(), FLAGS]
    for named in [rule for table in tables for rule in table.values() if isinstance(rule, Named)]:
        assert len(named.message.split()) > 2
        assert not named.message.endswith(".")
