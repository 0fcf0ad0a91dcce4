"""The names of pod files, and names that only look like these."""

from __future__ import annotations


def is_pod_file_name(name: str) -> bool:
    """Return whether a file of this name is read: `*.toml`, no dotfile. Editors' leftovers never match."""
    return name.endswith(".toml") and not name.startswith(".")


def is_near_miss(name: str) -> bool:
    """Return whether somebody may take a file of this name for a pod file, which it is not."""
    lower = name.lower()
    alike = lower.endswith((".yaml", ".yml", ".tml", ".toml.txt")) or lower.endswith(".toml")
    return alike and not name.startswith(".") and not is_pod_file_name(name)
