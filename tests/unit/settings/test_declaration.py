from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from tank_agent.settings.declaration import seconds, settings_of, table_of
from tank_agent.spec.findings import Finding
from tank_agent.spec.keys import ABSOLUTE_PATTERN, declare
from tank_agent.spec.structure import read_table


class ToySettings(msgspec.Struct, frozen=True, kw_only=True):
    """A table."""

    # Without a default, and with a form of its own in the file.
    place: Annotated[
        Path | None,
        declare("A place.", "/srv", pattern=ABSOLUTE_PATTERN, check=Path, form=str, written=str),
    ] = None
    poll: Annotated[float, seconds("A pace.", "60s", 1, 3600)] = 60.0


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, ToySettings()),
        ({"place": "/etc", "poll": "2m"}, ToySettings(place=Path("/etc"), poll=120.0)),
    ],
)
def test_values_have_another_form_in_the_file_than_in_memory(
    document: dict[str, Any], expected: ToySettings
) -> None:
    table, structure = read_table(document, table_of(ToySettings))
    assert structure.findings == ()
    assert table is not None
    findings: list[Finding] = []
    assert settings_of(ToySettings, table, (), findings) == expected
    assert findings == []


def test_a_table_shows_its_defaults_as_the_file_has_them() -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(table_of(ToySettings))}
    assert defaults == {"place": None, "poll": "60s"}
