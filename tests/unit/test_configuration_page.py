"""What docs/configuration.md shows is what can be written, and its env file says what it seems to say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tank_agent.spec.env_file import parse_env_file
from tank_agent.spec.parse import parse_pod_file

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
BLOCKS = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
(ENV,) = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
APP = '[[containers]]\nname = "app"\nimage = "app"\n'


def beside(path: str) -> bytes:
    return b"age-encryption.org/v1\n" if path.endswith(".age") else b"A=1\n"


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_is_valid(block: str) -> None:
    # Those that show one table need the container that it is of, and those of a container an image.
    table = re.search(r"^\[\[?([a-z.]+)", block, re.MULTILINE)
    assert table is not None
    text = APP + block if table[1].startswith("containers.") else block
    text = text if "[[containers]]" in text else text + APP
    text = text if "image" in text else text.replace('name = "db"\n', 'name = "db"\nimage = "db"\n')
    assert parse_pod_file(text, "web.toml", beside=beside).problems == ()


def test_the_env_file_says_what_it_seems_to_say() -> None:
    assert parse_env_file(ENV.encode(), "app.env", {}) == {
        "DATABASE": "postgres",
        "URL": "http://localhost:80/",
        "GREETING": "as it is: $HOME \\n",
        "KEY": "-----BEGIN KEY-----\nseveral lines\n-----END KEY-----",
    }
