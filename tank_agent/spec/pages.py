"""The places of pages of the documentation, as messages name them, however this was installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# Where Debian's package has them; there large ones are compressed (dh_compress(1)).
_INSTALLED = Path("/usr/share/doc/tank-agent")
_ENDINGS = (".md.gz", ".md")
# The manual pages that the reference is, each with its page here.
_MANUALS = {"tank-pod": "reference", "tank-agent.toml": "reference"}


def page(name: str, *, package: Path = _PACKAGE, installed: Path = _INSTALLED) -> str:
    """Return where a page such as "images" can be read. It looks for the file, so it is for errors only."""
    if (package.parent / "docs" / f"{name}.md").is_file():
        return f"docs/{name}.md"
    paths = (installed / f"{name}{ending}" for ending in _ENDINGS)
    return next((str(path) for path in paths if path.is_file()), f"docs/{name}.md of tank-agent's source")


def manual(name: str, *, package: Path = _PACKAGE, installed: Path = _INSTALLED) -> str:
    """Return how to read the manual page "tank-pod" or "tank-agent.toml"; in the sources there is none."""
    found = page(_MANUALS[name], package=package, installed=installed)
    return f"`man {name}`" if found.startswith(str(installed)) else found
