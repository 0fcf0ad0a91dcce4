"""The token of [web], as it is read from its file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tank_agent.api.web.opening import read_token
from tank_agent.errors import Stalled

# As short as one may be.
TOKEN = "0123456789abcdef"


def test_a_token_is_read(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN}\n")
    file.chmod(0o600)
    assert read_token(str(file)) == TOKEN.encode()
    # Such as that of Prometheus.
    file.chmod(0o640)
    assert read_token(str(file)) == TOKEN.encode()


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (TOKEN, 0o644, "is open to others: chmod 600"),
        (TOKEN, 0o620, "is open to others"),
        ("short", 0o600, "must hold one word of 16 to 4096"),
        ("", 0o600, "must hold one word"),
        (f"{TOKEN} {TOKEN}", 0o600, "must hold one word"),
        (f"{TOKEN}\u00e9", 0o600, "must hold one word"),
        (None, 0o600, "can't be read: No such file"),
    ],
)
def test_a_token_that_cannot_be_used(content: str | None, mode: int, words: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(Stalled, match=words) as caught:
        read_token(str(file))
    assert content is None or content == "" or content not in str(caught.value)


@pytest.mark.machine
def test_a_token_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    os.chown(file, 1000, 1000)
    with pytest.raises(Stalled, match="belongs to user 1000, and not to root"):
        read_token(str(file))
