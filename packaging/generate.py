"""Generate the man pages, completions and JSON Schemas of the package from the program itself.

python3 packaging/generate.py DIRECTORY     # in the root of the sources
"""

from __future__ import annotations

import argparse
from pathlib import Path

from commands import commands
from completions import bash, fish, zsh
from key_pages import keys_page, schemas
from man_pages import agent_page, page, tank_pages


def main() -> None:
    """Write all files into the directory of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    out = parser.parse_args().directory
    out.mkdir(parents=True, exist_ok=True)
    found = commands()
    settings = keys_page("SettingsTable", "agent.toml.intro")
    files = {
        **tank_pages(found),
        "tank-agent.8": agent_page(found),
        "tank-pod.5": page("tank-pod", "5", "pod files of tank-agent", keys_page("PodTable", "pod.intro")),
        "tank-agent.toml.5": page("tank-agent.toml", "5", "configuration of tank-agent", settings),
        "tank": bash(found),
        "_tank": zsh(found),
        "tank.fish": fish(found),
        **{path.name: text for path, text in schemas().items()},
    }
    for name, text in files.items():
        (out / name).write_text(text)


if __name__ == "__main__":
    main()
